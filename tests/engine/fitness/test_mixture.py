"""Mixtures of tunings equal the slow formula: mixed weights set in the model, its forward pass group by group."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fitness.groups import SUMS
from engine.fitness.mixture import LEAST_ROWS, ROW_STEP, Mixture, MixtureFitness, tile_shape
from engine.fitness.rows import SearchRows
from engine.fitness.tiling import Tiling, combine
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.head import Head
from tests.support.chains import CLASSES, Net, candidates_of, net, random_changes, slow_outputs

NAMES = [
    *("one, binary", "two", "two, apart"),
    *("three, no last bias", "three, first alone", "three, second frozen"),
    *("any, convolution", "any, attention"),
]
PARTICLES = 4
SIZES = (41, 28, 21)
"""Rows of each group; no two alike, and the first more than an even share."""


@dataclass(frozen=True, eq=False)
class Case:
    subject: Net
    mixture: Mixture
    order: np.ndarray
    group: np.ndarray

    @property
    def rows(self) -> SearchRows:
        return self.subject.rows(self.order, self.group)

    def soft(self, outputs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Soft correctness (n,) for the wanted classes."""
        logits = self.subject.logits_of(outputs)
        places = np.arange(len(logits))
        own = logits[places, wanted]
        logits[places, wanted] = -np.inf
        return 1 / (1 + np.exp(-(own - logits.max(axis=1)) / self.mixture.temperature))

    def sums(self, outputs: np.ndarray, before: np.ndarray) -> np.ndarray:
        """(S,) of outputs (n, C) under a candidate and as the model is."""
        subject, rows = self.subject, self.rows
        losses = subject.losses(outputs, self.order)
        right = outputs.argmax(axis=1) == rows.labels
        change = self.soft(outputs, rows.labels) - self.soft(before, rows.labels)
        changes = [change[rows.labels == label] for label in range(CLASSES)]
        for true, predicted in self.mixture.pairs:
            column = np.full(len(rows.labels), predicted)
            confused = self.soft(outputs, column) - self.soft(before, column)
            changes.append(confused[rows.labels == true])
        of_labels, of_pairs = changes[:CLASSES], changes[CLASSES:]
        return np.array(
            [
                *(values[kind].sum() for values in (losses, right) for kind in (rows.negative, rows.positive)),
                *(part.sum() for part in of_labels),
                *(np.square(part).sum() for part in of_labels),
                *(part.sum() for part in of_pairs),
                *(np.square(part).sum() for part in of_pairs),
            ]
        )


@functools.cache
def case(name: str, recipes: int = 2, pairs: tuple[tuple[int, int], ...] = ((1, 0), (2, 4))) -> Case:
    subject = net(name)
    order = np.random.default_rng(6).permutation(len(subject.labels))
    group = np.repeat(np.arange(len(SIZES)), SIZES)
    changes = tuple(random_changes(subject.chain, recipes, seed) for seed in range(len(SIZES)))
    return Case(subject, Mixture(subject.chain, changes, 0.5, pairs), order, group)


@functools.cache
def fitness_of(name: str, tiling: Tiling = Tiling()) -> MixtureFitness:  # noqa: B008 (frozen)
    """Compiled once for all tests."""
    return MixtureFitness(case(name).mixture, case(name).rows, PARTICLES, tiling)


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_slow_formula(name):
    it, fitness = case(name), fitness_of(name)
    candidates = candidates_of(it.mixture, 7)
    fast, classes = fitness.evaluate(candidates), fitness.predict(candidates)
    slow = [slow_outputs(it.subject, it.mixture, it.order, it.group, one) for one in candidates]
    sums = np.stack([it.sums(outputs, slow[0]) for outputs in slow])
    top = np.sort(np.stack(slow), axis=2)[:, :, -2:]
    near = top[:, :, 1] - top[:, :, 0] < 1e-5
    assert near.sum() <= 1
    assert fast.shape == (7, it.mixture.sums) == (7, SUMS + 2 * CLASSES + 4)
    assert (np.abs(fast[:, 2:4] - sums[:, 2:4]).sum(axis=1) <= near.sum(axis=1)).all()
    assert (classes == np.stack(slow).argmax(axis=2))[~near].all()
    np.testing.assert_allclose(fast[:, :2], sums[:, :2], rtol=1e-4)
    np.testing.assert_allclose(fast[:, SUMS:], sums[:, SUMS:], rtol=1e-4, atol=2e-5)
    # The first is the model as it is; candidates do something, and every column tells them apart.
    assert sums[0, 2] == 0
    assert sums[0, 3] == it.rows.positive.sum()
    assert (np.ptp(sums, axis=0) > 1e-3).all()


