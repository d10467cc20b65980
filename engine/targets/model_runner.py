"""All passes of one model in this process: whole, and through the weights under repair."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine import backend
from engine.core.types import Float32, Float64, Int64
from engine.layers.tail import Tail
from engine.localize.fronts import Sums
from engine.models.inputs import unpack
from engine.models.loss import TrainingLoss
from engine.passes.classes import batched, known_classes
from engine.passes.losses import output_losses
from engine.passes.runners import LayerPasses
from engine.passes.sizes import BATCH_ROWS
from engine.targets.base import Target


class ModelRunner:
    """Compiled passes of one model. Everything before the layer under repair is run once per row."""

    def __init__(
        self,
        model: Any,
        target: Target | None,
        batch_rows: int = BATCH_ROWS,
        path: Path | None = None,
        loss: TrainingLoss | None = None,
    ) -> None:
        """Build the passes; they compile on first use.

        Args:
            model: Keras model with one output (C).
            target: its weights under repair; None for a model that is only run, whose `inputs`, `features` and
                `localisation_sums` then do not exist.
            batch_rows: rows of one pass.
            path: of the model, for messages.
            loss: of the model; None where no losses are asked for.
        """
        self.batch_rows, self.path, self._loss = batch_rows, path, loss
        self._model = model
        self.tail: Tail | None = None
        """Behind a deep target; None where the last Dense layer, or nothing, is under repair."""
        if target is None:
            return
        self.target = target
        self.layer: LayerPasses = target.layer_passes(batch_rows)
        self.tail = target.tail

    @functools.cached_property
    def _outputs(self) -> Callable[[Any], Any]:
        program: Callable[[Any], Any] = backend.model_pass(self._model)
        return program

    @functools.cached_property
    def _inputs(self) -> Callable[[Any], Any]:
        return self.target.features_pass(self._model)

    def outputs(self, images: Float32) -> Float32:
        """Model outputs (n, C) of images (n, h, w, c)."""
        return batched(lambda batch: self._outputs(unpack(self._model, batch)), images, self.batch_rows)

    def predict(self, images: Float32) -> Int64:
        """Predicted classes (n,): argmax of the output, first index on ties.

        Raises:
            NotNumbersError: the largest output of a row is no finite number.
        """
        return known_classes(self.outputs(images))

    def predict_with_losses(self, images: Float32, labels: Int64) -> tuple[Int64, Float64]:
        """What `predict` gives, and the loss (n,) of each row of class numbers (n,)."""
        if self._loss is None:
            raise ValueError("losses are asked for without a loss, expected that of the model")
        outputs = self.outputs(images)
        return known_classes(outputs), output_losses(self._loss, self._model, outputs, labels)

    def inputs(self, images: Float32) -> Float32:
        """Inputs (n, D) of the layer under repair, or features (n, F) of a deep target, float32."""
        found = batched(lambda batch: self._inputs(unpack(self._model, batch)), images, self.batch_rows)
        return found.astype(np.float32, copy=False)

    def features(self, images: Float32) -> tuple[Float32, Float32]:
        """What `inputs` gives, and the logits (n, C) of the model as it is, both float32; raises as `predict` does."""
        inputs = self.inputs(images)
        logits = self.layer.logits(inputs, self.target.kernel)
        self.layer.predicted(logits)  # which every row must have
        return inputs, logits

    def localisation_sums(self, images: Float32, labels: Int64) -> Sums:
        """Sums over the rows of images (n, ...) with true classes (n,), n at least 1."""
        if not len(images):
            raise ValueError("localisation needs at least one row")
        return self.layer.localisation_sums(*self.features(images), labels, self.target.kernel)
