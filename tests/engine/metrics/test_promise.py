"""Values of rows and chances by hand, the step that is taken, and how many rows would be enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from engine.metrics.accuracy import compare_many
from engine.metrics.promise import Frontier, frontier_of, row_values, threshold
from engine.metrics.requirements import Kind, Requirement, check_requirements
from engine.problem.crossfit_settings import STEPS

CLASSES = 3


def about(
    kind: Kind, limit: float, labels: tuple[int, ...] | None = (0,), predicted: int = 1, wildcard: bool = False
) -> Requirement:
    return Requirement(kind, limit, labels, predicted if kind == "max_rate" else None, "text", wildcard)


def frontier(
    requirements: list[Requirement],
    labels: list[int] | np.ndarray,
    before: list[int] | np.ndarray,
    after: list[list[int]] | list[np.ndarray] | np.ndarray,
    steps: tuple[float, ...] = (1.0, 0.0),
    confidence: float = 0.95,
    new_rows: int = 100,
    **more: Any,
) -> Frontier:
    return frontier_of(
        requirements,
        np.array(labels),
        np.array(before),
        np.array(after),
        steps=steps,
        confidence=confidence,
        new_rows=new_rows,
        classes=CLASSES,
        **more,
    )


# Of label 0 three of eight rows are right before; after it, five: three more, one less.
LABELS = np.repeat([0, 1], [8, 4])
BEFORE = np.array([0, 0, 0, 1, 1, 2, 2, 2, *(1, 1, 1, 0)])
AFTER = np.array([0, 0, 1, 0, 0, 0, 1, 2, *(1, 1, 1, 0)])


@pytest.mark.parametrize(
    ("requirement", "value", "limit", "variance", "rows", "new"),
    [
        # Mean square of the changes and 1/n: four rows of eight change.
        (about("min_gain", 0.1), 2 / 8, 2 / 8 - 0.1, 4 / 8 + 1 / 8, 8, 100),
        (about("max_drop", 0.02), -2 / 8, 2 / 8 + 0.02, 4 / 8 + 1 / 8, 8, 100),
        (about("max_drop", 0.02, None), -2 / 12, 2 / 12 + 0.02, 4 / 12 + 1 / 12, 12, 300),
        (about("max_drop", 0.02, (1,)), 0.0, 0.02, 1 / 4, 4, 100),
        # Of shares v (1 - v), and 1/n.
        (about("min_accuracy", 0.5), 5 / 8, 5 / 8 - 0.5, 5 / 8 * 3 / 8 + 1 / 8, 8, 100),
        (about("min_accuracy", 0.9, (0, 1)), 8 / 12, 8 / 12 - 0.9, 8 / 12 * 4 / 12 + 1 / 12, 12, 200),
        (about("min_accuracy", 0.9, None), 8 / 12, 8 / 12 - 0.9, 8 / 12 * 4 / 12 + 1 / 12, 12, 300),
        (about("max_rate", 0.3), 2 / 8, 0.3 - 2 / 8, 2 / 8 * 6 / 8 + 1 / 8, 8, 100),
    ],
)
def test_a_chance_by_hand(requirement, value, limit, variance, rows, new):
    (promise,) = frontier([requirement], LABELS, BEFORE, [AFTER, BEFORE]).points[0].promises
    error = math.sqrt(variance / rows + variance / new)
    assert (promise.requirement, promise.rows, promise.new_rows) == (requirement, rows, new)
    assert promise.value == pytest.approx(value)
    assert promise.chance == pytest.approx(norm.cdf(limit / error))
    assert promise.met == (limit >= 0)
    least = -1.0 if requirement.relative else 0.0
    assert promise.low == pytest.approx(max(least, value - norm.ppf(0.975) * error))
    assert promise.high == pytest.approx(min(1.0, value + norm.ppf(0.975) * error))


def test_a_point_counts_rows():
    point = frontier([about("min_gain", 0.1), about("max_drop", 0.0, None)], LABELS, BEFORE, [AFTER, BEFORE]).points[0]
    assert (point.step, point.fixed, point.broken, point.met) == (1.0, 3, 1, 2)
    np.testing.assert_array_equal(point.changes, [2 / 8, 0, np.nan])  # label 2 has no rows
    assert point.all == 2 / 12
    assert point.chance == pytest.approx(math.prod(promise.chance for promise in point.promises))
    assert 0.5 < point.chance < min(promise.chance for promise in point.promises)


@pytest.mark.parametrize("kind", ["max_drop", "min_gain", "min_accuracy", "max_rate"])
def test_the_model_as_it_is_keeps_every_bound_on_a_drop(kind):
    """And nothing else: nothing gained is no gain that was asked for."""
    found = frontier([about(kind, 0.0)], LABELS, BEFORE, [AFTER, BEFORE])
    (promise,) = found.points[1].promises
    assert (promise.chance == 1) == (kind == "max_drop")
    assert (found.points[1].step, found.points[1].fixed, found.points[1].broken) == (0.0, 0, 0)
    # The same classes at a step that is none count as any other: half of the time they fall.
    if kind == "max_drop":
        (promise,) = frontier([about(kind, 0.0)], LABELS, BEFORE, [BEFORE, BEFORE]).points[0].promises
        assert promise.chance == 0.5


def rows_of(count: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of label 0, of which the first are right."""
    labels = np.zeros(count, int)
    return labels, np.where(np.arange(count) < right, 0, 1)