def test_rows_of_one_group_without_pairs_and_without_rows_of_a_label():
    """Held-out rows are like that."""
    it = case("two")
    order = it.order[it.subject.labels[it.order] != 3]
    mixture = Mixture(it.mixture.chain, it.mixture.changes[1:2], 0.3)
    one = Case(it.subject, mixture, order, np.zeros(len(order), np.int64))
    candidates = candidates_of(mixture, 3)
    slow = [slow_outputs(it.subject, mixture, order, one.group, candidate) for candidate in candidates]
    sums = np.stack([one.sums(outputs, slow[0]) for outputs in slow])
    found = MixtureFitness(mixture, one.rows, 3, Tiling()).evaluate(candidates)
    assert found.shape == (3, SUMS + 2 * CLASSES)
    np.testing.assert_array_equal(found[:, 2:4], sums[:, 2:4])
    np.testing.assert_allclose(found, sums, rtol=1e-4, atol=2e-5)
    assert not found[:, [SUMS + 3, SUMS + CLASSES + 3]].any()


def test_rows_that_only_fill_a_tile_are_no_numbers_and_count_nothing():
    """Shares of scores that are all zero, as those of zeros are where there is no bias."""
    kernel = np.array([[1, 2], [3, 1]], np.float32)
    chain = DenseChain(
        Head("normalised", "relu"), (DenseLayer("last/kernel", None, "linear"),), {"last/kernel": kernel}
    )
    mixture = Mixture(chain, ({"last/kernel": 0 * kernel[None]},), 0.5)
    inputs, labels = np.array([[1, 0], [0, 1], [1, 1]], np.float32), np.array([0, 0, 1])
    rows = SearchRows(inputs, inputs @ kernel, labels, labels == 1, labels > 1, 0 * labels)
    (found,) = MixtureFitness(mixture, rows, 1, Tiling()).evaluate(np.zeros((1, 1), np.float32))
    np.testing.assert_allclose(found[:SUMS], [-np.log(3 / 7), -np.log(1 / 3) - np.log(3 / 4), 0, 1], rtol=1e-6)
    np.testing.assert_allclose(found[SUMS:], 0, atol=1e-6)


TILINGS = [Tiling(), Tiling(particles=3, rows=10, bytes=1)]


def test_tiles_add_up_to_the_whole():
    it = case("three, first alone")
    candidates = candidates_of(it.mixture, PARTICLES)
    wholes, counts = [], []
    for tiling in TILINGS:
        fitness = fitness_of("three, first alone", tiling)
        whole = fitness.evaluate(candidates)
        ends = [fitness.start_tile(number, candidates) for number in range(len(fitness.tiles))]
        assert combine(fitness.tiles, [end() for end in ends]).tobytes() == whole.tobytes()
        wholes.append(whole)
        counts.append(len(fitness.tiles))
    assert counts == [4, 2 * (5 + 3 + 3)]
    np.testing.assert_array_equal(wholes[1][:, 2:4], wholes[0][:, 2:4])
    np.testing.assert_allclose(wholes[1], wholes[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tiling", TILINGS)
def test_a_candidate_does_not_depend_on_its_company(tiling):
    """Whole swarms share a call, also where a swarm takes several slabs."""
    it, fitness = case("three, first alone"), fitness_of("three, first alone", tiling)
    swarms = [candidates_of(it.mixture, PARTICLES, seed) for seed in range(3)]
    alone = np.concatenate([fitness.evaluate(swarm) for swarm in swarms])
    assert fitness.evaluate(np.concatenate(swarms)).tobytes() == alone.tobytes()
    assert fitness.evaluate(np.concatenate(swarms[::-1]))[-PARTICLES:].tobytes() == alone[:PARTICLES].tobytes()


@given(st.integers(1, 5000), st.integers(1, 200), st.integers(1, 4), st.sampled_from([None, 1, 3, 64]))
def test_shapes_of_tiles(rows, particles, groups, forced):
    mixture = case("two").mixture
    together, most = tile_shape(mixture.chain, groups, rows, particles, Tiling(particles=forced, bytes=200_000))
    assert particles % together == 0
    assert 1 <= together <= min(particles, forced or 64)
    assert most % ROW_STEP == 0
    assert most - ROW_STEP < -(-rows // groups)  # no tile of an even group is half padding
    fits = together * most * mixture.chain.widest * 4 <= 200_000
    assert fits or (most <= LEAST_ROWS and (forced or together == 1))


@pytest.mark.parametrize(
    ("particles", "size", "shape"),
    [
        (32, 6 << 20, (32, 1024)),
        (32, 64 * 1024, (4, 320)),
        (37, 64 * 1024, (1, 1024)),
        (32, 4 * 1024, (1, 256)),
        (32, 512, (1, 32)),
    ],
)
def test_tiles_hold_fewer_particles_before_fewer_rows(particles, size, shape):
    """Each mixes the weights behind the first layer anew; where particles are few there is room for more rows."""
    assert tile_shape(case("two").mixture.chain, 5, 5 * 1024, particles, Tiling(bytes=size)) == shape
