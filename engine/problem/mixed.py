"""What the numbers of a mixture mean: their places in the tables of a run, and the weights that they make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.core.errors import InputError
from engine.core.types import Float32, Int64
from engine.layers.tail_chain import Chain
from engine.patches.patch import Patch
from engine.tuning.train import Changes

COEFFICIENTS, OFFSETS = "crossfit/coefficients", "crossfit/offsets"
"""Paths under which the tables of a run keep what a search found."""


class MixturePlaces:
    """Numbers of a mixture as the tables of a run keep them: as places of two vectors, coefficients and offsets."""

    def __init__(self, recipes: int, chain: Chain) -> None:
        """Of so many recipes and the labels of a chain."""
        self.shapes: dict[str, tuple[int, ...]] = {COEFFICIENTS: (recipes,)}
        if chain.offsets is not None:
            self.shapes[OFFSETS] = (chain.classes,)

    def patch(self, index: Int64, old: Float32, new: Float32) -> Patch:
        """Places (K, 2) of a mixture with two values (K,) of each."""
        recipes = self.shapes[COEFFICIENTS][0]
        places = index[:, 0]
        paths = tuple(COEFFICIENTS if place < recipes else OFFSETS for place in places.tolist())
        return Patch(paths, np.where(places < recipes, places, places - recipes), old, new)

    def index_of(self, patch: Patch, source: str) -> Int64:
        """The places (K, 2) that a patch is about.

        Raises:
            InputError: it is about something else.
        """
        recipes = self.shapes[COEFFICIENTS][0]
        for path, flat in zip(patch.weight, patch.flat_index.tolist(), strict=True):
            if path not in self.shapes or not 0 <= flat < self.shapes[path][0]:
                raise InputError(f"{source}: is about {path!r} at {flat}, expected numbers of a mixture")
        places = patch.flat_index + np.array(
            [0 if path == COEFFICIENTS else recipes for path in patch.weight], np.int64
        )
        return np.stack([places, np.zeros_like(places)], axis=1)


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