def moved(before: np.ndarray, fixed: int, broken: int) -> np.ndarray:
    """The last rows fixed, and the first broken."""
    after = before.copy()
    after[len(before) - fixed :] = 0
    after[:broken] = 1
    return after


LABELS_0, BEFORE_0 = rows_of(1000, 600)


@pytest.mark.parametrize(
    ("changes", "chosen", "promised"),
    [
        ([(300, 0), (200, 0), (100, 0)], 0, True),
        ([(300, 290), (200, 0), (100, 0)], 1, True),  # more gained than lost, but not surely
        ([(0, 90), (200, 0), (100, 90)], 1, True),
        ([(0, 90), (0, 50), (100, 0)], 2, True),
        # None is sure: what keeps most by count, and of those the largest.
        ([(0, 90), (60, 50), (50, 50)], 1, False),
        ([(0, 90), (0, 90), (0, 90)], 3, False),  # the model as it is
    ],
)
def test_the_largest_step_that_keeps_the_promise_is_taken(changes, chosen, promised):
    after = [moved(BEFORE_0, *change) for change in changes]
    steps = (1.0, 0.6, 0.2, 0.0)
    found = frontier([about("max_drop", 0.0)], LABELS_0, BEFORE_0, [*after, BEFORE_0], steps)
    assert (found.chosen, found.promised, found.confidence) == (chosen, promised, 0.95)
    assert found.point is found.points[chosen]
    assert [point.step for point in found.points] == list(steps)


def test_a_compromise_keeps_most_requirements():
    """Also where the model as it is keeps fewer; chances do not count then."""
    requirements = [about("min_gain", 0.05), about("min_accuracy", 0.64), about("max_drop", 0.0, None)]
    after = [moved(BEFORE_0, *change) for change in [(0, 1), (50, 0), (45, 0), (40, 10)]]
    found = frontier(requirements, LABELS_0, BEFORE_0, [*after, BEFORE_0], (1.0, 0.8, 0.6, 0.4, 0.0), new_rows=10)
    assert [point.met for point in found.points] == [0, 3, 2, 1, 1]
    assert (found.chosen, found.promised) == (1, False)


def test_a_wanted_step_is_taken_as_it_is():
    steps = (0.5, 1.0, 0.0)
    good, bad = moved(BEFORE_0, 300, 0), moved(BEFORE_0, 0, 300)
    for first, second, promised in ((good, bad, True), (bad, good, False)):
        found = frontier(
            [about("max_drop", 0.0)], LABELS_0, BEFORE_0, [first, second, BEFORE_0], steps, fixed_step=True
        )
        assert (found.chosen, found.point.step, found.promised) == (0, 0.5, promised)
    none = frontier([about("max_drop", 0.0)], LABELS_0, BEFORE_0, [BEFORE_0, good], (0.0, 1.0), fixed_step=True)
    assert (none.chosen, none.promised) == (0, False)  # no change is no repair


def test_requirements_share_the_confidence():
    """Two that reach it by themselves may not together."""
    both = [about("max_drop", 0.0), about("min_accuracy", 0.57)]
    after = [moved(BEFORE_0, 60, 25), BEFORE_0]
    *alone, together = (
        frontier(some, LABELS_0, BEFORE_0, after, confidence=0.9, new_rows=150) for some in (both[:1], both[1:], both)
    )
    assert [found.promised for found in alone] == [True, True]
    assert together.points[0].chance == pytest.approx(alone[0].points[0].chance * alone[1].points[0].chance)
    assert not together.promised
    assert together.confidence == 0.9


