"""CrossFit: tasks, the rows of its search, and that nothing is judged under a tuning that saw it."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.fitness.mixture import Mixture, MixtureFitness
from engine.fitness.steering import Rigour
from engine.fitness.tiling import Tiling
from engine.metrics.requirements import Requirement
from engine.passes.classes import NotNumbersError
from engine.problem import crossfit
from engine.problem import problem as problem_module
from engine.problem.case import LayerInputs, SeenRows
from engine.problem.crossfit import CrossFit, CrossFitSettings, crossfit_of, joined_changes, mean_changes, mixed_values
from engine.problem.crossfit_settings import STEPS
from engine.problem.problem import goal_of, prepare
from engine.search import loop as search
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from engine.tuning import train
from engine.tuning.recipes import Recipe, epochs_of, read_recipes
from engine.tuning.train import Changes, Tuner, folds_of
from tests.support.chains import CLASSES, Net, candidates_of, mixed, net, random_changes, slow_outputs

QUICK = CrossFitSettings(read_recipes("1:1:epochs=4,3:1:epochs=4"), folds=3)
DROP = Requirement("max_drop", 0.0, None, None, "text")
RATE = Requirement("max_rate", 0.1, (2,), 4, "text")


def rows_of(subject: Net, **changes: Any) -> LayerInputs:
    """By digest, as a repair has them."""
    digests = np.unique(np.random.default_rng(0).integers(0, 256, (len(subject.labels), 16), np.uint8), axis=0)
    return replace(LayerInputs(subject.features, subject.labels, digests, (6, 6, 1), CLASSES), **changes)


def repair(
    subject: Net,
    settings: CrossFitSettings = QUICK,
    repaired: tuple[int, ...] = (1,),
    requirements: tuple[Requirement, ...] = (DROP, RATE),
    seed: int = 0,
    **changes: Any,
) -> CrossFit:
    rows = rows_of(subject, **changes)
    return crossfit_of(subject.chain, rows, subject.logits, repaired, requirements, settings, seed)


def tuned(it: CrossFit) -> tuple[Changes, ...]:
    tuner = Tuner(it.job)
    recipes = it.settings.recipes
    return joined_changes(it, [tuner.run(task.fold, [recipes[n] for n in task.recipes]) for task in it.tasks])


@functools.cache
def made_up(name: str, groups: int) -> tuple[Changes, ...]:
    return tuple(random_changes(net(name).chain, 2, seed, size=0.5) for seed in range(groups))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": -0.1}, "step is -0.1, expected 0 (the model as it is) to 1 (the mixture as searched)"),
        ({"step": 1.01}, "step is 1.01, expected 0 (the model as it is) to 1 (the mixture as searched)"),
        ({"promise_rows": 0}, "promise_rows is 0, expected at least 1"),
        ({"folds": 1}, "folds are 1, expected at least 2"),
        ({"confidence": 0.4}, "confidence is 0.4, expected a number from 0.5 to below 1"),
        ({"confidence": 1.0}, "confidence is 1, expected a number from 0.5 to below 1"),
        ({"confidence": float("nan")}, "confidence is nan, expected a number from 0.5 to below 1"),
        ({"temperature": 0.0}, "temperature is 0, expected a finite number above 0"),
        ({"temperature": float("inf")}, "temperature is inf, expected a finite number above 0"),
    ],
)
def test_settings_that_no_repair_can_run_with(settings, message):
    with pytest.raises(InputError) as caught:
        CrossFitSettings(**settings)
    assert str(caught.value) == message


def test_settings():
    assert [recipe.name for recipe in CrossFitSettings().recipes] == ["1:1", "2:1", "4:1"]
    assert CrossFitSettings().steps == STEPS
    assert CrossFitSettings(step=0.33).steps == (0.33, *STEPS)
    assert CrossFitSettings(step=0.5).steps == (0.5, *(step for step in STEPS if step != 0.5))
    assert CrossFitSettings(step=0).steps == (0, *STEPS[:-1])


def test_what_a_repair_is_set_up_with():
    subject = net("two")
    it, rows = repair(subject), rows_of(subject)
    np.testing.assert_array_equal(it.rows.fold, folds_of(rows.labels, rows.digests, 3, 0, rows.fingerprint))
    np.testing.assert_array_equal(it.before, subject.before)
    assert (it.label, repair(subject, repaired=(1, 3)).label) == (1, -1)
    others = [
        repair(subject, seed=1),
        repair(subject, replace(QUICK, folds=4)),
        repair(subject, digests=rows.digests + 1),
    ]
    assert len({one.data for one in (it, *others)}) == 4
    assert it.data == repair(subject, replace(QUICK, step=0.5), (2,)).data
    mixture = it.mixture(made_up("two", 3))
    assert (mixture.temperature, mixture.pairs) == (0.5, ((2, 4),))
    assert repair(subject, replace(QUICK, temperature=0.1)).mixture(made_up("two", 3)).temperature == 0.1


@examples(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 89), max_size=9), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_copies_decide_nothing(copies, random):
    subject = net("two")
    order = [*range(90), *copies]
    random.shuffle(order)
    args = (1,), (DROP,), QUICK, 0
    it = repair(subject, QUICK, *args[:2])
    again = crossfit_of(subject.chain, rows_of(subject).take(np.array(order)), subject.logits[order], *args)
    assert it.data == again.data
    for field in ("inputs", "labels", "fold"):
        np.testing.assert_array_equal(getattr(it.rows, field), getattr(again.rows, field))
    np.testing.assert_array_equal(it.logits, again.logits)
    np.testing.assert_array_equal(it.before, again.before)
    # The same numbers with another label are another row.
    rows = rows_of(subject)
    other = replace(rows.take(np.arange(1)), labels=(rows.labels[:1] + 1) % CLASSES)
    assert len(LayerInputs.joined([rows, other]).distinct) == len(rows.labels) + 1


def test_how_strictly_a_search_is_steered_follows_from_its_rows(monkeypatch):
    for module in (crossfit, problem_module):
        monkeypatch.setattr(module, "rigour_of", lambda rows: Rigour(0.2, 0.9, rows))
    subject = net("two")
    expected = Rigour(0.2, 0.9, len(subject.labels))
    for settings, rigour in ((QUICK, expected), (replace(QUICK, temperature=0.3), replace(expected, temperature=0.3))):
        case, problem = repair(subject, settings).case(made_up("two", 3), QUICK.search)
        steering = goal_of(problem, case.rows, case.rows).steering
        assert (steering.rigour, problem.mixture.temperature) == (rigour, rigour.temperature)


def test_what_no_repair_can_be_made_of():
    subject = net("two")
    with pytest.raises(InputError) as caught:
        repair(subject, labels=np.where(subject.labels == 1, 0, subject.labels))
    assert str(caught.value) == "no repair row has label 1, which is to be repaired, expected some"
    same = np.zeros((len(subject.labels), 16), np.uint8)
    with pytest.raises(InputError, match=r"^1 different rows and 3 folds, expected at least as many rows$"):
        repair(subject, digests=same)
    broken = replace(subject, logits=np.where(np.arange(90)[:, None] == 7, np.nan, subject.logits))
    with pytest.raises(NotNumbersError, match="row 7"):
        repair(broken)


@pytest.mark.parametrize(("values", "groups"), [(10**9, [(0, 1), (2,), (3, 4)]), (1, [(0,), (1,), (2,), (3,), (4,)])])
def test_tasks_share_a_program_where_epochs_are_the_same(monkeypatch, values, groups):
    """Up to so many values: each fold has all recipes once, neighbours together."""
    monkeypatch.setattr(crossfit, "TASK_VALUES", values)
    it = repair(net("two"), replace(QUICK, recipes=read_recipes("1,2:1:epochs=15,1:1:epochs=3,2,4")))
    assert epochs_of(it.settings.recipes[0], it.rows.fewest) == 15
    assert [(task.fold, task.recipes) for task in it.tasks] == [(fold, group) for fold in range(3) for group in groups]
    assert len({task.name for task in it.tasks}) == len(it.tasks)
    marked = [
        {path: np.array([100 * task.fold + number for number in task.recipes]) for path in it.chain.tuned}
        for task in it.tasks
    ]
    for fold, changes in enumerate(joined_changes(it, marked)):
        assert list(changes) == list(it.chain.tuned)
        for change in changes.values():
            assert change.tolist() == [100 * fold + number for number in range(5)]


@pytest.mark.parametrize("chosen", [10**6, 30])
def test_rows_that_steer_a_search(monkeypatch, chosen):
    """All, or of each fold as many and of each label the same share, though the rows are sorted by label."""
    monkeypatch.setattr(crossfit, "SEARCH_ROWS", chosen)
    subject = net("two", 300)
    order = np.argsort(subject.labels, kind="stable")
    fields = {name: getattr(subject, name)[order] for name in ("images", "labels", "features", "logits", "before")}
    # The label under repair has one row in each fold, if so many.
    fields["labels"] = np.where((fields["labels"] == 1) & (np.arange(300) % 25 > 0), 2, fields["labels"])
    it = repair(replace(subject, **fields))
    case, problem = it.case(made_up("two", 3), QUICK.search)
    rows = case.rows
    most = min(chosen // 3, 100)
    assert np.bincount(rows.group).tolist() == [most] * 3
    assert (np.diff(rows.group) >= 0).all()
    shares = np.bincount(it.rows.labels, minlength=CLASSES) / 300
    for fold in range(3):
        counts = np.bincount(rows.labels[rows.group == fold], minlength=CLASSES)
        assert np.abs(counts - most * shares).max() <= 1.5
        assert counts[1] >= ((it.rows.labels == 1) & (it.rows.fold == fold)).any()
    # Each is one of the fold's rows, once, with all that belongs to it.
    places = [int(np.flatnonzero((it.rows.inputs == row).all(axis=1))[0]) for row in rows.inputs]
    assert len(set(places)) == len(places)
    for name, known in {"labels": it.rows.labels, "group": it.rows.fold, "logits": it.logits}.items():
        np.testing.assert_array_equal(getattr(rows, name), known[places])
    right = it.before[places] == rows.labels
    np.testing.assert_array_equal(rows.positive, right)
    np.testing.assert_array_equal(rows.negative, ~right & (rows.labels == 1))
    again, _ = it.case(made_up("two", 3), QUICK.search)
    np.testing.assert_array_equal(again.rows.inputs, rows.inputs)
    steering = goal_of(problem, rows, rows).steering
    assert steering.totals.tolist() == np.bincount(rows.labels, minlength=CLASSES).tolist()


def test_a_search_starts_at_the_mean_of_the_recipes_and_gains():
    it = repair(net("two"))
    settings = SearchSettings(SwarmSettings(16), num_iterations=8, min_iteration_range=8)
    changes = tuned(it)
    case, problem = it.case(changes, settings)
    state = problem.start()
    assert state.swarm.position[0].tolist() == [0.5, 0.5, *[0.0] * CLASSES]
    assert np.abs(state.swarm.position[1:] - state.swarm.position[0]).max() < 5 * 0.25
    prepared = prepare(problem, case.rows)
    evaluate = prepared.fitness.evaluate
    state, done = search.advance(settings, problem.source, prepared.objective, state, evaluate)
    assert done[-1].best > state.start_fitness
    found = search.result(state)
    assert prepared.objective.fitness(evaluate(found[None]))[0] == pytest.approx(done[-1].best, rel=1e-6)
    assert state.best_sums.shape == (it.mixture(changes).sums,)
    assert case.index[:, 0].tolist() == list(range(2 + CLASSES))


def test_a_label_without_failures_is_searched_to_the_end():
    """There is no loss of rows to get right then, and keeping all others right solves nothing."""
    subject = net("two")
    labels = np.where(subject.labels == 1, np.where(subject.before == 1, 1, 0), subject.labels)
    case, problem = repair(subject, labels=labels).case(made_up("two", 3), QUICK.search)
    goal = goal_of(problem, case.rows, case.rows)
    assert (goal.negatives, goal.positives) == (0, (subject.before == labels).sum())

    def evaluate(candidates: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(candidates), problem.mixture.sums))
        sums[:, 3] = goal.positives
        return sums

    settings = replace(QUICK.search, num_iterations=3)
    state, rows = search.advance(settings, problem.source, goal, problem.start(), evaluate)
    assert state.stop == "iterations"
    assert [(row.loss_neg, row.patched, row.intact) for row in rows] == 3 * [(0, 0, goal.positives)]


@pytest.mark.parametrize("held_out", [False, True])
def test_every_step_is_judged_out_of_fold(held_out):
    subject, changes = net("two"), made_up("two", 3)
    it = repair(subject, replace(QUICK, step=0.5, promise_rows=50, confidence=0.9))
    mixture = it.mixture(changes)
    found = candidates_of(mixture, 2)[1]
    order = np.argsort(it.rows.fold, kind="stable")
    more = np.arange(90)[::2] if held_out else np.arange(0)
    rows = SeenRows(rows_of(subject), subject.logits, subject.before).take(more)
    frontier, of_labels = it.frontier(changes, found, rows if held_out else None)
    assert [point.step for point in frontier.points] == list(it.settings.steps)
    assert (frontier.chosen, frontier.confidence) == (0, 0.9)
    assert frontier.points[0].promises[0].new_rows == 50 * CLASSES
    mean = Mixture(subject.chain, (mean_changes(changes),), 0.5)
    labels, before = (np.concatenate([values[order], values[more]]) for values in (subject.labels, subject.before))
    for point in frontier.points:
        if point.step in (1.0, 0.5, 0.25, 0.0):
            candidate = np.float32(point.step) * found
            outputs = [
                slow_outputs(subject, mixture, order, it.rows.fold[order], candidate),
                slow_outputs(subject, mean, more, 0 * more, candidate),
            ]
            after = np.concatenate(outputs).argmax(axis=1)
            assert point.promises[0].rows == len(labels)
            assert point.fixed == ((after == labels) & (before != labels)).sum()
            assert point.broken == ((after != labels) & (before == labels)).sum()
            if point is frontier.point:
                assert sum(change.fixed for change in of_labels) == point.fixed
                assert sum(change.broken for change in of_labels) == point.broken
    moved = [point.fixed + point.broken for point in frontier.points]
    assert moved[frontier.points.index(next(point for point in frontier.points if point.step == 0))] == 0
    assert max(moved) > 20


def test_nothing_is_judged_under_a_tuning_that_saw_it():
    """Labels that nothing but memory explains: what is memorised does not count."""
    subject = net("two")
    labels = np.random.default_rng(1).integers(0, CLASSES, 90)
    settings = replace(QUICK, recipes=read_recipes("1:0:rate=0.02:epochs=200"), step=1.0)
    it = repair(replace(subject, labels=labels), settings)
    changes, found = tuned(it), np.array([1] + [0] * CLASSES, np.float32)
    known = (it.before == labels).mean()
    assert abs(it.frontier(changes, found)[0].point.all) < 0.12
    # Under the tunings without another fold, which saw two folds of three, it would.
    seen = it.frontier((*changes[1:], changes[0]), found)[0].point.all
    assert seen > 0.9 - known


def odd_rows(mix: str) -> Net:
    """Rows of a data set that has little of something; label 1 is to be repaired."""
    subject = net("two")
    own, others = np.flatnonzero(subject.labels == 1), np.flatnonzero(subject.labels != 1)
    if mix == "all right":
        return replace(subject, labels=np.where(np.arange(90) == own[0], 1, subject.before))
    if mix == "all wrong":
        wrong = np.where(subject.before == 1, 0, 1)
        return replace(subject, labels=np.where(np.arange(90) < 45, wrong, (subject.before + 1) % CLASSES))
    chosen = {
        "one label": own,
        "fewer rows of the label than folds": np.concatenate([own[:2], others]),
        "one row in a thousand": np.concatenate([own[:1], np.resize(others, 1000)]),
    }[mix]
    values = (subject.images, subject.labels, subject.features, subject.logits, subject.before)
    return Net(subject.model, subject.loss, subject.chain, *(value[chosen] for value in values))


@pytest.mark.parametrize(
    "mix", ["one label", "all wrong", "all right", "fewer rows of the label than folds", "one row in a thousand"]
)
def test_nothing_is_taken_that_is_worse_by_its_own_requirements(mix):
    """The step that is taken keeps on the rows at hand what the model as it is keeps, whatever the rows are."""
    subject = odd_rows(mix)
    required = (DROP, *(Requirement("max_drop", 0.0, None, label, "text") for label in range(CLASSES) if label != 1))
    it = repair(subject, requirements=required)
    changes = tuned(it)
    settings = SearchSettings(SwarmSettings(16), num_iterations=8, min_iteration_range=8)
    found, *_ = problem_module.search(*it.case(changes, settings))
    assert np.isfinite(found).all()
    frontier, _ = it.frontier(changes, found)
    here = (subject.labels == label for label in range(CLASSES))
    assert all(np.isnan(change) == (not rows.any()) for change, rows in zip(frontier.point.changes, here, strict=True))
    assert frontier.point.all >= 0 and not (frontier.point.changes < 0)[[0, *range(2, CLASSES)]].any()
    assert not frontier.promised or frontier.point.step > 0


@pytest.mark.parametrize("name", ["two", "three, first alone", "three, no last bias"])
@pytest.mark.parametrize("step", [1.0, 0.65])
def test_the_saved_model_is_the_mean_mixture(name, step):
    """Offsets lie in the last bias, also where its layer is not tuned, and nowhere where there is none."""
    subject, changes = net(name), made_up(name, 3)
    mean = Mixture(subject.chain, (mean_changes(changes),), 0.5)
    found = 3 * candidates_of(mean, 3, seed=3)[2]
    values = mixed_values(subject.chain, changes, found, step)
    expected = mixed(mean, 0, np.float32(step) * found)
    assert set(values) == set(expected) == {*subject.chain.tuned, subject.chain.offsets or subject.chain.tuned[0]}
    for path, value in values.items():
        assert (value.dtype, value.shape) == (np.float32, subject.chain.values[path].shape)
        np.testing.assert_allclose(value, expected[path], rtol=1e-6, atol=1e-7)
    outputs = subject.outputs(values)
    classes = fitness_of(name).predict(np.float32(step) * found[None])[0]
    np.testing.assert_array_equal(classes, outputs.argmax(axis=1))
    assert (classes != subject.before).sum() > 5
    none = mixed_values(subject.chain, changes, found, 0.0)
    assert all(value.tobytes() == subject.chain.values[path].tobytes() for path, value in none.items())


@functools.cache
def fitness_of(name: str) -> MixtureFitness:
    subject = net(name)
    mixture = Mixture(subject.chain, (mean_changes(made_up(name, 3)),), 0.5)
    return MixtureFitness(mixture, subject.rows(np.arange(90), np.zeros(90, np.int64)), 1, Tiling())


def test_the_mean_of_folds_is_taken_of_each_recipe():
    changes = made_up("two", 3)
    for path, mean in mean_changes(changes).items():
        assert (mean.dtype, mean.shape) == (np.float32, changes[0][path].shape)
        np.testing.assert_allclose(mean[1], sum(change[path][1].astype(float) for change in changes) / 3, rtol=1e-6)


def test_rows_of_an_epoch_are_capped(monkeypatch):
    """Unless epochs are stated: one pass over very many rows would go beyond the cap by itself."""
    monkeypatch.setattr(train, "MOST_ROW_EPOCHS", 64)
    tuner = Tuner(repair(net("two")).job)
    batch = tuner._batch
    assert tuner._steps(Recipe(), 10 * batch) == max(1, 64 // batch)
    assert tuner._steps(Recipe(epochs=1), 10 * batch) == 10
