"""Choosing among the patches that searches offer, on rows that no search has seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.workers.judge import Candidate, Candidates, Judge, Predicts, Score
from engine.core.types import Int64
from engine.data.image_set import ImageSet
from engine.metrics.comparison import Comparison, compare
from engine.passes.classes import NO_CLASS
from engine.problem.case import LayerInputs

MERGE_TRIES = 256
"""The best offers that a merge tries to add."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows that no search sees.

    Attributes:
        split: validation or test.
        images: the image set.
        rows: as the layer under repair sees them.
        before: (n,) classes that the base model predicts.
    """

    split: str
    images: ImageSet
    rows: LayerInputs
    before: Int64

    def compare(self, after: Int64) -> Comparison:
        """A model that predicts `after` (n,) against the base model; a row with `NO_CLASS` is wrong."""
        labels, classes = self.rows.labels, self.rows.classes
        return compare(labels, self.before, np.where(after == NO_CLASS, (labels + 1) % classes, after), classes)


class Best:
    """The best candidates of a step, which is all that a merge looks at: no more are kept, however many there are."""

    def __init__(self) -> None:
        """None yet."""
        self._kept: list[Candidate] = []
        self._least: Score | None = None

    def add(self, candidates: Candidates) -> None:
        """Take in some more, in any order."""
        self._kept += candidates.better_than(self._least)
        if len(self._kept) > 2 * MERGE_TRIES:
            self._kept = self.ranked
            self._least = self._kept[-1].score

    @property
    def ranked(self) -> list[Candidate]:
        """Best first; among equals the one offered first."""
        return ranked(self._kept)[:MERGE_TRIES]


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Best first; among equals the one offered first."""
    first = sorted(candidates, key=lambda candidate: candidate.place)
    return sorted(first, key=lambda candidate: candidate.score, reverse=True)


def merged(judge: Judge, layer: Predicts, candidates: Sequence[Candidate]) -> Candidate:
    """A greedy merge: the best candidate, and of the others, best first, those that improve on what there is.

    On weights that both change the value of the better one holds. Candidates must be in descending order of score.
    """
    best = candidates[0]
    for other in candidates[1:MERGE_TRIES]:
        together = _union(judge, layer, best, other)
        if together is not None and together.score > best.score:
            best = together
    return best


def _union(judge: Judge, layer: Predicts, better: Candidate, other: Candidate) -> Candidate | None:
    """Both patches together; None where the other one adds no weight, or they leave a row no class."""
    taken = {tuple(position) for position in better.index.tolist()}
    new = [number for number, position in enumerate(other.index.tolist()) if tuple(position) not in taken]
    if not new:
        return None
    index = np.concatenate([better.index, other.index[new]])
    values = np.concatenate([better.values, other.values[new]])
    (comparison,) = judge.comparisons(layer, index, values[None])
    if comparison is None:
        return None
    return Candidate((*better.jobs, *other.jobs), index, values, judge.score(comparison))
