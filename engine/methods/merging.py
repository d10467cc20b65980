"""Several patches of one model as one, by a search of how much of each: the merge of DistrRep, and of a batch.

A candidate is a coefficient c[m] in [0, 1] for each of P parts. A weight that parts change from v0 to v[m] becomes

    w = v0 + sum over the parts m that change it of c[m] (v[m] - v0)

or, where shared weights stand `apart`, a weight that several parts change gets a coefficient of its own, between the
smallest and the largest of v0 and their values. eAI-Repair-Toolkit 1.1.0's DRWeightMerge reads v0 from a model that the
parts have changed, so that most coefficients do nothing there; what was meant is the way from the model to the part.

The first candidates are 0 (the model as it is) and each part whole, so that the result is by its own score never worse
than the best of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from engine.core.rng import RngKey, generator
from engine.core.types import Bool, Float32, Float64, Int64
from engine.layers.weight_stats import WeightStats
from engine.passes.classes import NO_CLASS
from engine.search.loop import SearchSettings
from engine.search.optimisers import optimiser_of
from engine.search.population import Population, PopulationSettings

if TYPE_CHECKING:
    from engine.metrics.dist_rep import MergeScore
    from engine.passes.runners import LayerPasses
    from engine.problem.case import LayerInputs

START_MEAN, START_STD = 0.5, 0.125  # of the normal distribution that coefficients start from, as in the toolkit

# Random search, clipped, leaves out, takes whole and takes a part of each patch about as often.
COEFFICIENTS = WeightStats(mean=START_MEAN, std=1.0, range=1.0, low=0.0, high=1.0)

BLOCK_VALUES = 1 << 22  # new values of all candidates that are held at once: 16 MiB of float32

Score = tuple[float, ...]  # the bigger the better, compared number by number
WORST: Score = (-np.inf,)  # of a candidate that leaves a row no class
Scores = Callable[[Float32], Sequence[Score]]  # new values (M, K) of the places of all parts -> M scores


@dataclass(frozen=True, eq=False)
class Parts:
    """P patches of one kernel, on the K places that any of them changes."""

    index: Int64  # (K, 2) int64 places, ascending
    old: Float32  # (K,) float32, values as they are
    new: Float32  # (P, K) float32, of each part; `old` where it changes nothing
    apart: bool = False  # a place that several parts change has a coefficient of its own

    @staticmethod
    def of(kernel: Float32, patches: Sequence[tuple[Int64, Float32]], *, apart: bool = False) -> Parts:
        """Parts from patches of one kernel (D, C), as places (k, 2), each once, with their new values (k,)."""
        flat = [np.ravel_multi_index((index[:, 0], index[:, 1]), kernel.shape) for index, _ in patches]
        places = np.unique(np.concatenate([np.empty(0, np.int64), *flat]))
        old = kernel.reshape(-1)[places]
        new = np.repeat(old[None], len(patches), axis=0)
        for part, mine, (_, values) in zip(new, flat, patches, strict=True):
            part[np.searchsorted(places, mine)] = values
        index = np.stack(np.unravel_index(places, kernel.shape), axis=1).astype(np.int64)
        return Parts(index, old, new, apart)

    @cached_property
    def changed(self) -> Bool:
        """(P, K): which part changes which place."""
        return np.not_equal(self.new.view(np.uint32), self.old.view(np.uint32))

    @cached_property
    def shared(self) -> Int64:
        """Places (H,) that several parts change."""
        return np.flatnonzero(self.changed.sum(axis=0) > 1)

    @property
    def own(self) -> Int64:
        """Places whose coefficients follow the shared ones in a candidate: `shared` where those stand apart."""
        return self.shared if self.apart else np.empty(0, np.int64)

    @property
    def size(self) -> int:
        """Numbers of a candidate: P, and H where shared places stand apart."""
        return len(self.new) + len(self.own)

    @cached_property
    def corners(self) -> Float64:
        """Candidates (1 + P, size): the model as it is, and each part whole."""
        own = self.own
        low, high = self._range(own)
        wanted = np.concatenate([self.old[None], self.new])[:, own].astype(np.float64)
        width = np.where(high > low, high - low, 1.0)
        whole = np.concatenate([np.zeros((1, len(self.new))), np.eye(len(self.new))])
        return np.concatenate([whole, (wanted - low) / width], axis=1)

    def mixed(self, coefficients: Float64) -> Float32:
        """New values (M, K) of candidates (M, size); a corner has exactly the values of its part.

        Of shared places that stand apart, values nearer to one another than 1e-16 of their range count as one.
        """
        shares, own = coefficients[:, : len(self.new)], self.own
        rest = np.ones((len(coefficients), len(self.old)))
        moved = np.zeros_like(rest)
        for share, values, mine in zip(shares.T, self.new, self.changed, strict=True):
            places = np.flatnonzero(mine)
            rest[:, places] -= share[:, None]
            moved[:, places] += share[:, None] * values[places]
        found = rest * self.old + moved
        if len(own):
            low, high = self._range(own)
            apart = coefficients[:, len(self.new) :]
            between = (1.0 - apart) * low + apart * high
            for corner, known in zip(self.corners, (self.old, *self.new), strict=True):
                np.copyto(between, known[own], where=apart == corner[len(self.new) :])  # which rounding would miss
            found[:, own] = between
        values = found.astype(np.float32)
        np.copyto(values, self.old, where=values == self.old)  # -0.0 stays what it is
        return values

    def _range(self, places: Int64) -> tuple[Float64, Float64]:
        both = np.concatenate([self.old[None], self.new])[:, places].astype(np.float64)
        return both.min(axis=0), both.max(axis=0)


@dataclass(frozen=True, eq=False)
class Merge:
    coefficients: Float64  # (size,) float64, in [0, 1]
    values: Float32  # (K,) float32, new values of the places of the parts
    score: Score  # of those
    starts: tuple[Score, ...]  # scores of the model as it is, and of each part
    iterations: int  # of the search


def placed_coefficients(parts: Parts, settings: PopulationSettings, source: RngKey) -> Population:
    """Where the search of a merge starts: the corners of the parts, then draws from N(0.5, 0.125), clipped."""
    corners = parts.corners
    rng = generator(source.seed, source.data, source.label, "start")
    drawn = rng.normal(START_MEAN, START_STD, size=(settings.num_particles - len(corners), parts.size))
    position = np.concatenate([corners, np.clip(drawn, 0.0, 1.0)])
    state: Population = optimiser_of(settings).init(settings, source, np.full(parts.size, START_MEAN), COEFFICIENTS)
    return replace(state, position=position, best_position=position, global_position=position[0])


def step(settings: PopulationSettings, source: RngKey, state: Population, fitness: Float64) -> Population:
    """One iteration of the optimiser, after which positions are clipped to [0, 1]."""
    told: Population = optimiser_of(settings).tell(settings, source, state, fitness)
    return replace(told, position=np.clip(told.position, 0.0, 1.0))


def search_merge(parts: Parts, scores: Scores, settings: SearchSettings, source: RngKey) -> Merge:
    """Search the coefficients of at least one part, with more particles than the settings have where parts are more.

    Optimisers compare and never add fitness: scores of several numbers take part as their ranks.
    """
    given, kind = settings.swarm, optimiser_of(settings.swarm)
    optimiser = kind.settings(num_particles=max(given.num_particles, len(parts.corners)))
    state = placed_coefficients(parts, optimiser, source)
    best, top = [WORST] * optimiser.num_particles, WORST
    starts: tuple[Score, ...] = ()
    while state.iteration < settings.num_iterations and state.since_gain < settings.min_iteration_range:
        found = _scored(parts, scores, state.position)
        known = sorted({top, *best, *found})
        ranks = {score: -np.inf if score == WORST else float(rank) for rank, score in enumerate(known)}
        of_best, of_found = (np.array([ranks[score] for score in scored]) for scored in (best, found))
        ranked = replace(state, best_fitness=of_best, global_fitness=ranks[top])
        state = step(optimiser, source, ranked, of_found)
        score_of = {rank: score for score, rank in ranks.items()}
        best, top = [score_of[rank] for rank in state.best_fitness.tolist()], score_of[state.global_fitness]
        starts = starts or tuple(found[: len(parts.corners)])
    values = parts.mixed(state.global_position[None])[0]
    return Merge(state.global_position, values, top, starts, state.iteration)


def _scored(parts: Parts, scores: Scores, coefficients: Float64) -> list[Score]:
    """Scores of candidates (M, size), few at once where they have many places."""
    step_size = max(1, BLOCK_VALUES // max(1, len(parts.old)))
    found: list[Score] = []
    for start in range(0, len(coefficients), step_size):
        found += scores(parts.mixed(coefficients[start : start + step_size]))
    return found


def scores_of_rows(layer: LayerPasses, kernel: Float32, rows: LayerInputs, parts: Parts, score: MergeScore) -> Scores:
    """Scores by what candidates predict for rows."""
    logits = layer.logits(rows.inputs, kernel)

    def scored(values: Float32) -> list[Score]:
        classes = layer.predict_patches(kernel, rows.inputs, logits, parts.index, values)
        known, found = (classes != NO_CLASS).all(axis=1), score.scores(rows.labels, classes).tolist()
        return [(mine,) if good else WORST for mine, good in zip(found, known, strict=True)]

    return scored
