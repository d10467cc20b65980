"""One search problem: which weights to search, judged how; with its rows it is all a worker needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from engine.core.plans import Work
from engine.core.rng import RngKey, generator
from engine.core.types import Float32, Int64
from engine.fitness.base import Fitness
from engine.fitness.groups import GroupSums
from engine.fitness.last_dense import TiledFitness
from engine.fitness.mixture import Mixture, MixtureFitness
from engine.fitness.objective import Objective
from engine.fitness.priorities import priority_objective
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.steering import Steering, pairs_of, rigour_of, steering_of
from engine.fitness.tail import TailFitness
from engine.layers.head import Head
from engine.layers.tail import Tail
from engine.layers.tail_chain import TailChain
from engine.layers.weight_stats import WeightStats
from engine.passes.classes import predicted_classes
from engine.problem.case import RepairCase
from engine.search import loop
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
        source: which random numbers to draw.
        settings: of the search.
        kernel: what the search must bring along, see `Target.search_kernel`.
        mixture: where tunings are mixed, what they are; the weights are then numbers of a mixture.
        repaired, judging: of a mixture, labels under repair, and rows that judge it, of which some are searched.
    """

    name: str
    head: Head
    weights: Weights
    stats: WeightStats
    source: RngKey
    settings: SearchSettings
    kernel: Float32 | None = None
    mixture: Mixture | None = None
    repaired: tuple[int, ...] = ()
    judging: int = 0

    @property
    def needs_tail(self) -> bool:
        """Candidates are evaluated by the tail of the model: the weights are of a deep target, or tuned there."""
        return self.kernel is not None or (self.mixture is not None and isinstance(self.mixture.chain, TailChain))

    def start(self) -> SearchState:
        """The state before the first iteration."""
        return loop.start(self.settings, self.source, self.weights.old, self.stats)


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
    stats, needed = target.stats(kernel, index), target.search_kernel(kernel)
    return Problem(name, target.head, weights, stats, source, settings, needed)


@dataclass(frozen=True, eq=False)
class Prepared:
    objective: Objective
    fitness: Fitness


def prepare(problem: Problem, rows: SearchRows, tail: Tail | None = None) -> Prepared:
    """Pick the rows of the search and set up their evaluation; a deep target needs the tail of its model."""
    chosen = seen_by(problem, rows)
    return Prepared(goal_of(problem, chosen, rows), build_fitness(problem, chosen, tail))


def build_fitness(problem: Problem, rows: SearchRows, tail: Tail | None = None) -> Fitness:
    """The evaluation of candidates on exactly these rows."""
    particles, tiling = problem.settings.swarm.num_particles, problem.settings.tiling
    if problem.mixture is not None:
        mixture = replace(problem.mixture, chain=problem.mixture.chain.attached(tail))
        return MixtureFitness(mixture, rows, particles, tiling)
    objective, classes, wanted = problem.settings.objective, rows.logits.shape[1], None
    if objective == "requirements":
        temperature = rigour_of(len(rows.labels)).temperature
        wanted = GroupSums(classes, temperature, pairs_of(problem.settings.requirements))
    elif objective == "priorities":
        wanted = GroupSums(classes)
    misses = objective == "loss"
    if problem.kernel is None:
        return TiledFitness(problem.head, rows, problem.weights, particles, tiling, misses, wanted)
    if tail is None:
        raise ValueError("the search of a deep target needs the tail of its model")
    return TailFitness(tail, problem.kernel, rows, problem.weights, particles, tiling, misses, wanted)


def seen_by(problem: Problem, rows: SearchRows) -> SearchRows:
    """The rows that a search is judged on: all that count, or with some of the positives."""
    if problem.mixture is not None:
        return rows
    return sample_positives(
        counted_rows(problem.settings, rows), problem.source, problem.settings.num_input_pos_sampled
    )


def counted_rows(settings: SearchSettings, rows: SearchRows) -> SearchRows:
    """The rows that an objective counts: all, but for labels of a priority of 0."""
    if settings.priorities is None:
        return rows
    return rows.take(settings.priorities.counted(rows.labels, rows.negative))


