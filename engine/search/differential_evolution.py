"""Differential evolution, rand/1/bin: pure `init` and `tell` over a frozen state.

For candidate i and weight k (Storn and Price, "Differential evolution", Journal of Global Optimization 11, 1997):

    u[i,k] = x[a,k] + F * (x[b,k] - x[c,k])   where k = j or r[i,k] < CR
    u[i,k] = x[i,k]                           elsewhere
    x[i] <- u[i]   where u[i] is at least as good

a, b and c are distinct and not i, j is one weight drawn for i, and r ~ U(0, 1). The defaults are those of Arachne v2's
published code: F drawn anew from U(0.5, 1) in each iteration, and CR = 0.7. It replaces candidates one by one; here all
of an iteration are made of the same population, so that they can be evaluated at once. Its first population is drawn
from N(mean, std) of the layer's weights, as here, where the model as it is takes the place of the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.core.rng import RngKey, generator
from engine.core.types import Float64, Int64
from engine.layers.weight_stats import WeightStats
from engine.search.population import BoxedPopulation, Optimiser, box, counted, placed, remembered, scattered
from engine.search.settings import DifferentialSettings as DifferentialSettings  # noqa: PLC0414 - its users find it here

DITHER = (0.5, 1.0)
"""F is drawn from between these where it is not given."""


@dataclass(frozen=True, eq=False)
class DifferentialState(BoxedPopulation):
    """The population, `best_position` with its fitness, and the trial vectors made of it, `position`."""


def init(settings: DifferentialSettings, source: RngKey, original: Float64, stats: WeightStats) -> DifferentialState:
    """The first population, evaluated before any trial vector; arguments as those of `engine.search.swarm.init`."""
    low, high = box(stats, settings.bound)
    position = np.clip(scattered(settings.num_particles, source, original, stats), low, high)
    return placed(DifferentialState, position, low=low, high=high)


def tell(
    settings: DifferentialSettings, source: RngKey, state: DifferentialState, fitness: Float64
) -> DifferentialState:
    """Take in the fitness of the trial vectors (P,): one as good as its parent replaces it, so plateaus are crossed."""
    fitness = counted(fitness)
    leads = (state.best_position == state.global_position).all(axis=1)
    better = np.where(leads, fitness > state.best_fitness, fitness >= state.best_fitness)
    told = remembered(
        state,
        np.where(better[:, None], state.position, state.best_position),
        np.where(better, fitness, state.best_fitness),
    )
    return _trials(settings, source, replace(told, iteration=state.iteration + 1))


def _trials(settings: DifferentialSettings, source: RngKey, state: DifferentialState) -> DifferentialState:
    parents = state.best_position
    count, weights = parents.shape
    rng = generator(source.seed, source.data, source.label, "trial", state.iteration)
    factor = rng.uniform(*DITHER) if settings.factor is None else settings.factor
    a, b, c = others(rng, count)
    crossed = rng.random((count, weights)) < settings.crossover
    crossed[np.arange(count), rng.integers(weights, size=count)] = True
    mutant = np.clip(parents[a] + factor * (parents[b] - parents[c]), state.low, state.high)
    return replace(state, position=np.where(crossed, mutant, parents))


def others(rng: np.random.Generator, count: int) -> tuple[Int64, Int64, Int64]:
    """For each of `count` candidates three others, distinct and each as likely; (count,) int64 each."""
    taken = [np.arange(count)]
    for number in range(3):
        drawn = rng.integers(count - 1 - number, size=count)
        for lower in np.sort(np.stack(taken), axis=0):
            drawn += drawn >= lower
        taken.append(drawn)
    return taken[1], taken[2], taken[3]


OPTIMISER = Optimiser(DifferentialSettings, DifferentialState, init, tell)
