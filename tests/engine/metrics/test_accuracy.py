"""Counts of one model and of two on the same rows, results.json, and intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.metrics.accuracy import (
    Comparison,
    LabelChange,
    LabelResult,
    Results,
    compare,
    compare_many,
    drop_interval,
    label_results,
    paired_changes,
    read_results_json,
    wilson_interval,
    write_results_json,
)

# The tutorial's own numbers.
TUTORIAL = Results(
    tuple(
        LabelResult(label, success, failure)
        for label, success, failure in (
            (6, 1132, 398), (12, 97, 389), (9, 3563, 427), (2, 11140, 471), (8, 2502, 439)
        )
    )
)  # fmt: skip
TUTORIAL_SCORES = {
    "12": 19.958847736625515,
    "2": 95.94350185169236,
    "6": 73.98692810457516,
    "8": 85.07310438626318,
    "9": 89.29824561403508,
}


def test_counts_in_order_of_first_appearance() -> None:
    labels, predicted = np.array([11, 2, 11, 7, 2, 2]), np.array([11, 3, 2, 7, 2, 2])
    results = label_results(labels, predicted, 13)
    assert results.labels == (LabelResult(11, 1, 1), LabelResult(2, 2, 1), LabelResult(7, 1, 0))
    assert (results.success, results.total, results.accuracy) == (4, 6, 4 / 6)


def test_results_json_is_the_tutorials_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "out" / "results.json"
    write_results_json(path, TUTORIAL)
    content = path.read_text()
    assert content.startswith('[\n    [\n        "12",\n        {\n            "success": 97,\n')
    assert content.endswith('            "score": 89.29824561403508\n        }\n    ]\n]')
    assert {label: entry["score"] for label, entry in json.loads(content)} == TUTORIAL_SCORES
    assert [label for label, _ in json.loads(content)] == ["12", "2", "6", "8", "9"]
    again = read_results_json(path)
    assert sorted(again.labels, key=lambda r: r.label) == sorted(TUTORIAL.labels, key=lambda r: r.label)
    assert [result.label for result in again.labels] == [12, 2, 6, 8, 9]
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{}x", '[["a", {"success": 1, "failure": 0}]]', '[["1", {"success": 1}]]', "[[1, 2, 3]]",
     '[["1", {"success": 0, "failure": 0}]]', '[["1", {"success": -1, "failure": 3}]]', "\udcff"],
)  # fmt: skip
def test_bad_results_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"results.json .*expected \[\[label"):
        read_results_json(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_results_json(tmp_path / "missing.json")


def test_wilson_interval_by_its_definition() -> None:
    for limit in wilson_interval(276, 500):  # Wilson's definition: the share lies z deviations from each limit
        assert abs(0.552 - limit) / (limit * (1 - limit) / 500) ** 0.5 == pytest.approx(1.959964, abs=1e-6)
    assert wilson_interval(0, 10) == (0.0, pytest.approx(0.277533, abs=1e-6))
    assert wilson_interval(10, 10) == (pytest.approx(0.722467, abs=1e-6), 1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="11 of 10"):
        wilson_interval(11, 10)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_holds_the_share_and_mirrors(counts: tuple[int, int]) -> None:
    success, total = counts
    low, high = wilson_interval(success, total)
    assert 0 <= low <= success / total <= high <= 1
    mirrored = wilson_interval(total - success, total)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))


def test_paired_changes() -> None:
    labels = np.array([6, 6, 6, 6, 0, 0])
    before = np.array([6, 0, 0, 6, 0, 0])
    after = np.array([6, 6, 0, 2, 6, 0])
    assert paired_changes(labels, before, after, 10) == (
        LabelChange(0, total=2, correct_before=2, correct_after=1, fixed=0, broken=1),
        LabelChange(6, total=4, correct_before=2, correct_after=2, fixed=1, broken=1),
    )


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
