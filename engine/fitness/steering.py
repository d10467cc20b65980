"""What a mixture is worth while it is searched: soft margins of what is required, then the gain of what is repaired.

Soft correctness changes smoothly, so that the swarm sees where it goes; it is biased, so it only steers. What is
promised is counted hard, in `engine.metrics.promise`.

For requirement q with limit l, and with mean d of the soft changes of its n rows, whose standard error is
e = sqrt(mean d^2 / n) + 1/(2n):

    fitness = gain + 3 min(0, sum over q of log Phi((d - l) / e) - Q log 0.97),   gain in points, less one error

Phi is the normal distribution. Below the hinge it is the gain alone that counts. All rows must not fall whatever is
required of them: aimed tighter than what is promised, the promise is kept more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from engine.core.types import Float64, Int64
from engine.fitness.mixture import SUMS, MixtureRows
from engine.metrics.requirements import Requirement

AIMED_CHANCE = 0.97
"""Chance, by soft counts, that the search aims at for each requirement."""

PRESSURE = 3.0
"""Points of gain that one unit of log chance is worth."""


@dataclass(frozen=True)
class _Aim:
    """A requirement on means of soft changes.

    Attributes:
        columns: of the sums to add: labels, or one pair.
        pair: the columns are pairs.
        rows: n.
        limit: of the mean soft change, a share, so signed that more is better.
        sign: -1 where less confusion is better.
    """

    columns: tuple[int, ...]
    pair: bool
    rows: int
    limit: float
    sign: float


@dataclass(frozen=True, eq=False)
class Steering:
    """What turns sums of a mixture into fitness; see the module and `engine.fitness.mixture.Mixture.sums`.

    Attributes:
        negatives, positives: rows of each kind.
        totals: (C,) rows of each label.
        repaired: labels under repair, each with rows.
        aims: what is required, as bounds on soft changes.
    """

    negatives: int
    positives: int
    totals: Int64
    repaired: tuple[int, ...]
    aims: tuple[_Aim, ...]

    @property
    def positive_weight(self) -> None:
        """None: the requirements say what positives are worth."""

    def fitness(self, sums: Float64) -> Float64:
        """(P, S) sums -> (P,) fitness."""
        classes = len(self.totals)
        changes, squares = np.split(sums[:, SUMS : SUMS + 2 * classes], 2, axis=1)
        of_pairs = np.split(sums[:, SUMS + 2 * classes :], 2, axis=1)
        chance = np.zeros(len(sums))
        for aim in self.aims:
            total, square = of_pairs if aim.pair else (changes, squares)
            columns = list(aim.columns)
            mean = aim.sign * total[:, columns].sum(axis=1) / aim.rows
            error = _error(square[:, columns].sum(axis=1), aim.rows)
            chance += log_ndtr((mean - aim.limit) / error)
        gains = [
            100 * (changes[:, label] / self.totals[label] - _error(squares[:, label], int(self.totals[label])))
            for label in self.repaired
        ]
        lacking = np.minimum(chance - len(self.aims) * np.log(AIMED_CHANCE), 0.0)
        found: Float64 = np.mean(gains, axis=0) + PRESSURE * lacking
        return found


def steering_of(
    rows: MixtureRows,
    before: Int64,
    requirements: Sequence[Requirement],
    repaired: Sequence[int],
    pairs: Sequence[tuple[int, int]],
) -> Steering:
    """What to aim at on rows.

    Args:
        rows: that are searched.
        before: (n,) classes that the model as it is predicts.
        requirements: stated; a label that only `label = "*"` names may have no rows.
        repaired: labels under repair, of which there are rows.
        pairs: confusions that are required of, as in the mixture.
    """
    classes = rows.logits.shape[1]
    totals = np.bincount(rows.labels, minlength=classes)
    right = np.bincount(rows.labels[before == rows.labels], minlength=classes)
    everything = tuple(range(classes))
    aims = [_Aim(everything, False, len(rows.labels), 0.0, 1.0)]
    for requirement in requirements:
        columns = everything if requirement.labels is None else requirement.labels
        count = int(totals[list(columns)].sum())
        if not count:
            continue
        if requirement.kind == "max_rate":
            assert requirement.predicted is not None
            pair = (columns[0], requirement.predicted)
            rate = float((before[rows.labels == pair[0]] == pair[1]).mean())
            aims.append(_Aim((list(pairs).index(pair),), True, count, rate - requirement.limit, -1.0))
        elif requirement.kind == "min_accuracy":
            limit = requirement.limit - float(right[list(columns)].sum() / count)
            aims.append(_Aim(columns, False, count, limit, 1.0))
        elif requirement.kind == "min_gain":
            aims.append(_Aim(columns, False, count, requirement.limit, 1.0))
        elif requirement.labels is not None:  # a drop of all rows is aimed at above
            aims.append(_Aim(columns, False, count, -requirement.limit, 1.0))
    return Steering(int(rows.negative.sum()), int(rows.positive.sum()), totals, tuple(repaired), tuple(aims))


def pairs_of(requirements: Sequence[Requirement]) -> tuple[tuple[int, int], ...]:
    """The (true, predicted) labels whose confusion is limited."""
    found = [
        (requirement.labels[0], requirement.predicted)
        for requirement in requirements
        if requirement.kind == "max_rate" and requirement.labels and requirement.predicted is not None
    ]
    return tuple(dict.fromkeys(found))


def _error(squares: Float64, rows: int) -> Float64:
    """Standard error of a mean change, never below what half a row makes."""
    found: Float64 = np.sqrt(squares / rows / rows) + 0.5 / rows
    return found
