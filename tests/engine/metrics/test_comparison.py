"""Counts of two models on the same rows, and the interval of their difference."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics.accuracy import Comparison, compare, compare_many, drop_interval, paired_changes


def test_counts_by_hand() -> None:
    labels = np.array([2, 2, 2, 2, 2, 0, 0])
    before = np.array([2, 0, 1, 2, 0, 0, 2])
    after = np.array([2, 2, 0, 1, 0, 0, 0])
    found = compare(labels, before, after, 4)
    assert found.totals.tolist() == [2, 0, 5, 0]
    assert found.before.tolist() == [[1, 0, 1, 0], [0] * 4, [2, 1, 2, 0], [0] * 4]
    assert found.after.tolist() == [[2, 0, 0, 0], [0] * 4, [2, 1, 2, 0], [0] * 4]
    assert found.fixed.tolist() == [1, 0, 1, 0]
    assert found.broken.tolist() == [0, 0, 1, 0]
    for counts in (found.totals, found.before, found.after, found.fixed, found.broken):
        assert counts.dtype == np.int64


def slow(labels: np.ndarray, before: np.ndarray, after: np.ndarray, classes: int) -> Comparison:
    """Counts one row at a time."""
    totals, fixed, broken = (np.zeros(classes, np.int64) for _ in range(3))
    confusions = np.zeros((2, classes, classes), np.int64)
    for label, old, new in zip(labels, before, after, strict=True):
        totals[label] += 1
        confusions[0, label, old] += 1
        confusions[1, label, new] += 1
        fixed[label] += old != label and new == label
        broken[label] += old == label and new != label
    return Comparison(totals, confusions[0], confusions[1], fixed, broken)


def assert_same(found: Comparison, expected: Comparison) -> None:
    for name in ("totals", "before", "after", "fixed", "broken"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Labels, predictions of a base model and of up to three candidates, and the number of classes."""
    classes = draw(st.integers(1, 5))
    rows, models = draw(st.integers(0, 30)), draw(st.integers(1, 4))
    row = st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)
    table = draw(st.lists(row, min_size=models + 1, max_size=models + 1))
    array = np.array(table, np.int64).reshape(models + 1, rows)
    return array[0], array[1], array[2:], classes


@given(predictions())
def test_every_candidate_is_counted_by_itself(case: tuple[np.ndarray, np.ndarray, np.ndarray, int]) -> None:
    labels, before, after, classes = case
    found = compare_many(labels, before, after, classes)
    assert len(found) == len(after)
    for comparison, predicted in zip(found, after, strict=True):
        assert_same(comparison, slow(labels, before, predicted, classes))
        assert_same(comparison, compare(labels, before, predicted, classes))
        np.testing.assert_array_equal(comparison.before.sum(axis=1), comparison.totals)
        np.testing.assert_array_equal(comparison.after.sum(axis=1), comparison.totals)
        gain = np.diagonal(comparison.after) - np.diagonal(comparison.before)
        np.testing.assert_array_equal(gain, comparison.fixed - comparison.broken)
        for change in paired_changes(labels, before, predicted, classes):
            assert change.fixed == comparison.fixed[change.label]
            assert change.broken == comparison.broken[change.label]


def test_a_thousand_candidates_take_about_a_second() -> None:
    random = np.random.default_rng(0)
    labels, before, after = (random.integers(0, 10, shape) for shape in (5000, 5000, (1000, 5000)))
    start = time.perf_counter()
    found = compare_many(labels, before, after, 10)
    assert time.perf_counter() - start < 5  # 0.02 s on an idle core; counting row by row takes minutes
    assert_same(found[-1], compare(labels, before, after[-1], 10))


def test_drop_interval_by_hand() -> None:
    # 8 broken and 3 fixed of 98: p = 0.09, q = 0.04, 0.05 ± 1.959964·sqrt((0.13 − 0.0025)/100)
    assert drop_interval(8, 3, 98) == pytest.approx((0.05 - 0.0699846, 0.05 + 0.0699846), abs=1e-6)
    # With z = 1 and 1 broken of 1: 1/3 ± sqrt((1 − 1/9)/3)
    assert drop_interval(1, 0, 1, z=1) == pytest.approx((1 / 3 - (8 / 27) ** 0.5, 1 / 3 + (8 / 27) ** 0.5))
    assert drop_interval(1, 0, 1)[1] == 1.0
    assert drop_interval(0, 1, 1)[0] == -1.0
    for broken, fixed, total in ((2, 2, 3), (-1, 0, 3), (0, -1, 3)):
        with pytest.raises(ValueError, match=f"of {total}"):
            drop_interval(broken, fixed, total)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_drop_interval_holds_the_drop_and_mirrors(counts: tuple[int, int, int]) -> None:
    total, one, other = counts
    broken, fixed = min(one, other), total - max(one, other)
    low, high = drop_interval(broken, fixed, total)
    assert -1 <= low <= (broken - fixed) / total <= high <= 1
    assert drop_interval(fixed, broken, total) == pytest.approx((-high, -low))
