"""The elements of a JSON array, one at a time: label files of a gigabyte are never held whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from engine.core.errors import InputError

_READ = 1 << 20
_LARGEST = 64 << 20
"""Characters of the largest element that is waited for."""

_SPACE = " \t\n\r"
_OF_NUMBERS = "+-.eE0123456789"


def iterate_items(path: Path, *, read: int = _READ) -> Iterator[Any]:
    """Yield the elements of the JSON array that a UTF-8 file holds; `read` characters are read at a time."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Scanner(path, file, read).items()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text ({error.reason}), expected JSON") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}), expected a JSON file") from error


class _Scanner:
    """A window over the text that moves on as elements are taken from it."""

    def __init__(self, path: Path, file: IO[str], read: int) -> None:
        self._path, self._file, self._read = path, file, read
        self._text, self._at, self._before = "", 0, 0
        self._ended = False
        self._decoder = json.JSONDecoder()

    def items(self) -> Iterator[Any]:
        first = self._next_character()
        if first != "[":
            raise InputError(f"{self._path} starts with {first or 'nothing'!r}, expected a JSON array [...]")
        self._at += 1
        separator = self._next_character()
        while separator != "]":
            yield self._element()
            separator = self._next_character()
            if separator not in {",", "]"}:
                raise self._broken("neither , nor ] after an element" if separator else "the array has no end")
            self._at += separator == ","
        self._at += 1
        if self._next_character():
            raise self._broken("something follows the array")

    def _element(self) -> Any:
        self._next_character()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Most likely the element goes on behind the window; at the end of the file it is broken.
                if self._ended or self._too_long():
                    raise self._broken(error.msg, error.pos) from None
            except RecursionError:
                raise self._broken("an element is nested too deeply") from None
            else:
                # A number may go on behind the window: 1.5 looks like 1 while only "1." is in it.
                cut = end == len(self._text) or self._text[end] in _OF_NUMBERS
                if not cut or not isinstance(value, (int, float)) or self._ended or self._too_long():
                    self._at = end
                    return value
            self._more()

    def _too_long(self) -> bool:
        return len(self._text) - self._at > _LARGEST

    def _next_character(self) -> str:
        """The next character that is no space, or "" at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def _more(self) -> None:
        """Drop what was taken and read as much again as is left, so that long elements cost no square of their size."""
        self._before += self._at
        self._text, self._at = self._text[self._at :], 0
        fresh = self._file.read(max(self._read, len(self._text)))
        self._ended = not fresh
        self._text += fresh

    def _broken(self, reason: str, position: int | None = None) -> InputError:
        character = self._before + (self._at if position is None else position)
        return InputError(f"{self._path} is broken at character {character} ({reason}), expected a JSON array")
