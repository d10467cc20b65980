"""Rows cut into blocks, and blocks into batches of one fixed shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from engine import backend
from engine.core.types import Float32, Int64
from engine.layers.head import Head
from engine.passes.classes import known_classes, scores_of


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
