from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from engine.core.errors import InputError
from engine.core.names import in_words, label_of

if TYPE_CHECKING:
    from engine.data.image_set import ImageSet


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


def names_in(sets: Iterable[ImageSet | None]) -> tuple[str, ...] | None:
    """Names of the labels, as the first of some image sets has them that has any."""
    return next((images.label_names for images in sets if images is not None and images.label_names), None)
