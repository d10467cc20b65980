"""Soft correctness: sigmoid((logit of a class - largest other) / T), which changes smoothly where counts jump."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.backend import ops

LOWEST = np.float32(-3e38)
"""Stands for minus infinity where infinity minus infinity could arise."""


def soft_of(logits: Any, wanted: Any, temperature: float, axis: int = -1) -> Any:
    """Soft correctness (h, n) of logits (h, n, C) for the class wanted of each row, one-hot (n, C); C is `axis`."""
    own = ops.sum(logits * wanted, axis=axis)
    other = ops.max(ops.where(wanted > 0, -3e38, logits), axis=axis)
    return ops.sigmoid((own - other) / temperature)


def soft_changes(
    logits: list[Any],
    known: Sequence[Any],
    temperature: float,
    total: Callable[..., Any],
    largest: Callable[..., Any],
) -> list[Any]:
    """Soft changes (P, n) for each class that rows are judged for, inside a compiled function.

    Logits are (P, n) of each unit that candidates change, or (U, P, n) of all; `known` is that of `untouched_soft`;
    `total` and `largest` are over a first axis of units, if there is one.
    """
    found = []
    for constants, mine in zip(*(ops.unstack(each, axis=0) for each in known), strict=True):
        own, other, before = ops.unstack(constants, axis=0)
        units = ops.unstack(mine, axis=0) if len(logits) == mine.shape[0] else [ops.expand_dims(mine, 1)]
        for values, is_own in zip(logits, units, strict=True):
            own = own + total(ops.where(is_own, values, 0.0))
            other = ops.maximum(other, largest(ops.where(is_own, LOWEST, values)))
        found.append(ops.sigmoid((own - other) / temperature) - before)
    return found


def soft_sums(changes: list[Any], block: int) -> list[Any]:
    """Sums over blocks of rows, (.., n / block) float64, of soft changes (.., n) and of their squares, in turn."""
    sums = []
    for change in changes:
        wide = ops.cast(change, "float64")
        sums += [block_sums(wide, block), block_sums(ops.square(wide), block)]
    return sums


def block_sums(values: Any, block: int) -> Any:
    *others, size = values.shape
    return ops.sum(ops.reshape(values, (*others, size // block, block)), axis=-1)