def test_labels_without_rows_are_left_out():
    """As `label = "*"` may name them; they take no part of the confidence either."""
    wildcards = [about("max_drop", 0.045, (label,), wildcard=True) for label in range(CLASSES)]
    after = [moved(BEFORE_0, 30, 25), BEFORE_0]
    found = frontier(wildcards, LABELS_0, BEFORE_0, after)
    assert [promise.requirement for promise in found.points[0].promises] == wildcards[:1]
    assert 0.95 < found.points[0].chance < 0.95 ** (1 / CLASSES)
    assert (found.promised, found.point.enough) == (True, 1000)


def test_shares_and_changes_lie_where_they_can():
    truth = np.zeros(20, int)
    requirements = [about("max_drop", 0.1), about("min_gain", 0.1), about("min_accuracy", 0.1), about("max_rate", 0.1)]
    for before, after in ((0 * truth, 0 * truth + 1), (0 * truth + 1, 0 * truth)):
        drop, gain, accuracy, rate = frontier(requirements, truth, before, [after, before]).points[0].promises
        lost = 1 if before[0] == 0 else -1
        assert (drop.value, gain.value, accuracy.value, rate.value) == (lost, -lost, before[0], after[0])
        for promise in (drop, gain, accuracy, rate):
            least = -1 if promise.requirement.relative else 0
            assert least <= promise.low < promise.high <= 1
            assert promise.value in (promise.low, promise.high)


def test_without_requirements_everything_is_kept():
    found = frontier([], LABELS_0, BEFORE_0, [BEFORE_0, BEFORE_0])
    assert (found.chosen, found.promised, found.point.chance, found.point.enough) == (0, True, 1.0, 0)


