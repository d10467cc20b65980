"""CMA-ES, evolution by an adapted covariance matrix: pure `init` and `tell` over a frozen state.

(mu/mu_w, lambda) with cumulative step-size adaptation, rank-one and rank-mu updates with negative weights, and the
default constants of Hansen, "The CMA evolution strategy: a tutorial", arXiv 1604.00772 (2016), whose equations the
comments name. Lambda is the number of particles P and K the number of weights, each measured in deviations of its
layer's weights:

    y[i] = B D z[i],   z[i] ~ N(0, 1),   C = B D^2 B'
    x[i] = m + sigma * y[i]

The mean starts at the weights as they are. Products are those of `einsum`, which no number of threads changes; see
`engine.search.eigen`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np

from engine.core.rng import RngKey, generator
from engine.core.types import Float64
from engine.layers.weight_stats import WeightStats
from engine.search.eigen import eigen, multiply
from engine.search.population import BoxedPopulation, best_ever, box, counted, placed
from engine.search.settings import LARGEST_STEP
from engine.search.settings import CovarianceSettings as CovarianceSettings  # noqa: PLC0414 - its users find it here

STALE = 0.01
"""C is decomposed again when so much of it may be new: for 300 weights and 100 candidates every 17 iterations."""


@dataclass(frozen=True, eq=False)
class CovarianceState(BoxedPopulation):
    """The distribution of the candidates; `position` are drawn from it, and clipped where there is a bound.

    Attributes:
        mean: shape (K,), float64, m.
        scale: what a length of 1 is of each weight; shape (K,) where they are not all alike.
        sigma: step size.
        covariance: shape (K, K), float64, C.
        basis: shape (K, K), float64, B of the C that was last decomposed.
        axes: shape (K,), float64, the diagonal of D.
        step_path, covariance_path: shape (K,), float64, p_sigma and p_c.
        decomposed: the iteration that C was decomposed in.
    """

    mean: Float64
    scale: float | Float64
    sigma: float
    covariance: Float64
    basis: Float64
    axes: Float64
    step_path: Float64
    covariance_path: Float64
    decomposed: int


@dataclass(frozen=True, eq=False)
class Constants:
    """What follows from P and K; names as in the tutorial, `weights` (P,) and `chi` of E||N(0, I)||."""

    weights: Float64
    mu: int
    mu_eff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    chi: float


@functools.cache
def constants(particles: int, weights: int) -> Constants:
    """The default constants, equations 48 to 58."""
    n, mu = weights, particles // 2
    raw = math.log((particles + 1) / 2) - np.log(np.arange(1, particles + 1))
    mu_eff = float(raw[:mu].sum() ** 2 / (raw[:mu] ** 2).sum())
    mu_eff_minus = float(raw[mu:].sum() ** 2 / (raw[mu:] ** 2).sum())
    c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1 - 1e-8, 2 * (mu_eff - 2 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff))
    # Without a rank-mu update, as of two or three candidates, negative weights mean nothing.
    most = [1 + 2 * mu_eff_minus / (mu_eff + 2)]
    if c_mu > 0:
        most += [1 + c_1 / c_mu, (1 - c_1 - c_mu) / (n * c_mu)]
    share = np.where(raw >= 0, 1 / raw[raw > 0].sum(), min(most) / -raw[raw < 0].sum())
    c_sigma = (mu_eff + 2) / (n + mu_eff + 5)
    return Constants(
        weights=raw * share,
        mu=mu,
        mu_eff=mu_eff,
        c_sigma=c_sigma,
        d_sigma=1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma,
        c_c=(4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n),
        c_1=c_1,
        c_mu=c_mu,
        chi=math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2)),
    )


def init(settings: CovarianceSettings, source: RngKey, original: Float64, stats: WeightStats) -> CovarianceState:
    """The first candidates, around the weights as they are; arguments as those of `engine.search.swarm.init`."""
    low, high = box(stats, settings.bound)
    none, count = np.zeros(original.size), original.size
    std = np.asarray(stats.std, dtype=np.float64)
    scale = np.where(std > 0, std, 1.0)
    start = np.repeat(original[None, :], settings.num_particles, axis=0)
    state = placed(
        CovarianceState,
        start,
        low=low,
        high=high,
        mean=original,
        scale=float(scale) if scale.ndim == 0 else scale,
        sigma=settings.step,
        covariance=np.eye(count),
        basis=np.eye(count),
        axes=np.ones(count),
        step_path=none,
        covariance_path=none,
        decomposed=0,
    )
    position = _drawn(source, state)
    position[0] = original
    return replace(state, position=position, best_position=position)


def tell(settings: CovarianceSettings, source: RngKey, state: CovarianceState, fitness: Float64) -> CovarianceState:
    """Take in the fitness of the candidates, shape (P,), adapt the distribution and draw others.

    An iteration in which no candidate has a fitness adapts nothing.
    """
    fitness = counted(fitness)
    told = replace(best_ever(state, fitness), iteration=state.iteration + 1)
    if fitness.max() > -math.inf:
        told = adapted(told, state.position[np.argsort(-fitness, kind="stable")])
        known = constants(*state.position.shape)
        if (told.iteration - told.decomposed) * (known.c_1 + known.c_mu) >= STALE:
            values, basis = eigen(told.covariance)
            axes = np.sqrt(np.maximum(values, 1e-16 * values[-1]))
            told = replace(told, basis=basis, axes=axes, decomposed=told.iteration)
    return replace(told, position=_drawn(source, told))


def adapted(state: CovarianceState, ranked: Float64) -> CovarianceState:
    """The distribution after an iteration with candidates (P, K), best first; `state.iteration` counts it already."""
    count = ranked.shape[1]
    known = constants(*ranked.shape)
    y = (ranked - state.mean) / (state.sigma * state.scale)
    y_w = (known.weights[: known.mu, None] * y[: known.mu]).sum(axis=0)  # (41)
    mean = state.mean + state.sigma * state.scale * y_w  # (42)

    # (43), (44); C^(-1/2) = B D^-1 B'
    white = multiply(state.basis, multiply(state.basis.T, y_w) / state.axes)
    c_sigma = known.c_sigma
    step_path = (1 - c_sigma) * state.step_path + math.sqrt(c_sigma * (2 - c_sigma) * known.mu_eff) * white
    length = math.sqrt((step_path * step_path).sum())
    sigma = state.sigma * math.exp(c_sigma / known.d_sigma * (length / known.chi - 1))

    # (45) to (47); the length of C^(-1/2) y is that of D^-1 B' y. 1e-8: the mean itself has none.
    settled = length / math.sqrt(1 - (1 - c_sigma) ** (2 * (state.iteration + 1)))
    h_sigma = float(settled < (1.4 + 2 / (count + 1)) * known.chi)
    c_c, c_1, c_mu = known.c_c, known.c_1, known.c_mu
    covariance_path = (1 - c_c) * state.covariance_path + h_sigma * math.sqrt(c_c * (2 - c_c) * known.mu_eff) * y_w
    lengths = ((np.einsum("pk,kj->pj", y, state.basis) / state.axes) ** 2).sum(axis=1)
    weights = known.weights * np.where(known.weights >= 0, 1.0, count / (lengths + 1e-8))
    kept = 1 + c_1 * (1 - h_sigma) * c_c * (2 - c_c) - c_1 - c_mu * float(known.weights.sum())
    covariance = kept * state.covariance
    covariance += np.multiply.outer(c_1 * covariance_path, covariance_path)
    covariance += np.einsum("pi,pj->ij", c_mu * weights[:, None] * y, y)
    return replace(
        state,
        mean=mean,
        sigma=min(sigma, LARGEST_STEP),
        covariance=(covariance + covariance.T) / 2,
        step_path=step_path,
        covariance_path=covariance_path,
    )


def _drawn(source: RngKey, state: CovarianceState) -> Float64:
    """Candidates (P, K) of the distribution."""
    rng = generator(source.seed, source.data, source.label, "normal", state.iteration)
    y = np.einsum("pk,jk->pj", rng.standard_normal(state.position.shape) * state.axes, state.basis)
    drawn: Float64 = np.clip(state.mean + state.sigma * state.scale * y, state.low, state.high)
    return drawn
