"""Rows in batches of one fixed shape, and the classes of outputs: a row is of the class of its largest output, which
must be a finite number.

Softmax makes not-a-number of a row with an infinite logit, so that rows are judged alike by logits and by outputs. Of
the other outputs of a row -inf is a number: models put it where a class is impossible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def predicted_classes(head: Head, logits: Float32) -> Int64:
    """Classes (n,) of logits (n, C): argmax of the scores, first index on ties."""
    return known_classes(scores_of(head, logits))


def batches(rows: Float32, size: int) -> Iterator[tuple[Any, int]]:
    """Cut rows (n, ...) into batches of one fixed size, the last filled up with zeros; yields (batch, real rows)."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        count = len(part)
        if count < size:
            full = np.zeros((size, *rows.shape[1:]), dtype=np.float32)
            full[:count] = part
            part = full
        yield backend.on_device(part), count


def batched(program: Callable[[Any], Any], rows: Float32, size: int) -> Float32:
    """What a pass gives for rows (n, ...), n at least 1, in batches of one fixed size; see `batches`."""
    found: Float32 = np.concatenate([np.asarray(program(batch))[:count] for batch, count in batches(rows, size)])
    return found
