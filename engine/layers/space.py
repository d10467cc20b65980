"""The numbers that a search may change, by name: places among them, and patches of them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from engine.core.errors import InputError
from engine.core.types import Float32, Int64
from engine.patches.patch import Patch, merge, patch_between


@dataclass(frozen=True, eq=False)
class Space:
    """Arrays one after the other, each flattened in C order, W numbers in all.

    They travel as a matrix, the kernel (W / columns, columns), and an index (K, 2) names places in it.
    """

    shapes: dict[str, tuple[int, ...]]  # of the arrays, by path
    title: str  # what they are, for messages
    columns: int  # of the kernel; with one the first number of an index is a place in the flat vector

    @functools.cached_property
    def paths(self) -> tuple[str, ...]:
        """Of the arrays, as patches name them."""
        return tuple(self.shapes)

    @functools.cached_property
    def offsets(self) -> Int64:
        """Where each array begins in the flat vector, and W; (arrays + 1,) int64."""
        return np.cumsum([0, *map(math.prod, self.shapes.values())], dtype=np.int64)

    def part(self, flat: Int64) -> Int64:
        """The number of the array that each place (K,) of the flat vector belongs to."""
        return (np.searchsorted(self.offsets, flat, side="right") - 1).astype(np.int64)

    def patch(self, index: Int64, old: Float32, new: Float32) -> Patch:
        """The patch of K places (K, 2) from old to new values (K,)."""
        flat = index[:, 0] * self.columns + index[:, 1]
        part = self.part(flat)
        return Patch(tuple(self.paths[number] for number in part.tolist()), flat - self.offsets[part], old, new)

    def patch_between(self, old: Float32, new: Float32) -> Patch:
        """What leads from one kernel to another."""
        before, after = old.reshape(-1), new.reshape(-1)
        parts = [slice(start, stop) for start, stop in zip(self.offsets, self.offsets[1:], strict=False)]
        return merge(
            [
                patch_between(path, before[part].reshape(shape), after[part].reshape(shape))
                for (path, shape), part in zip(self.shapes.items(), parts, strict=True)
            ]
        )

    def index_of(self, patch: Patch, source: str) -> Int64:
        """The places (K, 2) that a patch is about; errors name its `source`."""
        start = dict(zip(self.paths, self.offsets.tolist(), strict=False))
        for path, flat in zip(patch.weight, patch.flat_index.tolist(), strict=True):
            if path not in start:
                raise InputError(f"{source}: is about {path!r}, expected weights of {self.title}")
            size = math.prod(self.shapes[path])
            if not 0 <= flat < size:
                raise InputError(f"{source}: has index {flat} in {path!r}, expected 0 to {size - 1}")
        places = np.array([start[path] for path in patch.weight], np.int64) + patch.flat_index
        return np.stack(np.divmod(places, self.columns), axis=1)

    def counts(self, index: Int64) -> dict[str, int]:
        """How many of K places (K, 2) are of each array, by its path; without those that have none."""
        part = self.part(index[:, 0] * self.columns + index[:, 1])
        found = np.bincount(part, minlength=len(self.paths)).tolist()
        return {path: count for path, count in zip(self.paths, found, strict=True) if count}
