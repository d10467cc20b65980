"""The objectives by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core.rng import RngKey
from engine.fitness.objective import Objective
from engine.fitness.rows import Weights
from engine.layers.weight_stats import WeightStats
from engine.problem.problem import Problem, prepare
from engine.search.differential_evolution import DifferentialSettings
from engine.search.loop import SearchSettings, advance
from tests.support.tails import last_layer


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


def test_a_search_by_the_loss_objective():
    """The later Arachne's: its fitness is the objective's, and its best candidate is better than the model."""
    head, searched = last_layer()
    feature, unit = np.array([[0, 0], [1, 0], [2, 0], [3, 1], [4, 3], [5, 3]]).T
    weights = Weights(feature, unit, np.full(6, 0.1, np.float32))
    settings = SearchSettings(DifferentialSettings(12), num_iterations=6, objective="loss", positive_worth=0.1)
    problem = Problem("p", head, weights, WeightStats(0.0, 0.5, 2.0), RngKey(0, "d", 1), settings)
    prepared = prepare(problem, searched)
    state, _ = advance(settings, problem.source, prepared.objective, problem.start(), prepared.fitness.evaluate)
    sums = prepared.fitness.evaluate(state.swarm.global_position[None].astype(np.float32))
    positives = int((~searched.negative).sum())
    scores = sums[0, 2:4] + sums[0, 4:6]
    assert state.swarm.global_fitness == pytest.approx(scores[0] + 0.1 * scores[1], rel=1e-12)
    assert state.swarm.global_fitness > state.start_fitness > 0.1 * positives
