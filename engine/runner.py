"""Forward and gradient passes of one model in this process, in batches of one fixed shape."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import backend
from engine.backend import keras, ops
from engine.core.types import Float32, Float64, Int64
from engine.head import Head, TargetLayer, row_losses
from engine.models.inputs import unpack

if TYPE_CHECKING:
    from engine.layer_targets import Target
    from engine.pooled_localize import PooledSums
    from engine.tail import Tail, TailRunner


BATCH_ROWS = 256
"""Rows of one pass. The last batch of a block is filled up with zeros, so that one shape is compiled and the bits of a
row do not depend on how many rows follow it."""


PASS_ROWS = 1024
"""Rows of one row block of a pass: large enough that a message is cheap beside it, small enough to spread a thousand
rows. Sums over more rows are added block by block."""


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


def predicted_classes(head: Head, logits: Float32) -> Int64:
    """Classes (n,) of logits (n, C): argmax of the scores, first index on ties."""
    classes: Int64 = np.asarray(head.scores(backend.on_device(logits))).argmax(axis=1)
    return classes


class LayerRunner:
    """Compiled passes of the layer under repair and what follows it, from the layer's inputs on.

    The kernel is an argument, so inputs that were extracted once serve every repaired form of the layer.
    """

    def __init__(self, target: TargetLayer, batch_rows: int = BATCH_ROWS) -> None:
        """Build the passes; they compile on first use."""
        self._batch = batch_rows
        self._layer = target.layer

        def logits(inputs: Any, kernel: Any, bias: Any) -> Any:
            return ops.matmul(inputs, kernel) + bias

        def gradients(values: Any, true: Any) -> Any:
            def total(wide: Any) -> Any:
                return ops.sum(row_losses(target.head, wide, true))

            return backend.gradient(total, ops.cast(values, "float64"))

        self.target = target
        self._logits = backend.graph(logits)
        self._gradients = backend.graph(gradients)

    def logits(self, inputs: Float32, kernel: Float32) -> Float32:
        """Logits (n, C) of inputs (n, D) under a kernel (D, C)."""
        layer = self._layer
        bias = np.asarray(layer.bias, np.float32) if layer.use_bias else np.zeros(layer.units, np.float32)
        weights = backend.on_device(kernel), backend.on_device(bias)
        return np.concatenate(
            [np.asarray(self._logits(batch, *weights))[:count] for batch, count in batches(inputs, self._batch)]
        )

    def predicted(self, logits: Float32) -> Int64:
        """Classes (n,) of logits (n, C): argmax of the scores, first index on ties."""
        return predicted_classes(self.target.head, logits)

    def localisation_sums(self, inputs: Float32, logits: Float32, labels: Int64) -> LocalisationSums:
        """Sums over rows with inputs (n, D), logits (n, C) and true classes (n,), n at least 1."""
        parts = []
        start = 0
        for batch, count in batches(logits, self._batch):
            part = slice(start, start + count)
            true = np.zeros((self._batch, self._layer.units))
            true[np.arange(count), labels[part]] = 1.0
            gradient = np.asarray(self._gradients(batch, backend.on_device(true)))[:count]
            wide = inputs[part].astype(np.float64)
            impact = np.abs(wide)
            parts.append(LocalisationSums(wide.T @ gradient, impact.sum(axis=0), impact[0], count))
            start += count
        return functools.reduce(operator.add, parts)


class ModelRunner:
    """Compiled passes of one model. Everything before the layer under repair is run once per row."""

    def __init__(self, model: Any, target: Target | None, batch_rows: int = BATCH_ROWS) -> None:
        """Build the passes; they compile on first use.

        Args:
            model: Keras model with one output (C).
            target: its weights under repair; None for a model that is only run, whose `inputs`, `features` and
                `localisation_sums` then do not exist.
            batch_rows: rows of one pass.
        """
        self.batch_rows = batch_rows
        self._model = model
        self.tail: Tail | None = None
        """Behind a deep target; None where the last Dense layer, or nothing, is under repair."""
        self._outputs = backend.model_pass(model)
        if target is None:
            return
        self.target = target
        self._inputs: Callable[[Any], Any]
        self.layer: LayerRunner | TailRunner
        if isinstance(target, TargetLayer):
            self._inputs = backend.model_pass(keras.Model(model.inputs, target.layer.input))
            self.layer = LayerRunner(target, batch_rows)
        else:
            from engine.tail import TailRunner, features_pass  # which is built on this module

            self._inputs = features_pass(model, target.cut)
            self.layer = TailRunner(target, batch_rows)
            self.tail = self.layer.tail

    def outputs(self, images: Float32) -> Float32:
        """Model outputs (n, C) of images (n, h, w, c)."""
        return np.concatenate(
            [
                np.asarray(self._outputs(unpack(self._model, batch)))[:count]
                for batch, count in batches(images, self.batch_rows)
            ]
        )

    def predict(self, images: Float32) -> Int64:
        """Predicted classes (n,): argmax of the output, first index on ties."""
        classes: Int64 = self.outputs(images).argmax(axis=1)
        return classes

    def inputs(self, images: Float32) -> Float32:
        """Inputs (n, D) of the layer under repair, or features (n, F) of a deep target, float32."""
        return np.concatenate(
            [
                np.asarray(self._inputs(unpack(self._model, batch)), np.float32)[:count]
                for batch, count in batches(images, self.batch_rows)
            ]
        )

    def features(self, images: Float32) -> tuple[Float32, Float32]:
        """What `inputs` gives, and the logits (n, C) of the model as it is, both float32."""
        inputs = self.inputs(images)
        return inputs, self.layer.logits(inputs, self.target.kernel)

    def localisation_sums(self, images: Float32, labels: Int64) -> LocalisationSums | PooledSums:
        """Sums over the rows of images (n, ...) with true classes (n,), n at least 1."""
        if not len(images):
            raise ValueError("localisation needs at least one row")
        inputs, logits = self.features(images)
        if isinstance(self.layer, LayerRunner):
            return self.layer.localisation_sums(inputs, logits, labels)
        return self.layer.localisation_sums(inputs, logits, labels, self.target.kernel)


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
