"""Passes of a model over blocks of rows, and how rows travel to where they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet, row_digests
from engine.targets.model_runner import ModelRunner

Pass = Literal["predict", "inputs", "features", "localise"]

NOT_VISIBLE = "the file is not visible here"
"""Answer to a block of rows whose file this node does not see; the driver sends the rows instead."""


@dataclass(frozen=True, eq=False)
class ShippedRows:
    """An image set as it travels, with what tells whether a node sees the same file."""

    image_set: ImageSet
    size: int

    @property
    def visible(self) -> bool:
        """Whether this node sees the file."""
        path = self.image_set.path
        return path.is_file() and path.stat().st_size == self.size


def ship_rows(images: ImageSet) -> ShippedRows:
    """An image set of this node, ready to travel."""
    return ShippedRows(images, images.path.stat().st_size)


def block_pass(
    runner: ModelRunner,
    what: Pass,
    images: Float32,
    labels: Int64,
    features: Int64 | None,
) -> Any:
    """One pass over a block of rows.

    Returns:
        `predict`: classes (m,); `inputs`: all inputs of the layer (m, D), or features of a deep target (m, F), and
        digests of the rows (m, 16); `features`: inputs at the places `features` (m, I), or all, and logits (m, C);
        `localise`: sums, see `ModelRunner.localisation_sums`.
    """
    if what == "predict":
        return runner.predict(images)
    if what == "inputs":
        return runner.inputs(images), row_digests(images)
    if what == "localise":
        return runner.localisation_sums(images, labels)
    inputs, logits = runner.features(images)
    return (inputs if features is None else np.ascontiguousarray(inputs[:, features])), logits
