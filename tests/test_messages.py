"""Sentences of errors have one form: what was found, then ", expected" and what was expected, without a full stop."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ERRORS = ("InputError", "WorkError", "WorkerError")
FILES = sorted(path for name in ("engine", "cluster", "cli") for path in (ROOT / name).rglob("*.py"))


def text_of(node: ast.expr) -> str | None:
    """A message with `…` for what it is filled with; None where it is no text of its own."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "…" for part in node.values)
    return None


def messages(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
            text = text_of(node.args[0])
            if text is not None:
                yield node.lineno, text


def fault(text: str) -> str | None:
    if text.endswith((".", "!", "\n")) or "\n" in text:
        return "ends like a sentence or has several lines"
    if re.search("; (…|the model )", text):
        return "has a semicolon before what was expected"
    outside = re.sub(r" \([^)]*\)", "", text)  # in parentheses stands what others said
    wrong = re.search(r"(?<!, )\bexpected\b", outside)
    return f'has {outside[max(0, wrong.start() - 3) : wrong.end()]!r} instead of ", expected"' if wrong else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_form(path: Path) -> None:
    found = {line: fault(text) for line, text in messages(path.read_text(encoding="utf-8"))}
    assert not {line: why for line, why in found.items() if why}


def test_there_are_messages_and_faults_are_seen() -> None:
    assert sum(1 for path in FILES for _ in messages(path.read_text(encoding="utf-8"))) > 300
    source = 'raise InputError(f"{path} has {n} rows; expected at least one")\nraise WorkError("The disk is full.")'
    assert [fault(text) is None for _, text in messages(source)] == [False, False]
    assert fault("x is no UTF-8 text (bad byte); expected JSON")
    assert fault("folder/x has 3 rows, expected 4") is None
