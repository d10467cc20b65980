"""Accuracy per label: counts of one model and of two on the same rows, intervals, the toolkit's `results.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.core.errors import InputError
from engine.core.files import replace_file
from engine.core.types import Int64


@dataclass(frozen=True)
class LabelResult:
    """How many rows of one true label a model gets right and wrong."""

    label: int
    success: int
    failure: int

    @property
    def total(self) -> int:
        return self.success + self.failure

    @property
    def score(self) -> float:
        """Accuracy in percent, as `results.json` has it."""
        return 100 * self.success / self.total  # in this order: the toolkit's last bit


@dataclass(frozen=True)
class Results:
    """Results of every label that has rows, in order of first appearance."""

    labels: tuple[LabelResult, ...]

    @property
    def success(self) -> int:
        return sum(result.success for result in self.labels)

    @property
    def total(self) -> int:
        return sum(result.total for result in self.labels)

    @property
    def accuracy(self) -> float:
        return self.success / self.total


@dataclass(frozen=True)
class LabelChange:
    """One label before and after a repair: fixed rows went from wrong to right, broken ones back."""

    label: int
    total: int
    correct_before: int
    correct_after: int
    fixed: int
    broken: int


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


def confusion(labels: Int64, predicted: Int64, classes: int) -> Int64:
    """Rows (C, C) by [true, predicted], from class numbers `labels` and `predicted`, both (n,)."""
    counts: Int64 = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    return counts


def compare(labels: Int64, before: Int64, after: Int64, classes: int) -> Comparison:
    """Compare class numbers predicted `before` and `after` with the true `labels`, all (n,) and below `classes`."""
    return compare_many(labels, before, after[np.newaxis], classes)[0]


def compare_many(labels: Int64, before: Int64, after: Int64, classes: int) -> list[Comparison]:
    """Compare each of M candidates, `after` (M, n), with one base model; `labels` and `before` are (n,)."""
    was_right = labels == before
    totals = np.bincount(labels, minlength=classes)
    confusion_before = confusion(labels, before, classes)
    right_before = np.diagonal(confusion_before)
    # One count per candidate: rows by (right before, true, predicted).
    keys = (was_right * classes + labels) * classes
    comparisons = []
    for predicted in after:
        wrong, right = np.bincount(keys + predicted, minlength=2 * classes**2).reshape(2, classes, classes)
        comparisons.append(
            Comparison(
                totals=totals,
                before=confusion_before,
                after=wrong + right,
                fixed=np.diagonal(wrong).copy(),
                broken=right_before - np.diagonal(right),
            )
        )
    return comparisons


def label_results(labels: Int64, predicted: Int64, classes: int) -> Results:
    """Count rows right and wrong per true label, from class numbers `labels` and `predicted`, both (n,)."""
    totals = np.bincount(labels, minlength=classes)
    success = np.bincount(labels[labels == predicted], minlength=classes)
    seen, first = np.unique(labels, return_index=True)
    return Results(
        tuple(
            LabelResult(int(label), int(success[label]), int(totals[label] - success[label]))
            for label in seen[np.argsort(first)]
        )
    )


def paired_changes(labels: Int64, before: Int64, after: Int64, classes: int) -> tuple[LabelChange, ...]:
    """What changed for each label with rows, ascending, from predictions `before` and `after`, both (n,)."""
    return compare(labels, before, after, classes).changes()


def total_change(changes: Sequence[LabelChange], labels: Sequence[int] = ()) -> LabelChange:
    """The sum over `labels`, or over all where none are named; its label is -1."""
    mine = [change for change in changes if not labels or change.label in labels]
    counts = ("total", "correct_before", "correct_after", "fixed", "broken")
    return LabelChange(-1, *(sum(getattr(change, name) for change in mine) for name in counts))


def wilson_interval(success: int, total: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval of a proportion, by default 95 %; (0, 1) without rows.

    centre ± half = (p + z²/2n ± z·sqrt(p(1 − p)/n + z²/4n²)) / (1 + z²/n), p = success/n. Wilson 1927,
    J. Am. Stat. Assoc. 22: 209-212.
    """
    if not 0 <= success <= total:
        raise ValueError(f"{success} of {total}")
    if total == 0:
        return 0.0, 1.0
    share = success / total
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    centre, scale = share + z * z / (2 * total), 1 + z * z / total
    low = 0.0 if success == 0 else (centre - spread) / scale
    high = 1.0 if success == total else (centre + spread) / scale
    return low, high


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


def write_results_json(path: Path, results: Results) -> None:
    """Write `[[label, {"success", "failure", "score"}], …]` as the toolkit does."""
    ordered = sorted(results.labels, key=lambda result: str(result.label))
    entries = [
        [str(result.label), {"success": result.success, "failure": result.failure, "score": result.score}]
        for result in ordered
    ]
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(entries, indent=4))


def read_results_json(path: Path) -> Results:
    """Read a `results.json`, entries in file order; the score is computed anew."""
    expected = 'expected [[label, {"success": number, "failure": number, "score": percent}], …]'
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}), {expected}") from error
    try:
        results = Results(
            tuple(
                LabelResult(int(label), _count(entry["success"]), _count(entry["failure"]))
                for label, entry in json.loads(content)
            )
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is no results.json ({type(error).__name__}: {error}), {expected}") from error
    if any(result.total == 0 for result in results.labels):
        raise InputError(f"{path} has a label with 0 rows, {expected}")
    return results


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value
