"""The head of a classifier: the layer under repair, the activation after it and the loss over its scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine import backend
from engine.backend import keras, ops
from engine.core.errors import InputError
from engine.core.types import Float32, Int64
from engine.models.loss import TrainingLoss
from engine.models.weight_paths import layer_at, layer_number
from engine.patches.patch import Patch, patch_between
from engine.swarm import Spread

Form = Literal["log_softmax", "normalised", "binary", "binary_logits"]

EPSILON = 1e-7
"""Keras' clipping of probabilities."""

ELEMENTWISE = frozenset(
    [
        "linear",
        "sigmoid",
        "hard_sigmoid",
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "softplus",
        "softsign",
        "tanh",
        "exponential",
        "hard_silu",
        "hard_tanh",
        "tanh_shrink",
        "hard_shrink",
        "soft_shrink",
        "squareplus",
        "log_sigmoid",
    ]
)


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


@dataclass(frozen=True, eq=False)
class TargetLayer:
    """The layer under repair.

    Attributes:
        layer: the Keras Dense layer, D inputs and C units.
        number: the toolkit's number of the layer, the first column of weights.csv.
        path: `<layer name>/kernel`, as patches name it.
        head: what follows the layer.
        names: nothing; `DeepTarget` has what the user asked for there.
    """

    layer: Any
    number: int
    path: str
    head: Head
    names: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The layer, for messages."""
        return str(self.layer.name)

    @property
    def kernel(self) -> Float32:
        """The kernel as it is, (D, C) float32."""
        return np.asarray(ops.convert_to_numpy(self.layer.kernel), dtype=np.float32)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of the kernel by its path."""
        return {self.path: tuple(self.layer.kernel.shape)}

    def spread(self, kernel: Float32, index: Int64) -> Spread:
        """Mean, deviation and range of a kernel (D, C); the same wherever its weights (K, 2) are."""
        return Spread.of(kernel)

    def patch(self, index: Int64, old: Float32, new: Float32) -> Patch:
        """The patch of K kernel positions (K, 2) from old to new values (K,)."""
        flat = np.ravel_multi_index((index[:, 0], index[:, 1]), tuple(self.layer.kernel.shape)).astype(np.int64)
        return Patch((self.path,) * len(flat), flat, old, new)

    def index_of(self, patch: Patch, source: str) -> Int64:
        """The kernel positions (K, 2) of a patch of this kernel; `source` is for messages of `DeepTarget`."""
        places = np.unravel_index(patch.flat_index, tuple(self.layer.kernel.shape))
        return np.stack(places, axis=1).astype(np.int64).reshape(-1, 2)

    def patch_between(self, old: Float32, new: Float32) -> Patch:
        """What leads from one kernel (D, C) to another."""
        return patch_between(self.path, old, new)


def activation_name(activation: Any) -> str | None:
    """The name of an activation of Keras, elementwise or softmax; None for any other function, whatever its name."""
    name = "linear" if activation is None else getattr(activation, "__name__", None)
    if name not in ELEMENTWISE | {"softmax"}:
        return None
    return str(name) if activation in (None, keras.activations.get(name)) else None


def find_target(model: Any, loss: TrainingLoss, classes: int, path: Path, number: int | None = None) -> TargetLayer:
    """Find the Dense layer whose units are the classes.

    Args:
        model: Keras model with one output (n, C).
        loss: the training loss of the model.
        classes: C.
        path: of the model, for messages.
        number: the layer the user asked for, in the toolkit's numbering; None finds it.

    Raises:
        InputError: no such layer, a layer without weights, or one that does not produce the class scores.
    """
    # Of a Functional model also the operations that are no layers (x + y).
    steps = getattr(model, "operations", model.layers)
    layers = [step for step in steps if not isinstance(step, keras.layers.InputLayer)]
    found = None
    tail: list[Any] = []
    for layer in reversed(layers):
        if isinstance(layer, keras.layers.Dense):
            found = layer if layer.units == classes else None
            break
        if not isinstance(layer, (keras.layers.Activation, keras.layers.Softmax, keras.layers.Dropout)):
            break
        if not isinstance(layer, keras.layers.Dropout):
            tail.append(layer)
    if number is not None:
        asked = layer_at(model, number)
        if not asked.weights:
            raise InputError(f"{path}: target layer {number} ({asked.name}) has no weights, expected a Dense layer")
        if asked is not found:
            expected = "a final Dense layer" if found is None else f"layer {layer_number(model, found)} ({found.name})"
            raise InputError(
                f"{path}: target layer {number} ({asked.name}) does not give the {classes} class scores, "
                f"expected {expected}"
            )
    if found is None:
        raise InputError(
            f"{path}: the model ends with {layers[-1].name} ({type(layers[-1]).__name__}), expected a Dense layer "
            f"of {classes} units, followed at most by an activation"
        )
    names = [_name(found.activation, path)]
    names += ["softmax" if isinstance(x, keras.layers.Softmax) else _name(x.activation, path) for x in tail]
    steps = [name for name in names if name != "linear"]
    if len(steps) > 1:
        raise InputError(
            f"{path}: {found.name} is followed by several activations ({', '.join(steps)}), expected at most one"
        )
    activation = steps[0] if steps else "linear"
    return TargetLayer(
        layer=found,
        number=layer_number(model, found),
        path=f"{found.name}/kernel",
        head=head_of(activation, loss, path),
    )


def _name(activation: Any, path: Path) -> str:
    name = keras.activations.serialize(activation)
    if not isinstance(name, str) or name not in ELEMENTWISE | {"softmax"}:
        raise InputError(
            f"{path}: the last activation is {name}, expected softmax or an elementwise activation of Keras"
        )
    return name


def head_of(activation: str, loss: TrainingLoss, path: Path) -> Head:
    """The head of a model whose last activation is known by name.

    Raises:
        InputError: softmax with binary cross-entropy.
    """
    if loss.name == "binary_crossentropy":
        if activation == "softmax":
            raise InputError(f"{path}: softmax with binary cross-entropy, expected categorical cross-entropy")
        return Head("binary_logits" if loss.from_logits else "binary", activation)
    if activation == "softmax":
        return Head("log_softmax", "linear")
    return Head("log_softmax" if loss.from_logits else "normalised", activation)


def row_losses(head: Head, logits: Any, true: Any) -> Any:
    """The loss of every row by the dense formula, differentiable.

    Args:
        head: form of the loss.
        logits: tensor (n, C), float32 or float64.
        true: one-hot tensor (n, C) of the same dtype.

    Returns:
        Tensor (n,).
    """
    scores = head.scores(logits)
    if head.form == "log_softmax":
        return ops.logsumexp(scores, axis=-1) - ops.sum(scores * true, axis=-1)
    if head.form == "normalised":
        share = ops.sum(scores * true, axis=-1) / ops.sum(scores, axis=-1)
        return -ops.log(ops.clip(share, EPSILON, 1.0 - EPSILON))
    return ops.sum(binary_terms(head, logits, scores, true), axis=-1) / logits.shape[-1]


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
