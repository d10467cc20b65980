"""Sums that some objectives need besides the four, against the rows one by one, in both kernels; and where the rows of
a tile are put.
"""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from engine.fitness.groups import GroupSums, arrange_groups, block_rows
from engine.fitness.last_dense import UNROLLED_UNITS, TiledFitness
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.tail import TailFitness
from engine.fitness.tiling import SUM_ROWS, Tiling, combine
from tests.support.tails import BINARY, CATEGORICAL, Case, case_of, last_layer, row_losses

T = 0.3
PAIRS = ((1, 0), (2, 3))
COUNTS, SOFT, MISSES = GroupSums(4), GroupSums(4, T, PAIRS), None


def expected_sums(
    wanted: GroupSums | None,
    rows: SearchRows,
    before: np.ndarray,
    after: np.ndarray,
    losses: np.ndarray,
    right: np.ndarray,
) -> np.ndarray:
    """(S,) from logits (n, C) before and after, losses and right rows (n,), one group after the other; without groups
    with sums over wrong rows.
    """
    kinds = rows.negative, ~rows.negative
    found = [values[kind].sum() for values in (losses, right) for kind in kinds]
    if wanted is None:
        return np.array([*found, *((~right / (1 + losses))[kind].sum() for kind in kinds)])
    labels = range(wanted.classes)

    def soft(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
        own = logits[np.arange(len(logits)), classes]
        others = logits.copy()
        others[np.arange(len(logits)), classes] = -np.inf
        return 1 / (1 + np.exp(-(own - others.max(axis=1)) / wanted.temperature))

    def by_label(values: np.ndarray) -> list[float]:
        return [values[kind & (rows.labels == label)].sum() for kind in kinds for label in labels]

    if wanted.temperature is None:
        return np.array([*found, *by_label(losses), *by_label(right)])
    change = soft(after, rows.labels) - soft(before, rows.labels)
    found += [*by_label(change), *by_label(change**2)]
    for power in (1, 2):
        for kind in kinds:
            for true, predicted in wanted.pairs:
                classes = np.full_like(rows.labels, predicted)
                confused = soft(after, classes) - soft(before, classes)
                found.append((confused**power)[kind & (rows.labels == true)].sum())
    return np.array(found)


def moved(rows: SearchRows, weights: Weights, candidate: np.ndarray) -> np.ndarray:
    logits = rows.logits.astype(np.float64)
    for feature, unit, change in zip(weights.feature, weights.unit, candidate - weights.old, strict=True):
        logits[:, unit] += rows.inputs[:, feature] * np.float64(change)
    return logits


SOME = np.array([[0, 0], [1, 0], [2, 0], [3, 1], [4, 3], [5, 3]])
"""Weights of three of four units: the label that none of them touches is judged by what the row has."""


CLASSES = UNROLLED_UNITS + 6
UNITS = np.arange(CLASSES - 2)
MANY = np.stack([UNITS % 6, UNITS], axis=1)
WIDE = GroupSums(CLASSES, T, ((1, 0), (0, CLASSES - 1)))


@pytest.mark.parametrize(
    ("wanted", "activation", "loss", "places"),
    [
        (COUNTS, "softmax", CATEGORICAL, SOME),
        (SOFT, "softmax", CATEGORICAL, SOME),
        (MISSES, "softmax", CATEGORICAL, SOME),
        pytest.param(SOFT, "sigmoid", BINARY, SOME, marks=pytest.mark.slow),
        pytest.param(WIDE, "softmax", CATEGORICAL, MANY, marks=pytest.mark.slow),
    ],
)
def test_sums_of_the_last_layer(wanted: GroupSums | None, activation: str, loss: object, places: np.ndarray) -> None:
    """Of few units, and of more than are unrolled."""
    classes = 4 if places is SOME else CLASSES
    head, rows = last_layer(activation, classes, loss)
    weights = Weights(places[:, 0], places[:, 1], np.full(len(places), 0.1, np.float32))
    random = np.random.default_rng(1).normal(0, 1, (5, len(places))) * (np.arange(5) > 0)[:, None]
    candidates = (weights.old + random).astype(np.float32)
    fitness = TiledFitness(head, rows, weights, 5, Tiling(rows=90), misses=wanted is MISSES, wanted=wanted)
    assert fitness.resident is None  # a program on the device knows four sums
    found = fitness.evaluate(candidates)
    plain = TiledFitness(head, rows, weights, 5, Tiling(rows=90)).evaluate(candidates)
    for candidate, sums, four in zip(candidates, found, plain, strict=True):
        logits = moved(rows, weights, candidate)
        right = logits.argmax(axis=1) == rows.labels
        if activation == "softmax":
            losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(200), rows.labels]
        else:
            true = np.eye(4)[rows.labels]
            losses = (np.logaddexp(0, logits) - true * logits).mean(axis=1)
        expected = expected_sums(wanted, rows, rows.logits.astype(np.float64), logits, losses, right)
        np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(sums[:4], four, rtol=1e-6)


