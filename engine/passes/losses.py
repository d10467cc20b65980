"""The loss of every row from a model's outputs, for models that end in a softmax or in logits as Keras has it."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.core.types import Float32, Float64, Int64
from engine.layers.head import EPSILON
from engine.models.loss import TrainingLoss, ends_softmax

_LEAST = float(np.finfo(np.float32).tiny)


def output_losses(loss: TrainingLoss, model: Any, outputs: Float32, labels: Int64) -> Float64:
    """The loss (n,) of outputs (n, C) of a model, for class numbers (n,).

    Cross-entropy of logits is log Σ_c exp(z_c) − z_t, of other outputs −log(y_t / Σ_c y_c), and binary cross-entropy
    the mean over the classes of −log y_t and −log(1 − y_c) for c ≠ t. Probabilities are clipped to [1e-7, 1 − 1e-7], as
    Keras clips them, but not those of a softmax at the end, which Keras goes behind.

    Keras' own numbers are others where it goes behind a sigmoid too: of rows surer than the clipping, and, with
    categorical cross-entropy, of all rows, whose sigmoids it takes for a softmax.
    """
    values = outputs.astype(np.float64)
    true = np.arange(len(values)), labels
    with np.errstate(divide="ignore", invalid="ignore"):
        if loss.name == "binary_crossentropy":
            mean: Float64 = _binary(values, true, loss.from_logits).mean(axis=1)
            return mean
        if loss.from_logits:
            highest = values.max(axis=1, keepdims=True)
            found: Float64 = np.log(np.exp(values - highest).sum(axis=1)) + highest[:, 0] - values[true]
            return found
        share = values[true] / values.sum(axis=1)
        lowest, highest_share = (_LEAST, 1.0) if ends_softmax(model) else (EPSILON, 1 - EPSILON)
        cross: Float64 = -np.log(np.clip(share, lowest, highest_share))
        return cross


def _binary(values: Float64, true: tuple[Int64, Int64], from_logits: bool) -> Float64:
    """Binary cross-entropy of every output (n, C) against 1 at the true class and 0 elsewhere."""
    one_hot = np.zeros_like(values)
    one_hot[true] = 1
    if from_logits:
        terms: Float64 = np.maximum(values, 0) - values * one_hot + np.log1p(np.exp(-np.abs(values)))
        return terms
    clipped = np.clip(values, EPSILON, 1 - EPSILON)
    return -np.log(np.where(one_hot == 1, clipped, 1 - clipped))
