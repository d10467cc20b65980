"""One search: an optimiser on the rows of one job until its stop rule, in segments that can be moved and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.core.rng import RngKey
from engine.core.types import Float32, Float64
from engine.fitness.base import Resident
from engine.fitness.objective import Objective
from engine.layers.weight_stats import WeightStats
from engine.search.optimisers import optimiser_of
from engine.search.population import Population, counted
from engine.search.settings import POSITIVE_WORTH as POSITIVE_WORTH  # noqa: PLC0414 - its users find it here
from engine.search.settings import SearchSettings as SearchSettings  # noqa: PLC0414 - its users find it here
from engine.search.swarm import SwarmSettings, SwarmState

if TYPE_CHECKING:
    from engine.search.resident import ResidentSwarm

Evaluate = Callable[[Float32], Float64]
"""(P, K) candidates -> (P, S) sums, see `engine.fitness.base.Fitness`."""

Stop = Literal["solved", "no gain", "iterations"]

TOGETHER = 4
"""Swarms evaluated in one call: most of what sharing a call saves, without holding ended swarms for long."""


@dataclass(frozen=True)
class Search:
    settings: SearchSettings
    source: RngKey
    objective: Objective


@dataclass(frozen=True, eq=False)
class Offer:
    fitness: float
    values: Float32


@dataclass(frozen=True)
class Iteration:
    """One row of the table `swarm`, of any optimiser; the counts and losses are those of the best candidate so far."""

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
        swarm: the candidates and the best of them, of any optimiser.
        best_sums: (S,) float64, sums of the best candidate so far.
        start_fitness: of particle 0 in the first iteration, the model as it is; not a number before that.
        stop: why the search is over, or None.
    """

    swarm: Population
    best_sums: Float64
    start_fitness: float = float("nan")
    stop: Stop | None = None


def start(settings: SearchSettings, source: RngKey, original: Float32, stats: WeightStats) -> SearchState:
    """The state before the first iteration; `original` (K,) are the weights as they are."""
    placed = optimiser_of(settings.swarm).init(settings.swarm, source, original.astype(np.float64), stats)
    return SearchState(placed, np.zeros(4))


def advance(
    settings: SearchSettings,
    source: RngKey,
    objective: Objective,
    state: SearchState,
    evaluate: Evaluate,
    seconds: float = float("inf"),
    resident: Resident | None = None,
) -> tuple[SearchState, list[Iteration]]:
    """Run iterations until the search is over or `seconds` have passed (at least one iteration is run).

    How a search is cut into segments changes nothing in its result.
    """
    states, done = advance_together([Search(settings, source, objective)], [state], evaluate, seconds, resident)
    return states[0], done[0]


def advance_together(
    searches: Sequence[Search],
    states: Sequence[SearchState],
    evaluate: Evaluate,
    seconds: float = float("inf"),
    resident: Resident | None = None,
) -> tuple[list[SearchState], list[list[Iteration]]]:
    """Advance searches on the same rows and weights, with swarms of one size, by shared evaluations.

    At most `TOGETHER` swarms share a call; each search ends as it would alone. Returned are the new states and the
    iterations run, when all are over or `seconds` have passed (at least one iteration is run). `resident` is the same
    evaluation for particle swarms that stay on the device, as those of long searches then do; no bit changes.
    """
    states = list(states)
    kept = (isinstance(search.settings.swarm, SwarmSettings) for search in searches)
    if not all(kept) or any(search.settings.objective == "rates" for search in searches):
        resident = None  # only the particle swarm has a program that stays there, of Arachne's own fitness
    done: list[list[Iteration]] = [[] for _ in searches]
    deadline = time.monotonic() + seconds
    on_device: dict[int, ResidentSwarm] = {}
    while active := [number for number, state in enumerate(states) if state.stop is None][:TOGETHER]:
        if any(done) and time.monotonic() >= deadline:
            break
        begun = time.perf_counter()
        if resident is not None and (on_device or _is_long(resident, searches, states, active)):
            for number in active:
                if number not in on_device:
                    on_device[number] = _placed(resident, searches[number], states[number])
            told = [_block(searches[number], states[number], on_device[number]) for number in active]
        else:
            asked = [optimiser_of(searches[number].settings.swarm).ask(states[number].swarm) for number in active]
            sums = evaluate(np.concatenate(asked))
            sums = sums.reshape(len(active), -1, sums.shape[1])
            told = [_tell(searches[number], states[number], share) for number, share in zip(active, sums, strict=True)]
        elapsed = (time.perf_counter() - begun) / sum(len(iterations) for _, iterations in told)
        for number, (state, iterations) in zip(active, told, strict=True):
            states[number] = state
            done[number] += [replace(iteration, seconds=elapsed) for iteration in iterations]
    for number, here in on_device.items():
        states[number] = replace(states[number], swarm=here.fetched())
    return states, done