counts = st.tuples(st.integers(5, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
kinds = st.sampled_from(["min_accuracy", "max_drop", "min_gain", "max_rate"])
limits = st.sampled_from([0.0, 0.03, 0.2, 0.7])


def counted(rows: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows right before and after, only after, only before, and at neither time."""
    before = np.repeat([0, 1, 0, 1], rows)
    return np.zeros(sum(rows), int), before, np.repeat([0, 0, 1, 1], rows)


@given(counts, kinds, limits, st.sampled_from([None, (0,)]), st.sampled_from([0.6, 0.95]), st.sampled_from([30, 1000]))
def test_enough_rows_are_just_enough(rows, kind, limit, labels, confidence, new_rows):
    labels = (0,) if kind == "max_rate" else labels
    truth, before, after = counted(rows)
    requirement = about(kind, limit, labels)
    (promise,) = (
        frontier([requirement], truth, before, [after, before], confidence=confidence, new_rows=new_rows)
        .points[0]
        .promises
    )
    names = CLASSES if labels is None else 1
    signed = promise.value if requirement.at_least else -promise.value
    margin = signed - (limit if requirement.at_least else -limit)
    share = ((before == 0) != (after == 0)).mean() if requirement.relative else promise.value * (1 - promise.value)

    def chance(of_each: float) -> float:
        variance = share + 1 / (of_each * names)
        return float(norm.cdf(margin / math.sqrt(variance / (of_each * names) + variance / (new_rows * names))))

    assert promise.chance == pytest.approx(chance(len(truth) / names))
    if promise.chance >= confidence:
        assert promise.enough == math.ceil(len(truth) / names)
    elif promise.enough is None:
        assert chance(1e15) <= confidence + 1e-9
    else:
        assert chance(promise.enough) >= confidence - 1e-9
        assert promise.enough == 1 or chance(promise.enough - 1) < confidence + 1e-9
        assert promise.enough * names > len(truth)


def test_rows_that_were_enough_make_the_promise():
    """Every row so many times, as if more of the same had come."""
    requirements = [about("max_drop", 0.01), about("min_accuracy", 0.6, None)]
    truth, before, after = counted((300, 60, 50, 90))
    found = frontier(requirements, truth, before, [after, before], new_rows=1000)
    assert not found.promised
    assert found.point.enough is not None
    assert found.point.enough == max(promise.enough or 0 for promise in found.point.promises)
    assert found.easiest is found.point
    times = math.ceil(found.point.enough * CLASSES / len(truth))
    assert times > 1
    again = frontier(
        requirements, np.tile(truth, times), np.tile(before, times), np.tile([after, before], times), new_rows=1000
    )
    assert again.promised
    # Against fewer new rows than that no number of rows at hand helps.
    assert frontier(requirements, truth, before, [after, before], new_rows=10).easiest is None


def test_steps_go_down_to_the_model_as_it_is():
    assert (len(STEPS), STEPS[0], STEPS[1], STEPS[-1]) == (21, 1.0, 0.95, 0.0)
    np.testing.assert_allclose(np.diff(STEPS), -0.05)


def test_a_compromise_does_more_good_than_harm():
    """Where the model as it is keeps as many requirements, a step that only breaks rows is not worth it."""
    requirements = [about("max_drop", 0.2), about("min_gain", 0.5)]
    broke = moved(BEFORE_0, 0, 5)
    steps = (1.0, 0.5, 0.0)
    left = frontier(requirements, LABELS_0, BEFORE_0, [broke, broke, BEFORE_0], steps)
    assert (left.promised, left.point.step) == (False, 0.0)
    mended = frontier(requirements, LABELS_0, BEFORE_0, [broke, moved(BEFORE_0, 6, 5), BEFORE_0], steps)
    assert (mended.promised, mended.chosen) == (False, 1)
    as_many = frontier(requirements, LABELS_0, BEFORE_0, [moved(BEFORE_0, 5, 5), broke, BEFORE_0], steps)
    assert (as_many.promised, as_many.point.step) == (False, 0.0)


ROW_LABELS, ROW_BEFORE, ROW_AFTER = np.array([[0, 0, 0, 0, 1, 2], [0, 0, 1, 1, 1, 0], [0, 1, 0, 2, 2, 2]])


@pytest.mark.parametrize(
    ("kind", "labels", "values", "least"),
    [
        ("min_accuracy", (0,), [1, 0, 1, 0], 0.25),
        ("max_drop", (0,), [0, -1, 1, 0], -0.25),
        ("min_gain", (0,), [0, -1, 1, 0], 0.25),
        ("max_rate", (0,), [0, -1, 0, 0], -0.25),
        ("min_accuracy", (0, 2), [1, 0, 1, 0, 1], 0.25),
        ("max_drop", None, [0, -1, 1, 0, -1, 1], -0.25),
        ("min_gain", (3,), [], 0.25),
    ],
)
def test_by_hand(kind: Kind, labels: tuple[int, ...] | None, values: list[int], least: float) -> None:
    requirement = about(kind, 0.25, labels)
    mask, one = row_values(requirement, ROW_LABELS, ROW_BEFORE, ROW_AFTER)
    assert mask.tolist() == [labels is None or label in labels for label in ROW_LABELS]
    assert (one.dtype, one.tolist()) == (np.float64, values)
    again, many = row_values(requirement, ROW_LABELS, ROW_BEFORE, np.stack([ROW_BEFORE, ROW_AFTER, ROW_AFTER]))
    np.testing.assert_array_equal(again, mask)
    assert (many.dtype, many.shape) == (np.float64, (3, len(values)))
    assert many[1].tolist() == many[2].tolist() == values
    assert not np.signbit(np.concatenate([one, many[0]])[np.concatenate([one, many[0]]) == 0]).any()
    assert threshold(requirement) == least


def test_a_limit_of_none_is_a_threshold_of_zero() -> None:
    assert [str(threshold(about(kind, 0.0))) for kind in ("max_drop", "max_rate", "min_gain")] == ["0.0"] * 3


# What a limit may be, of a share that was measured: on both sides of it too, by one double.
limits_of: list[Callable[[float], float]] = [
    lambda _: 0.0,
    lambda _: 0.03,
    abs,
    lambda share: min(1.0, float(np.nextafter(abs(share), 2))),
    lambda share: max(0.0, float(np.nextafter(abs(share), -1))),
]
drawn_rows = st.lists(st.tuples(st.integers(1, 30), *[st.integers(0, 2)] * 4), min_size=1, max_size=8)


@given(drawn_rows, kinds, st.sampled_from([None, (0,), (0, 1), (2,)]), st.sampled_from(limits_of))
def test_rows_at_hand_keep_what_the_verdict_says(drawn, kind, labels, limit_from):
    """Also where the limit is the share itself, and one double beside it."""
    table = np.array([row[1:] for row in drawn for _ in range(row[0])] + [(0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2)])
    truth, before, *after = table.T
    labels = (0,) if kind == "max_rate" else labels
    _, values = row_values(about(kind, 0.0, labels), truth, before, np.stack(after))
    requirement = about(kind, limit_from(values[0].mean()), labels)
    found = frontier([requirement], truth, before, after, (1.0, 0.5))
    for point, mean, compared in zip(
        found.points, values.mean(axis=-1), compare_many(truth, before, np.stack(after), CLASSES), strict=True
    ):
        (verdict,) = check_requirements([requirement], compared)
        (promise,) = point.promises
        assert verdict.met == promise.met == (mean >= threshold(requirement))
        assert abs(verdict.value) == abs(mean) and promise.value == verdict.value
        assert promise.low <= promise.value <= promise.high
