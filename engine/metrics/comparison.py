"""What changed between two models on the same rows: confusions of both, and rows fixed and broken per label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.core.types import Int64
from engine.metrics.accuracy import LabelChange


@dataclass(frozen=True, eq=False)
class Comparison:
    """A model against its base model, in counts of the same rows.

    Attributes:
        totals: (C,) int64, rows per true label.
        before: (C, C) int64, rows of the base model by [true, predicted].
        after: (C, C) int64, rows of the model by [true, predicted].
        fixed: (C,) int64, rows per true label that were wrong before and are right after.
        broken: (C,) int64, rows per true label that were right before and are wrong after.
    """

    totals: Int64
    before: Int64
    after: Int64
    fixed: Int64
    broken: Int64

    def changes(self) -> tuple[LabelChange, ...]:
        """What changed for each label with rows, ascending."""
        right_before, right_after = np.diagonal(self.before), np.diagonal(self.after)
        columns = np.stack([self.totals, right_before, right_after, self.fixed, self.broken], axis=1)
        return tuple(LabelChange(int(label), *columns[label].tolist()) for label in np.flatnonzero(self.totals))


def compare(labels: Int64, before: Int64, after: Int64, classes: int) -> Comparison:
    """Compare class numbers predicted `before` and `after` with the true `labels`, all (n,) and below `classes`."""
    return compare_many(labels, before, after[np.newaxis], classes)[0]


def compare_many(labels: Int64, before: Int64, after: Int64, classes: int) -> list[Comparison]:
    """Compare each of M candidates, `after` (M, n), with one base model; `labels` and `before` are (n,)."""
    was_right = labels == before
    totals = np.bincount(labels, minlength=classes)
    confusion = np.bincount(labels * classes + before, minlength=classes**2).reshape(classes, classes)
    right_before = np.diagonal(confusion)
    # One count per candidate: rows by (right before, true, predicted).
    keys = (was_right * classes + labels) * classes
    comparisons = []
    for predicted in after:
        wrong, right = np.bincount(keys + predicted, minlength=2 * classes**2).reshape(2, classes, classes)
        comparisons.append(
            Comparison(
                totals=totals,
                before=confusion,
                after=wrong + right,
                fixed=np.diagonal(wrong).copy(),
                broken=right_before - np.diagonal(right),
            )
        )
    return comparisons


def drop_interval(broken: int, fixed: int, total: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Interval of the loss of accuracy between two models on the same `total` rows, by default 95 %.

    Adjusted Wald interval of a paired difference, cut to [-1, 1]: with p = (broken + 1)/(n + 2) and
    q = (fixed + 1)/(n + 2) it is (p − q) ± z·sqrt((p + q − (p − q)²)/(n + 2)). Bonett and Price 2012,
    J. Educ. Behav. Stat. 37: 479-488.
    """
    if broken < 0 or fixed < 0 or broken + fixed > total:
        raise ValueError(f"{broken} and {fixed} of {total}")
    n = total + 2
    lost, won = (broken + 1) / n, (fixed + 1) / n
    drop = lost - won
    spread = z * math.sqrt((lost + won - drop * drop) / n)
    return max(-1.0, drop - spread), min(1.0, drop + spread)
