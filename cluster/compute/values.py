"""Warnings of pictures whose numbers lie far from those that a model knows, from passes that read them anyway."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.data.image_set import ImageSet, is_pictures
from engine.data.value_range import SCALES, ValueRange
from engine.models.load import LoadedModel
from engine.models.trained_values import trained_values


def warn_on_stderr(line: str) -> None:
    """Print a warning."""
    print(f"warning: {line}", file=sys.stderr)


class ValueWatch:
    """Knows the range of every set of pictures that a command has read, and warns once of each that lies far off.

    What is expected is what the model was trained on; where that is not known, what the first set of the command has,
    which in a repair is the rows to repair; and of that first one, 0 to 1 or 0 to 255.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Nothing is known yet; `warn` is called with each warning."""
        self._warn = warn
        self._seen: set[Path] = set()
        self._first: tuple[Path, ValueRange] | None = None

    def saw(self, model: LoadedModel, images: ImageSet, values: ValueRange) -> None:
        """Take note of the range of a whole set on which a model is run."""
        if images.path in self._seen or not is_pictures(images):
            return
        self._seen.add(images.path)
        expected = self._expected(model)
        if all(values.far_from(known) for known, _ in expected):
            words = " or ".join(str(known) for known, _ in expected)
            self._warn(f"{images.path}: values are {values}, expected about {words}{expected[0][1]}")
        if self._first is None:
            self._first = images.path, values.scale()

    def _expected(self, model: LoadedModel) -> Sequence[tuple[ValueRange, str]]:
        trained = trained_values(model)
        if trained is not None:
            return [(trained, f", which {model.path} was trained on")]
        if self._first is not None:
            path, values = self._first
            return [(values, f" as in {path}")]
        return [(known, "") for known in SCALES]
