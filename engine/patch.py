"""The patch: which weights of a model change, from what to what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Patch:
    """A few weights of a model with their old and new values; one row per weight, K rows.

    Attributes:
        weight: K paths `<layer name>/<variable name>`, as `engine.models.weight_variables` names them.
        flat_index: shape (K,), int64, position in the flattened (C order) array.
        old: shape (K,), float32, the value the patch was made against.
        new: shape (K,), float32, the value after repair.
    """

    weight: tuple[str, ...]
    flat_index: npt.NDArray[np.int64]
    old: npt.NDArray[np.float32]
    new: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.weight)

    def by_weight(self) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
        """Yield each distinct weight path, in order of first appearance, with the rows (m,) that change it."""
        names = np.asarray(self.weight, dtype=object)
        for path in dict.fromkeys(self.weight):
            yield path, np.flatnonzero(names == path)
