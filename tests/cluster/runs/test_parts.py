"""Parts of a run: who does what, and how they are named."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.runs.parts import Part, read_part
from engine.core.errors import InputError

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=40)


@given(NAMES, st.integers(1, 9))
def test_every_name_is_of_one_part_and_parts_are_alike(names: list[str], of: int) -> None:
    parts = [Part(number, of).mine(names) for number in range(1, of + 1)]
    assert sorted(name for part in parts for name in part) == sorted(set(names))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == [Part(number, of).mine(reversed(names)) for number in range(1, of + 1)]


def test_they_are_dealt_in_the_order_of_their_digests() -> None:
    names = [str(number) for number in range(7)]
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert order == ["4", "3", "0", "1", "2", "6", "5"]
    assert Part(1, 2).mine(names) == {"4", "0", "2", "5"}
    assert Part(2, 2).mine(names) == {"3", "1", "6"}
    assert Part(8, 9).mine(names) == frozenset()


def test_a_name_of_odd_bytes() -> None:
    assert Part(1, 1).mine(["\udcff", "é"]) == {"\udcff", "é"}


@pytest.mark.parametrize(("text", "number", "of"), [("1/1", 1, 1), ("2/3", 2, 3), ("10/10", 10, 10)])
def test_read(text: str, number: int, of: int) -> None:
    part = read_part(text, "optimize", {"seed": 1})
    assert (part.number, part.of, part.command, part.options) == (number, of, "optimize", {"seed": 1})
    assert str(part) == text


@pytest.mark.parametrize(
    "text",
    ["0/4", "5/4", "x", "", "1", "1/", "/4", "1/0", "-1/4", "1/4/4", "1 / 4", "1/4\n", "1.0/4", "²/4", "1" * 5000],
)
def test_no_part(text: str) -> None:
    with pytest.raises(InputError, match=r"^part is '.*', expected I/N with I from 1 to N, as 2/3 for the second of"):
        read_part(text, "batch", {})
