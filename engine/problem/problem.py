"""One search problem: which weights to search, judged how; with the rows it is all a worker needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.core.rng import RngKey, generator
from engine.core.types import Float32, Int64
from engine.fitness.base import Fitness, Goal
from engine.fitness.last_dense import TiledFitness
from engine.fitness.mixture import Mixture, MixtureFitness, MixtureRows
from engine.fitness.objective import Objective
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.steering import Steering
from engine.fitness.tail import TailFitness
from engine.layers.head import Head
from engine.layers.tail import Tail
from engine.layers.weight_stats import WeightStats
from engine.search import loop as search
from engine.search.loop import SearchSettings, SearchState
from engine.targets.base import Target


@dataclass(frozen=True, eq=False)
class Problem:
    """What to search.

    Attributes:
        name: of the job, unique within a run.
        head: what follows the logits.
        weights: the K localised weights.
        stats: of all weights of the layer.
        kernel: what the search must bring along, see `Target.search_kernel`.
        source: which random numbers to draw.
        settings: of the search.
        mixture, steering: where tunings are mixed, what they are and what judges them; the weights are then numbers of
            a mixture.
    """

    name: str
    head: Head
    weights: Weights
    stats: WeightStats
    source: RngKey
    settings: SearchSettings
    kernel: Float32 | None = None
    mixture: Mixture | None = None
    steering: Steering | None = None

    @property
    def needs_tail(self) -> bool:
        """The weights are of a deep target: candidates are evaluated by the tail of its model."""
        return self.kernel is not None

    def start(self) -> SearchState:
        """The state before the first iteration."""
        return search.start(self.settings, self.source, self.weights.old, self.stats)


def problem_of(
    target: Target,
    kernel: Float32,
    index: Int64,
    weights: Weights,
    *,
    name: str,
    source: RngKey,
    settings: SearchSettings,
) -> Problem:
    """The search of K places (K, 2) of a target, with their `weights`, from a kernel."""
    return Problem(
        name=name,
        head=target.head,
        weights=weights,
        stats=target.stats(kernel, index),
        source=source,
        settings=settings,
        kernel=target.search_kernel(kernel),
    )


@dataclass(frozen=True, eq=False)
class Prepared:
    """A problem with its rows on the device of this process."""

    objective: Goal
    fitness: Fitness


Rows = SearchRows | MixtureRows


def prepare(problem: Problem, rows: Rows, tail: Tail | None = None) -> Prepared:
    """Pick the rows of the search and set up their evaluation; a deep target needs the tail of its model."""
    chosen = seen_by(problem, rows)
    return Prepared(goal_of(problem, chosen, rows), build_fitness(problem, chosen, tail))


def build_fitness(problem: Problem, rows: Rows, tail: Tail | None = None) -> Fitness:
    """The evaluation of candidates on exactly these rows."""
    particles, tiling = problem.settings.swarm.num_particles, problem.settings.tiling
    misses = problem.settings.objective == "loss"
    if isinstance(rows, MixtureRows):
        if problem.mixture is None:
            raise ValueError("the rows are those of a mixture, expected one in the problem")
        return MixtureFitness(problem.mixture, rows, particles, tiling)
    if problem.kernel is None:
        return TiledFitness(problem.head, rows, problem.weights, particles, tiling, misses)
    if tail is None:
        raise ValueError("the search of a deep target needs the tail of its model")
    return TailFitness(tail, problem.kernel, rows, problem.weights, particles, tiling, misses)


def seen_by(problem: Problem, rows: Rows) -> Rows:
    """The rows that a search is judged on: all, or with some of the positives."""
    if isinstance(rows, MixtureRows):
        return rows
    return sample_positives(rows, problem.source, problem.settings.num_input_pos_sampled)


def goal_of(problem: Problem, searched: Rows, rows: Rows) -> Goal:
    """What candidates are worth on the rows that are searched, out of all `rows`."""
    if problem.steering is not None:
        return problem.steering
    assert isinstance(searched, SearchRows) and isinstance(rows, SearchRows)
    return objective_of(problem.settings, searched, rows)


def objective_of(settings: SearchSettings, searched: SearchRows, rows: SearchRows) -> Objective:
    """What candidates are worth on the rows that are searched.

    A positive weight that is not given follows the number of positives among all `rows`, whatever is sampled of them:
    fewer rows to search on make none of those that are left out worth less.
    """
    negatives = int(searched.negative.sum())
    weight = settings.positive_weight
    if weight is None:
        weight = settings.positive_worth * int((~rows.negative).sum())
    return Objective(negatives, len(searched.negative) - negatives, weight, settings.objective)


def sample_positives(rows: SearchRows, source: RngKey, count: int | None) -> SearchRows:
    """Keep all negatives and `count` positives, drawn without replacement from the seed, in their order.

    None, or a count that is not below the number of positives, keeps all.
    """
    positives = np.flatnonzero(~rows.negative)
    if count is None or count >= len(positives):
        return rows
    rng = generator(source.seed, source.data, source.label, "positives")
    kept = np.sort(np.concatenate([np.flatnonzero(rows.negative), rng.choice(positives, count, replace=False)]))
    return SearchRows(rows.inputs[kept], rows.logits[kept], rows.labels[kept], rows.negative[kept])
