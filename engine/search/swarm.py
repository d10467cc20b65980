"""The particle swarm: pure `init`, `ask` and `tell` over a frozen state.

One iteration, for particle i and weight k (Clerc and Kennedy, "The particle swarm", 2002, eq. 3 with constriction):

    v[i,k] <- chi * (v[i,k] + rho1[i,k] * (p[i,k] - x[i,k]) + rho2[i,k] * (g[k] - x[i,k]))
    v[i,k] <- clamp(|v[i,k]|, floor, 5 * wb) with the sign of v[i,k]
    x[i,k] <- x[i,k] + v[i,k]

p is the particle's personal best, g the global best, wb = max - min of the layer's weights,
chi = 2 / (phi - 2 + sqrt(phi^2 - 4 phi)), and rho1, rho2 ~ U(0, phi/2) each ("split") or U(0, phi) ("full", the
reading of Arachne's toolkit).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from engine.core.errors import InputError
from engine.core.rng import RngKey, generator
from engine.core.types import Float32, Float64
from engine.layers.weight_stats import WeightStats

SMALLEST = np.finfo(np.float64).tiny
"""A velocity below counts as 0; a particle at rest gets there after thousands of iterations."""


@dataclass(frozen=True)
class SwarmSettings:
    """How the swarm moves.

    Attributes:
        num_particles: P, at least 1; particle 0 starts at the original weights.
        phi: sum of the attraction coefficients, above 4.
        phi_split: True draws rho from U(0, phi/2), False from U(0, phi).
        velocity_floor: True keeps |v| >= wb/5 (Arachne's lower bound).
    """

    num_particles: int = 100
    phi: float = 4.1
    phi_split: bool = True
    velocity_floor: bool = False

    def __post_init__(self) -> None:
        """Refuse settings for which the update rule is not defined."""
        if self.num_particles < 1:
            raise InputError(f"num_particles is {self.num_particles}, expected at least 1")
        if not 4 < self.phi < math.inf:
            raise InputError(
                f"velocity_phi is {self.phi}, expected more than 4 and finite (the constriction is real only there)"
            )

    @property
    def constriction(self) -> float:
        """chi of the update rule."""
        return 2.0 / (self.phi - 2.0 + math.sqrt(self.phi**2 - 4.0 * self.phi))

    @property
    def attraction(self) -> float:
        """The upper end of rho1 and rho2."""
        return self.phi / 2.0 if self.phi_split else self.phi


@dataclass(frozen=True, eq=False)
class SwarmState:
    """Everything a swarm is between two iterations; plain arrays, so that it can be saved, sent and compared.

    Attributes:
        iteration: number of `tell` calls so far.
        position, velocity, best_position: shape (P, K), float64.
        best_fitness: shape (P,), float64, of the personal bests; -inf before the first `tell`.
        global_position: shape (K,), float64.
        global_fitness: best fitness so far.
        since_gain: iterations since the global best last rose.
        bound: wb of the update rule; shape (K,) where it is not the same for all weights.
    """

    iteration: int
    position: Float64
    velocity: Float64
    best_position: Float64
    best_fitness: Float64
    global_position: Float64
    global_fitness: float
    since_gain: int
    bound: float | Float64


def init(settings: SwarmSettings, source: RngKey, original: Float64, stats: WeightStats) -> SwarmState:
    """Place the swarm.

    Args:
        settings: how many particles.
        source: which random numbers.
        original: shape (K,), the weights under repair as they are.
        stats: of all weights of the layer; particles 1.. are drawn from N(mean, std).
    """
    rng = generator(source.seed, source.data, source.label, "start")
    drawn = rng.normal(stats.mean, stats.std, size=(settings.num_particles - 1, original.size))
    position = np.vstack([original[None, :], drawn]).astype(np.float64)
    return SwarmState(
        iteration=0,
        position=position,
        velocity=np.zeros_like(position),
        best_position=position,
        best_fitness=np.full(settings.num_particles, -np.inf),
        global_position=position[0],
        global_fitness=-math.inf,
        since_gain=0,
        bound=stats.range,
    )


def ask(state: SwarmState) -> Float32:
    """The candidates of this iteration, shape (P, K), as the float32 values a model would hold."""
    return state.position.astype(np.float32)


def tell(settings: SwarmSettings, source: RngKey, state: SwarmState, fitness: Float64) -> SwarmState:
    """Take in the fitness of the candidates, shape (P,), and move the swarm.

    Ties keep the older best; among equal particles the first wins. A fitness that is not a number counts as -inf.
    """
    fitness = np.where(np.isnan(fitness), -np.inf, fitness)
    better = fitness > state.best_fitness
    best_position = np.where(better[:, None], state.position, state.best_position)
    best_fitness = np.where(better, fitness, state.best_fitness)
    leader = int(np.argmax(best_fitness))
    gained = best_fitness[leader] > state.global_fitness
    told = replace(
        state,
        best_position=best_position,
        best_fitness=best_fitness,
        global_position=best_position[leader] if gained else state.global_position,
        global_fitness=float(best_fitness[leader]) if gained else state.global_fitness,
        since_gain=0 if gained else state.since_gain + 1,
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
