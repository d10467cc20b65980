"""Choosing among the patches that searches offer, on rows that no search has seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.runs.ledger import EndedSearch
from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet
from engine.metrics.comparison import Comparison, compare, compare_many
from engine.metrics.requirements import Requirement, check_requirements, rank
from engine.passes.classes import NO_CLASS
from engine.passes.runners import LayerPasses
from engine.problem.case import LayerInputs

Score = tuple[int, float, int]
"""Requirements met, worst margin, rows broken with a minus: the bigger the better.

See `engine.metrics.requirements.rank`."""

MERGE_TRIES = 256
"""The best offers that a merge tries to add."""

_BLOCK = 64


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


@dataclass(frozen=True, eq=False)
class Candidate:
    """A patch of the kernel under repair, judged on validation rows.

    Attributes:
        jobs: searches whose patches it is made of.
        index: (K, 2) kernel positions.
        values: (K,) new values.
        score: by the requirements.
    """

    jobs: tuple[str, ...]
    index: Int64
    values: Float32
    score: Score

    def applied(self, kernel: Float32) -> Float32:
        """A kernel (D, C) with the patch."""
        changed = kernel.copy()
        changed[self.index[:, 0], self.index[:, 1]] = self.values
        return changed


@dataclass(frozen=True, eq=False)
class PatchRanker:
    """Judges patches of one kernel on validation rows."""

    layer: LayerPasses
    kernel: Float32
    held_out: HeldOut
    requirements: tuple[Requirement, ...]
    logits: Float32

    @staticmethod
    def of(layer: LayerPasses, kernel: Float32, held_out: HeldOut, requirements: Sequence[Requirement]) -> PatchRanker:
        """Compute what all patches of a kernel share."""
        logits = layer.logits(held_out.rows.inputs, kernel)
        return PatchRanker(layer, kernel, held_out, tuple(requirements), logits)

    def comparisons(self, index: Int64, values: Float32) -> list[Comparison | None]:
        """Patches (M, K) of the same positions (K, 2) against the base model; None for one that leaves a row no class.

        Loaded again, the model with it would be refused.
        """
        rows = self.held_out.rows
        after = self.layer.predict_patches(self.kernel, rows.inputs, self.logits, index, values)
        usable = (after != NO_CLASS).all(axis=1)
        found = iter(compare_many(rows.labels, self.held_out.before, after[usable], rows.classes))
        return [next(found) if good else None for good in usable]

    def score(self, comparison: Comparison) -> Score:
        """How good a model is by the requirements."""
        return rank(check_requirements(self.requirements, comparison), comparison)

    def measure(self, outcomes: Sequence[EndedSearch]) -> Iterator[tuple[Candidate, Comparison]]:
        """Judge every patch on offer that leaves every row a class, search by search and best first."""
        for outcome in outcomes:
            for start in range(0, len(outcome.values), _BLOCK):
                part = outcome.values[start : start + _BLOCK]
                for values, comparison in zip(part, self.comparisons(outcome.index, part), strict=True):
                    if comparison is not None:
                        yield Candidate((outcome.job,), outcome.index, values, self.score(comparison)), comparison

    def merged(self, candidates: Sequence[Candidate]) -> Candidate:
        """A greedy merge: the best candidate, and of the others, best first, those that improve on what there is.

        On weights that both change the value of the better one holds. Candidates must be in descending order of score.
        """
        best = candidates[0]
        for other in candidates[1:MERGE_TRIES]:
            together = self._union(best, other)
            if together is not None and together.score > best.score:
                best = together
        return best

    def _union(self, better: Candidate, other: Candidate) -> Candidate | None:
        """Both patches together; None where the other one adds no weight, or they leave a row no class."""
        taken = {tuple(position) for position in better.index.tolist()}
        new = [number for number, position in enumerate(other.index.tolist()) if tuple(position) not in taken]
        if not new:
            return None
        index = np.concatenate([better.index, other.index[new]])
        values = np.concatenate([better.values, other.values[new]])
        (comparison,) = self.comparisons(index, values[None])
        if comparison is None:
            return None
        return Candidate((*better.jobs, *other.jobs), index, values, self.score(comparison))


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first; among equals the one offered first."""
    return sorted(candidates, key=lambda candidate: candidate.score, reverse=True)
