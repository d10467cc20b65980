"""A requirement as a bound on the mean over rows: the values by hand, and the same answer as its verdict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics.accuracy import compare_many
from engine.metrics.promise import row_values, threshold
from engine.metrics.requirements import Kind, Requirement, check_requirements

LABELS = np.array([0, 0, 0, 0, 1, 2])
BEFORE = np.array([0, 0, 1, 1, 1, 0])
AFTER = np.array([0, 1, 0, 2, 2, 2])


def about(kind: Kind, limit: float = 0.25, labels: tuple[int, ...] | None = (0,)) -> Requirement:
    return Requirement(kind, limit, labels, 1 if kind == "max_rate" else None, "text")


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
    requirement = about(kind, labels=labels)
    mask, one = row_values(requirement, LABELS, BEFORE, AFTER)
    assert mask.tolist() == [labels is None or label in labels for label in LABELS]
    assert (one.dtype, one.tolist()) == (np.float64, values)
    again, many = row_values(requirement, LABELS, BEFORE, np.stack([BEFORE, AFTER, AFTER]))
    np.testing.assert_array_equal(again, mask)
    assert (many.dtype, many.shape) == (np.float64, (3, len(values)))
    assert many[1].tolist() == many[2].tolist() == values
    assert not np.signbit(np.concatenate([one, many[0]])[np.concatenate([one, many[0]]) == 0]).any()
    assert threshold(requirement) == least


def test_a_limit_of_none_is_a_threshold_of_zero() -> None:
    assert [str(threshold(about(kind, 0.0))) for kind in ("max_drop", "max_rate", "min_gain")] == ["0.0"] * 3


rows = st.lists(st.tuples(st.integers(1, 30), *[st.integers(0, 2)] * 4), min_size=1, max_size=8)
limits: list[Callable[[float], float]] = [
    lambda _: 0.0,
    lambda _: 0.03,
    abs,
    lambda share: min(1.0, float(np.nextafter(abs(share), 2))),
    lambda share: max(0.0, float(np.nextafter(abs(share), -1))),
]


@given(
    rows,
    st.sampled_from(["min_accuracy", "max_drop", "min_gain", "max_rate"]),
    st.sampled_from([None, (0,), (0, 1), (2,)]),
    st.sampled_from(limits),
)
def test_the_mean_says_what_the_verdict_says(
    counted: list[tuple[int, int, int, int, int]],
    kind: Kind,
    labels: tuple[int, ...] | None,
    limit_from: Callable[[float], float],
) -> None:
    """Also where the limit is the share itself, and one double beside it."""
    table = np.array([row[1:] for row in counted for _ in range(row[0])] + [(0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2)])
    truth, before, *after = table.T
    labels = (0,) if kind == "max_rate" else labels
    _, values = row_values(about(kind, 0.0, labels), truth, before, np.stack(after))
    requirement = about(kind, limit_from(values[0].mean()), labels)
    for mean, comparison in zip(values.mean(axis=-1), compare_many(truth, before, np.stack(after), 3), strict=True):
        (verdict,) = check_requirements([requirement], comparison)
        assert verdict.met == (mean >= threshold(requirement))
        assert abs(verdict.value) == abs(mean)
