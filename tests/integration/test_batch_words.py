"""What `batch` makes of `--labels` and `--positive-weights`."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.commands.batch import parse_weights
from cli.shared.labels import parse_labels
from engine.core.errors import InputError
from engine.search.loop import SearchSettings

NAMES = ("cat", "dog", "T-shirt/top", "3", "dog ", "twin", "twin", "a,b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", tuple(range(8))),
        ("0", (0,)),
        ("7,1", (1, 7)),
        ("cat", (0,)),
        ("dog, cat", (0, 1)),
        ("T-shirt/top,1", (1, 2)),
        ("3", (3,)),  # the name of class 3 as well
        ("5,6", (5, 6)),  # both are called twin
        ("007", (7,)),
    ],
)
def test_labels_by_name_and_number(text: str, expected: tuple[int, ...]) -> None:
    assert parse_labels(text, 8, NAMES) == expected


def test_a_name_goes_before_a_number() -> None:
    assert parse_labels("2,0", 3, ("2", "1", "0")) == (0, 2)
    assert parse_labels("2", 3, ("2", "1", "0")) == (0,)
    assert parse_labels("all", 3, ("one", "all", "three")) == (1,)
    assert parse_labels("all", 3, None) == (0, 1, 2)
    # Two classes of that name: it names neither.
    with pytest.raises(InputError, match="labels has 'all'"):
        parse_labels("all", 3, ("all", "all", "three"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8", "'8'"),
        ("-1", "'-1'"),
        ("1.0", "'1.0'"),
        ("", "''"),
        ("0,", "''"),
        ("0;1", "'0;1'"),
        ("9" * 5000, f"'{'9' * 26}…{'9' * 13}'"),
        ("Cat", "'Cat' (did you mean 'cat'?)"),
        ("dgo", "'dgo' (did you mean 'dog'?)"),
        ("a,b", "'a'"),
        ("cat,all", "'all'"),
    ],
)
def test_labels_that_do_not_exist(text: str, found: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_labels(text, 8, NAMES)
    listed = "one of cat, dog, T-shirt/top, 3, dog , twin, twin, a,b, or an index from 0 to 7, or all"
    assert str(refusal.value) == f"labels has {found}, expected {listed}"
    with pytest.raises(
        InputError, match=r"'none', but the data has no label names, expected an index from 0 to 7, or all"
    ):
        parse_labels("none", 8, None)
    with pytest.raises(InputError, match=r"'twin', the name of 2 labels, expected an index from 0 to 7, or all$"):
        parse_labels("twin", 8, NAMES)
    names = tuple(f"sign number {label}" for label in range(43))
    with pytest.raises(InputError) as refusal:
        parse_labels("Sign Number 7", 43, names)
    assert str(refusal.value) == (
        "labels has 'Sign Number 7' (did you mean 'sign number 7'?), expected a label name of the data, or an index "
        "from 0 to 42, or all"
    )


@pytest.mark.parametrize("text", ["1,1", "dog,1", "cat,dog,cat", "1,01"])
def test_a_label_twice(text: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_labels(text, 8, NAMES)
    assert str(refusal.value) == f"labels is {text!r} and names a label twice, expected each once"


@given(st.sets(st.integers(0, 42), min_size=1), st.randoms())
def test_labels_are_ascending_in_any_order_given(labels: set[int], random: object) -> None:
    words = [str(label) for label in labels]
    random.shuffle(words)  # type: ignore[attr-defined]
    assert parse_labels(",".join(words), 43, None) == tuple(sorted(labels))


SETTINGS = SearchSettings(num_iterations=7, positive_weight=None, positive_worth=0.5)


def test_weights_of_all_positives_and_of_each() -> None:
    fixed, share = parse_weights("200, 0.15x", SETTINGS)
    assert (fixed.text, fixed.settings.positive_weight) == ("200", 200.0)
    assert (share.text, share.settings.positive_weight, share.settings.positive_worth) == ("0.15x", None, 0.15)
    # Everything else is as it was.
    assert fixed.settings.num_iterations == share.settings.num_iterations == 7


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("100,200,400,800", ["100", "200", "400", "800"]),
        ("800,100", ["800", "100"]),
        ("1e2", ["100"]),
        ("0.50x,.5", ["0.5x", "0.5"]),
        ("0", ["0"]),
        ("5x,5", ["5x", "5"]),
        ("1000001,1000002", ["1000001", "1000002"]),
        ("0.1234567x,0.1234568x", ["0.1234567x", "0.1234568x"]),
    ],
)
def test_weights_in_the_order_given_under_names_of_their_own(text: str, texts: list[str]) -> None:
    """The text is part of the names of searches and of what a resumed run is compared by."""
    assert [weighting.text for weighting in parse_weights(text, SETTINGS)] == texts


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=5, unique=True), st.booleans())
def test_every_weight_has_one_text_from_which_it_comes_back(values: list[float], per_input: bool) -> None:
    words = [f"{value!r}{'x' if per_input else ''}" for value in values]
    found = parse_weights(",".join(words), SETTINGS)
    name = "positive_worth" if per_input else "positive_weight"
    assert [getattr(weighting.settings, name) for weighting in found] == values
    again = parse_weights(",".join(weighting.text for weighting in found), SETTINGS)
    assert again == found


NO_NUMBERS = "^positive_weights has '.*', expected numbers as in 100,200 or 0.1x,0.2x"
NO_WEIGHT = "^positive_(weight|worth) is .*, expected a number of at least 0$"
TWICE = "^positive_weights is TEXT and names a weight twice, expected each once$"


@pytest.mark.parametrize(
    ("says", "texts"),
    [
        (NO_NUMBERS, ["", "x", "many", "1,", "1 2", "0.15 x y", "0.15X"]),
        (NO_WEIGHT, ["100,-1", "100,nan", "100,inf", "100,-0.1x", "100,nanx", "100,1e999"]),
        (TWICE, ["100,100", "100,1e2", "0.15x,0.150x", "5,5x,5.0"]),
    ],
)
def test_weights_that_are_refused(says: str, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(InputError, match=says.replace("TEXT", re.escape(repr(text)))):
            parse_weights(text, SETTINGS)
