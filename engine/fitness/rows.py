"""The rows a search is judged on and the weights it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.core.types import Bool, Float32, Int64


@dataclass(frozen=True, eq=False)
class SearchRows:
    """The rows a search is judged on, reduced to what it needs of them.

    Attributes:
        inputs: (n, I) float32, inputs of the layer at the I distinct input positions of the localised weights; of a
            deep target or a mixture features (n, F).
        logits: (n, C) float32, of the model as it is.
        labels: (n,) int64, true class.
        negative: (n,) bool, rows to get right, which the model gets wrong.
        neither: (n,) bool, rows that are neither negative nor positive: of a mixture those of other labels than are
            under repair that the model gets wrong. None where there are none.
        group: (n,) int64, ascending, of a mixture: the changes that a row is judged under. Else None.
    """

    inputs: Float32
    logits: Float32
    labels: Int64
    negative: Bool
    neither: Bool | None = None
    group: Int64 | None = None

    @property
    def positive(self) -> Bool:
        """(n,) rows to keep right."""
        return ~self.negative if self.neither is None else ~(self.negative | self.neither)

    def take(self, kept: Any) -> SearchRows:
        """Some rows, in this order."""
        masks = (None if mask is None else mask[kept] for mask in (self.neither, self.group))
        return SearchRows(self.inputs[kept], self.logits[kept], self.labels[kept], self.negative[kept], *masks)


@dataclass(frozen=True, eq=False)
class Weights:
    """The K localised weights.

    Attributes:
        feature: (K,) int64, column of `SearchRows.inputs`; of a deep target the place in the flat vector.
        unit: (K,) int64, output unit, 0 <= unit < C; 0 of a deep target.
        old: (K,) float32, values in the model as it is.
    """

    feature: Int64
    unit: Int64
    old: Float32


def localised(kernel: Float32, index: Int64) -> tuple[Int64, Weights]:
    """The distinct inputs (I,) that localised kernel positions (K, 2) read, and the weights over those inputs."""
    inputs, feature = np.unique(index[:, 0], return_inverse=True)
    return inputs, Weights(feature.astype(np.int64), index[:, 1], kernel[index[:, 0], index[:, 1]])
