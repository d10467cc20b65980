"""Names from elsewhere, as people read and type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.core.names import escaped, in_words, label_of, listed, shortened, suggestion, width

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Shirt")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Shirt", "Shirt"),
        ("空の画像", "空の画像"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb\u200fc\u2066d", "a\\u202eb\\u200fc\\u2066d"),
        ("a\u2028b\u200bc", "a\\u2028b\\u200bc"),
        ("\udcff", "\\udcff"),
        ("e\u0301", "e\u0301"),
        ("e" + 6 * "\u0301", "e" + 4 * "\u0301" + 2 * "\\u0301"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown
    assert escaped(shown) == shown


def test_what_is_kept_is_kept() -> None:
    assert escaped("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@given(st.text())
def test_nothing_unprintable_is_left(text: str) -> None:
    assert escaped(text).isprintable()


@pytest.mark.parametrize(
    ("text", "columns"), [("Shirt", 5), ("画像", 4), ("ﾃ", 1), ("Ａ", 2), ("e\u0301", 1), ("", 0), ("שלום", 4)]
)
def test_columns_of_a_terminal(text: str, columns: int) -> None:
    assert width(text) == columns


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [
        ("Shirt", 5, "Shirt"),
        ("abcdefghij", 7, "abcd…ij"),
        ("画像画像画像", 8, "画像…像"),
        ("画像画像画像", 12, "画像画像画像"),
    ],
)
def test_long_names_lose_their_middle(text: str, most: int, shown: str) -> None:
    assert shortened(text, most) == shown


@given(st.text(), st.integers(4, 50))
def test_shortened_names_fit(text: str, most: int) -> None:
    shown = shortened(escaped(text), most)
    assert width(shown) <= most
    assert (shown == escaped(text)) == (width(escaped(text)) <= most)


def test_lists_of_names_end() -> None:
    assert listed(CLOTHES) == "T-shirt/top, Trouser, Pullover, Shirt"
    assert listed("abcdefghijklmn") == "a, b, c, d, e, f, g, h, i, j, k, l and 2 more"
    assert listed(["x" * 400, "a\nb"]) == f"{in_words('x' * 400)}, a\\nb"


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("shirt", " (did you mean 'Shirt'?)"),
        ("SHRIT", " (did you mean 'Shirt'?)"),
        ("Pullovr", " (did you mean 'Pullover'?)"),
        ("hat", ""),
        ("", ""),
    ],
)
def test_the_nearest_name(wanted: str, hint: str) -> None:
    assert suggestion(wanted, CLOTHES) == hint


def test_a_name_that_is_suggested_can_be_shown() -> None:
    assert suggestion("shirt\x1b", ["Shirt\x1b[31m"]) == " (did you mean 'Shirt\\x1b[31m'?)"
    assert len(suggestion("x" * 400, ["x" * 500])) < 70


def test_labels_by_name_and_index() -> None:
    names = ("a", "b", "2", "b")
    assert [label_of(value, 4, names, "x") for value in ("a", "2", 2, "3", "03", 3)] == [0, 2, 2, 3, 3, 3]
    assert label_of("1", 4, None, "x") == 1


@pytest.mark.parametrize("value", ["c", "4", "-1", "1.0", "9" * 5000, 4, -1, True, 1.0, [1], ""])
@pytest.mark.parametrize("names", [None, ("a", "b", "d", "e")])
def test_labels_that_are_not_there(value: object, names: tuple[str, ...] | None) -> None:
    with pytest.raises(InputError) as refusal:
        label_of(value, 4, names, "x is y", ", or all")
    assert str(refusal.value).startswith("x is y")
    assert str(refusal.value).endswith("an index from 0 to 3, or all")


def test_names_of_several_labels_are_none() -> None:
    with pytest.raises(InputError, match="x, the name of 2 labels, expected an index from 0 to 3"):
        label_of("b", 4, ("a", "b", "2", "b"), "x")
