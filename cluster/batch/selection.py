"""Choosing among the patches that searches offer, on rows that no search has seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.workers.judge import Candidate, Candidates, Judge, Score
from engine.core.rng import RngKey
from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet
from engine.methods.merging import WORST, Parts, search_merge
from engine.methods.merging import Score as MergeScore
from engine.metrics.accuracy import Comparison, compare
from engine.passes.classes import NO_CLASS
from engine.passes.runners import LayerPasses
from engine.problem.case import LayerInputs
from engine.search.loop import SearchSettings

MERGE_TRIES = 256
"""The best offers that a merge tries to add."""

MERGE_PARTS = 16
"""Searches whose best offers a merge by search takes a part of."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows that no search sees, also as the layer under repair sees them, and classes (n,) of the base model."""

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
        self._kept: list[Candidate] = []
        self._least: Score | None = None

    def add(self, candidates: Candidates) -> None:
        self._kept += candidates.better_than(self._least)
        if len(self._kept) > 2 * MERGE_TRIES:
            self._kept = self.ranked
            self._least = self._kept[-1].score

    @property
    def ranked(self) -> list[Candidate]:
        return ranked(self._kept)[:MERGE_TRIES]


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Best first; among equals the one offered first."""
    first = sorted(candidates, key=lambda candidate: candidate.place)
    return sorted(first, key=lambda candidate: candidate.score, reverse=True)


def merged(judge: Judge, layer: LayerPasses, candidates: Sequence[Candidate]) -> Candidate:
    """A greedy merge: the best candidate, and of the others, best first, those that improve on what there is.

    On weights that both change the value of the better one holds. Candidates must be in descending order of score.
    """
    best = candidates[0]
    for other in candidates[1:MERGE_TRIES]:
        together = _union(judge, layer, best, other)
        if together is not None and together.score > best.score:
            best = together
    return best


def searched(
    judge: Judge, layer: LayerPasses, candidates: Sequence[Candidate], settings: SearchSettings, source: RngKey
) -> Candidate:
    """A merge by search: how much of each patch is taken, by the rank of what that makes.

    Parts are the greedy merge and the best offers of the best searches, one of each; so the result is on these rows no
    worse than the greedy merge, than the best candidate and than the kernel as it is, which is a candidate too.

    `candidates` are in descending order of score; of the search see `engine.methods.merging.search_merge`.
    """
    greedy = merged(judge, layer, candidates)
    best: dict[tuple[str, ...], Candidate] = {}
    for candidate in candidates:
        best.setdefault(candidate.jobs, candidate)
    known = [one for one in list(best.values())[:MERGE_PARTS] if one is not greedy]
    chosen = [greedy, *known]
    parts = Parts.of(judge.kernel, [(one.index, one.values) for one in chosen])

    def scores(values: Float32) -> list[MergeScore]:
        compared = judge.comparisons(layer, parts.index, values)
        return [WORST if comparison is None else judge.score(comparison) for comparison in compared]

    found = search_merge(parts, scores, settings, source)
    taken = [one for one, share in zip(chosen, found.coefficients, strict=True) if share > 0]
    jobs = tuple(dict.fromkeys(job for one in taken for job in one.jobs))
    met, margin, broken = found.score
    return Candidate(jobs, parts.index, found.values, (int(met), margin, int(broken)))


def _union(judge: Judge, layer: LayerPasses, better: Candidate, other: Candidate) -> Candidate | None:
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
