"""Searches by requirements and by priorities, on a real model: what they believe, and what changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.core.rng import RngKey
from engine.fitness.objective import Objective
from engine.fitness.priorities import Priorities
from engine.fitness.rows import SearchRows
from engine.layers.weight_stats import WeightStats
from engine.metrics.requirements import Requirement
from engine.problem.problem import Problem, counted_rows, goal_elsewhere, prepare, seen_by
from engine.search import loop
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from tests.conftest import Subject

LABEL = 6
REQUIREMENTS = (
    Requirement("min_gain", 0.1, (LABEL,), None, "gain"),
    Requirement("max_drop", 0.03, (4,), None, "drop"),
    Requirement("max_rate", 0.2, (LABEL,), 0, "rate"),
)
PRIORITIES = Priorities(((LABEL, 2.0), (4, 1.0)), tuple((label, 0.5 + label % 2) for label in range(9)))
SETTINGS = SearchSettings(SwarmSettings(num_particles=16), num_iterations=8)
OBJECTIVES = {
    "requirements": replace(SETTINGS, objective="requirements", requirements=REQUIREMENTS),
    "priorities": replace(SETTINGS, objective="priorities", priorities=PRIORITIES, positive_worth=1.0),
}


def problem_by(quickstart: Subject, settings: SearchSettings) -> tuple[Problem, SearchRows]:
    """Twelve weights of the last layer; all rows of the label, and of the others those that are right."""
    rows, weights = quickstart.problem(np.array([(i, j) for i in range(30, 36) for j in (2, 6)]))
    kept = ~rows.negative | (rows.labels == LABEL)
    known = SearchRows(rows.inputs[kept], rows.logits[kept], rows.labels[kept], rows.negative[kept])
    stats = WeightStats.of(quickstart.old_kernel)
    return Problem("job", quickstart.target.head, weights, stats, RngKey(3, "rows", LABEL), settings), known


def solved(problem: Problem, rows: SearchRows, seconds: float = float("inf")) -> loop.SearchState:
    prepared, state = prepare(problem, rows), problem.start()
    while state.stop is None:
        evaluate = prepared.fitness.evaluate
        state, _ = loop.advance(problem.settings, problem.source, prepared.objective, state, evaluate, seconds)
    return state


@pytest.mark.parametrize(("name", "sampled"), [("requirements", 100), ("priorities", None)])
def test_a_search_gains_and_is_the_same_in_segments(quickstart: Subject, name: str, sampled: int | None) -> None:
    problem, rows = problem_by(quickstart, replace(OBJECTIVES[name], num_input_pos_sampled=sampled))
    state, again = solved(problem, rows), solved(problem, rows, seconds=0.0)
    np.testing.assert_array_equal(loop.result(state), loop.result(again))
    assert state.swarm.global_fitness == again.swarm.global_fitness > state.start_fitness
    prepared, found = prepare(problem, rows), loop.result(state)[None]
    assert prepared.objective.positives == sampled or int((~seen_by(problem, rows).negative).sum())
    fitness = prepared.objective.fitness(prepared.fitness.evaluate(found))
    assert fitness[0] == pytest.approx(state.swarm.global_fitness, rel=1e-9)
    # The model as it is, by itself: nothing changes, but for rounding, and nothing more is repaired.
    (start,) = prepared.fitness.evaluate(problem.weights.old[None])
    assert start[2] == 0 and start[3] == prepared.objective.positives


def test_requirements_of_sampled_positives_are_about_all(quickstart: Subject) -> None:
    problem, rows = problem_by(quickstart, OBJECTIVES["requirements"])
    everything = prepare(problem, rows).objective
    some = prepare(replace(problem, settings=replace(problem.settings, num_input_pos_sampled=100)), rows).objective
    assert everything.steering is not None and some.steering is not None
    positives = int((~rows.negative).sum())
    assert (everything.positives, everything.steering.share) == (positives, 1.0)
    assert (some.positives, some.steering.share) == (100, 100 / positives)
    assert some.negatives == everything.negatives == int(rows.negative.sum())
    np.testing.assert_array_equal(some.steering.totals, np.bincount(rows.labels, minlength=10))
    # Limits are the same; errors are those of the rows that were searched.
    for mine, theirs in zip(some.steering.aims, everything.steering.aims, strict=True):
        assert (mine.columns, mine.limit, mine.rows) == (theirs.columns, theirs.limit, theirs.rows)
        assert mine.errors > theirs.errors
    gain, drop, rate = everything.steering.aims[1:]
    before = rows.logits.argmax(axis=1)[rows.labels == LABEL]
    assert (gain.limit, drop.limit) == (0.1, -0.03) and rate.limit == pytest.approx((before == 0).mean() - 0.2)


def test_rows_without_a_priority_do_not_count(quickstart: Subject) -> None:
    problem, rows = problem_by(quickstart, OBJECTIVES["priorities"])
    prepared = prepare(problem, rows)
    counted = counted_rows(problem.settings, rows)
    assert not (counted.labels == 9).any() and (rows.labels == 9).any()
    objective = prepared.objective
    assert objective.name == "priorities"
    assert objective.positive_weight == objective.positives == int((~counted.negative).sum())
    other = replace(problem.settings, priorities=Priorities(((3, 1.0),)))
    with pytest.raises(InputError, match="no row to repair has a label of a priority above 0, expected one of 3"):
        prepare(replace(problem, settings=other), rows)


def test_positives_are_worth_as_much_on_other_rows(quickstart: Subject) -> None:
    problem, rows = problem_by(quickstart, replace(SETTINGS, positive_weight=30.0))
    half = np.arange(0, len(rows.labels), 2)
    others = SearchRows(rows.inputs[half], rows.logits[half], rows.labels[half], rows.negative[half])
    goal, judged = goal_elsewhere(problem, rows, others)
    positives = int((~others.negative).sum())
    assert judged is others
    worth = 30.0 / int((~rows.negative).sum())
    assert goal == Objective(int(others.negative.sum()), positives, worth * positives)
    steered, _ = goal_elsewhere(replace(problem, settings=OBJECTIVES["requirements"]), rows, others)
    assert steered.steering is not None and (steered.positives, steered.steering.share) == (positives, 1.0)
    weighted, counted = goal_elsewhere(replace(problem, settings=OBJECTIVES["priorities"]), rows, others)
    assert weighted.positives == int((~counted.negative).sum()) < positives


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (
            {"objective": "requirements", "positive_weight": 3.0},
            "positive_weight is 3 and the objective is requirements",
        ),
        ({"requirements": REQUIREMENTS}, "requirements are given and the objective is arachne, expected requirements"),
        ({"objective": "loss", "priorities": PRIORITIES}, "priorities are given and the objective is loss"),
        ({"objective": "priorities"}, "the objective is priorities and none are given"),
        ({"promise_rows": 0}, "promise_rows is 0, expected at least 1"),
    ],
)
def test_settings_of_no_objective(settings: dict[str, object], found: str) -> None:
    with pytest.raises(InputError, match=found):
        replace(SETTINGS, **settings)
