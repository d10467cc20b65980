"""Methods of repair held against one of them: differences over draws and labels, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from engine.core.types import Float64, Int8, Int64
from engine.metrics.resampled import LEVEL, PairedDifference, paired_difference

FOUND, CHOSEN, FAILED = "found", "chosen", "failed"
"""Readings of a repair: what a method finds where nobody chooses, what it comes to with rows of validation or a promise
of its own, and that it could not run."""

READINGS = (CHOSEN, FOUND)
"""Those with numbers."""

MEASURES = ("gain", "all")
"""In which methods are held against the reference: of the labels under repair, and of all rows."""

BETTER, WORSE, UNSURE = "better", "worse", "not told apart"
"""Verdicts."""


@dataclass(frozen=True, eq=False)
class Judged:
    values: Mapping[str, float | None]  # by measure; None where no row tells
    after: Int64 | Int8 | None  # classes (n,) predicted for the test rows, or None where they are not known


@dataclass(frozen=True, eq=False)
class Part:
    """The same labels repaired by a method and by the reference."""

    labels: Sequence[int]  # under repair together
    truth: Int64 | None  # classes (n,) of the test rows, the same of all parts; None before they are known
    mine: Mapping[int, Judged]  # mine, theirs: of the method and of the reference, by draw
    theirs: Mapping[int, Judged]

    def draws(self, measure: str) -> set[int]:
        """That both have with a number."""
        both = self.mine.keys() & self.theirs.keys()
        return {
            draw for draw in both if None not in (self.mine[draw].values[measure], self.theirs[draw].values[measure])
        }


def difference(parts: Sequence[Part], measure: str, shared: float) -> PairedDifference:
    """A measure of a method less that of the reference: in each draw that all parts have, the mean over the parts."""
    draws = sorted(set.intersection(*(part.draws(measure) for part in parts))) if parts else []
    values = np.array([fmean(_less(part, draw, measure) for part in parts) for draw in draws], np.float64)
    rows = _per_row(parts, measure, draws) if draws else None
    found = paired_difference(values, shared, rows)
    if rows is None and found.p is not None:
        return PairedDifference(found.mean, found.draws, why="classes of test rows are missing")
    return found


def verdict(found: PairedDifference | float | None, adjusted: float | None) -> str:
    """`better` or `worse` only where the interval at Holm's level excludes 0, that is where `adjusted` says so."""
    mean = found.mean if isinstance(found, PairedDifference) else found
    if mean is None or adjusted is None or adjusted >= LEVEL:
        return UNSURE
    return BETTER if mean > 0 else WORSE


def _less(part: Part, draw: int, measure: str) -> float:
    mine, theirs = part.mine[draw].values[measure], part.theirs[draw].values[measure]
    assert mine is not None
    assert theirs is not None
    return mine - theirs


def _per_row(parts: Sequence[Part], measure: str, draws: Sequence[int]) -> Float64 | None:
    """What each test row that the measure counts adds: right(method) - right(reference), averaged over draws and parts.

    A gain's mean over L parts is one over all of their rows: those of a part with m of M rows weigh M / (L m).
    """
    found = []
    for part in parts:
        rows = _mean_right(part, draws)
        if rows is None or part.truth is None:
            return None
        found.append(rows[np.isin(part.truth, part.labels)] if measure == "gain" else rows)
    if measure == "all":
        return np.mean(found, axis=0)  # type: ignore[no-any-return]
    total = sum(map(len, found))
    return np.concatenate([rows * (total / (len(found) * max(1, len(rows)))) for rows in found])


def _mean_right(part: Part, draws: Sequence[int]) -> Float64 | None:
    """Of each test row (n,), averaged over the draws; None where classes are missing."""
    if part.truth is None:
        return None
    total = np.zeros(len(part.truth), np.int64)
    for draw in draws:
        mine, theirs = part.mine[draw].after, part.theirs[draw].after
        if mine is None or theirs is None:
            return None
        total += (mine == part.truth).astype(np.int64) - (theirs == part.truth)
    return total / len(draws)
