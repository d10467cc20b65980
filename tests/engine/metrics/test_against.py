"""Methods held against one of them: what draws and labels count, and how many comparisons Holm's procedure has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from engine.core.types import Int64
from engine.metrics import against
from engine.metrics.against import Judged, Part, difference, verdict
from engine.metrics.resampled import LEVEL, holm, paired_difference

TRUTH: Int64 = np.array([4] * 2 + [6] * 6 + [0] * 4)


def judged(right: Sequence[int], labels: Sequence[int] = (4,), truth: Int64 = TRUTH) -> Judged:
    """A repair with these rows right and all others wrong, of a model that has all wrong."""
    hits = np.isin(np.arange(len(truth)), right)
    values = {"gain": float(hits[np.isin(truth, labels)].mean()), "all": float(hits.mean())}
    return Judged(values, np.where(hits, truth, 9))


def test_labels_count_alike_and_rows_of_each_weigh_so() -> None:
    """Of two rows of label 4 one is right, of six of label 6 three: parts of a half each, all of the same test rows."""
    none = {draw: judged([]) for draw in range(3)}
    parts = [
        Part((4,), TRUTH, {draw: judged([0, *([8] * (draw == 1))], (4,)) for draw in range(3)}, none),
        Part((6,), TRUTH, {draw: judged([2, 3, 4], (6,)) for draw in range(3)}, none),
    ]
    found = difference(parts, "gain", 0.2)
    assert found.mean == pytest.approx((1 / 2 + 3 / 6) / 2)
    rows = np.array([1, 0, 1, 1, 1, 0, 0, 0]) * np.array([8 / (2 * 2)] * 2 + [8 / (2 * 6)] * 6)
    assert rows.mean() == pytest.approx(0.5)
    assert found == paired_difference(np.full(3, 0.5), 0.2, rows)
    overall = difference(parts, "all", 0.2)
    assert overall.mean == pytest.approx((4 + 5 + 4) / 12 / 2 / 3)
    assert overall.low is not None


def test_draws_are_those_that_all_parts_have() -> None:
    mine = {draw: judged([0]) for draw in (0, 1, 2)}
    theirs = {draw: judged([]) for draw in (1, 2, 3)}
    unknown = {**theirs, 2: Judged({"gain": None, "all": 0.0}, None)}
    assert difference([Part((4,), TRUTH, mine, theirs)], "gain", 0.2).draws == 2
    assert difference([Part((4,), TRUTH, mine, theirs), Part((4,), TRUTH, mine, unknown)], "gain", 0.2).draws == 1
    assert difference([Part((4,), TRUTH, mine, {})], "gain", 0.2).why == "no draw has both"
    assert difference([], "gain", 0.2).why == "no draw has both"


def test_without_classes_of_test_rows_nothing_is_sure() -> None:
    bare = {draw: Judged({"gain": 0.1 * draw, "all": 0.0}, None) for draw in range(3)}
    full = {draw: judged([]) for draw in range(3)}
    for truth, theirs in ((TRUTH, bare), (TRUTH, full), (None, full)):
        for measure in against.MEASURES:  # the one differs in some draws or in none, and the other in none
            found = difference([Part((4,), truth, bare, theirs)], measure, 0.2)
            assert (found.p, found.low, found.why) == (None, None, "classes of test rows are missing")


def test_methods_that_are_the_reference_count_as_comparisons() -> None:
    """Of eleven methods five come to what the reference does: p = 1 of these, and m = 11 for the others."""
    random = np.random.default_rng(5)
    truth = np.array([4] * 500 + [0] * 500)
    theirs = {draw: judged(random.permutation(500)[:200].tolist(), truth=truth) for draw in range(5)}

    def better(rows: int) -> dict[int, Judged]:
        found = {}
        for draw, one in theirs.items():
            assert one.after is not None
            more = np.flatnonzero(one.after[:500] == 9)[: rows + draw % 2]
            found[draw] = judged([*np.flatnonzero(one.after == truth).tolist(), *more.tolist()], truth=truth)
        return found

    methods = [theirs] * 5 + [better(rows) for rows in (3, 4, 5, 6, 14, 40)]
    told = [difference([Part((4,), truth, mine, theirs)], "gain", 0.1) for mine in methods]
    assert [each.p for each in told[:5]] == [1.0] * 5
    chances = [each.p for each in told if each.p is not None]
    assert len(chances) == 11
    adjusted, fewer = holm(chances), holm(chances[5:])
    assert min(chances) == chances[-1]
    assert adjusted[-1] == pytest.approx(11 * chances[-1])
    assert verdict(told[-1], adjusted[-1]) == against.BETTER
    assert [verdict(one, chance) for one, chance in zip(told[:5], adjusted, strict=False)] == [against.UNSURE] * 5
    # With six comparisons, as if the five were none, more would be told apart.
    apart = [sum(chance is not None and chance < LEVEL for chance in each) for each in (adjusted, fewer)]
    assert apart[0] < apart[1]


def test_verdicts() -> None:
    assert verdict(-0.1, 0.01) == "worse"
    assert verdict(0.1, 0.01) == "better"
    assert verdict(0.1, LEVEL) == verdict(0.1, None) == verdict(None, 0.01) == "not told apart"
