"""Requirements: what a file says, what is refused, and labels without rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.metrics.accuracy import compare
from engine.metrics.requirements import (
    Requirement,
    Requirements,
    check_requirements,
    check_rows,
    default_goals,
    default_promises,
    read_requirements,
)

NAMES = ("T-shirt/top", "Trouser", "Pullover", "Shirt")


@pytest.fixture
def read_file(tmp_path: Path):
    """Reads these lines as a file of requirements on four classes."""

    def call(text: str | bytes, names: tuple[str, ...] | None = NAMES) -> Requirements:
        path = tmp_path / "goals.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_requirements(path, 4, names)

    return call


@pytest.fixture
def read(read_file):
    """The same where no confidence is stated."""

    def call(text: str | bytes, names: tuple[str, ...] | None = NAMES) -> tuple[Requirement, ...]:
        found = read_file(text, names)
        assert found.confidence is None
        return found.limits

    return call


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
        [[require]]
        label = "Shirt"
        min_gain = 0.06
        max_drop = 0
        [[require]]
        min_gain = 0.01
        """
    ) == (
        Requirement("min_accuracy", 0.75, (3,), None, "accuracy of 3 Shirt at least 75 %"),
        Requirement("min_accuracy", 1.0, None, None, "accuracy of all labels together at least 100 %"),
        Requirement("max_drop", 0.01, None, None, "drop of all labels together at most 1 point"),
        Requirement("max_rate", 0.07, (3,), 0, "3 Shirt taken for 0 T-shirt/top in at most 7 % of its rows"),
        Requirement("max_drop", 0.025, (1,), None, "drop of 1 Trouser at most 2.5 points"),
        Requirement("max_drop", 0.0, (3,), None, "drop of 3 Shirt at most 0 points"),
        Requirement("min_gain", 0.06, (3,), None, "gain of 3 Shirt at least 6 points"),
        Requirement("min_gain", 0.01, None, None, "gain of all labels together at least 1 point"),
    )


def test_data_without_names(read) -> None:
    text = '[[require]]\nlabel = 3\nmin_accuracy = 0.99999\n[[require]]\ntrue = "1"\npredicted = 0\nmax_rate = 0'
    assert read(text, None) == (
        Requirement("min_accuracy", 0.99999, (3,), None, "accuracy of label 3 at least 99.999 %"),
        Requirement("max_rate", 0.0, (1,), 0, "label 1 taken for label 0 in at most 0 % of its rows"),
    )


def test_a_byte_order_mark_is_no_part_of_the_text(read) -> None:
    text = '[[require]]\nlabel = "Shirt"\nmin_accuracy = 0.5\n'
    assert read(b"\xef\xbb\xbf" + text.encode()) == read(text)


