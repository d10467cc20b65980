"""Intervals of paired differences by hand, their coverage where draws share rows of a pool, and Holm's example."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from engine.metrics.resampled import PairedDifference, holm, paired_difference


def test_by_hand() -> None:
    """1, 2 and 3 points, draws that share a fifth: d = 2, s^2 = 1, e^2 = 1/3 + 0.2/0.8 = 7/12."""
    found = paired_difference(np.array([0.01, 0.02, 0.03]), 0.2, None)
    error = 0.01 * math.sqrt(7 / 12)
    assert (found.draws, found.why) == (3, "")
    assert found.mean == pytest.approx(0.02)
    assert found.error == pytest.approx(error)
    assert (found.low, found.high) == pytest.approx((0.02 - 4.302653 * error, 0.02 + 4.302653 * error), rel=1e-6)
    assert found.p == pytest.approx(2 * student.sf(0.02 / error, 2))
    # With two degrees of freedom P(T > x) = (1 - x / sqrt(2 + x^2)) / 2.
    x = 0.02 / error
    assert found.p == pytest.approx(1 - x / math.sqrt(2 + x * x))


def test_test_rows_are_a_sample_too() -> None:
    """Rows of 1, 0, 0 and -1: v = 2/3, v / 4 = 1/6, beside s^2 / 2 = 1/4 of two draws that share nothing."""
    differences, rows = np.array([0.0, math.sqrt(0.5)]), np.array([1.0, 0.0, 0.0, -1.0])
    alone = paired_difference(differences, 0.0, None)
    both = paired_difference(differences, 0.0, rows)
    assert alone.error == pytest.approx(math.sqrt(1 / 8))
    assert both.error == pytest.approx(math.sqrt(1 / 8 + 1 / 6))
    assert both.mean == alone.mean
    # With one degree of freedom, Cauchy's distribution: the quantile is tan(pi 0.475).
    assert both.high is not None and both.mean is not None and both.error is not None
    assert (both.high - both.mean) / both.error == pytest.approx(math.tan(math.pi * 0.475))


def test_where_there_is_no_interval() -> None:
    some = np.array([0.01, 0.03])
    assert paired_difference(some[:0], 0.2, None) == PairedDifference(None, 0, why="no draw has both")
    assert paired_difference(some[:1], 0.2, None) == PairedDifference(0.01, 1, why="one draw tells nothing of others")
    assert paired_difference(some, 1.0, None).why == "every draw has all rows: only seeds differ"
    assert paired_difference(some, 1.0, None).low is None
    assert paired_difference(some, 0.2, np.zeros(1)).why == "a single test row tells nothing of others"
    for shared in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected 0 to 1"):
            paired_difference(some, shared, None)


def test_the_same_in_every_draw() -> None:
    """Equal up to rounding is equal; the sampling of test rows alone makes an interval."""
    same = np.array([0.3 - 0.2, 0.4 - 0.3, 0.1])
    assert np.ptp(same) > 0
    found = paired_difference(same, 0.2, np.zeros(50))
    assert (found.low, found.p, found.why) == (None, None, "every draw gives the same")
    found = paired_difference(same - 0.1, 0.2, np.zeros(50))
    assert (found.low, found.p, found.why) == (None, 1.0, "every draw gives the same")
    assert paired_difference(np.zeros(1), 0.2, np.zeros(50)).p is None
    assert paired_difference(np.zeros(3), 1.0, np.zeros(50)).p is None
    found = paired_difference(same, 0.2, np.repeat([1.0, 0.0], [10, 90]))
    assert found.error == pytest.approx(math.sqrt(0.09 * 100 / 99 / 100))
    assert found.p == pytest.approx(2 * student.sf(0.1 / found.error, 2))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_interval_covers_what_it_says(share: float) -> None:
    """Pools of 40 rows from a source of mean 0, 5 draws of each: that mean lies within in 95 of 100 cases."""
    random, pools, drawn = np.random.default_rng(3), 2000, round(40 * share)
    covered = naive = 0
    for _ in range(pools):
        pool = random.standard_normal(40)
        means = np.array([pool[random.permutation(40)[:drawn]].mean() for _ in range(5)])
        found = paired_difference(means, share, None)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0 <= found.high
        plain = paired_difference(means, 0.0, None)
        assert plain.low is not None and plain.high is not None
        naive += plain.low <= 0 <= plain.high
    assert covered / pools == pytest.approx(0.95, abs=0.015)  # three standard errors
    # An interval that takes the draws for independent misses it far more often.
    assert naive / pools < (0.95 if share == 0.1 else 0.8)


def test_the_interval_covers_new_test_rows_too() -> None:
    """Each draw adds its own part to what all test rows share: cautious, and not by leaving test rows out."""
    random, cases = np.random.default_rng(4), 1000
    covered = alone = 0
    for _ in range(cases):
        rows = 0.1 + random.standard_normal(100)
        pool = 0.05 * random.standard_normal(20)
        parts = np.array([pool[random.permutation(20)[:5]].mean() for _ in range(6)])
        both = paired_difference(rows.mean() + parts, 0.25, rows + parts.mean())
        draws = paired_difference(rows.mean() + parts, 0.25, None)
        assert both.low is not None and both.high is not None and draws.low is not None and draws.high is not None
        covered += both.low <= 0.1 <= both.high
        alone += draws.low <= 0.1 <= draws.high
    assert covered / cases >= 0.95
    assert alone / cases < 0.8


def test_holm_by_hand() -> None:
    """0.005 times 5, 0.01 times 4, 0.03 times 3; 0.04 times 2 would be less than that."""
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx((0.04, 0.09, None, 0.09, 0.025))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([None, 0.2]) == (None, 0.4)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_helps(chances: list[float]) -> None:
    adjusted = holm(chances)
    for chance, found in zip(chances, adjusted, strict=True):
        assert found is not None
        assert chance <= found <= min(1.0, len(chances) * chance) + 1e-15
    order = np.argsort(chances, kind="stable")
    assert (np.diff(np.array(adjusted, float)[order]) >= 0).all()
