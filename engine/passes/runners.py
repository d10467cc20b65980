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
from engine.fitness.rows import localised
from engine.layers.head import Head, row_losses
from engine.layers.tail import Tail, pack
from engine.localize.fronts import Sums
from engine.localize.impact import ImpactPasses
from engine.models.graph import GraphCut, flat, run
from engine.models.inputs import model_inputs
from engine.passes.classes import NO_CLASS, batched, batches, classes_of, predicted_classes, scores_of
from engine.passes.sizes import BATCH_ROWS

BLOCK_ELEMENTS = 1 << 24
"""Touched logits held at once by `predict_patched`: 64 MiB of float32."""


class LayerPasses(Protocol):
    """Passes of any weights under repair, from the features (n, F) before them on.

    Their kernel, (D, C) of the last Dense layer and (W, 1) of any others, is an argument: features that were extracted
    once serve every repaired form of the weights.
    """

    head: Head

    def logits(self, inputs: Float32, kernel: Float32) -> Float32:
        """Logits (n, C) of inputs (n, F) under a kernel."""

    def predicted(self, logits: Float32) -> Int64:
        """Classes (n,) of logits (n, C); see `engine.passes.classes.predicted_classes`."""
        return predicted_classes(self.head, logits)

    def localisation_sums(self, inputs: Float32, logits: Float32, labels: Int64, kernel: Float32) -> Sums:
        """Sums over n rows, at least one, with true classes (n,) and logits (n, C) under the kernel."""

    def predict_patches(
        self, kernel: Float32, inputs: Float32, logits: Float32, index: Int64, values: Float32
    ) -> Int64:
        """Classes (M, n) of rows under M patches of the same K places (K, 2), with new values (M, K): argmax of the
        scores, first index on ties; `NO_CLASS` where the largest is no finite number.

        `logits` (n, C) are those under the kernel that the patches were made against.
        """


class LayerRunner(LayerPasses):
    """Passes of the last Dense layer and the head behind it; compiled on first use."""

    def __init__(self, head: Head, layer: Any, batch_rows: int = BATCH_ROWS) -> None:
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
        layer = self._layer
        bias = np.asarray(layer.bias, np.float32) if layer.use_bias else np.zeros(layer.units, np.float32)
        weights = backend.on_device(kernel), backend.on_device(bias)
        return batched(lambda batch: self._logits(batch, *weights), inputs, self._batch)

    def localisation_sums(self, inputs: Float32, logits: Float32, labels: Int64, kernel: Float32) -> Sums:
        del kernel  # of which the gradient has no need
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
        return predict_patched(self.head, kernel, inputs, logits, index, values)


class TailRunner(LayerPasses):
    """Passes of the tail behind any other weights; compiled on first use."""

    def __init__(self, tail: Tail, batch_rows: int = BATCH_ROWS) -> None:
        self.head = tail.head
        self.tail = tail
        self._batch = batch_rows

        def logits(features: Any, values: Any, *constants: Any) -> Any:
            return self.tail.logits(features, self.tail.parts(values), constants)

        self._logits = backend.graph(logits)
        self._impact = ImpactPasses(self.tail, batch_rows)

    def logits(self, inputs: Float32, kernel: Float32) -> Float32:
        values = backend.on_device(np.ascontiguousarray(kernel[:, 0]))
        return batched(lambda batch: self._logits(batch, values, *self.tail.constants), inputs, self._batch)

    def localisation_sums(self, inputs: Float32, logits: Float32, labels: Int64, kernel: Float32) -> Sums:
        return Sums(*self._impact.sums(inputs, self.predicted(logits), labels, kernel), rows=len(labels))

    def predict_patches(
        self, kernel: Float32, inputs: Float32, logits: Float32, index: Int64, values: Float32
    ) -> Int64:
        del logits
        predicted = np.empty((len(values), len(inputs)), dtype=np.int64)
        for number, new in enumerate(values):
            patched = kernel.copy()
            patched[index[:, 0], 0] = new
            predicted[number] = classes_of(scores_of(self.head, self.logits(inputs, patched)))
        return predicted


def predict_patched(
    head: Head, kernel: Float32, inputs: Float32, logits: Float32, index: Int64, values: Float32
) -> Int64:
    """Predict rows under patches of the same K positions of the last Dense layer's kernel.

    As in `engine.fitness`, only the touched units move; the largest of the others is found once. NumPy needs 0.1 ms
    for a patch of a few weights on 5,000 rows, where compiling for the shapes of a patch would take 100 ms.

    Arguments and result are those of `LayerPasses.predict_patches`, the kernel is (D, C).
    """
    features, weights = localised(kernel, index)
    read = np.ascontiguousarray(inputs[:, features])
    units, slot = np.unique(weights.unit, return_inverse=True)
    scores = _scores(head, logits)
    free = np.ones(logits.shape[1], dtype=bool)
    free[units] = False
    rest = np.where(free, scores, -np.inf)
    rest_class = rest.argmax(axis=1)
    rest_score = np.take_along_axis(rest, rest_class[:, None], axis=1)
    change = np.zeros((len(values), len(features), len(units)), dtype=np.float32)
    change[:, weights.feature, slot] = values - weights.old
    predicted = np.empty((len(values), len(inputs)), dtype=np.int64)
    step = max(1, BLOCK_ELEMENTS // max(1, len(inputs) * len(units)))
    for start in range(0, len(values), step):
        part = slice(start, start + step)
        with np.errstate(over="ignore", invalid="ignore"):  # such rows have no class
            moved = _scores(head, logits[:, units] + np.matmul(read, change[part]))
        best = moved.argmax(axis=2)
        score = np.take_along_axis(moved, best[:, :, None], axis=2)[:, :, 0]
        touched = units[best]
        wins = (score > rest_score[:, 0]) | ((score == rest_score[:, 0]) & (touched < rest_class))
        known = np.isfinite(np.maximum(score, rest_score[:, 0]))
        predicted[part] = np.where(known, np.where(wins, touched, rest_class), NO_CLASS)
    return predicted


def _scores(head: Head, logits: Float32) -> Float32:
    return logits if head.activation == "linear" else scores_of(head, logits)


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
