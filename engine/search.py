"""One search: a swarm on the rows of one job until its stop rule, in segments that can be moved and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine import swarm
from engine.errors import InputError
from engine.fitness import Tiling, fitness
from engine.swarm import Spread, Stream, SwarmSettings, SwarmState

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

Evaluate = Callable[[Float32], Float64]
"""(P, K) candidates -> (P, 4) sums, see `engine.fitness.TiledFitness.evaluate`."""

Stop = Literal["solved", "no gain", "iterations"]


@dataclass(frozen=True)
class SearchSettings:
    """How one search runs.

    Attributes:
        swarm: how the particles move.
        num_iterations: at most this many, at least 1.
        min_iteration_range: stop after this many iterations without gain, at least 1.
        positive_weight: worth of all positives together, in negatives; see `engine.fitness.fitness`. None takes
            `engine.problem.POSITIVE_WORTH` for each.
        num_input_pos_sampled: search on this many positives, drawn without replacement; None takes all.
        tiling: shapes of the pieces of an iteration.
    """

    swarm: SwarmSettings = field(default_factory=SwarmSettings)
    num_iterations: int = 100
    min_iteration_range: int = 10
    positive_weight: float | None = None
    num_input_pos_sampled: int | None = None
    tiling: Tiling = field(default_factory=Tiling)

    def __post_init__(self) -> None:
        """Refuse what no search can run with."""
        for name, value, least in (
            ("num_iterations", self.num_iterations, 1),
            ("min_iteration_range", self.min_iteration_range, 1),
            ("num_input_pos_sampled", self.num_input_pos_sampled, 1),
            ("tile_particles", self.tiling.particles, 1),
            ("tile_rows", self.tiling.rows, 1),
        ):
            if value is not None and value < least:
                raise InputError(f"{name} is {value}, expected at least {least}")
        if self.positive_weight is not None and not 0 <= self.positive_weight < float("inf"):
            raise InputError(f"positive_weight is {self.positive_weight}, expected a number of at least 0")


@dataclass(frozen=True)
class Judge:
    """What turns sums into fitness: the numbers of rows and the weight of the positives."""

    negatives: int
    positives: int
    positive_weight: float

    def fitness(self, sums: Float64) -> Float64:
        """(P, 4) sums -> (P,) fitness."""
        return fitness(sums, self.negatives, self.positives, self.positive_weight)


@dataclass(frozen=True)
class Iteration:
    """One row of the swarm table; the counts and losses are those of the best candidate so far."""

    iteration: int
    best: float
    mean: float
    patched: int
    intact: int
    loss_neg: float
    loss_pos: float
    evaluations: int
    seconds: float


@dataclass(frozen=True, eq=False)
class SearchState:
    """A search between two iterations.

    Attributes:
        swarm: the particles.
        best_sums: (4,) float64, sums of the best candidate so far.
        start_fitness: of particle 0 in the first iteration, the model as it is; not a number before that.
        stop: why the search is over, or None.
    """

    swarm: SwarmState
    best_sums: Float64
    start_fitness: float = float("nan")
    stop: Stop | None = None


def start(settings: SearchSettings, source: Stream, original: Float32, spread: Spread) -> SearchState:
    """The state before the first iteration; `original` (K,) are the weights as they are."""
    placed = swarm.init(settings.swarm, source, original.astype(np.float64), spread)
    return SearchState(placed, np.zeros(4))


def advance(
    settings: SearchSettings,
    source: Stream,
    judge: Judge,
    state: SearchState,
    evaluate: Evaluate,
    seconds: float = float("inf"),
) -> tuple[SearchState, list[Iteration]]:
    """Run iterations until the search is over or `seconds` have passed (at least one iteration is run).

    How a search is cut into segments changes nothing in its result.
    """
    done: list[Iteration] = []
    deadline = time.monotonic() + seconds
    while state.stop is None and (not done or time.monotonic() < deadline):
        begun = time.perf_counter()
        candidates = swarm.ask(state.swarm)
        sums = evaluate(candidates)
        values = judge.fitness(sums)
        told = swarm.tell(settings.swarm, source, state.swarm, values)
        best_sums = state.best_sums
        if told.since_gain == 0:
            best_sums = sums[int(np.argmax(np.where(np.isnan(values), -np.inf, values)))]
        start_fitness = float(values[0]) if told.iteration == 1 else state.start_fitness
        state = SearchState(told, best_sums, start_fitness, _stop(settings, judge, told, best_sums))
        finite = values[np.isfinite(values)]
        done.append(
            Iteration(
                iteration=told.iteration,
                best=told.global_fitness,
                mean=float(finite.mean()) if len(finite) else float("nan"),
                patched=int(best_sums[2]),
                intact=int(best_sums[3]),
                loss_neg=float(best_sums[0] / judge.negatives),
                loss_pos=float(best_sums[1] / max(judge.positives, 1)),
                evaluations=told.iteration * len(candidates),
                seconds=time.perf_counter() - begun,
            )
        )
    return state, done


def result(state: SearchState) -> Float32:
    """The best candidate so far, shape (K,), as a model would hold it."""
    return state.swarm.global_position.astype(np.float32)


def _stop(settings: SearchSettings, judge: Judge, told: SwarmState, best: Float64) -> Stop | None:
    if best[2] == judge.negatives and best[3] == judge.positives:
        return "solved"
    if told.since_gain >= settings.min_iteration_range:
        return "no gain"
    return "iterations" if told.iteration >= settings.num_iterations else None