@pytest.fixture(scope="module")
def hidden() -> Case:
    """A layer before the last."""
    layers = [keras.Input((6,)), keras.layers.Dense(5, "relu", name="hidden"), keras.layers.Dense(4, "softmax")]
    case = case_of(keras.Sequential(layers), ["hidden"])
    return replace(case, rows=replace(case.rows, logits=np.log(case.outputs())))


@pytest.mark.parametrize(("wanted", "short"), [(COUNTS, True), (SOFT, True), (SOFT, False), (MISSES, True)])
def test_sums_of_a_deeper_layer(
    hidden: Case, wanted: GroupSums | None, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not short:
        monkeypatch.setattr("engine.fitness.tail.plan_short", lambda tail, places: None)
    case, model = hidden, hidden.model
    places = np.array([0, 7, 11, 23])
    weights = Weights(places, np.zeros_like(places), case.target.kernel[places, 0])
    candidates = (weights.old + np.random.default_rng(0).normal(size=(3, 4))).astype(np.float32)
    tail, kernel = case.runner.tail, case.target.kernel
    fitness = TailFitness(tail, kernel, case.rows, weights, 3, Tiling(), misses=wanted is MISSES, wanted=wanted)
    kernel = np.array(model.layers[0].kernel)
    before = np.log(case.outputs())
    for candidate, sums in zip(candidates, fitness.evaluate(candidates), strict=True):
        changed = kernel.copy()
        changed.flat[places] = candidate
        model.layers[0].kernel.assign(changed)
        outputs = case.outputs()
        model.layers[0].kernel.assign(kernel)
        losses = row_losses(outputs, case.rows.labels, case.loss, case.target.head.form)
        right = outputs.argmax(axis=1) == case.rows.labels
        expected = expected_sums(wanted, case.rows, before, np.log(outputs), losses, right)
        np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("wanted", [pytest.param(COUNTS, marks=pytest.mark.slow), SOFT])
def test_candidates_alone_among_others_and_in_tiles(hidden: Case, wanted: GroupSums) -> None:
    """The same bits."""
    head, rows = last_layer()
    last = Weights(SOME[:, 0], SOME[:, 1], np.full(len(SOME), 0.1, np.float32))
    candidates = np.random.default_rng(1).normal(0, 1, (12, len(SOME))).astype(np.float32)
    places = np.arange(6)
    deep = Weights(places, np.zeros_like(places), hidden.target.kernel[places, 0])
    tail, kernel, tiling = hidden.runner.tail, hidden.target.kernel, Tiling(particles=4, rows=30)
    for fitness in (
        TiledFitness(head, rows, last, 12, tiling, wanted=wanted),
        TailFitness(tail, kernel, hidden.rows, deep, 12, tiling, wanted=wanted),
    ):
        together = fitness.evaluate(candidates)
        alone = np.concatenate([fitness.evaluate(candidates[number : number + 1]) for number in range(12)])
        np.testing.assert_array_equal(alone, together)
        parts = [fitness.start_tile(tile, candidates)() for tile in range(len(fitness.tiles))]
        np.testing.assert_array_equal(combine(fitness.tiles, parts), together)


def test_rows_of_a_group_share_blocks_with_no_other() -> None:
    rng = np.random.default_rng(0)
    labels, negative = rng.integers(5, size=300), rng.random(300) < 0.2
    block = block_rows(negative, labels, tiles=1)
    assert block == 2  # ten groups of 300 rows; four rows each would be more than an eighth
    found = arrange_groups(negative, labels, 5, block)
    assert found.size % SUM_ROWS == 0 and len(np.unique(found.place)) == 300 and found.place.max() < found.size
    group = np.searchsorted(found.starts, found.place // block, side="right") - 1
    np.testing.assert_array_equal(found.groups[group], labels + 5 * ~negative)
    assert block_rows(negative, labels, tiles=100) == 1
    assert block_rows(np.zeros(5000, bool), np.zeros(5000, np.int64), tiles=2) == SUM_ROWS
    nothing = arrange_groups(negative[:0], labels[:0], 5, 8)
    assert (nothing.size, len(nothing.groups)) == (0, 0)
