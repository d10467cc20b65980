"""Labels as `--labels` names them."""

from __future__ import annotations

from collections.abc import Sequence

from engine.core.errors import InputError
from engine.core.names import in_words, label_of


def parse_labels(text: str, classes: int, names: Sequence[str] | None) -> tuple[int, ...]:
    """Labels by name or number, separated by commas, or `all`; ascending."""
    if means_all(text, names):
        return tuple(range(classes))
    words = [part.strip() for part in text.split(",")]
    found = [label_of(word, classes, names, f"labels has '{in_words(word)}'", ", or all") for word in words]
    if len(set(found)) < len(found):
        raise InputError(f"labels is {text!r} and names a label twice, expected each once")
    return tuple(sorted(found))


def means_all(text: str, names: Sequence[str] | None) -> bool:
    """Whether `--labels` names all of them, and no label of that name."""
    return text == "all" and not (names and "all" in names)
