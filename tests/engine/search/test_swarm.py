"""The particle swarm: steps by hand, its invariants, and that it finds what there is to find."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import InputError
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


def same(first, second):
    return all(
        np.array_equal(getattr(first, field.name), getattr(second, field.name), equal_nan=True)
        for field in fields(SwarmState)
    )


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


def test_a_fitness_that_is_not_a_number_counts_for_nothing():
    settings_ = SwarmSettings(num_particles=3)
    after = swarm.tell(settings_, SOURCE, state_of(), np.array([np.nan, 2.5, np.nan]))
    np.testing.assert_array_equal(after.best_fitness, [1.0, 2.5, 3.0])
    assert np.isfinite(after.position).all()
    fresh = swarm.init(settings_, SOURCE, ORIGINAL, SPREAD)
    after = swarm.tell(settings_, SOURCE, fresh, np.full(3, np.nan))
    assert after.global_fitness == -math.inf
    np.testing.assert_array_equal(after.global_position, ORIGINAL)
    assert after.since_gain == 1


def test_particles_start_at_the_original_and_around_the_layers_weights():
    state = swarm.init(SwarmSettings(num_particles=5000), SOURCE, ORIGINAL, SPREAD)
    np.testing.assert_array_equal(swarm.ask(state)[0], ORIGINAL.astype(np.float32))
    assert swarm.ask(state).dtype == np.float32
    assert swarm.ask(state).shape == (5000, 2)
    np.testing.assert_allclose(state.position[1:].mean(axis=0), 0.5, atol=0.12)
    np.testing.assert_allclose(state.position[1:].std(axis=0), 2.0, atol=0.1)
    assert (state.velocity == 0).all()
    assert state.bound == 1.5


def test_one_particle_is_the_original_and_stays_there():
    settings_ = SwarmSettings(num_particles=1)
    state = swarm.init(settings_, SOURCE, ORIGINAL, SPREAD)
    for _ in range(3):
        state = swarm.tell(settings_, SOURCE, state, np.array([1.0]))
    np.testing.assert_array_equal(state.position, [ORIGINAL])


def test_spread_measures_all_weights():
    spread = WeightStats.of(np.array([[1.0, 2.0], [3.0, 6.0]], dtype=np.float32))
    assert spread == WeightStats(3.0, math.sqrt(3.5), 5.0, 1.0, 6.0)


def test_states_are_values():
    """Telling one state changes no other: a checkpoint taken earlier stays as it was."""
    settings_ = SwarmSettings(num_particles=3)
    state = swarm.init(settings_, SOURCE, ORIGINAL, SPREAD)
    kept = [state]
    copies = [{f.name: np.copy(getattr(state, f.name)) for f in fields(SwarmState)}]
    for step in range(4):
        state = swarm.tell(settings_, SOURCE, state, np.array([step, 1.0, -step]))
        kept.append(state)
        copies.append({f.name: np.copy(getattr(state, f.name)) for f in fields(SwarmState)})
    for old, copy in zip(kept, copies, strict=True):
        for name, value in copy.items():
            np.testing.assert_array_equal(getattr(old, name), value)


def run(evaluate, iterations, source=SOURCE, settings_=SwarmSettings(), original=np.zeros(5), spread=None):  # noqa: B008
    states = [swarm.init(settings_, source, original, spread or WeightStats(0.0, 1.0, 4.0))]
    for _ in range(iterations):
        states.append(swarm.tell(settings_, source, states[-1], evaluate(swarm.ask(states[-1]))))
    return states


@given(seed=st.integers(0, 1000), floor=st.booleans(), split=st.booleans(), particles=st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_the_best_never_falls_and_is_never_below_the_original(seed, floor, split, particles):
    def evaluate(candidates):
        return np.sin(candidates.astype(np.float64) * 9).sum(axis=1) - np.abs(candidates).sum(axis=1)

    settings_ = SwarmSettings(num_particles=particles, velocity_floor=floor, phi_split=split)
    original = np.random.default_rng(seed).normal(size=5)
    states = run(evaluate, 15, RngKey(seed, "d", 1), settings_, original)
    best = [state.global_fitness for state in states[1:]]
    assert best[0] >= evaluate(original[None].astype(np.float32))[0]
    assert (np.diff(best) >= 0).all()
    for earlier, later in pairwise(states[1:]):
        assert (later.best_fitness >= earlier.best_fitness).all()
        assert later.global_fitness == later.best_fitness.max()
        assert evaluate(later.global_position[None].astype(np.float32))[0] == later.global_fitness
        assert (np.abs(later.velocity) <= 5 * later.bound).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_default_swarm_converges_on_a_quadratic(seed):
    goal = np.array([0.7, -1.3, 2.0, 0.0, -0.4])

    def evaluate(candidates):
        return -((candidates - goal) ** 2).sum(axis=1)

    last = run(evaluate, 200, RngKey(seed, "d", 1))[-1]
    np.testing.assert_allclose(last.global_position, goal, atol=1e-3)
    assert np.abs(last.position - goal).max() < 0.1  # the whole swarm, not one lucky particle


def test_the_same_seed_gives_the_same_run_and_another_gives_another():
    def evaluate(candidates):
        return -np.abs(candidates).sum(axis=1).astype(np.float64)

    first, again = run(evaluate, 8), run(evaluate, 8)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    for other in (RngKey(4, "rows", 6), RngKey(3, "others", 6), RngKey(3, "rows", 5)):
        assert not same(first[1], run(evaluate, 1, other)[1])
        assert not same(first[0], run(evaluate, 0, other)[0])
    assert all(same(a, b) for a, b in zip(first, run(evaluate, 8), strict=True))


def test_a_resumed_run_is_the_uninterrupted_one():
    def evaluate(candidates):
        return -np.abs(candidates - 1).sum(axis=1).astype(np.float64)

    states = run(evaluate, 9)
    settings_ = SwarmSettings()
    saved = {f.name: np.copy(getattr(states[4], f.name)) for f in fields(SwarmState)}
    for name in ("iteration", "since_gain", "global_fitness", "bound"):
        saved[name] = saved[name].item()
    state = SwarmState(**saved)
    for expected in states[5:]:
        state = swarm.tell(settings_, SOURCE, state, evaluate(swarm.ask(state)))
        assert same(state, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_particles": 0}, "num_particles is 0, expected at least 1"),
        ({"phi": 4.0}, "velocity_phi is 4.0, expected more than 4"),
        ({"phi": float("nan")}, "velocity_phi is nan, expected more than 4"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        SwarmSettings(**changes)
