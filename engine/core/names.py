"""Names from elsewhere - of labels, layers, weights and files - as people read them, and as people type them."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

from engine.core.errors import InputError

LISTED = 12
"""Up to so many names are listed whole where one is unknown."""

NAME_COLUMNS = 40
"""Columns of a name in a sentence."""

_MARKS = 4
"""Accents over one letter at most: a tower of them covers the lines above."""

_ISOLATES = "\u2068\u2069"

_COMPARED = 80
"""Characters of a name that decide how alike it is to another."""


def escaped(text: str, keep: str = "") -> str:
    r"""Text whose unprintable characters, which a terminal obeys, are written as `\x1b` or `\u202e`; not those
    to `keep`.
    """
    shown, marks = [], 0
    for character in text:
        marks = marks + 1 if _is_mark(character) else 0
        plain = (character.isprintable() and marks <= _MARKS) or character in keep
        shown.append(character if plain else character.encode("unicode_escape").decode("ascii"))
    return "".join(shown)


def width(text: str) -> int:
    """Columns of a terminal that printable text takes: wide East Asian characters two, accents none."""
    return sum(map(_columns, text))


def shortened(text: str, most: int, ellipsis: str = "…") -> str:
    """Text of at most `most` columns, at least 4: what is in the middle gives way to an ellipsis."""
    if width(text) <= most:
        return text
    left = most - len(ellipsis)
    tail = left // 3
    return f"{_beginning(text, left - tail)}{ellipsis}{_beginning(text[::-1], tail)[::-1]}"


def in_words(name: str) -> str:
    """A name as sentences show it: escaped, and at most `NAME_COLUMNS` columns."""
    return shortened(escaped(name), NAME_COLUMNS)


def isolated(name: str) -> str:
    """A name, escaped, between marks that keep its direction of writing to itself, where text has no other means."""
    return f"{_ISOLATES[0]}{escaped(name)}{_ISOLATES[1]}"


def listed(names: Iterable[str], most: int = LISTED) -> str:
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(map(in_words, known[:most])) + more


def suggestion(wanted: str, names: Iterable[str]) -> str:
    """What to put behind an unknown name: ` (did you mean 'Shirt'?)`, or nothing where no name is like it."""
    known: dict[str, str] = {}
    for name in names:
        known.setdefault(name.casefold()[:_COMPARED], name)
    found = difflib.get_close_matches(wanted.casefold()[:_COMPARED], known, n=1)
    return f" (did you mean '{in_words(known[found[0]])}'?)" if found else ""


def label_of(value: object, classes: int, names: Sequence[str] | None, found: str, other: str = "") -> int:
    """The label of a name, or of an index, which may be text where no label is called so."""
    same = [label for label, name in enumerate(names or ()) if name == value]
    if len(same) == 1:
        return same[0]
    indices = f"an index from 0 to {classes - 1}{other}"
    if same:
        raise InputError(f"{found}, the name of {len(same)} labels, expected {indices}")
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < classes:
        return value
    word = value if isinstance(value, str) else ""
    if word.isdecimal() and len(word) < 20 and int(word) < classes:  # longer numbers are slow to read
        return int(word)
    if names is None:
        unnamed = f"{found}, but the data has no label names" if word and not word.isdecimal() else found
        raise InputError(f"{unnamed}, expected {indices}")
    known = f"one of {listed(names)}" if len(names) <= LISTED else "a label name of the data"
    raise InputError(f"{found}{suggestion(word, names)}, expected {known}, or {indices}")


def _columns(character: str) -> int:
    if _is_mark(character) or character in _ISOLATES:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Me")


def _beginning(text: str, most: int) -> str:
    taken = 0
    for at, character in enumerate(text):
        taken += _columns(character)
        if taken > most:
            return text[:at]
    return text
