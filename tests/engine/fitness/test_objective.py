"""The objectives by hand, and the sums over wrong rows that one of them needs, against the rows one by one."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from engine.core.rng import RngKey
from engine.fitness.last_dense import TiledFitness
from engine.fitness.objective import Objective
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.tail import TailFitness
from engine.fitness.tiling import Tiling
from engine.layers.weight_stats import WeightStats
from engine.problem.problem import Problem, prepare
from engine.search.differential_evolution import DifferentialSettings
from engine.search.loop import SearchSettings, advance
from engine.targets.last_dense import find_target
from tests.support.tails import CATEGORICAL, case_of, row_losses


def test_the_loss_objective_by_hand():
    """Two negatives, one right and one of loss 3; five positives, one wrong with loss 1."""
    sums = np.array([[3.2, 1.9, 1, 4, 0.25, 0.5], [np.nan, 1.0, 1, 4, np.nan, 0.5]])
    objective = Objective(negatives=2, positives=5, positive_weight=0.5, name="loss")
    np.testing.assert_allclose(objective.fitness(sums), [1.25 + 0.1 * 4.5, np.nan])
    # Multiplied by the alpha of 10 it is the formula as published: a positive counts 1 and a negative 10.
    assert 10 * objective.fitness(sums)[0] == pytest.approx(4.5 + 10 * 1.25)
    assert Objective(2, 0, 0.0, "loss").fitness(np.array([[3.2, 0, 1, 0, 0.25, 0]])) == 1.25


def test_the_rates_of_neurecover_by_hand():
    """Two of four negatives repaired, mean loss 0.5; nine of ten positives kept, mean loss 0.25."""
    sums = np.array([[2.0, 2.5, 2, 9], [np.nan, 2.5, 2, 9]])
    published = Objective(negatives=4, positives=10, positive_weight=4.0, name="rates")  # alpha 1
    np.testing.assert_allclose(published.fitness(sums), [1.5 / 1.5 + 1.9 / 1.25, np.nan])
    np.testing.assert_allclose(Objective(4, 10, 8.0, "rates").fitness(sums[:1]), [1.0 + 2 * 1.52])
    assert Objective(4, 0, 0.0, "rates").fitness(np.array([[2.0, 0, 2, 0]])) == 1.0


@pytest.fixture(scope="module")
def rows() -> tuple[object, SearchRows, Weights]:
    """Random rows behind a last layer of four classes, and six of its weights in three units."""
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(4, activation="softmax")
    model = keras.Sequential([keras.Input((6,)), layer])
    head = find_target(model, CATEGORICAL, 4, Path("model.keras")).head
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(70, 6)).astype(np.float32)
    kernel = np.asarray(layer.kernel)
    logits = inputs @ kernel
    labels = np.where(rng.random(70) < 0.6, logits.argmax(axis=1), rng.integers(4, size=70))
    places = np.array([[0, 0], [1, 0], [2, 0], [3, 1], [4, 3], [5, 3]])
    weights = Weights(places[:, 0], places[:, 1], kernel[places[:, 0], places[:, 1]])
    return head, SearchRows(inputs, logits, labels, logits.argmax(axis=1) != labels), weights


def expected_of(losses, right, negative):
    return [values[kind].sum() for values in (losses, right, ~right / (1 + losses)) for kind in (negative, ~negative)]


def test_sums_over_wrong_rows_of_the_last_layer(rows):
    head, searched, weights = rows
    rng = np.random.default_rng(1)
    candidates = (weights.old + rng.normal(0, 1, (5, 6)) * (np.arange(5) > 0)[:, None]).astype(np.float32)
    fitness = TiledFitness(head, searched, weights, 5, Tiling(rows=50), misses=True)
    found = fitness.evaluate(candidates)
    for candidate, sums in zip(candidates, found, strict=True):
        moved = searched.logits.astype(np.float64)
        for feature, unit, change in zip(weights.feature, weights.unit, candidate - weights.old, strict=True):
            moved[:, unit] += searched.inputs[:, feature] * change
        losses = np.logaddexp.reduce(moved, axis=1) - moved[np.arange(70), searched.labels]
        right = moved.argmax(axis=1) == searched.labels
        np.testing.assert_allclose(sums, expected_of(losses, right, searched.negative), rtol=1e-5)
    assert fitness.resident is None  # a program on the device knows four sums


def test_sums_over_wrong_rows_of_a_deeper_layer():
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5, "relu", name="hidden"), keras.layers.Dense(4, "softmax")]
    )
    case = case_of(model, ["hidden"])
    places = np.array([0, 7, 11, 23])
    weights = Weights(places, np.zeros_like(places), case.target.kernel[places, 0])
    candidates = (weights.old + np.random.default_rng(0).normal(size=(3, 4))).astype(np.float32)
    fitness = TailFitness(case.runner.tail, case.target.kernel, case.rows, weights, 3, Tiling(), misses=True)
    kernel = np.asarray(model.layers[0].kernel)
    for candidate, sums in zip(candidates, fitness.evaluate(candidates), strict=True):
        changed = kernel.copy()
        changed.flat[places] = candidate
        model.layers[0].kernel.assign(changed)
        outputs = case.outputs()
        losses = row_losses(outputs, case.rows.labels, case.loss, case.target.head.form)
        right = outputs.argmax(axis=1) == case.rows.labels
        np.testing.assert_allclose(sums, expected_of(losses, right, case.rows.negative), rtol=1e-5)


def test_a_search_by_the_loss_objective(rows):
    """The later Arachne's: its fitness is the objective's, and its best candidate is better than the model."""
    head, searched, weights = rows
    settings = SearchSettings(DifferentialSettings(12), num_iterations=6, objective="loss", positive_worth=0.1)
    problem = Problem("p", head, weights, WeightStats(0.0, 0.5, 2.0), RngKey(0, "d", 1), settings)
    prepared = prepare(problem, searched)
    state, _ = advance(settings, problem.source, prepared.objective, problem.start(), prepared.fitness.evaluate)
    sums = prepared.fitness.evaluate(state.swarm.global_position[None].astype(np.float32))
    positives = int((~searched.negative).sum())
    scores = sums[0, 2:4] + sums[0, 4:6]
    assert state.swarm.global_fitness == pytest.approx(scores[0] + 0.1 * scores[1], rel=1e-12)
    assert state.swarm.global_fitness > state.start_fitness > 0.1 * positives
