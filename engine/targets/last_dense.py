"""The last Dense layer under repair, whose units are the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.backend import keras
from engine.core.errors import InputError
from engine.layers.head import ELEMENTWISE, Head, head_of
from engine.models.loss import TrainingLoss
from engine.models.weight_paths import layer_at, layer_number
from engine.targets.base import Target


def dense_target(layer: Any, number: int, path: str, head: Head) -> Target:
    """The kernel of a Dense layer of Keras in front of a head, by the toolkit's number of the layer and its path."""
    shape = tuple(layer.kernel.shape)
    return Target({path: shape}, str(layer.name), shape[1], head, (), {path: number}, layer=layer)


def find_target(model: Any, loss: TrainingLoss, classes: int, path: Path, number: int | None = None) -> Target:
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
    return dense_target(found, layer_number(model, found), f"{found.name}/kernel", head_of(activation, loss, path))


def _name(activation: Any, path: Path) -> str:
    name = keras.activations.serialize(activation)
    if not isinstance(name, str) or name not in ELEMENTWISE | {"softmax"}:
        raise InputError(
            f"{path}: the last activation is {name}, expected softmax or an elementwise activation of Keras"
        )
    return name
