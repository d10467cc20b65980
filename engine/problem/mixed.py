"""What the numbers of a mixture mean: their places in the tables of a run, and the weights that they make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.core.types import Float32
from engine.layers.space import Space
from engine.layers.tail_chain import Chain
from engine.tuning.train import Changes

COEFFICIENTS, OFFSETS = "crossfit/coefficients", "crossfit/offsets"
"""Paths under which the tables of a run keep what a search found."""


def mixture_space(recipes: int, chain: Chain) -> Space:
    """The numbers of a mixture as the tables of a run keep them: coefficients of recipes, and offsets of the labels of
    a chain.
    """
    offsets = {} if chain.offsets is None else {OFFSETS: (chain.classes,)}
    return Space({COEFFICIENTS: (recipes,), **offsets}, "a mixture", 1)


def mean_changes(changes: Sequence[Changes]) -> Changes:
    """The mean over folds of each recipe's changes, float32 by path (R, ...)."""
    return {
        path: np.stack([change[path] for change in changes]).mean(axis=0, dtype=np.float64).astype(np.float32)
        for path in changes[0]
    }


def mixed_values(chain: Chain, changes: Sequence[Changes], found: Float32, step: float) -> dict[str, Float32]:
    """New values of the tuned weights, by path: the mixture (R + C,) times a step, of the mean over folds.

    Offsets are folded into the last bias, whether or not its layer is tuned.
    """
    mean = mean_changes(changes)
    recipes = len(next(iter(mean.values())))
    scaled = (np.float32(step) * found).astype(np.float64)
    values = {
        path: chain.values[path] + np.tensordot(scaled[:recipes], mean[path].astype(np.float64), 1) for path in mean
    }
    if chain.offsets is not None and len(found) > recipes:
        values[chain.offsets] = values.get(chain.offsets, chain.values[chain.offsets]) + scaled[recipes:]
    return {path: value.astype(np.float32) for path, value in values.items()}
