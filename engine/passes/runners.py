"""Passes of what is under repair and what follows it, from its features on, in batches of one fixed shape."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from engine import backend
from engine.backend import keras, ops
from engine.core.errors import InputError
from engine.core.types import Float32, Int64
from engine.layers.head import Head, row_losses
from engine.layers.tail import Tail, pack
from engine.localize.fronts import Sums
from engine.localize.impact import ImpactPasses
from engine.models.graph import GraphCut, flat, run
from engine.models.inputs import model_inputs
from engine.passes.batching import batched, batches, predicted_classes
from engine.passes.classes import classes_of, scores_of
from engine.passes.predict import predict_patched
from engine.passes.sizes import BATCH_ROWS


class LayerPasses(Protocol):
    """Passes of any weights under repair.

    Their kernel is (D, C) of the last Dense layer, (W, 1) of any others; the inputs are features (n, F) before them.
    """

    head: Head

    def logits(self, inputs: Float32, kernel: Float32) -> Float32:
        """Logits (n, C) of inputs (n, F) under a kernel."""

    def predicted(self, logits: Float32) -> Int64:
        """Classes (n,) of logits (n, C); see `engine.passes.batching.predicted_classes`."""
        return predicted_classes(self.head, logits)

    def localisation_sums(self, inputs: Float32, logits: Float32, labels: Int64, kernel: Float32) -> Sums:
        """Sums over n rows, at least one.

        Args:
            inputs: (n, F).
            logits: (n, C) of those under the kernel.
            labels: (n,) true classes.
            kernel: values of the weights.
        """

    def predict_patches(
        self, kernel: Float32, inputs: Float32, logits: Float32, index: Int64, values: Float32
    ) -> Int64:
        """Predict rows under patches of the same K places.

        Args:
            kernel: the patches were made against.
            inputs: (n, F).
            logits: (n, C) of those under the kernel.
            index: (K, 2) places.
            values: (M, K) new values of M patches.

        Returns:
            Classes (M, n): argmax of the scores, first index on ties; `NO_CLASS` where the largest is no finite number.
        """


class LayerRunner(LayerPasses):
    """Compiled passes of the layer under repair and what follows it, from the layer's inputs on.

    The kernel is an argument, so inputs that were extracted once serve every repaired form of the layer.
    """

    def __init__(self, head: Head, layer: Any, batch_rows: int = BATCH_ROWS) -> None:
        """Build the passes of a Dense layer and the head behind it; they compile on first use."""
        self.head = head
        self._batch = batch_rows
        self._layer = layer

        def logits(inputs: Any, kernel: Any, bias: Any) -> Any:
            return ops.matmul(inputs, kernel) + bias

        def gradients(values: Any, true: Any) -> Any:
            def total(wide: Any) -> Any:
                return ops.sum(row_losses(head, wide, true))

            return backend.gradient(total, ops.cast(values, "float64"))

        self._logits = backend.graph(logits)
        self._gradients = backend.graph(gradients)

    def logits(self, inputs: Float32, kernel: Float32) -> Float32:
        """Logits (n, C) of inputs (n, D) under a kernel (D, C)."""
        layer = self._layer
        bias = np.asarray(layer.bias, np.float32) if layer.use_bias else np.zeros(layer.units, np.float32)
        weights = backend.on_device(kernel), backend.on_device(bias)
        return batched(lambda batch: self._logits(batch, *weights), inputs, self._batch)

    def localisation_sums(self, inputs: Float32, logits: Float32, labels: Int64, kernel: Float32) -> Sums:
        """Sums over rows; the gradient of a last Dense layer has no need of its kernel."""
        del kernel
        parts = []
        start = 0
        for batch, count in batches(logits, self._batch):
            part = slice(start, start + count)
            true = np.zeros((self._batch, self._layer.units))
            true[np.arange(count), labels[part]] = 1.0
            gradient = np.asarray(self._gradients(batch, backend.on_device(true)))[:count]
            wide = inputs[part].astype(np.float64)
            impact = np.abs(wide)
            parts.append(Sums(wide.T @ gradient, impact.sum(axis=0), count, impact[0]))
            start += count
        return functools.reduce(operator.add, parts)

    def predict_patches(
        self, kernel: Float32, inputs: Float32, logits: Float32, index: Int64, values: Float32
    ) -> Int64:
        """See `LayerPasses`; only the touched units move."""
        return predict_patched(self.head, kernel, inputs, logits, index, values)


class TailRunner(LayerPasses):
    """Compiled passes of the tail from its features on; for a deep target what `LayerRunner` is."""

    def __init__(self, tail: Tail, batch_rows: int = BATCH_ROWS) -> None:
        """Build the passes; they compile on first use."""
        self.head = tail.head
        self.tail = tail
        self._batch = batch_rows

        def logits(features: Any, values: Any, *constants: Any) -> Any:
            return self.tail.logits(features, self.tail.parts(values), constants)

        self._logits = backend.graph(logits)
        self._impact = ImpactPasses(self.tail, batch_rows)

    def logits(self, inputs: Float32, kernel: Float32) -> Float32:
        """Logits (n, C) of features (n, F) under values (W, 1)."""
        values = backend.on_device(np.ascontiguousarray(kernel[:, 0]))
        return batched(lambda batch: self._logits(batch, values, *self.tail.constants), inputs, self._batch)

    def localisation_sums(self, inputs: Float32, logits: Float32, labels: Int64, kernel: Float32) -> Sums:
        """Sums over rows, under the kernel."""
        return Sums(*self._impact.sums(inputs, self.predicted(logits), labels, kernel), rows=len(labels))

    def predict_patches(
        self, kernel: Float32, inputs: Float32, logits: Float32, index: Int64, values: Float32
    ) -> Int64:
        """See `LayerPasses`; one patch after the other."""
        del logits
        predicted = np.empty((len(values), len(inputs)), dtype=np.int64)
        for number, new in enumerate(values):
            patched = kernel.copy()
            patched[index[:, 0], 0] = new
            predicted[number] = classes_of(scores_of(self.head, self.logits(inputs, patched)))
        return predicted


def features_pass(model: Any, cut: GraphCut) -> Callable[[Any], Any]:
    """The pass from what the model takes to features (n, F); weights that are assigned later count at once."""
    inputs = range(len(model_inputs(model)))
    variables = list({id(variable): variable for step in cut.before for variable in step.variables}.values())

    def features(values: Sequence[Any], constants: Sequence[Any]) -> Any:
        with keras.StatelessScope(list(zip(variables, constants, strict=True))):
            known = dict(zip(inputs, values, strict=True))
            found = run(cut.before, known, cut.crossing)
        for value in found:
            if value.shape[0] != values[0].shape[0]:
                layer = cut.tail[0].operation
                raise InputError(
                    f"model {model.name!r}: its values before {layer.name} ({type(layer).__name__}) are "
                    f"{value.shape[0]} rows for {values[0].shape[0]}, expected as many: a layer before it can be "
                    "repaired, or both"
                )
        return pack(cut, found)

    program = backend.graph(features)
    return lambda rows: program(flat(rows), [ops.convert_to_tensor(variable) for variable in variables])
