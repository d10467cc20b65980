"""Forward and gradient passes of one model in this process, in batches of one fixed shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import backend
from engine.backend import keras, ops
from engine.head import TargetLayer, row_losses

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

BATCH_ROWS = 256
"""Rows of one pass. The last batch of a block is filled up with zeros, so that one shape is compiled and the bits of a
row do not depend on how many rows follow it."""


@dataclass(frozen=True, eq=False)
class LocalisationSums:
    """Sums over rows that localisation needs; blocks of rows are added in order.

    Attributes:
        gradient: (D, C) float64, sum over rows of the loss gradient by the kernel.
        impact: (D,) float64, sum over rows of |input of the layer|.
        first: (D,) float64, |input| of the first row alone.
        rows: number of rows summed.
    """

    gradient: Float64
    impact: Float64
    first: Float64
    rows: int

    def __add__(self, later: LocalisationSums) -> LocalisationSums:
        return LocalisationSums(
            self.gradient + later.gradient, self.impact + later.impact, self.first, self.rows + later.rows
        )


class ModelRunner:
    """Compiled passes of one model. Everything before the layer under repair is run once per row."""

    def __init__(self, model: Any, target: TargetLayer | None, batch_rows: int = BATCH_ROWS) -> None:
        """Build the passes; they compile on first use.

        Args:
            model: Keras model with one input (h, w, c) and one output (C).
            target: its layer under repair; None for a model that is only run, whose `features` and
                `localisation_sums` then do not exist.
            batch_rows: rows of one pass.
        """
        self._batch = batch_rows

        def outputs(images: Any) -> Any:
            return model(images, training=False)

        self._outputs = backend.graph(outputs)
        if target is not None:
            self._build_layer_passes(model, target)

    def _build_layer_passes(self, model: Any, target: TargetLayer) -> None:
        layer = target.layer
        before = keras.Model(model.inputs, layer.input)

        def features(images: Any) -> tuple[Any, Any]:
            inputs = before(images, training=False)
            logits = ops.matmul(inputs, layer.kernel)
            if layer.use_bias:
                logits = logits + layer.bias
            return ops.cast(inputs, "float32"), ops.cast(logits, "float32")

        def gradients(images: Any, true: Any) -> tuple[Any, Any]:
            inputs, logits = features(images)

            def total(values: Any) -> Any:
                return ops.sum(row_losses(target.head, values, true))

            return inputs, backend.gradient(total, ops.cast(logits, "float64"))

        self._features = backend.graph(features)
        self._gradients = backend.graph(gradients)
        self._classes = int(layer.units)

    def outputs(self, images: Float32) -> Float32:
        """Model outputs (n, C) of images (n, h, w, c)."""
        parts = [np.asarray(self._outputs(batch))[:count] for batch, count in self._batches(images)]
        return np.concatenate(parts)

    def predict(self, images: Float32) -> Int64:
        """Predicted classes (n,): argmax of the output, first index on ties."""
        classes: Int64 = self.outputs(images).argmax(axis=1)
        return classes

    def features(self, images: Float32) -> tuple[Float32, Float32]:
        """Inputs of the layer (n, D) and its logits (n, C), both float32."""
        parts = [(*self._features(batch), count) for batch, count in self._batches(images)]
        return (
            np.concatenate([np.asarray(inputs)[:count] for inputs, _, count in parts]),
            np.concatenate([np.asarray(logits)[:count] for _, logits, count in parts]),
        )

    def localisation_sums(self, images: Float32, labels: Int64) -> LocalisationSums:
        """Sums over the rows of images (n, h, w, c) with true classes (n,), n at least 1."""
        sums: LocalisationSums | None = None
        start = 0
        for batch, count in self._batches(images):
            true = np.zeros((self._batch, self._classes))
            true[np.arange(count), labels[start : start + count]] = 1.0
            start += count
            inputs, gradient = self._gradients(batch, backend.on_device(true))
            wide = np.asarray(inputs)[:count].astype(np.float64)
            part = LocalisationSums(
                gradient=wide.T @ np.asarray(gradient)[:count],
                impact=np.abs(wide).sum(axis=0),
                first=np.abs(wide[0]),
                rows=count,
            )
            sums = part if sums is None else sums + part
        if sums is None:
            raise ValueError("localisation needs at least one row")
        return sums

    def _batches(self, images: Float32) -> Iterator[tuple[Any, int]]:
        for start in range(0, len(images), self._batch):
            part = images[start : start + self._batch]
            count = len(part)
            if count < self._batch:
                full = np.zeros((self._batch, *images.shape[1:]), dtype=np.float32)
                full[:count] = part
                part = full
            yield backend.on_device(part), count
