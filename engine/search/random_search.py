"""Random search, the floor that every other optimiser has to beat.

All candidates are drawn from N(mean, std) of the layer's
weights, whatever was found before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.core.rng import RngKey, generator
from engine.core.types import Float64
from engine.layers.weight_stats import WeightStats
from engine.search.population import BoxedPopulation, Optimiser, best_ever, box, counted, placed, scattered
from engine.search.settings import RandomSettings as RandomSettings  # noqa: PLC0414 - its users find it here


@dataclass(frozen=True, eq=False)
class RandomState(BoxedPopulation):
    mean: float | Float64  # mean, std: of what is drawn; shape (K,) where they are not the same for all weights
    std: float | Float64


def init(settings: RandomSettings, source: RngKey, original: Float64, stats: WeightStats) -> RandomState:
    low, high = box(stats, settings.bound)
    position = np.clip(scattered(settings.num_particles, source, original, stats), low, high)
    return placed(RandomState, position, low=low, high=high, mean=stats.mean, std=stats.std)


def tell(settings: RandomSettings, source: RngKey, state: RandomState, fitness: Float64) -> RandomState:
    told = best_ever(state, counted(fitness))
    iteration = state.iteration + 1
    rng = generator(source.seed, source.data, source.label, "candidates", iteration)
    drawn = rng.normal(state.mean, state.std, size=state.position.shape)
    return replace(told, iteration=iteration, position=np.clip(drawn, state.low, state.high))


OPTIMISER = Optimiser(RandomSettings, RandomState, init, tell)
