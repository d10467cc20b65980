"""What every optimiser of a search is between two iterations: candidates to evaluate, and the best so far.

An optimiser is three pure functions over such a state: `init` makes it, `ask` gives the candidates of an iteration, and
`tell` takes in their fitness and makes the next ones. Fitness is maximised; one that is not a number counts as -inf.
Candidate 0 of the first iteration is the model as it is, so that no result is worse by its own objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from engine.core.rng import RngKey, generator
from engine.core.types import Float32, Float64
from engine.layers.weight_stats import WeightStats
from engine.search.settings import BoxedSettings as BoxedSettings  # noqa: PLC0414 - its users find it here
from engine.search.settings import PopulationSettings as PopulationSettings  # noqa: PLC0414 - its users find it here


@dataclass(frozen=True, eq=False)
class Population:
    """What a search, its offers, its records and its checkpoint read; plain arrays and numbers."""

    iteration: int  # number of `tell` calls so far
    position: Float64  # shape (P, K), float64, the candidates of this iteration
    best_position: Float64  # shape (P, K), float64, the best of each particle, or of all; what a search offers
    best_fitness: Float64  # shape (P,), float64, of those; -inf before the first `tell`
    global_position: Float64  # shape (K,), float64
    global_fitness: float  # best fitness so far
    since_gain: int  # iterations since it last rose


@dataclass(frozen=True, eq=False)
class BoxedPopulation(Population):
    low: float | Float64
    high: float | Float64


State = TypeVar("State", bound=Population)


def ask(state: Population) -> Float32:
    return state.position.astype(np.float32)


@dataclass(frozen=True)
class Optimiser:
    """One optimiser: its types and functions, with the name `OPTIMISER` in its module."""

    settings: type[PopulationSettings]  # settings, state: their types
    state: type[Population]
    init: Callable[..., Any]  # (settings, source, original, stats) -> state
    tell: Callable[..., Any]  # (settings, source, state, fitness) -> state
    ask: Callable[[Population], Float32] = ask  # state -> candidates (P, K) float32


def scattered(particles: int, source: RngKey, original: Float64, stats: WeightStats) -> Float64:
    """Where a population starts, (P, K): the weights as they are, (K,), and draws from N(mean, std) of the layer's."""
    rng = generator(source.seed, source.data, source.label, "start")
    drawn = rng.normal(stats.mean, stats.std, size=(particles - 1, original.size))
    return np.vstack([original[None, :], drawn]).astype(np.float64)


def placed(kind: type[State], position: Float64, **more: Any) -> State:
    return kind(
        iteration=0,
        position=position,
        best_position=position,
        best_fitness=np.full(len(position), -np.inf),
        global_position=position[0],
        global_fitness=-math.inf,
        since_gain=0,
        **more,
    )


def box(stats: WeightStats, bound: float | None) -> tuple[float | Float64, float | Float64]:
    """The smallest and largest value of weights: those of the layer's, `bound` times as far out.

    With a bound of 2 it is the box of Arachne v2's published code: a smallest weight below 0 is doubled and one above
    halved, the largest the other way round.
    """
    if bound is None:
        return -math.inf, math.inf
    low, high = np.asarray(stats.low), np.asarray(stats.high)
    found = np.where(low < 0, low * bound, low / bound), np.where(high > 0, high * bound, high / bound)
    return (float(found[0]), float(found[1])) if low.ndim == 0 else found


def counted(fitness: Float64) -> Float64:
    return np.where(np.isnan(fitness), -np.inf, fitness)


def remembered(state: State, best_position: Float64, best_fitness: Float64) -> State:
    """The state with other bests, (P, K) and (P,), and the global best among them; among equal ones the first wins."""
    leader = int(np.argmax(best_fitness))
    gained = bool(best_fitness[leader] > state.global_fitness)
    return replace(
        state,
        best_position=best_position,
        best_fitness=best_fitness,
        global_position=best_position[leader] if gained else state.global_position,
        global_fitness=float(best_fitness[leader]) if gained else state.global_fitness,
        since_gain=0 if gained else state.since_gain + 1,
    )


def best_ever(state: State, fitness: Float64) -> State:
    """The state with the best P of all candidates so far, given the (counted) fitness (P,) of the newest."""
    both = np.concatenate([state.best_fitness, fitness])
    kept = np.argsort(-both, kind="stable")[: len(fitness)]
    return remembered(state, np.concatenate([state.best_position, state.position])[kept], both[kept])
