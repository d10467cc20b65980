"""The particle swarm (PSO): pure `init`, `ask` and `tell` over a frozen state.

One iteration, for particle i and weight k (Clerc and Kennedy, "The particle swarm", 2002, eq. 3 with constriction):

    v[i,k] <- chi * (v[i,k] + rho1[i,k] * (p[i,k] - x[i,k]) + rho2[i,k] * (g[k] - x[i,k]))
    v[i,k] <- clamp(|v[i,k]|, floor, 5 * wb) with the sign of v[i,k]
    x[i,k] <- x[i,k] + v[i,k]

p is the particle's personal best, g the global best, wb = max - min of the layer's weights,
chi = 2 / (phi - 2 + sqrt(phi^2 - 4 phi)), and rho1, rho2 ~ U(0, phi/2) each ("split") or U(0, phi) ("full", the
reading of Arachne's toolkit).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.core.rng import RngKey, generator
from engine.core.types import Float64
from engine.layers.weight_stats import WeightStats
from engine.search.population import Optimiser, Population, ask, counted, placed, remembered, scattered
from engine.search.settings import SwarmSettings as SwarmSettings  # noqa: PLC0414 - its users find it here

__all__ = ["SMALLEST", "SwarmSettings", "SwarmState", "ask", "draw", "init", "tell"]

SMALLEST = np.finfo(np.float64).tiny
"""A velocity below counts as 0; a particle at rest gets there after thousands of iterations."""


@dataclass(frozen=True, eq=False)
class SwarmState(Population):
    """Everything a swarm is between two iterations; plain arrays, so that it can be saved, sent and compared.

    `best_position` and `best_fitness` are those of each particle.

    Attributes:
        velocity: shape (P, K), float64.
        bound: wb of the update rule; shape (K,) where it is not the same for all weights.
    """

    velocity: Float64
    bound: float | Float64


def init(settings: SwarmSettings, source: RngKey, original: Float64, stats: WeightStats) -> SwarmState:
    """Place particle 0 at the weights as they are, (K,), and the others by N(mean, std) of the layer's weights."""
    position = scattered(settings.num_particles, source, original, stats)
    return placed(SwarmState, position, velocity=np.zeros_like(position), bound=stats.range)


def tell(settings: SwarmSettings, source: RngKey, state: SwarmState, fitness: Float64) -> SwarmState:
    """Take in the fitness of the candidates, (P,), and move the swarm; ties keep the older best, or the first
    particle.
    """
    fitness = counted(fitness)
    better = fitness > state.best_fitness
    told = remembered(
        state,
        np.where(better[:, None], state.position, state.best_position),
        np.where(better, fitness, state.best_fitness),
    )
    return _move(settings, source, told)


def draw(source: RngKey, iteration: int, drawn: Float64) -> None:
    """Fill (2, P, K) with the random numbers of one move of a swarm, uniform in [0, 1), for rho1 and rho2."""
    generator(source.seed, source.data, source.label, "velocity", iteration).random(out=drawn)


def _move(settings: SwarmSettings, source: RngKey, state: SwarmState) -> SwarmState:
    # In place: where a swarm is large, making arrays takes longer than the sums.
    rho1, rho2 = drawn = np.empty((2, *state.position.shape))
    draw(source, state.iteration, drawn)
    velocity, social = state.best_position - state.position, state.global_position - state.position
    rho1 *= settings.attraction
    rho2 *= settings.attraction
    velocity *= rho1
    social *= rho2
    velocity += state.velocity
    velocity += social
    velocity *= settings.constriction
    top = 5.0 * state.bound
    if settings.velocity_floor:
        # A velocity of 0 counts as negative, as in the toolkit.
        velocity = np.where(velocity > 0, 1.0, -1.0) * np.clip(np.abs(velocity), state.bound / 5.0, top)
    else:
        np.clip(velocity, -top, top, out=velocity)
    velocity *= np.abs(velocity) >= SMALLEST  # as devices round that know nothing smaller
    return replace(state, iteration=state.iteration + 1, velocity=velocity, position=state.position + velocity)


OPTIMISER = Optimiser(SwarmSettings, SwarmState, init, tell)
