"""Judging what searches offer on rows that no search has seen; it is done where the searches run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.core.types import Float32, Float64, Int64
from engine.metrics.accuracy import Comparison, LabelChange, compare_many
from engine.metrics.requirements import Requirement, check_requirements, rank
from engine.passes.classes import NO_CLASS
from engine.passes.runners import LayerPasses
from engine.problem.case import LayerInputs

Score = tuple[int, float, int]
"""Requirements met, worst margin, minus the rows broken: the bigger the better; see `engine.metrics.requirements`."""

_BLOCK = 64


@dataclass(frozen=True, eq=False)
class Candidate:
    """A patch of the kernel under repair, judged on validation rows."""

    jobs: tuple[str, ...]  # searches whose patches it is made of
    index: Int64  # (K, 2) kernel positions
    values: Float32  # (K,), new ones
    score: Score
    place: tuple[int, int] = (0, 0)  # of the search and of its offer in their step: the first of equals comes first

    def applied(self, kernel: Float32) -> Float32:
        changed = kernel.copy()
        changed[self.index[:, 0], self.index[:, 1]] = self.values
        return changed


@dataclass(frozen=True, eq=False)
class Candidates:
    """M candidates of single searches as they travel: in few arrays, as most are looked at by their score alone."""

    jobs: tuple[str, ...]
    scores: Float64  # (M, 3), see `Score`; float64 holds the counts exactly
    places: Int64  # (M, 2)
    index: tuple[Int64, ...]  # of each; searches of one task share theirs
    values: Float32  # of all, one after the other

    @property
    def size(self) -> int:
        indices = {id(index): index.nbytes for index in self.index}
        return self.values.nbytes + self.scores.nbytes + self.places.nbytes + sum(indices.values())

    @staticmethod
    def of(candidates: Sequence[Candidate]) -> Candidates:
        return Candidates(
            tuple(job for candidate in candidates for job in candidate.jobs),
            np.array([candidate.score for candidate in candidates], np.float64),
            np.array([candidate.place for candidate in candidates], np.int64),
            tuple(candidate.index for candidate in candidates),
            np.concatenate([candidate.values for candidate in candidates]),
        )

    def better_than(self, score: Score | None) -> Iterator[Candidate]:
        """Those with at least this score; None takes all."""
        ends = np.cumsum([len(index) for index in self.index])
        scores = [(int(met), margin, int(broken)) for met, margin, broken in self.scores.tolist()]
        for number, mine in enumerate(scores):
            if score is None or mine >= score:
                index, end = self.index[number], int(ends[number])
                place = int(self.places[number, 0]), int(self.places[number, 1])
                yield Candidate((self.jobs[number],), index, self.values[end - len(index) : end], mine, place)


@dataclass(frozen=True, eq=False)
class Judge:
    """What patches of one kernel are judged by."""

    kernel: Float32  # (D, C)
    rows: LayerInputs  # that no search sees
    before: Int64  # (n,) classes that the base model predicts for them
    logits: Float32  # (n, C) under the kernel
    requirements: tuple[Requirement, ...]  # that rank the patches

    def comparisons(self, layer: LayerPasses, index: Int64, values: Float32) -> list[Comparison | None]:
        """Patches (M, K) of places (K, 2) against the base model; None for one that leaves a row no class."""
        rows = self.rows
        after = layer.predict_patches(self.kernel, rows.inputs, self.logits, index, values)
        usable = (after != NO_CLASS).all(axis=1)
        found = iter(compare_many(rows.labels, self.before, after[usable], rows.classes))
        return [next(found) if good else None for good in usable]

    def score(self, comparison: Comparison) -> Score:
        return rank(check_requirements(self.requirements, comparison), comparison)

    def judged(
        self, layer: LayerPasses, job: str, place: int, index: Int64, offers: Float32
    ) -> tuple[tuple[Candidate, ...], tuple[LabelChange, ...]]:
        """Candidates among the patches (M, K) that a search offers, best first, and what the best of them changes.

        The best is the first that leaves every row a class; a patch that changes nothing is no candidate.
        """
        candidates: list[Candidate] = []
        best: Comparison | None = None
        now = self.kernel[index[:, 0], index[:, 1]]
        for start in range(0, len(offers), _BLOCK):
            part = offers[start : start + _BLOCK]
            for number, comparison in enumerate(self.comparisons(layer, index, part)):
                if comparison is None:
                    continue
                best = best or comparison
                if not np.array_equal(part[number], now):
                    found = Candidate((job,), index, part[number], self.score(comparison), (place, start + number))
                    candidates.append(found)
        return tuple(candidates), () if best is None else best.changes()
