"""Promises: the chance that a repair keeps its requirements on new rows of the same source.

A requirement is a bound l on a mean over rows (`row_values`). Of n rows that the repair was not made
from, with mean v and mean square s, and for m new rows,

    chance = Phi((v - l) / sqrt(V / n + V / m)),   V = s + 1/n for changes, v (1 - v) + 1/n for shares

so both samplings count, of the rows at hand and of those to come; 1/n keeps a few rows without any change from being
sure. New rows of several labels have them in the proportions of those at hand. All requirements together have the
product of their chances.

Of the steps t on the way from the model as it is (t = 0) to the repair (t = 1) the largest is taken whose joint chance
reaches the confidence. The model as it is counts as keeping every bound on a drop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from engine.core.types import Bool, Float64, Int64
from engine.metrics.accuracy import compare
from engine.metrics.requirements import Requirement


@dataclass(frozen=True)
class Promise:
    """A requirement against rows that the repair was not made from; shares are 0 to 1.

    Attributes:
        requirement: what was asked.
        value: what the limit is held against, as `Verdict.value`: accuracy, drop, gain or rate.
        low, high: where it lies on new rows, with 95 % chance.
        rows: n, that it was counted on.
        new_rows: m, that the chance is about.
        met: whether the rows at hand keep the limit.
        chance: that new rows do.
        enough: rows of each label, in place of those at hand, from which the chance alone would reach its part of the
            confidence; None where no number would.
    """

    requirement: Requirement
    value: float
    low: float
    high: float
    rows: int
    new_rows: int
    met: bool
    chance: float
    enough: int | None


@dataclass(frozen=True, eq=False)
class Point:
    """A step on the frontier.

    Attributes:
        step: t.
        promises: of each requirement.
        chance: of all of them together.
        fixed, broken: rows right only after, and only before.
        changes: (C,) change of the accuracy of each label, a share; NaN without rows.
        all: change of the accuracy of all rows.
    """

    step: float
    promises: tuple[Promise, ...]
    chance: float
    fixed: int
    broken: int
    changes: Float64
    all: float

    @property
    def met(self) -> int:
        """Requirements that the rows at hand keep."""
        return sum(promise.met for promise in self.promises)

    @property
    def enough(self) -> int | None:
        """Rows of each label from which every requirement would reach its part of the confidence at this step; None
        where no number would.
        """
        counts = [promise.enough for promise in self.promises]
        return None if any(count is None for count in counts) else max((count or 0 for count in counts), default=0)


@dataclass(frozen=True, eq=False)
class Frontier:
    """All steps, and the one that was taken.

    Attributes:
        points: from the largest step to 0.
        chosen: number of the point taken.
        promised: its joint chance reaches the confidence, and it is a change.
        confidence: that was asked for.
    """

    points: tuple[Point, ...]
    chosen: int
    promised: bool
    confidence: float

    @property
    def point(self) -> Point:
        """The one taken."""
        return self.points[self.chosen]

    @property
    def easiest(self) -> Point | None:
        """Of the steps above 0 the one that could be promised from fewest rows; None where no number would do."""
        known = [point for point in self.points if point.step > 0 and point.enough is not None]
        return min(known, key=lambda point: point.enough or 0, default=None)


def row_values(requirement: Requirement, labels: Int64, before: Int64, after: Int64) -> tuple[Bool, Float64]:
    """The rows (n,) that a requirement is about, and what each adds to its share (m,), so signed that more is better.

    A row is 1 where a model gets it right for a min_accuracy, right after - right before for a max_drop or a
    min_gain, and -1 where a model takes it for the wrong label of a max_rate, else 0.
    Of classes `after` (M, n) values are (M, m).
    """
    mask = np.ones(len(labels), bool) if requirement.labels is None else np.isin(labels, requirement.labels)
    true, predicted = labels[mask], after[..., mask]
    if requirement.kind == "max_rate":
        return mask, 0.0 - (predicted == requirement.predicted)
    right = (predicted == true).astype(np.float64)
    return mask, right - (before[mask] == true) if requirement.relative else right


def threshold(requirement: Requirement) -> float:
    """The smallest mean of `row_values` that keeps the requirement, a share.

    `np.mean` is the double nearest to the exact share; with it `mean >= threshold` is what `check_requirements` says.
    """
    return requirement.limit if requirement.at_least else 0.0 - requirement.limit


def frontier_of(
    requirements: Sequence[Requirement],
    labels: Int64,
    before: Int64,
    after: Int64,
    *,
    steps: Sequence[float],
    confidence: float,
    new_rows: int,
    classes: int,
    fixed_step: bool = False,
) -> Frontier:
    """Judge every step and take one: the largest whose joint chance reaches the confidence.

    Where none above 0 does, the best compromise: of the steps that keep most requirements by count (the model as it is
    among them) the largest that fixes more rows than it breaks, or the smallest. With `fixed_step` the first is wanted.

    Args:
        requirements: of which a label without rows may be named by `label = "*"` alone.
        labels, before: (n,) true classes, and those that the model as it is predicts.
        after: (T, n) classes at each step, of rows that were not used to make it.
        steps: T, descending; 0 is the model as it is.
        new_rows: m of each label, that the chances are about.
    """
    about = [requirement for requirement in requirements if row_values(requirement, labels, before, before)[0].any()]
    wanted = confidence ** (1 / max(1, len(about)))
    judged = [_judge(requirement, labels, before, after, steps, new_rows, classes, wanted) for requirement in about]
    points = []
    for number, step in enumerate(steps):
        promises = tuple(column[number] for column in judged)
        compared = compare(labels, before, after[number], classes)
        gained = compared.fixed - compared.broken
        with np.errstate(invalid="ignore"):
            changes = gained / compared.totals
        points.append(
            Point(
                step=step,
                promises=promises,
                chance=math.prod(promise.chance for promise in promises),
                fixed=int(compared.fixed.sum()),
                broken=int(compared.broken.sum()),
                changes=changes,
                all=float(gained.sum() / len(labels)),
            )
        )
    sure = [number for number, point in enumerate(points) if point.step > 0 and point.chance >= confidence]
    if fixed_step:
        return Frontier(tuple(points), 0, 0 in sure, confidence)
    if sure:
        return Frontier(tuple(points), sure[0], True, confidence)
    most = max(point.met for point in points)
    best = [number for number, point in enumerate(points) if point.met == most]
    # Where the model as it is keeps as many, a step has to do more good than harm to be worth it.
    chosen = next((number for number in best if points[number].fixed > points[number].broken), best[-1])
    return Frontier(tuple(points), chosen, False, confidence)


def _judge(
    requirement: Requirement,
    labels: Int64,
    before: Int64,
    after: Int64,
    steps: Sequence[float],
    new_rows: int,
    classes: int,
    wanted: float,
) -> list[Promise]:
    mask, values = row_values(requirement, labels, before, after)
    rows = int(mask.sum())
    names = classes if requirement.labels is None else len(requirement.labels)
    limit, new = threshold(requirement), new_rows * names
    means = values.mean(axis=1)
    squares = np.square(values).mean(axis=1)
    # A change is about 0 where nothing is gained, a share is not.
    spreads = squares if requirement.relative else squares - means**2
    variances = spreads + 1 / rows
    errors = np.sqrt(variances / rows + variances / new)
    found = []
    for step, mean, spread, error in zip(steps, means.tolist(), spreads.tolist(), errors.tolist(), strict=True):
        met = bool(mean >= limit)
        untouched = step == 0 and requirement.kind == "max_drop"
        chance = 1.0 if untouched else float(ndtr((mean - limit) / error))
        sign = 1.0 if requirement.at_least else -1.0
        low, high = sorted(sign * (mean + side * 1.959963984540054 * error) for side in (-1, 1))
        found.append(
            Promise(
                requirement=requirement,
                value=0.0 + sign * mean,
                low=max(low, -1.0 if requirement.relative else 0.0),
                high=min(high, 1.0),
                rows=rows,
                new_rows=new,
                met=met,
                chance=chance,
                enough=-(-rows // names) if chance >= wanted else _enough(mean - limit, spread, new, names, wanted),
            )
        )
    return found


def _enough(margin: float, spread: float, new: int, names: int, wanted: float) -> int | None:
    """Rows of each label with which the chance would be as wanted: margin / sqrt(V / n + V / m) = z, V = s + 1/n."""
    if margin <= 0:
        return None
    # (s + u) (u + 1/m) = (margin / z)^2 for u = 1/n
    half = (spread + 1 / new) / 2
    lacking = (margin / float(ndtri(wanted))) ** 2 - spread / new
    left = math.sqrt(half**2 + lacking) - half if lacking > 0 else 0.0
    return None if left <= 0 else math.ceil(1 / left / names)
