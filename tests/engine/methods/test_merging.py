"""Merging patches by a search of coefficients: by hand, and never worse than the best part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.rng import RngKey
from engine.core.types import Float32
from engine.methods import merging
from engine.methods.merging import WORST, Parts, Score, placed_coefficients, search_merge, step
from engine.search.differential_evolution import DifferentialSettings
from engine.search.loop import SearchSettings
from engine.search.optimisers import OPTIMISERS
from engine.search.swarm import SwarmSettings, draw

KERNEL = np.array([[1, 2], [3, 4]], np.float32)
FIRST = (np.array([[0, 0], [0, 1]]), np.array([2, 4], np.float32))
SECOND = (np.array([[1, 0], [0, 1]]), np.array([0, 1], np.float32))
SOURCE = RngKey(0, "data", -1)

every = pytest.mark.parametrize("name", OPTIMISERS)


def swarm(particles: int, iterations: int = 20, name: str = "PSO") -> SearchSettings:
    optimiser = OPTIMISERS[name].settings(num_particles=particles)
    return SearchSettings(swarm=optimiser, num_iterations=iterations, min_iteration_range=iterations)


def near(target: Sequence[float]) -> Callable[[Float32], list[Score]]:
    return lambda values: [(-float(np.square(row - target).sum()),) for row in values]


def test_two_parts_that_share_a_weight() -> None:
    parts = Parts.of(KERNEL, [FIRST, SECOND])
    assert parts.index.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert parts.new.tolist() == [[2, 4, 3], [1, 1, 0]]
    assert parts.shared.tolist() == [1] and parts.size == 2
    # 1 + 0.5 (2 - 1), 2 + 0.5 (4 - 2) + 0.25 (1 - 2), 3 + 0.25 (0 - 3)
    assert parts.mixed(np.array([[0.5, 0.25]])).tolist() == [[1.5, 2.75, 2.25]]
    assert parts.mixed(parts.corners).tolist() == [[1, 2, 3], [2, 4, 3], [1, 1, 0]]


def test_a_shared_weight_apart() -> None:
    parts = Parts.of(KERNEL, [FIRST, SECOND], apart=True)
    assert parts.size == 3
    # From 1 to 4, the smallest and the largest of 2, 4 and 1; the model as it is has 2.
    np.testing.assert_allclose(parts.corners, [[0, 0, 1 / 3], [1, 0, 1], [0, 1, 0]])
    assert parts.mixed(np.array([[0.5, 0.25, 0.5]])).tolist() == [[1.5, 2.5, 2.25]]
    assert parts.mixed(parts.corners).tolist() == [[1, 2, 3], [2, 4, 3], [1, 1, 0]]


def test_a_step_of_three_particles() -> None:
    """0 and both parts; the first part is best, so that the others move towards it and it stays."""
    three = SwarmSettings(3)
    parts = Parts.of(KERNEL, [FIRST, SECOND])
    state = placed_coefficients(parts, three, SOURCE)
    assert state.position.tolist() == [[0, 0], [1, 0], [0, 1]]
    after = step(three, SOURCE, state, np.array([0.2, 0.5, 0.1]))
    drawn = np.empty((2, 3, 2))
    draw(SOURCE, 0, drawn)
    pull = 2 / (2.1 + np.sqrt(4.1**2 - 4 * 4.1)) * 2.05 * drawn[1]
    expected = np.array([[pull[0, 0], 0], [1, 0], [pull[2, 0], 1 - pull[2, 1]]])
    np.testing.assert_allclose(after.position, np.clip(expected, 0, 1), rtol=1e-15)
    assert after.global_position.tolist() == [1, 0]


@every
def test_draws_start_around_one_half(name: str) -> None:
    state = placed_coefficients(Parts.of(KERNEL, [FIRST, SECOND]), swarm(4003, name=name).swarm, SOURCE)
    assert state.position[:3].tolist() == [[0, 0], [1, 0], [0, 1]]
    drawn = state.position[3:]
    assert drawn.min() >= 0 and drawn.max() <= 1
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0.5, 0.125], atol=0.005)


@pytest.mark.parametrize("apart", [False, True])
@every
def test_it_finds_what_no_part_has_alone(name: str, apart: bool) -> None:
    parts = Parts.of(KERNEL, [FIRST, SECOND], apart=apart)
    wanted = [1.75, 3.25, 2.25]  # 0.75 of the first and 0.25 of the second
    found = search_merge(parts, near(wanted), swarm(12, 60, name), SOURCE)
    near_enough = 0.25 if name == "random" else 0.01
    np.testing.assert_allclose(found.values, wanted, atol=near_enough)
    np.testing.assert_allclose(found.coefficients[:2], [0.75, 0.25], atol=near_enough)
    assert found.score == near(wanted)(found.values[None])[0] > max(found.starts)
    assert found.starts == tuple(near(wanted)(parts.mixed(parts.corners)))


@every
def test_more_parts_than_particles_are_all_tried(name: str) -> None:
    parts = Parts.of(KERNEL, [FIRST, SECOND])
    least = OPTIMISERS[name].settings.least
    found = search_merge(parts, near([1, 1, 0]), swarm(least, 1, name), SOURCE)
    assert found.coefficients.tolist() == [0, 1] and found.values.tolist() == [1, 1, 0]


@every
def test_a_candidate_without_classes_is_worst(name: str) -> None:
    parts = Parts.of(KERNEL, [FIRST, SECOND])

    def scores(values: Float32) -> list[Score]:
        return [WORST if row[0] > 1 else (1.0, -float(row[2])) for row in values]

    found = search_merge(parts, scores, swarm(8, 5, name), SOURCE)
    assert found.starts == ((1, -3), WORST, (1, 0))
    assert found.coefficients[0] == 0 and found.score == (1, 0)
    nothing = search_merge(parts, lambda values: [WORST] * len(values), swarm(8, 5, name), SOURCE)
    assert nothing.score == WORST and nothing.values.tolist() == parts.old.tolist() and nothing.iterations == 5


def test_what_is_stated_of_weights_is_not_of_coefficients() -> None:
    parts = Parts.of(KERNEL, [FIRST, SECOND])
    stated = SearchSettings(swarm=DifferentialSettings(12, bound=1.0, factor=1e-9), num_iterations=20)
    known = search_merge(parts, near([1.1, 2.1, 2.9]), swarm(12, name="DE"), SOURCE)
    found = search_merge(parts, near([1.1, 2.1, 2.9]), replace(stated, min_iteration_range=20), SOURCE)
    assert found.coefficients.tolist() == known.coefficients.tolist()


def test_few_candidates_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts.of(KERNEL, [FIRST, SECOND])
    whole = search_merge(parts, near([1.5, 3, 1]), swarm(8, 5), SOURCE)
    monkeypatch.setattr(merging, "BLOCK_VALUES", 4)
    pieces = search_merge(parts, near([1.5, 3, 1]), swarm(8, 5), SOURCE)
    assert whole.coefficients.tolist() == pieces.coefficients.tolist() and whole.starts == pieces.starts


def test_what_nothing_changes_keeps_its_bits() -> None:
    kernel = np.array([[-0.0, 1.0]], np.float32)
    parts = Parts.of(kernel, [(np.array([[0, 0]]), np.array([2], np.float32))])
    assert np.signbit(parts.mixed(np.array([[0.0]]))[0, 0])


VALUES = st.floats(-100, 100, width=16)


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), VALUES), min_size=1, max_size=4), min_size=1, max_size=5),
    st.booleans(),
    st.integers(0, 5),
    st.sampled_from(list(OPTIMISERS)),
)
def test_never_worse_than_the_best_part(
    patches: list[list[tuple[int, float]]], apart: bool, seed: int, name: str
) -> None:
    """By a score of several numbers, coarse so that many are equal; corners have exactly the values of their part."""
    kernel = np.array([[0.5, -1], [1e-3, 7]], np.float32)
    given_parts = []
    for patch in patches:
        places = dict(patch)
        index = np.array([[place // 2, place % 2] for place in places])
        given_parts.append((index, np.array(list(places.values()), np.float32)))
    parts = Parts.of(kernel, given_parts, apart=apart)
    mixed = parts.mixed(parts.corners)
    assert (mixed == np.concatenate([parts.old[None], parts.new])).all()
    weights = np.random.default_rng(seed).normal(size=len(parts.old))

    def scores(values: Float32) -> list[Score]:
        return [(float(np.round(row @ weights / 50)), float(row[0] > 1), float(row @ weights)) for row in values]

    found = search_merge(parts, scores, swarm(6, 4, name), RngKey(seed, "data", -1))
    assert found.score == scores(found.values[None])[0] >= max(found.starts)
    assert found.score >= max(scores(np.concatenate([parts.old[None], parts.new])))
    assert (found.coefficients >= 0).all() and (found.coefficients <= 1).all()
