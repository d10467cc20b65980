"""The particle swarm: steps by hand, its invariants, and that it finds what there is to find."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from engine.core.rng import RngKey, generator
from engine.layers.weight_stats import WeightStats
from engine.search import swarm
from engine.search.swarm import SwarmSettings, SwarmState

SOURCE = RngKey(seed=3, data="rows", label=6)
SPREAD = WeightStats(mean=0.5, std=2.0, range=1.5)
ORIGINAL = np.array([0.25, -1.0])


def state_of(**changes):
    """Three particles of two weights in the middle of a search."""
    state = SwarmState(
        iteration=4,
        position=np.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]]),
        velocity=np.array([[0.1, -0.2], [0.0, 0.3], [-0.4, 0.0]]),
        best_position=np.array([[0.2, 1.1], [1.5, -1.0], [0.6, 0.4]]),
        best_fitness=np.array([1.0, 2.0, 3.0]),
        global_position=np.array([0.6, 0.4]),
        global_fitness=3.0,
        since_gain=2,
        bound=1.5,
    )
    return replace(state, **changes)


@pytest.mark.parametrize("phi", [4.1, 5.0])
@pytest.mark.parametrize("split", [True, False])
def test_a_step_by_hand(phi, split):
    settings_ = SwarmSettings(num_particles=3, phi=phi, phi_split=split)
    before = state_of(bound=100.0)
    after = swarm.tell(settings_, SOURCE, before, np.array([0.5, 5.0, 3.0]))

    chi = 2 / (phi - 2 + math.sqrt(phi * phi - 4 * phi))
    rho = generator(3, "rows", 6, "velocity", 4).uniform(0, phi / 2 if split else phi, (2, 3, 2))
    personal = [[0.2, 1.1], [2.0, -1.0], [0.6, 0.4]]  # the second particle found a better place
    leader = [2.0, -1.0]
    for i in range(3):
        for k in range(2):
            x = before.position[i, k]
            v = chi * (before.velocity[i, k] + rho[0, i, k] * (personal[i][k] - x) + rho[1, i, k] * (leader[k] - x))
            assert after.velocity[i, k] == pytest.approx(v, rel=1e-12, abs=1e-15)
            assert after.position[i, k] == pytest.approx(x + v, rel=1e-12)
    np.testing.assert_array_equal(after.best_position, personal)
    np.testing.assert_array_equal(after.best_fitness, [1.0, 5.0, 3.0])
    np.testing.assert_array_equal(after.global_position, leader)
    assert (after.iteration, after.global_fitness, after.since_gain, after.bound) == (5, 5.0, 0, 100.0)


def test_the_constriction_of_the_paper():
    assert SwarmSettings().constriction == pytest.approx(0.7298438)


def test_velocity_is_clamped_at_five_times_the_range():
    far = state_of(best_position=np.array([[1e6, -1e6], [1e6, 1e6], [0.5, 0.5]]), bound=0.01)
    far = replace(far, velocity=np.zeros((3, 2)), global_position=np.array([1e6, -1e6]))
    after = swarm.tell(SwarmSettings(num_particles=3), SOURCE, far, np.zeros(3))
    np.testing.assert_array_equal(after.velocity[0], [0.05, -0.05])
    np.testing.assert_array_equal(after.position, far.position + after.velocity)
    assert (np.abs(after.velocity) <= 0.05).all()


def test_the_floor_keeps_particles_moving():
    still = state_of(velocity=np.zeros((3, 2)), best_position=state_of().position, global_position=np.array([0.5, 0.5]))
    still = replace(still, best_fitness=np.array([1.0, 1.0, 3.0]))
    after = swarm.tell(SwarmSettings(num_particles=3), SOURCE, still, np.zeros(3))
    np.testing.assert_array_equal(after.velocity[2], [0.0, 0.0])
    floored = swarm.tell(SwarmSettings(num_particles=3, velocity_floor=True), SOURCE, still, np.zeros(3))
    np.testing.assert_allclose(floored.velocity[2], [-0.3, -0.3], rtol=1e-12)
    assert (np.abs(floored.velocity) >= 0.3 - 1e-12).all()
    moving = np.abs(after.velocity) > 0.3
    np.testing.assert_array_equal(floored.velocity[moving], after.velocity[moving])


def test_ties_keep_the_older_best_and_the_first_particle():
    settings_ = SwarmSettings(num_particles=3)
    after = swarm.tell(settings_, SOURCE, state_of(), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(after.best_position, state_of().best_position)
    np.testing.assert_array_equal(after.global_position, state_of().global_position)
    assert after.since_gain == 3
    after = swarm.tell(settings_, SOURCE, state_of(), np.array([9.0, 0.0, 9.0]))
    np.testing.assert_array_equal(after.global_position, [0.0, 1.0])
    assert after.since_gain == 0


def test_particles_start_at_the_original_and_around_the_layers_weights():
    state = swarm.init(SwarmSettings(num_particles=5000), SOURCE, ORIGINAL, SPREAD)
    np.testing.assert_array_equal(swarm.ask(state)[0], ORIGINAL.astype(np.float32))
    assert swarm.ask(state).dtype == np.float32
    assert swarm.ask(state).shape == (5000, 2)
    np.testing.assert_allclose(state.position[1:].mean(axis=0), 0.5, atol=0.12)
    np.testing.assert_allclose(state.position[1:].std(axis=0), 2.0, atol=0.1)
    assert (state.velocity == 0).all()
    assert state.bound == 1.5


def test_spread_measures_all_weights():
    spread = WeightStats.of(np.array([[1.0, 2.0], [3.0, 6.0]], dtype=np.float32))
    assert spread == WeightStats(3.0, math.sqrt(3.5), 5.0, 1.0, 6.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_default_swarm_converges_on_a_quadratic(seed):
    goal, source = np.array([0.7, -1.3, 2.0, 0.0, -0.4]), RngKey(seed, "d", 1)
    last = swarm.init(SwarmSettings(), source, np.zeros(5), WeightStats(0.0, 1.0, 4.0))
    for _ in range(200):
        last = swarm.tell(SwarmSettings(), source, last, -((swarm.ask(last) - goal) ** 2).sum(axis=1))
    np.testing.assert_allclose(last.global_position, goal, atol=1e-3)
    assert np.abs(last.position - goal).max() < 0.1  # the whole swarm, not one lucky particle
