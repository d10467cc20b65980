"""Verdicts by hand and against exact arithmetic, and the order of candidates that follows from them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics.accuracy import Comparison, compare, drop_interval, wilson_interval
from engine.metrics.requirements import Kind, Requirement, Verdict, check_requirements, rank


def comparison(rows: list[tuple[int, int, int, int]], classes: int = 4) -> Comparison:
    """From (how many rows, true label, predicted before, predicted after)."""
    table = np.array([row[1:] for row in rows for _ in range(row[0])])
    return compare(*table.T, classes)


# Of label 3: 6 right before, 8 after (3 fixed, 1 broken), 10 rows; of label 0: 9 right before, 7 after, 10 rows.
CASE = comparison([(5, 3, 3, 3), (1, 3, 3, 0), (3, 3, 0, 3), (1, 3, 0, 1), (7, 0, 0, 0), (2, 0, 0, 3), (1, 0, 1, 3)])


def of(kind: Kind, limit: float, labels: tuple[int, ...] | None, predicted: int | None = None) -> Verdict:
    (verdict,) = check_requirements([Requirement(kind, limit, labels, predicted, "text")], CASE)
    return verdict


def test_accuracy_by_hand() -> None:
    verdict = of("min_accuracy", 0.75, (3,))
    assert (verdict.base, verdict.value, verdict.margin, verdict.met) == (0.6, 0.8, 0.05, True)
    assert (verdict.count_before, verdict.count_after, verdict.total) == (6, 8, 10)
    # Wilson, 8 of 10: (0.8 + z²/20 ± z·sqrt(0.016 + z²/400)) / (1 + z²/10), z² = 3.841459
    assert (verdict.low, verdict.high) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert not of("min_accuracy", 0.81, (3,)).met
    overall = of("min_accuracy", 0.8, None)
    assert (overall.base, overall.value, overall.margin, overall.met, overall.total) == (0.75, 0.75, -0.05, False, 20)
    assert of("min_accuracy", 0.8, (0, 3)) == Verdict(
        **{**vars(overall), "requirement": Requirement("min_accuracy", 0.8, (0, 3), None, "text")}
    )


def test_drop_by_hand() -> None:
    verdict = of("max_drop", 0.1, (0,))
    assert (verdict.base, verdict.value, verdict.margin, verdict.met) == (0.9, 0.2, -0.1, False)
    assert (verdict.count_before, verdict.count_after, verdict.total) == (9, 7, 10)
    # 2 broken, none fixed, of 10: p = 3/12, q = 1/12, 1/6 ± z·sqrt((1/3 − 1/36)/12) = 1/6 ± 0.312754
    assert (verdict.low, verdict.high) == pytest.approx((-0.146087, 0.479420), abs=1e-6)
    gain = of("max_drop", 0.1, (3,))
    assert (gain.value, gain.margin, gain.met) == (-0.2, 0.3, True)
    assert (gain.low, gain.high) == drop_interval(1, 3, 10)
    overall = of("max_drop", 0.0, None)
    assert (overall.value, overall.margin, overall.met, overall.total) == (0.0, 0.0, True, 20)
    assert (overall.low, overall.high) == drop_interval(3, 3, 20) == (of("max_drop", 0.0, (0, 3)).low, overall.high)


def test_gain_by_hand() -> None:
    verdict = of("min_gain", 0.15, (3,))
    assert (verdict.base, verdict.value, verdict.margin, verdict.met) == (0.6, 0.2, 0.05, True)
    assert (verdict.count_before, verdict.count_after, verdict.total) == (6, 8, 10)
    # 3 fixed, 1 broken, of 10: q = 4/12, p = 2/12, 1/6 ± z·sqrt((1/2 − 1/36)/12) = 1/6 ± 0.388804
    assert (verdict.low, verdict.high) == pytest.approx((-0.222137, 0.555471), abs=1e-6)
    loss = of("min_gain", 0.0, (0,))
    assert (loss.value, loss.margin, loss.met) == (-0.2, -0.2, False)
    as_drop = of("max_drop", 0.0, (0,))
    assert (loss.low, loss.high) == (-as_drop.high, -as_drop.low)
    overall = of("min_gain", 0.0, None)
    assert (overall.value, overall.margin, overall.met, overall.total) == (0.0, 0.0, True, 20)


def test_rate_by_hand() -> None:
    verdict = of("max_rate", 0.15, (3,), 0)  # 4 of 10 before, 1 after
    assert (verdict.base, verdict.value, verdict.margin, verdict.met) == (0.4, 0.1, 0.05, True)
    assert (verdict.count_before, verdict.count_after, verdict.total) == (4, 1, 10)
    assert (verdict.low, verdict.high) == wilson_interval(1, 10)
    other_way = of("max_rate", 0.15, (0,), 3)
    assert (other_way.base, other_way.value, other_way.margin, other_way.met) == (0.0, 0.3, -0.15, False)


@pytest.mark.parametrize(
    ("kind", "limit", "rows"),
    [
        ("min_accuracy", 0.9, [(9, 1, 1, 1), (1, 1, 0, 0)]),
        ("min_accuracy", 0.07, [(7, 1, 1, 1), (93, 1, 0, 0)]),
        ("min_accuracy", 0.57, [(57, 1, 1, 1), (43, 1, 0, 0)]),
        ("max_drop", 0.03, [(870, 1, 1, 1), (30, 1, 1, 0), (100, 1, 0, 0)]),
        ("max_drop", 0.01, [(9, 1, 1, 0), (891, 1, 1, 1)]),
        ("min_gain", 0.06, [(7, 1, 0, 1), (1, 1, 1, 0), (92, 1, 1, 1)]),
        ("max_rate", 0.29, [(29, 1, 1, 0), (71, 1, 1, 1)]),
    ],
)
def test_a_value_equal_to_the_limit_meets_it(kind: Kind, limit: float, rows: list[tuple[int, int, int, int]]) -> None:
    predicted = 0 if kind == "max_rate" else None
    (verdict,) = check_requirements([Requirement(kind, limit, (1,), predicted, "text")], comparison(rows))
    assert verdict.met
    assert str(verdict.margin) == "0.0"
    # One row less, and it is not.
    worse = [*rows, (1, 1, 1, 0)]
    (verdict,) = check_requirements([Requirement(kind, limit, (1,), predicted, "text")], comparison(worse))
    assert not verdict.met
    assert verdict.margin < 0


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_a_measured_share_as_the_limit_is_met(counts: tuple[int, int]) -> None:
    total, part = counts
    wrong = comparison([(part, 1, 1, 0), (total - part, 1, 1, 1)])
    right = comparison([(part, 1, 0, 1), (total - part, 1, 0, 0)])
    limit = part / total
    for kind, predicted, case in (
        ("max_drop", None, wrong),
        ("max_rate", 0, wrong),
        ("min_accuracy", None, right),
        ("min_gain", None, right),
    ):
        (verdict,) = check_requirements([Requirement(kind, limit, (1,), predicted, "text")], case)
        assert (verdict.met, str(verdict.margin)) == (True, "0.0")


counts = st.integers(0, 40)


@given(
    st.lists(st.tuples(counts, *[st.integers(0, 2)] * 3), min_size=1),
    st.sampled_from(["min_accuracy", "max_drop", "min_gain", "max_rate"]),
    st.integers(0, 1000).map(lambda thousandths: thousandths / 1000) | st.floats(0, 1),
    st.sampled_from([None, (0,), (0, 1), (2,)]),
)
def test_margin_is_of_exact_arithmetic(
    rows: list[tuple[int, int, int, int]], kind: Kind, limit: float, labels: tuple[int, ...] | None
) -> None:
    case = comparison([*rows, (1, 0, 0, 0), (1, 1, 1, 1), (1, 2, 2, 2)], 3)
    labels, predicted = ((0,), 1) if kind == "max_rate" else (labels, None)
    (verdict,) = check_requirements([Requirement(kind, limit, labels, predicted, "text")], case)
    numbers = list(range(3) if labels is None else labels)
    total = sum(int(case.totals[label]) for label in numbers)
    columns = [predicted if predicted is not None else label for label in numbers]
    before, after = (
        sum(int(confusion[label, column]) for label, column in zip(numbers, columns, strict=True))
        for confusion in (case.before, case.after)
    )
    value = Fraction({"max_drop": before - after, "min_gain": after - before}.get(kind, after), total)
    decimal = Fraction(repr(limit))
    better = value > decimal if kind.startswith("min") else value < decimal
    assert verdict.met == (better or float(value) == limit)
    assert verdict.met == (verdict.margin >= 0)
    assert abs(verdict.margin) == pytest.approx(abs(float(value) - limit), abs=1e-12)
    assert (verdict.value, verdict.base, verdict.total) == (float(value), before / total, total)
    assert (verdict.count_before, verdict.count_after) == (before, after)
    assert verdict.low <= verdict.value <= verdict.high


def test_rank() -> None:
    """Most requirements met, then the worst margin, then the fewest broken."""
    drop = Requirement("max_drop", 0.2, (0,), None, "text")
    found = [Requirement("min_accuracy", 0.5, (3,), None, "text"), drop]
    base = [(4, 3, 3), (6, 3, 0), (10, 0, 0)]  # label 3 at 40 %, label 0 at 100 %

    def ranked(shirts: int, lost: int, broken: int = 0) -> tuple[int, float, int]:
        """`shirts` of label 3 right afterwards, of which none of the first `broken`, and `lost` of label 0."""
        rows = [(true, old) for count, true, old in base for _ in range(count)]
        after = [3 if broken <= row < shirts + broken else 0 for row in range(10)]
        after += [3 if row < lost else 0 for row in range(10)]
        case = compare(np.array([true for true, _ in rows]), np.array([old for _, old in rows]), np.array(after), 4)
        return rank(check_requirements(found, case), case)

    assert ranked(6, 1) == (2, 0.1, -1)
    assert ranked(6, 1, broken=2) == (2, 0.1, -3)
    found = [Requirement("min_gain", 0.1, (3,), None, "text"), drop]
    assert ranked(6, 1) == (2, 0.1, -1)  # a gain of 0.1 over 40 % is an accuracy of 50 %
    assert ranked(4, 0) == (1, -0.1, 0)
    assert ranked(9, 4) == (1, -0.2, -4)
    better = [ranked(8, 0), ranked(7, 0), ranked(6, 0), ranked(6, 1), ranked(6, 1, broken=2), ranked(5, 0)]
    better += [ranked(4, 0), ranked(9, 4), ranked(0, 0, broken=4), ranked(4, 4)]
    assert better == sorted(better, reverse=True)
    assert len(set(better)) == len(better) - 1  # 7 and 8 right: the drop is the worst margin of both
    assert type(ranked(6, 1)[2]) is int
