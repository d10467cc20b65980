"""Requirements: what a file says, what is refused, and verdicts by hand."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.metrics.accuracy import wilson_interval
from engine.metrics.comparison import Comparison, compare, drop_interval
from engine.metrics.requirements import (
    Kind,
    Requirement,
    Verdict,
    check_requirements,
    check_rows,
    default_goals,
    rank,
    read_requirements,
)

NAMES = ("T-shirt/top", "Trouser", "Pullover", "Shirt")


@pytest.fixture
def read(tmp_path: Path):
    """Reads these lines as a file of requirements on four classes."""

    def call(text: str | bytes, names: tuple[str, ...] | None = NAMES) -> tuple[Requirement, ...]:
        path = tmp_path / "goals.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_requirements(path, 4, names)

    return call


def comparison(rows: list[tuple[int, int, int, int]], classes: int = 4) -> Comparison:
    """From (how many rows, true label, predicted before, predicted after)."""
    table = np.array([row[1:] for row in rows for _ in range(row[0])])
    return compare(*table.T, classes)


def test_every_form(read) -> None:
    assert read(
        """
        [[require]]            # accuracy of a label
        label = "Shirt"
        min_accuracy = 0.75
        [[require]]
        max_drop = 0.01
        min_accuracy = 1
        [[require]]
        true = "Shirt"
        predicted = 0
        max_rate = 0.07
        [[require]]
        label = 1
        max_drop = 0.025
        """
    ) == (
        Requirement("min_accuracy", 0.75, (3,), None, "accuracy of 3 Shirt at least 75 %"),
        Requirement("min_accuracy", 1.0, None, None, "accuracy of all labels together at least 100 %"),
        Requirement("max_drop", 0.01, None, None, "drop of all labels together at most 1 point"),
        Requirement("max_rate", 0.07, (3,), 0, "3 Shirt taken for 0 T-shirt/top in at most 7 % of its rows"),
        Requirement("max_drop", 0.025, (1,), None, "drop of 1 Trouser at most 2.5 points"),
    )


def test_data_without_names(read) -> None:
    text = '[[require]]\nlabel = 3\nmin_accuracy = 0.99999\n[[require]]\ntrue = "1"\npredicted = 0\nmax_rate = 0'
    assert read(text, None) == (
        Requirement("min_accuracy", 0.99999, (3,), None, "accuracy of label 3 at least 99.999 %"),
        Requirement("max_rate", 0.0, (1,), 0, "label 1 taken for label 0 in at most 0 % of its rows"),
    )


@pytest.mark.parametrize(
    ("names", "label", "index"),
    [
        (NAMES, '"Shirt"', 3),
        (NAMES, "3", 3),
        (NAMES, '"3"', 3),
        (None, '"3"', 3),
        (("a", "3", "c", "1"), '"3"', 1),  # a name goes before an index
        (("a", "3", "c", "1"), "3", 3),
        (("a", "3", "c", "1"), '"2"', 2),
        (("*", "b", "c", "d"), '"0"', 0),
        (("twice", "twice", "c", "d"), '"c"', 2),
    ],
)
def test_names_and_indices(read, names: tuple[str, ...] | None, label: str, index: int) -> None:
    (one,) = read(f"[[require]]\nlabel = {label}\nmax_drop = 0.1", names)
    assert one.labels == (index,)
    other = 0 if index else 1
    as_true, as_predicted = read(
        f"[[require]]\ntrue = {label}\npredicted = {other}\nmax_rate = 0.1\n"
        f"[[require]]\ntrue = {other}\npredicted = {label}\nmax_rate = 0.1",
        names,
    )
    assert (as_true.labels, as_true.predicted) == ((index,), other)
    assert (as_predicted.labels, as_predicted.predicted) == ((other,), index)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_each_label_but_the_exceptions(read, order: tuple[int, int]) -> None:
    tables = [
        '[[require]]\nlabel = "*"\nmax_drop = 0.03\nmin_accuracy = 0.5\n',
        '[[require]]\nlabel = "Trouser"\nmax_drop = 0.2\n',
    ]
    found = read("".join(tables[place] for place in order))
    wildcards = [(one.kind, one.labels, one.limit) for one in found if one.wildcard]
    assert wildcards == [
        *[("min_accuracy", (label,), 0.5) for label in range(4)],
        *[("max_drop", (label,), 0.03) for label in (0, 2, 3)],
    ]
    named = Requirement("max_drop", 0.2, (1,), None, "drop of 1 Trouser at most 20 points")
    assert [one for one in found if not one.wildcard] == [named]
    assert found[-1 if order == (0, 1) else 0] == named  # in the order of the file
    assert "drop of 0 T-shirt/top at most 3 points" in [one.text for one in found]


SHIRT = '[[require]]\nlabel = "Shirt"\n'
PAIR = '[[require]]\ntrue = "Shirt"\n'
REFUSED = {
    "not TOML": ("[[require]\n", "is not TOML (", "expected [[require]] tables"),
    "not text": (b"\xff\xfe", "is not TOML (", "expected [[require]] tables"),
    "nested without end": ("a = " + "[" * 10_000, "is not TOML ("),
    "empty": ("", "has no [[require]] table, expected at least one"),
    "no tables": ("require = []", "has no [[require]] table, expected at least one"),
    "one table": ("[require]\nmax_drop = 0.1", "has require as something else than tables, expected [[require]]"),
    "numbers": ("require = [1]", "has require as something else than tables"),
    "top level": ("max_drop = 0.1\n" + SHIRT + "max_drop = 0.1", "has the unknown key 'max_drop', expected only"),
    "misspelt tables": ("[[requires]]\nmax_drop = 0.1", "has the unknown key 'requires', expected only [[require]]"),
    "misspelt key": (
        SHIRT + "max_drop = 0.1\n" + SHIRT + "min_acuracy = 0.1",
        "[[require]] 2 has the unknown key 'min_acuracy', expected label, min_accuracy, max_drop, true, predicted",
    ),
    "unknown name": (
        '[[require]]\nlabel = "shirt"\nmax_drop = 0.1',
        "[[require]] 1 has label = 'shirt' (did you mean 'Shirt'?), expected one of T-shirt/top, Trouser,",
    ),
    "index too large": ("[[require]]\nlabel = 4\nmax_drop = 0.1", "has label = 4, expected one of", "from 0 to 3"),
    "negative index": ("[[require]]\nlabel = -1\nmax_drop = 0.1", "has label = -1, expected one of"),
    "index in words": ('[[require]]\nlabel = "+3"\nmax_drop = 0.1', "has label = '+3', expected one of"),
    "true for a label": ("[[require]]\nlabel = true\nmax_drop = 0.1", "has label = True, expected one of"),
    "fraction for a label": ("[[require]]\nlabel = 1.0\nmax_drop = 0.1", "has label = 1.0, expected one of"),
    "labels": ("[[require]]\nlabel = [1, 2]\nmax_drop = 0.1", "has label = [1, 2], expected one of"),
    "each of a pair": ('[[require]]\ntrue = "*"\npredicted = 0\nmax_rate = 0', "has true = '*', expected one of"),
    "unknown predicted": (PAIR + "predicted = 9\nmax_rate = 0", "[[require]] 1 has predicted = 9, expected one of"),
    "above one": (SHIRT + "min_accuracy = 75", "[[require]] 1 has min_accuracy = 75, expected a number from 0 to 1"),
    "below zero": (SHIRT + "max_drop = -0.1", "has max_drop = -0.1, expected a number"),
    "huge": (SHIRT + "max_drop = 1" + "0" * 400, "has max_drop = 1000", "expected a number"),
    "not a number": (SHIRT + "max_drop = nan", "has max_drop = nan, expected a number"),
    "infinite": (PAIR + "predicted = 0\nmax_rate = inf", "has max_rate = inf, expected a number"),
    "text": (SHIRT + 'max_drop = "0.1"', "has max_drop = '0.1', expected a number"),
    "truth": (SHIRT + "min_accuracy = true", "has min_accuracy = True, expected a number"),
    "no limit": (SHIRT, "[[require]] 1 states no limit, expected min_accuracy, max_drop or max_rate"),
    "empty table": ("[[require]]", "[[require]] 1 states no limit"),
    "no predicted": (PAIR + "max_rate = 0", "has true and max_rate without predicted, expected all three"),
    "no rate": (PAIR + "predicted = 0", "has true and predicted without max_rate, expected all three"),
    "only true": (PAIR, "has true without predicted and max_rate, expected all three"),
    "only rate": ("[[require]]\nmax_rate = 0.1", "has max_rate without true and predicted, expected all three"),
    "label and true": (PAIR + "label = 3\npredicted = 0\nmax_rate = 0", "has label beside true, expected either"),
    "accuracy of a pair": (PAIR + "predicted = 0\nmin_accuracy = 0", "has min_accuracy beside true, expected either"),
    "rate of a label": (SHIRT + "max_rate = 0.1", "has label beside max_rate, expected either"),
    "pair of one": (PAIR + "predicted = 3\nmax_rate = 0", "true and predicted both 3 Shirt, expected two labels"),
    "twice": (
        SHIRT + "min_accuracy = 0.75\n[[require]]\nlabel = 3\nmin_accuracy = 0.8",
        "[[require]] 2 states min_accuracy of 3 Shirt as 0.8, [[require]] 1 as 0.75, expected it once",
    ),
    "twice the same": (
        SHIRT + 'max_drop = 0.1\n[[require]]\nlabel = "3"\nmin_accuracy = 1\nmax_drop = 0.1',
        "[[require]] 2 states max_drop of 3 Shirt as 0.1, [[require]] 1 as 0.1",
    ),
    "overall twice": (
        "[[require]]\nmax_drop = 0.1\n" + SHIRT + "max_drop = 0.1\n[[require]]\nmax_drop = 0",
        "[[require]] 3 states max_drop of all labels together as 0, [[require]] 1 as 0.1",
    ),
    "each twice": (
        '[[require]]\nlabel = "*"\nmax_drop = 0.1\n[[require]]\nlabel = "*"\nmax_drop = 0.2',
        '[[require]] 2 states max_drop of each label ("*") as 0.2, [[require]] 1 as 0.1',
    ),
    "pair twice": (
        PAIR + "predicted = 0\nmax_rate = 0.1\n[[require]]\ntrue = 3\npredicted = 'T-shirt/top'\nmax_rate = 0.2",
        "[[require]] 2 states max_rate of 3 Shirt taken for 0 T-shirt/top as 0.2, [[require]] 1 as 0.1",
    ),
}


def refusal(call, *words: object) -> str:
    """The one sentence that it is refused with."""
    with pytest.raises(InputError) as caught:
        call(*words)
    message = str(caught.value)
    assert "expected" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("defect", REFUSED)
def test_refused(read, tmp_path: Path, defect: str) -> None:
    text, *says = REFUSED[defect]
    message = refusal(read, text)
    assert message.startswith(str(tmp_path / "goals.toml"))
    for part in says:
        assert part in message


def test_refused_labels_of_other_data(read, tmp_path: Path) -> None:
    message = refusal(read, SHIRT + "max_drop = 0.1", None)
    assert "has label = 'Shirt', but the data has no label names, expected an index from 0 to 3" in message
    message = refusal(read, '[[require]]\nlabel = "a"\nmax_drop = 0.1', ("a", "b", "a", "c"))
    assert "has label = 'a', the name of 2 labels, expected an index from 0 to 3" in message
    path = tmp_path / "many.toml"
    path.write_text('[[require]]\nlabel = "x"\nmax_drop = 0.1')
    names = tuple(f"name {label}" for label in range(1000))
    assert "expected a label name of the data, or an index from 0 to 999" in refusal(
        read_requirements, path, 1000, names
    )


def test_unreadable_file(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        message = refusal(read_requirements, path, 4, NAMES)
        assert message.startswith(f"{path} cannot be read (")


def test_different_subjects_and_kinds_do_not_contradict(read) -> None:
    text = "".join(
        f"[[require]]\n{subject}{kind} = 0.5\n"
        for subject in ("", "label = 0\n", "label = 1\n", 'label = "*"\n')
        for kind in ("min_accuracy", "max_drop")
    )
    text += "".join(
        f"[[require]]\ntrue = {true}\npredicted = {predicted}\nmax_rate = 0.5\n"
        for true, predicted in ((0, 1), (1, 0), (0, 2))
    )
    assert len(read(text)) == 6 + 2 * 2 + 3


def test_default_goals() -> None:
    assert default_goals([3], NAMES) == (
        Requirement("max_drop", 0.01, None, None, "drop of all labels together at most 1 point"),
        Requirement("min_accuracy", 1.0, (3,), None, "accuracy of 3 Shirt at least 100 %"),
    )
    for labels in ([3, 0, 1], [0, 1, 3, 3]):
        pooled = default_goals(labels, NAMES)[1]
        assert pooled.labels == (0, 1, 3)
        assert pooled.text == "accuracy of 0 T-shirt/top, 1 Trouser and 3 Shirt together at least 100 %"
    assert default_goals([2, 1], None)[1].text == "accuracy of label 1 and label 2 together at least 100 %"


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
    right = comparison([(part, 1, 1, 1), (total - part, 1, 0, 0)])
    limit = part / total
    for kind, predicted, case in (("max_drop", None, wrong), ("max_rate", 0, wrong), ("min_accuracy", None, right)):
        (verdict,) = check_requirements([Requirement(kind, limit, (1,), predicted, "text")], case)
        assert (verdict.met, str(verdict.margin)) == (True, "0.0")


counts = st.integers(0, 40)


@given(
    st.lists(st.tuples(counts, *[st.integers(0, 2)] * 3), min_size=1),
    st.sampled_from(["min_accuracy", "max_drop", "max_rate"]),
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
    value = Fraction(before - after if kind == "max_drop" else after, total)
    decimal = Fraction(repr(limit))
    better = value > decimal if kind == "min_accuracy" else value < decimal
    assert verdict.met == (better or float(value) == limit)
    assert verdict.met == (verdict.margin >= 0)
    assert abs(verdict.margin) == pytest.approx(abs(float(value) - limit), abs=1e-12)
    assert (verdict.value, verdict.base, verdict.total) == (float(value), before / total, total)
    assert (verdict.count_before, verdict.count_after) == (before, after)
    assert verdict.low <= verdict.value <= verdict.high


def test_labels_without_rows(read) -> None:
    source = Path("data/val.h5")
    every = '[[require]]\nlabel = "*"\nmin_accuracy = 0.7\n'
    found = read(every)
    check_rows(found, CASE.totals, source)
    verdicts = check_requirements(found, CASE)
    assert [(one.requirement.labels, one.met) for one in verdicts] == [((0,), True), ((3,), True)]

    none = np.zeros(4, np.int64)
    for text, totals, what in (
        (every, none, "accuracy of 0 T-shirt/top at least 70 %"),
        ("[[require]]\nmax_drop = 0.1", none, "drop of all labels together at most 10 points"),
        (every + "[[require]]\nlabel = 1\nmin_accuracy = 0.5", CASE.totals, "accuracy of 1 Trouser at least 50 %"),
        (
            "[[require]]\ntrue = 2\npredicted = 3\nmax_rate = 0.1",
            CASE.totals,
            "2 Pullover taken for 3 Shirt in at most 10 % of its rows",
        ),
    ):
        message = refusal(check_rows, read(text), totals, source)
        assert message == f'data/val.h5 has no rows to judge "{what}" by, expected at least one'
    with pytest.raises(ValueError, match="no rows to judge 'accuracy of 1 Trouser"):
        check_requirements(read("[[require]]\nlabel = 1\nmin_accuracy = 0.5"), CASE)
    check_rows(default_goals([1, 3], NAMES), CASE.totals, source)  # pooled: one of them has rows


def test_rank(read) -> None:
    """Most requirements met, then the worst margin, then the fewest broken."""
    found = read("[[require]]\nlabel = 3\nmin_accuracy = 0.5\n[[require]]\nlabel = 0\nmax_drop = 0.2")
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
    assert ranked(9, 4) == (1, -0.2, -4)
    better = [ranked(8, 0), ranked(7, 0), ranked(6, 0), ranked(6, 1), ranked(6, 1, broken=2), ranked(5, 0)]
    better += [ranked(4, 0), ranked(9, 4), ranked(0, 0, broken=4), ranked(4, 4)]
    assert better == sorted(better, reverse=True)
    assert len(set(better)) == len(better) - 1  # 7 and 8 right: the drop is the worst margin of both
    assert type(ranked(6, 1)[2]) is int
