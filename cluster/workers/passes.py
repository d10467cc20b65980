"""Passes of a model over blocks of rows, and how rows travel to where they run."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from engine.core.errors import InputError
from engine.core.types import Float32, Int64, Uint8
from engine.data.image_set import ImageSet, read_blocks, read_images
from engine.data.row_digests import row_digests
from engine.data.value_range import ValueRange, value_range
from engine.passes.classes import rows_of
from engine.targets.model_runner import ModelRunner

Pass = Literal["predict", "predict and digest", "predict with losses", "inputs", "features", "localise"]

NOT_VISIBLE = "the file is not visible here"  # the answer of a node that does not see it: the driver sends the rows


@dataclass(frozen=True, eq=False)
class ShippedRows:
    """An image set as it travels, with what tells whether a node sees the same file."""

    image_set: ImageSet
    size: int

    @property
    def visible(self) -> bool:
        path = self.image_set.path
        return path.is_file() and path.stat().st_size == self.size


def ship_rows(images: ImageSet) -> ShippedRows:
    return ShippedRows(images, images.path.stat().st_size)


@dataclass(frozen=True, eq=False)
class Block:
    result: Any
    values: ValueRange  # of the numbers that were read


def block_pass(
    runner: ModelRunner,
    what: Pass,
    images: ImageSet,
    start: int,
    stop: int,
    features: Int64 | None,
    pixels: Float32 | None = None,
) -> Block:
    """One pass over m rows start..stop; `pixels` (m, ...) are theirs, where the file is not visible here.

    `predict` gives classes (m,); `predict and digest` and `predict with losses` also digests (m, 16) or losses (m,);
    `inputs` those of the layer (m, D), or features of a deep target (m, F), and digests; `features` inputs at the
    places `features` (m, I), or all, logits (m, C) and digests; `localise` sums over rows whose `pixels` (m, D + C) are
    inputs of the layer and logits. Raises InputError for rows that cannot be read or that have outputs like NaN.
    """
    if pixels is None:
        pixels = read_images(images, start, stop)
    with rows_of(images.path, start, runner.path):
        result = _result(runner, what, pixels, images.labels[start:stop], images.classes, features)
    return Block(result, value_range(pixels))


@dataclass(frozen=True, eq=False)
class SetRows:
    digests: Uint8  # (n, 16)
    values: ValueRange


def set_rows(images: ImageSet) -> SetRows | None:
    """Read a whole set; None where it cannot be read to its end."""
    digests, values = [], []
    try:
        for block in read_blocks(images):
            digests.append(row_digests(block))
            values.append(value_range(block))
    except InputError:
        return None
    return SetRows(np.concatenate(digests), functools.reduce(ValueRange.joined, values)) if digests else None


def _result(
    runner: ModelRunner, what: Pass, pixels: Float32, labels: Int64, classes: int, features: Int64 | None
) -> Any:
    if what == "predict":
        return runner.predict(pixels)
    if what == "predict and digest":
        return runner.predict(pixels), row_digests(pixels)
    if what == "predict with losses":
        return runner.predict_with_losses(pixels, labels)
    if what == "inputs":
        return runner.inputs(pixels), row_digests(pixels)
    if what == "localise":
        inputs, logits = np.split(pixels, [-classes], axis=1)
        return runner.layer.localisation_sums(inputs, logits, labels, runner.target.kernel)
    inputs, logits = runner.features(pixels)
    chosen = inputs if features is None else np.ascontiguousarray(inputs[:, features])
    return chosen, logits, row_digests(pixels)
