"""What a mixture, or other weights, are worth while they are searched: soft margins of what is required, then the gain
of what is repaired.

Soft correctness changes smoothly, so that the swarm sees where it goes; it is biased, so it only steers. What is
promised is counted hard, in `engine.metrics.promise`.

For requirement q with limit l, and with mean d and mean square V of the soft changes of its n rows,

    fitness = gain + w min(0, sum over q of log Phi((d - l) / e) - Q log c),   gain in points, less one error
    e = 1.4 sqrt(V) sqrt(1/n + 1/m) + 1/(2n)

Phi is the normal distribution and m the new rows that a promise is about; c and w follow from the number of rows, see
`rigour_of`. Above the hinge it is the gain alone that counts. All rows must not fall whatever is required of them, and
errors count 1.4 times: aimed tighter than what is promised, the promise is kept by a larger step (measured; soft
changes vary less than hard ones).

Where l > 0, something must be gained, and V is max(l^2, V - min(0, d)^2): else a loss would look less hopeless than no
change at all, whose error is next to none, and a large one less than a small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from engine.core.types import Float64, Int64
from engine.fitness.groups import SUMS
from engine.fitness.rows import SearchRows
from engine.metrics.requirements import Requirement

CAUTION = 1.4
"""Errors count so many times: soft changes vary less than the hard ones that promises are about."""


@dataclass(frozen=True)
class Rigour:
    temperature: float  # of soft correctness; the lower, the nearer it is to counting
    chance: float  # c, by soft counts, that is aimed at for each requirement
    pressure: float  # w, points of gain that one unit of log chance is worth


def rigour_of(rows: int) -> Rigour:
    """What so many rows allow (measured on unseen images at 1,000, 3,000 and 10,000).

    With few the chances are out of reach, and pressing for them presses for no change at all.
    """
    more = max(1.0, rows / 1000)
    return Rigour(
        temperature=max(0.05, 0.5 / more), chance=min(0.99, 1 - 0.03 / more**0.5), pressure=min(30.0, 4 * more**0.875)
    )


@dataclass(frozen=True)
class _Aim:
    columns: tuple[int, ...]  # of the sums to add: labels, or one pair
    pair: bool  # the columns are pairs
    rows: int  # n of the search
    errors: float  # 1/n + 1/m, of all rows that judge
    limit: float  # of the mean soft change, a share, so signed that more is better
    sign: float  # -1 where less confusion is better


@dataclass(frozen=True, eq=False)
class Steering:
    totals: Int64  # (C,) rows of each label
    repaired: tuple[_Aim, ...]  # gain of each label under repair, all of which have rows; limits are not used
    aims: tuple[_Aim, ...]  # what is required, as bounds on soft changes
    rigour: Rigour  # how strictly
    # of all positives, so many are searched; they stand for the others. Sums are then those of
    # `engine.fitness.groups.GroupSums`. None: they are those of `engine.fitness.mixture.Mixture.sums`
    share: float | None = None

    def fitness(self, sums: Float64) -> Float64:
        edge = SUMS + 2 * len(self.totals) * (1 if self.share is None else 2)
        parts = [part for both in np.split(sums[:, SUMS:], [edge - SUMS], axis=1) for part in np.split(both, 2, axis=1)]
        if self.share is not None:
            kinds = (np.split(part, 2, axis=1) for part in parts)
            parts = [negative + positive / self.share for negative, positive in kinds]
        changes, squares, *of_pairs = parts
        chance = np.zeros(len(sums))
        for aim in self.aims:
            mean, error = _mean_and_error(aim, *(of_pairs if aim.pair else (changes, squares)))
            chance += log_ndtr((mean - aim.limit) / error)
        gains = [100 * np.subtract(*_mean_and_error(aim, changes, squares)) for aim in self.repaired]
        lacking = np.minimum(chance - len(self.aims) * np.log(self.rigour.chance), 0.0)
        found: Float64 = np.mean(gains, axis=0) + self.rigour.pressure * lacking
        return found


def steering_of(
    rows: SearchRows,
    before: Int64,
    requirements: Sequence[Requirement],
    repaired: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    *,
    share: float,
    new_rows: int,
    rigour: Rigour,
    searched_positives: float | None = None,
) -> Steering:
    """What to aim at on rows, for which the model as it is predicts the classes `before` (n,).

    A label that only `label = "*"` names may have no rows, one of those `repaired` has. `pairs` are confusions that are
    required of, as in the mixture; `share` is that of the rows among those that judge, `new_rows` is m of each label,
    and `searched_positives` becomes `Steering.share`.
    """

    def aim(columns: tuple[int, ...], limit: float, *, pair: bool = False) -> _Aim:
        labels = 1 if pair else len(columns)
        count = int((totals[[pairs[columns[0]][0]]] if pair else totals[list(columns)]).sum())
        return _Aim(columns, pair, count, share / count + 1 / (new_rows * labels), limit, -1.0 if pair else 1.0)

    classes = rows.logits.shape[1]
    totals = np.bincount(rows.labels, minlength=classes)
    right = np.bincount(rows.labels[before == rows.labels], minlength=classes)
    everything = tuple(range(classes))
    aims = [aim(everything, 0.0)]
    for requirement in requirements:
        columns = everything if requirement.labels is None else requirement.labels
        count = int(totals[list(columns)].sum())
        if not count:
            continue
        if requirement.kind == "max_rate":
            assert requirement.predicted is not None
            pair = (columns[0], requirement.predicted)
            rate = float((before[rows.labels == pair[0]] == pair[1]).mean())
            aims.append(aim((list(pairs).index(pair),), rate - requirement.limit, pair=True))
        elif requirement.kind == "min_accuracy":
            aims.append(aim(columns, requirement.limit - float(right[list(columns)].sum() / count)))
        elif requirement.kind == "min_gain":
            aims.append(aim(columns, requirement.limit))
        elif requirement.labels is not None:  # a drop of all rows is aimed at above
            aims.append(aim(columns, -requirement.limit))
    gains = tuple(aim((label,), 0.0) for label in repaired)
    return Steering(totals, gains, tuple(aims), rigour, searched_positives)


def pairs_of(requirements: Sequence[Requirement]) -> tuple[tuple[int, int], ...]:
    found = [
        (requirement.labels[0], requirement.predicted)
        for requirement in requirements
        if requirement.kind == "max_rate" and requirement.labels and requirement.predicted is not None
    ]
    return tuple(dict.fromkeys(found))


def _mean_and_error(aim: _Aim, totals: Float64, squares: Float64) -> tuple[Float64, Float64]:
    """Mean soft change (P,) of an aim and its standard error, never below what half a row makes."""
    columns = list(aim.columns)
    mean = aim.sign * totals[:, columns].sum(axis=1) / aim.rows
    variance = squares[:, columns].sum(axis=1) / aim.rows
    if aim.limit > 0:
        variance = np.maximum(variance - np.minimum(mean, 0.0) ** 2, aim.limit**2)
    return mean, CAUTION * np.sqrt(variance * aim.errors) + 0.5 / aim.rows
