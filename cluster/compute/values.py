"""Warnings of sets that were made in another way than what a model knows, from passes that read them anyway."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.data.image_set import ImageSet, is_pictures
from engine.data.value_range import SCALES, ValueRange
from engine.models.known_data import KnownData, known_data
from engine.models.load import LoadedModel


def warn_on_stderr(line: str) -> None:
    """Say what a user has to know on standard error."""
    print(f"warning: {line}", file=sys.stderr)


class ValueWatch:
    """Warns once of each set of pictures whose values, or the way its pixels were made, are not as expected.

    Expected is what the model was trained on; where that is not known, what the first set of the command has; and of
    that first one values in 0 to 1 or 0 to 255.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._seen: set[Path] = set()
        self._compared: set[tuple[Path, str]] = set()
        self._first: tuple[Path, ValueRange] | None = None
        self._made: tuple[Path, str] | None = None

    def saw(self, model: LoadedModel, images: ImageSet, values: ValueRange) -> None:
        known = known_data(model)
        if images.preprocess is not None:
            self._saw_preprocess(model, images.path, images.preprocess, known)
        if images.path not in self._seen and is_pictures(images):
            self._saw_values(model, images, values, known)
        self._seen.add(images.path)

    def _saw_preprocess(self, model: LoadedModel, path: Path, method: str, known: KnownData | None) -> None:
        expected = None if self._made is None else (self._made[1], f"as in {self._made[0]}")
        if known is not None and known.preprocess is not None:
            expected = (known.preprocess, f"which {model.path} was {known.verb} with")
        if expected is not None and method != expected[0] and (path, expected[0]) not in self._compared:
            self._compared.add((path, expected[0]))
            self._warn(f"{path}: images were made with --preprocess {method}, expected {expected[0]}, {expected[1]}")
        if self._made is None:
            self._made = path, method

    def _saw_values(self, model: LoadedModel, images: ImageSet, values: ValueRange, known: KnownData | None) -> None:
        expected = self._expected(model, None if known is None else known.values)
        if all(values.far_from(known) for known, _ in expected):
            words = " or ".join(str(known) for known, _ in expected)
            self._warn(f"{images.path}: values are {values}, expected about {words}{expected[0][1]}")
        if self._first is None:
            self._first = images.path, values.scale()

    def _expected(self, model: LoadedModel, trained: ValueRange | None) -> Sequence[tuple[ValueRange, str]]:
        if trained is not None:
            return [(trained, f", which {model.path} was trained on")]
        if self._first is not None:
            path, values = self._first
            return [(values, f" as in {path}")]
        return [(known, "") for known in SCALES]