def goal_of(problem: Problem, searched: SearchRows, rows: SearchRows) -> Objective:
    """What candidates are worth on the rows that are searched, out of all `rows`."""
    settings = problem.settings
    if settings.objective == "requirements":
        negatives, positives = int(searched.negative.sum()), int(searched.positive.sum())
        steering = steered_by(problem, searched, rows)
        return Objective(negatives, positives, None, "requirements", steering=steering)
    if settings.priorities is not None:
        weight, classes = _positive_weight(settings, counted_rows(settings, rows)), searched.logits.shape[1]
        return priority_objective(settings.priorities, searched.labels, searched.negative, classes, weight)
    return objective_of(settings, searched, rows)


def objective_of(settings: SearchSettings, searched: SearchRows, rows: SearchRows) -> Objective:
    """What candidates are worth on the rows that are searched, out of all, by counts and losses of all rows alike."""
    negatives = int(searched.negative.sum())
    positives = len(searched.negative) - negatives
    return Objective(negatives, positives, _positive_weight(settings, rows), settings.objective)


def _positive_weight(settings: SearchSettings, rows: SearchRows) -> float:
    """Worth of all positives together, in negatives; by default by those of all `rows`, however few are sampled."""
    if settings.positive_weight is not None:
        return settings.positive_weight
    return settings.positive_worth * int((~rows.negative).sum())


def steered_by(problem: Problem, searched: SearchRows, rows: SearchRows) -> Steering:
    """What candidates are worth by the requirements, on the rows that are searched out of all.

    Of weights all negatives are searched, and the positives of them stand for those that are not. Rows of other labels
    that the model gets wrong are in neither: an accuracy asked of such a label looks nearer than it is.

    A mixture is steered as if the rows of the repair judged alone. Aimed at the smaller errors of rows that are joined
    by a validation set, it gains more of the label, promises less often and keeps less (measured on unseen images).
    """
    settings, mixture, count = problem.settings, problem.mixture, len(searched.labels)
    if mixture is None:
        share, rigour = len(rows.labels) / count, rigour_of(count)
        positives = int(searched.positive.sum()) / max(1, int(rows.positive.sum())) or 1.0
        repaired = tuple(np.unique(rows.labels[rows.negative]).tolist())
    else:
        share, positives, repaired = count / problem.judging, None, problem.repaired
        rigour = replace(rigour_of(problem.judging), temperature=mixture.temperature)
    return steering_of(
        rows,
        predicted_classes(problem.head, rows.logits),
        settings.requirements,
        repaired,
        pairs_of(settings.requirements),
        share=share,
        new_rows=settings.promise_rows,
        rigour=rigour,
        searched_positives=positives,
    )


def goal_elsewhere(problem: Problem, rows: SearchRows, others: SearchRows) -> tuple[Objective, SearchRows]:
    """What candidates of a search on `rows` are worth on others, a positive as much as there, and which count."""
    settings = problem.settings
    theirs = counted_rows(settings, others)
    if settings.objective != "requirements":
        mine = counted_rows(settings, rows)
        worth = _positive_weight(settings, mine) / max(int((~mine.negative).sum()), 1)
        settings = replace(settings, positive_weight=worth * int((~theirs.negative).sum()))
    return goal_of(replace(problem, settings=settings), theirs, others), theirs


def sample_positives(rows: SearchRows, source: RngKey, count: int | None) -> SearchRows:
    """All negatives and `count` positives, drawn from the seed without replacement, in their order; None keeps all."""
    positives = np.flatnonzero(~rows.negative)
    if count is None or count >= len(positives):
        return rows
    rng = generator(source.seed, source.data, source.label, "positives")
    drawn = rng.choice(positives, count, replace=False)
    return rows.take(np.sort(np.concatenate([np.flatnonzero(rows.negative), drawn])))


class SearchEnd(NamedTuple):
    values: Float32  # (K,) of the best candidate
    fitness: float
    start_fitness: float  # of the first candidate


def search(case: RepairCase, problem: Problem, tail: Tail | None = None) -> tuple[Float32, float, float]:
    """Search a problem on the rows of a case to its end; see `SearchEnd`."""
    prepared, start = prepare(problem, case.rows, tail), problem.start()
    goal, fitness = prepared.objective, prepared.fitness
    state, _ = loop.advance(problem.settings, problem.source, goal, start, fitness.evaluate, resident=fitness.resident)
    return loop.result(state), state.swarm.global_fitness, state.start_fitness


def search_work(name: str, case: RepairCase, problem: Problem) -> Work:
    """The search of a problem on the rows of a case."""
    return Work(name, search, (case, problem), "search", model=problem.needs_tail)