@pytest.mark.parametrize(
    ("names", "label", "index"),
    [
        (NAMES, '"Shirt"', 3),
        (NAMES, "3", 3),
        (None, '"3"', 3),
        (("a", "3", "c", "1"), '"3"', 1),  # a name goes before an index
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
        '[[require]]\nlabel = "*"\nmax_drop = 0.03\nmin_accuracy = 0.5\nmin_gain = 0.02\n',
        '[[require]]\nlabel = "Trouser"\nmax_drop = 0.2\n',
    ]
    found = read("".join(tables[place] for place in order))
    wildcards = [(one.kind, one.labels, one.limit) for one in found if one.wildcard]
    assert wildcards == [
        *[("min_accuracy", (label,), 0.5) for label in range(4)],
        *[("max_drop", (label,), 0.03) for label in (0, 2, 3)],
        *[("min_gain", (label,), 0.02) for label in range(4)],
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
    "confidence in a table": (
        SHIRT + "max_drop = 0.1\nconfidence = 0.9",
        "[[require]] 1 has confidence, expected it above the first [[require]]",
    ),
    "misspelt tables": ("[[requires]]\nmax_drop = 0.1", "has the unknown key 'requires', expected only [[require]]"),
    "misspelt key": (
        SHIRT + "max_drop = 0.1\n" + SHIRT + "min_acuracy = 0.1",
        "[[require]] 2 has the unknown key 'min_acuracy', expected label, min_accuracy, max_drop, min_gain, true,",
    ),
    "unknown name": (
        '[[require]]\nlabel = "shirt"\nmax_drop = 0.1',
        "[[require]] 1 has label = 'shirt' (did you mean 'Shirt'?), expected one of T-shirt/top, Trouser,",
    ),
    "index too large": ("[[require]]\nlabel = 4\nmax_drop = 0.1", "has label = 4, expected one of", "from 0 to 3"),
    "each of a pair": ('[[require]]\ntrue = "*"\npredicted = 0\nmax_rate = 0', "has true = '*', expected one of"),
    "unknown predicted": (PAIR + "predicted = 9\nmax_rate = 0", "[[require]] 1 has predicted = 9, expected one of"),
    "above one": (SHIRT + "min_accuracy = 75", "[[require]] 1 has min_accuracy = 75, expected a number from 0 to 1"),
    "below zero": (SHIRT + "max_drop = -0.1", "has max_drop = -0.1, expected a number"),
    "huge": (SHIRT + "max_drop = 1" + "0" * 400, "has max_drop = 1000", "expected a number"),
    "not a number": (SHIRT + "max_drop = nan", "has max_drop = nan, expected a number"),
    "infinite": (PAIR + "predicted = 0\nmax_rate = inf", "has max_rate = inf, expected a number"),
    "text": (SHIRT + 'max_drop = "0.1"', "has max_drop = '0.1', expected a number"),
    "truth": (SHIRT + "min_accuracy = true", "has min_accuracy = True, expected a number"),
    "no limit": (SHIRT, "[[require]] 1 states no limit, expected min_accuracy, max_drop, min_gain or max_rate"),
    "empty table": ("[[require]]", "[[require]] 1 states no limit"),
    "no predicted": (PAIR + "max_rate = 0", "has true and max_rate without predicted, expected all three"),
    "no rate": (PAIR + "predicted = 0", "has true and predicted without max_rate, expected all three"),
    "only true": (PAIR, "has true without predicted and max_rate, expected all three"),
    "only rate": ("[[require]]\nmax_rate = 0.1", "has max_rate without true and predicted, expected all three"),
    "label and true": (PAIR + "label = 3\npredicted = 0\nmax_rate = 0", "has label beside true, expected either"),
    "accuracy of a pair": (PAIR + "predicted = 0\nmin_accuracy = 0", "has min_accuracy beside true, expected either"),
    "gain of a pair": (
        PAIR + "predicted = 0\nmin_gain = 0",
        "has min_gain beside true, expected either min_accuracy, max_drop or min_gain, with or without label, or true,",
    ),
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
        for kind in ("min_accuracy", "max_drop", "min_gain")
    )
    text += "".join(
        f"[[require]]\ntrue = {true}\npredicted = {predicted}\nmax_rate = 0.5\n"
        for true, predicted in ((0, 1), (1, 0), (0, 2))
    )
    assert len(read(text)) == 9 + 3 * 2 + 3


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9999])
def test_confidence_of_all_together(read_file, confidence: float) -> None:
    found = read_file(f"confidence = {confidence}\n[[require]]\nmax_drop = 0.01")
    limit = Requirement("max_drop", 0.01, None, None, "drop of all labels together at most 1 point")
    assert found == Requirements((limit,), confidence)


@pytest.mark.parametrize("written", ["0.49", "1.0", "1", "0", "95", "-0.5", "nan", "inf", '"0.9"', "true", "[0.9]"])
def test_refused_confidences(read_file, tmp_path: Path, written: str) -> None:
    message = refusal(read_file, f"confidence = {written}\n[[require]]\nmax_drop = 0.01")
    assert message.startswith(f"{tmp_path / 'goals.toml'} has confidence = ")
    assert message.endswith(", expected a number from 0.5 to below 1")


def test_default_promises(read_file) -> None:
    """They are what a file can state."""
    text = 'confidence = 0.95\n[[require]]\nmax_drop = 0.01\n[[require]]\nlabel = "*"\nmax_drop = 0.03'
    for names in (NAMES, None):
        assert default_promises(names, 4) == read_file(text, names)


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


def test_labels_without_rows(read) -> None:
    source = Path("data/val.h5")
    labels = np.array([0] * 10 + [3] * 10)
    same = compare(labels, labels, labels, 4)
    every = '[[require]]\nlabel = "*"\nmin_accuracy = 0.7\n'
    found = read(every)
    check_rows(found, same.totals, source)
    verdicts = check_requirements(found, same)
    assert [(one.requirement.labels, one.met) for one in verdicts] == [((0,), True), ((3,), True)]

    none = np.zeros(4, np.int64)
    for text, totals, what in (
        (every, none, "accuracy of 0 T-shirt/top at least 70 %"),
        ("[[require]]\nmax_drop = 0.1", none, "drop of all labels together at most 10 points"),
        (every + "[[require]]\nlabel = 1\nmin_accuracy = 0.5", same.totals, "accuracy of 1 Trouser at least 50 %"),
        (
            "[[require]]\ntrue = 2\npredicted = 3\nmax_rate = 0.1",
            same.totals,
            "2 Pullover taken for 3 Shirt in at most 10 % of its rows",
        ),
    ):
        message = refusal(check_rows, read(text), totals, source)
        assert message == f'data/val.h5 has no rows to judge "{what}" by, expected at least one'
    with pytest.raises(ValueError, match="no rows to judge 'accuracy of 1 Trouser"):
        check_requirements(read("[[require]]\nlabel = 1\nmin_accuracy = 0.5"), same)
    check_rows(default_goals([1, 3], NAMES), same.totals, source)  # pooled: one of them has rows