def offers(search: Search, state: SearchState, evaluate: Evaluate, count: int) -> list[Offer]:
    """The best few distinct candidates of an ended search, best first; the first is `result`, also where others tie."""
    if count == 1:
        return [Offer(state.swarm.global_fitness, result(state))]
    candidates = state.swarm.best_position.astype(np.float32)
    sums = evaluate(candidates)
    fitness = search.objective.fitness(sums)
    leads = (state.swarm.best_position == state.swarm.global_position).all(axis=1)
    found: dict[tuple[float, float], Offer] = {}
    for number in np.lexsort((~leads, -counted(fitness))):
        found.setdefault(
            (float(sums[number, 2]), float(sums[number, 3])), Offer(float(fitness[number]), candidates[number])
        )
        if len(found) == count:
            break
    return list(found.values())


def _is_long(
    resident: Resident, searches: Sequence[Search], states: Sequence[SearchState], active: Sequence[int]
) -> bool:
    from engine.search.resident import due  # a backend, which who only reads states need not wait for

    first = active[0]
    return due(resident, *_particles(searches[first], states[first]), len(active))


def _particles(search: Search, state: SearchState) -> tuple[SwarmSettings, SwarmState]:
    assert isinstance(search.settings.swarm, SwarmSettings) and isinstance(state.swarm, SwarmState)
    return search.settings.swarm, state.swarm


def _placed(resident: Resident, search: Search, state: SearchState) -> ResidentSwarm:
    from engine.search.resident import ResidentSwarm

    settings, swarm = _particles(search, state)
    return ResidentSwarm(settings, search.source, search.objective, resident, swarm, state.best_sums)


def _block(search: Search, state: SearchState, here: ResidentSwarm) -> tuple[SearchState, list[Iteration]]:
    left = search.settings.num_iterations - state.swarm.iteration
    iterations = []
    for told, values, best_sums in here.advance(left, search.settings.min_iteration_range):
        state, iteration = _told(search, state, told, values, best_sums)
        iterations.append(iteration)
    return state, iterations


def _tell(search: Search, state: SearchState, sums: Float64) -> tuple[SearchState, list[Iteration]]:
    values = search.objective.fitness(sums)
    optimiser = optimiser_of(search.settings.swarm)
    told = optimiser.tell(search.settings.swarm, search.source, state.swarm, values)
    best_sums = state.best_sums
    if told.since_gain == 0:
        best_sums = sums[int(np.argmax(counted(values)))]
    after, iteration = _told(search, state, told, values, best_sums)
    return after, [iteration]


def _told(
    search: Search, state: SearchState, told: Population, values: Float64, best_sums: Float64
) -> tuple[SearchState, Iteration]:
    objective = search.objective
    start_fitness = float(values[0]) if told.iteration == 1 else state.start_fitness
    finite = values[np.isfinite(values)]
    iteration = Iteration(
        iteration=told.iteration,
        best=told.global_fitness,
        mean=float(finite.mean()) if len(finite) else float("nan"),
        patched=int(best_sums[2]),
        intact=int(best_sums[3]),
        loss_neg=float(best_sums[0] / max(objective.negatives, 1)),
        loss_pos=float(best_sums[1] / max(objective.positives, 1)),
        evaluations=told.iteration * len(values),
        seconds=0.0,
    )
    return SearchState(told, best_sums, start_fitness, _stop(search.settings, objective, told, best_sums)), iteration


def result(state: SearchState) -> Float32:
    """The best candidate so far, shape (K,), as a model would hold it."""
    return state.swarm.global_position.astype(np.float32)


def _stop(settings: SearchSettings, objective: Objective, told: Population, best: Float64) -> Stop | None:
    if objective.negatives and best[2] == objective.negatives and best[3] == objective.positives:
        return "solved"
    if told.since_gain >= settings.min_iteration_range:
        return "no gain"
    return "iterations" if told.iteration >= settings.num_iterations else None
