"""One search problem: which weights to search, judged how; with the rows it is all a worker needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine import search
from engine.core.rng import RngKey, generator
from engine.core.types import Float32, Int64
from engine.fitness import SearchRows, TiledFitness, Weights
from engine.head import Head, TargetLayer
from engine.layer_targets import Target
from engine.search import Judge, SearchSettings, SearchState
from engine.swarm import Spread
from engine.tail import Tail
from engine.tail_fitness import TailFitness


@dataclass(frozen=True, eq=False)
class Problem:
    """What to search.

    Attributes:
        name: of the job, unique within a run.
        head: what follows the logits.
        weights: the K localised weights.
        spread: of all weights of the layer.
        kernel: (W, 1), the column that a search of a deep target starts from; None for the last Dense layer.
        source: which random numbers to draw.
        settings: of the search.
    """

    name: str
    head: Head
    weights: Weights
    spread: Spread
    source: RngKey
    settings: SearchSettings
    kernel: Float32 | None = None

    def start(self) -> SearchState:
        """The state before the first iteration."""
        return search.start(self.settings, self.source, self.weights.old, self.spread)


def localised(kernel: Float32, index: Int64) -> tuple[Int64, Weights]:
    """The distinct inputs (I,) that localised kernel positions (K, 2) read, and the weights over those inputs."""
    inputs, column = np.unique(index[:, 0], return_inverse=True)
    return inputs, Weights(column.astype(np.int64), index[:, 1], kernel[index[:, 0], index[:, 1]])


def localised_in(target: Target, kernel: Float32, index: Int64) -> tuple[Int64 | None, Weights]:
    """The features (I,) that the localised places (K, 2) of a target read, None for all, and the weights over those."""
    if isinstance(target, TargetLayer):
        return localised(kernel, index)
    return None, Weights(index[:, 0], index[:, 1], kernel[index[:, 0], index[:, 1]])


@dataclass(frozen=True, eq=False)
class Prepared:
    """A problem with its rows on the device of this process."""

    judge: Judge
    fitness: TiledFitness | TailFitness


def prepare(problem: Problem, rows: SearchRows, tail: Tail | None = None) -> Prepared:
    """Pick the rows of the search and set up their evaluation; a deep target needs the tail of its model."""
    chosen = sample_positives(rows, problem.source, problem.settings.num_input_pos_sampled)
    return Prepared(judge_of(problem.settings, chosen), evaluation(problem, chosen, tail))


def evaluation(problem: Problem, rows: SearchRows, tail: Tail | None = None) -> TiledFitness | TailFitness:
    """The evaluation of candidates on exactly these rows."""
    particles, tiling = problem.settings.swarm.num_particles, problem.settings.tiling
    if problem.kernel is None:
        return TiledFitness(problem.head, rows, problem.weights, particles, tiling)
    if tail is None:
        raise ValueError("the search of a deep target needs the tail of its model")
    return TailFitness(tail, problem.kernel, rows, problem.weights, particles, tiling)


def judge_of(settings: SearchSettings, rows: SearchRows) -> Judge:
    """The judge of candidates on these rows; a positive weight that is not given follows their number."""
    negatives = int(rows.negative.sum())
    positives = len(rows.negative) - negatives
    weight = settings.positive_weight
    if weight is None:
        weight = settings.positive_worth * positives
    return Judge(negatives, positives, weight)


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


def with_seed(problem: Problem, seed: int) -> Problem:
    """The same problem under another seed, named after it."""
    return replace(problem, name=f"{problem.name}-s{seed}", source=replace(problem.source, seed=seed))
