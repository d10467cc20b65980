"""From the outputs of a model to classes: a row is of the class of its largest output, which must be a finite number.

Softmax makes not-a-number of a row with an infinite logit, so that rows are judged alike by logits and by outputs. Of
the other outputs of a row -inf is a number: models put it where a class is impossible.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engine import backend
from engine.core.errors import InputError
from engine.core.types import Float32, Int64
from engine.layers.head import Head

NO_CLASS = -1
"""In the place of a class where the largest output of a row is no finite number."""


class NotNumbersError(InputError):
    """The outputs of a model for a row are not numbers."""

    def __init__(self, row: int, path: Path | None = None, model: Path | None = None) -> None:
        """What is not known yet, `rows_of` adds."""
        super().__init__(row, path, model)  # as pickling makes it anew
        self.row, self.path, self.model = row, path, model

    def __str__(self) -> str:
        where = "" if self.path is None else f"{self.path}: "
        model = "the model" if self.model is None else f"the model {self.model}"
        return f"{where}{model} gives row {self.row} outputs that are NaN or infinite, expected numbers"


@contextmanager
def rows_of(path: Path, first: int = 0, model: Path | None = None) -> Iterator[None]:
    """Let a `NotNumbersError` of the body say which row of which image set it is: the body counts from `first`."""
    try:
        yield
    except NotNumbersError as error:
        if error.path is not None:
            raise
        raise NotNumbersError(first + error.row, path, error.model or model) from None


def scores_of(head: Head, logits: Float32) -> Float32:
    scores: Float32 = np.asarray(head.scores(backend.on_device(logits)))
    return scores


def classes_of(scores: Any) -> Int64:
    """Classes (n,) of scores (n, C): argmax, first index on ties; `NO_CLASS` where the largest is no finite number."""
    classes: Int64 = scores.argmax(axis=1)  # the first not-a-number, where there is one
    largest = np.take_along_axis(scores, classes[:, None], axis=1)[:, 0]
    return np.where(np.isfinite(largest), classes, NO_CLASS)


def known_classes(scores: Any) -> Int64:
    """Classes (n,) of scores (n, C)."""
    classes = classes_of(scores)
    missing = classes == NO_CLASS
    if missing.any():
        raise NotNumbersError(int(missing.argmax()))
    return classes
