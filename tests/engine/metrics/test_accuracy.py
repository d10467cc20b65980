"""Counts per label, results.json, and intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.metrics.accuracy import (
    LabelChange,
    LabelResult,
    Results,
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


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1))
def test_changes_balance(table: list[tuple[int, int, int]]) -> None:
    labels, before, after = np.array(table).T
    for change in paired_changes(labels, before, after, 4):
        assert change.correct_after - change.correct_before == change.fixed - change.broken
        assert change.broken <= change.correct_before <= change.total
