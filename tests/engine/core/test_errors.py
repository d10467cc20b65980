"""What a sentence says of an exception that it is about."""

from __future__ import annotations

import pytest

from engine.core.errors import InputError, WorkError, is_interruption, reason, said
from engine.datasets.cifar import parse_batch


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("there is nothing to say")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("bad magic number"), "bad magic number"),
        (ValueError("\n  no such layer:\n  at line 3"), "no such layer"),
        (ValueError("cannot be opened."), "cannot be opened"),
        (RecursionError(), "RecursionError"),
        (OSError(" \n"), "OSError"),
        (ValueError("x" * 300), "x" * 197 + "..."),
        (ValueError("no \udcff here"), "no \\udcff here"),
        (MuteError(), "MuteError"),
        (SystemExit(3), "3"),
    ],
)
def test_reason_is_one_readable_line(error: BaseException, words: str) -> None:
    assert reason(error) == words
    assert reason(error).encode("utf-8")


def test_what_is_said_is_the_whole_message() -> None:
    assert said(InputError("two\nlines.\ud800")) == "two\nlines.\\ud800"
    assert said(InputError("")) == "InputError" and said(MuteError()) == "MuteError"


def test_a_long_complaint_of_a_damaged_file_is_cut() -> None:
    with pytest.raises(InputError, match="is no pickle that can be read") as caught:
        parse_batch(b"I" + b"x" * 5000 + b"\n.", "data_batch_1")
    assert len(str(caught.value)) < 300


def test_what_a_library_makes_of_ctrl_c_is_an_interruption() -> None:
    error = SystemError("<built-in method __array__> returned a result with an exception set")  # NumPy's
    error.__cause__ = KeyboardInterrupt()
    assert is_interruption(error) and is_interruption(KeyboardInterrupt())
    lost = WorkError("the lock is not held any more")
    lost.__context__ = KeyboardInterrupt()
    assert not is_interruption(lost) and not is_interruption(SystemError("bad call"))
