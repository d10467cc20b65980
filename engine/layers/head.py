"""The head of a classifier: the activation after the last layer and the loss over its scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine import backend
from engine.backend import keras, ops
from engine.core.errors import InputError
from engine.models.loss import TrainingLoss

Form = Literal["log_softmax", "normalised", "binary", "binary_logits"]

EPSILON = 1e-7
"""Keras' clipping of probabilities."""

ELEMENTWISE = frozenset(
    [
        *("linear", "exponential", "softplus", "softsign", "squareplus", "tanh", "hard_tanh", "tanh_shrink"),
        *("sigmoid", "hard_sigmoid", "log_sigmoid", "silu", "hard_silu", "mish", "gelu"),
        *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "hard_shrink", "soft_shrink"),
    ]
)
"""Activations of Keras that take each number by itself."""


@dataclass(frozen=True)
class Head:
    """How class scores and the loss follow from the logits (pre-activations) of the last Dense layer.

    Attributes:
        form: `log_softmax`: cross-entropy of softmax over the scores; `normalised`: cross-entropy of scores divided by
            their sum and clipped, as Keras does with outputs that are not softmax; `binary`, `binary_logits`: mean
            binary cross-entropy over the classes of probabilities or of logits.
        activation: elementwise Keras activation from logits to scores; `linear` for softmax, which keeps the order.
    """

    form: Form
    activation: str

    def scores(self, logits: Any) -> Any:
        """Apply the elementwise activation to logits of any shape."""
        return backend.activation(self.activation)(logits)


def activation_name(activation: Any) -> str | None:
    """The name of an activation of Keras, elementwise or softmax; None for any other function, whatever its name."""
    name = "linear" if activation is None else getattr(activation, "__name__", None)
    if name not in ELEMENTWISE | {"softmax"}:
        return None
    return str(name) if activation in (None, keras.activations.get(name)) else None


def head_of(activation: str, loss: TrainingLoss, path: Path) -> Head:
    """The head of a model whose last activation is known by name."""
    if loss.name == "binary_crossentropy":
        if activation == "softmax":
            raise InputError(f"{path}: softmax with binary cross-entropy, expected categorical cross-entropy")
        return Head("binary_logits" if loss.from_logits else "binary", activation)
    if activation == "softmax":
        return Head("log_softmax", "linear")
    return Head("log_softmax" if loss.from_logits else "normalised", activation)


def row_losses(head: Head, logits: Any, true: Any) -> Any:
    """The loss (n,) of every row by the dense formula, differentiable, from logits (n, C) and one-hot `true` (n, C)."""
    scores = head.scores(logits)
    if head.form == "log_softmax":
        return ops.logsumexp(scores, axis=-1) - ops.sum(scores * true, axis=-1)
    if head.form == "normalised":
        share = ops.sum(scores * true, axis=-1) / ops.sum(scores, axis=-1)
        return -ops.log(ops.clip(share, EPSILON, 1.0 - EPSILON))
    return ops.sum(binary_terms(head, logits, scores, true), axis=-1) / logits.shape[-1]


def soft_losses(head: Head, logits: Any, known: Any, axis: int = -1) -> Any:
    """Cross-entropy (.., n) of the class probabilities that logits (.., n, C) stand for, against known ones (n, C).

    With one-hot `known` it is `row_losses`. Against `probabilities` of other logits it is, but for a constant, the
    Kullback-Leibler divergence from those. With -2 as the axis of the classes they are (.., C, n) and (C, n).
    """
    scores = head.scores(logits)
    if head.form == "log_softmax":
        return -ops.sum(known * ops.log_softmax(scores, axis=axis), axis=axis)
    if head.form == "normalised":
        share = scores / ops.sum(scores, axis=axis, keepdims=True)
        return -ops.sum(known * ops.log(ops.clip(share, EPSILON, 1.0 - EPSILON)), axis=axis)
    return ops.sum(binary_terms(head, logits, scores, known), axis=axis) / logits.shape[axis]


def probabilities(head: Head, logits: Any) -> Any:
    """The class probabilities (.., n, C) that logits stand for, as the loss reads them."""
    scores = head.scores(logits)
    if head.form == "log_softmax":
        return ops.softmax(scores, axis=-1)
    if head.form == "normalised":
        return scores / ops.sum(scores, axis=-1, keepdims=True)
    return ops.sigmoid(scores) if head.form == "binary_logits" else scores


def binary_terms(head: Head, logits: Any, scores: Any, true: Any) -> Any:
    """Binary cross-entropy of every score against 0 or 1; `scores` are those of `logits`, all of one shape."""
    if head.form == "binary" and head.activation != "sigmoid":
        # Both sides are clipped: 1 - (1 - EPSILON) is 19 % off in float32.
        rest = ops.clip(1.0 - scores, EPSILON, 1.0 - EPSILON)
        return -(true * ops.log(ops.clip(scores, EPSILON, 1.0 - EPSILON)) + (1.0 - true) * ops.log(rest))
    if head.form == "binary_logits":
        logits = scores
    terms = ops.maximum(logits, 0.0) - logits * true + ops.log1p(ops.exp(-ops.abs(logits)))
    if head.form == "binary":
        # The same as clipping the probability, which in float32 has few digits left near 1.
        terms = ops.clip(terms, -math.log1p(-EPSILON), -math.log(EPSILON))
    return terms
