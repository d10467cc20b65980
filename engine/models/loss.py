"""The loss a model was trained with, as its file states it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import keras

import engine.backend as _backend  # noqa: F401  (sets the variables that must precede Keras)
from engine.core.errors import InputError

SUPPORTED = "categorical, sparse categorical or binary cross-entropy without label smoothing"
# Names and classes of Keras 2 and 3. Labels are one-hot here, so the sparse form is the same loss.
Name = Literal["categorical_crossentropy", "binary_crossentropy"]
KNOWN: dict[str, Name] = {
    "categorical_crossentropy": "categorical_crossentropy",
    "CategoricalCrossentropy": "categorical_crossentropy",
    "sparse_categorical_crossentropy": "categorical_crossentropy",
    "SparseCategoricalCrossentropy": "categorical_crossentropy",
    "binary_crossentropy": "binary_crossentropy",
    "BinaryCrossentropy": "binary_crossentropy",
    "bce": "binary_crossentropy",
    "BCE": "binary_crossentropy",
}
# Layers behind the last activation that leave the values as they are.
PASS_THROUGH = ("Dropout", "Flatten", "Reshape", "Identity")


@dataclass(frozen=True)
class TrainingLoss:
    # the Keras name; a sparse loss is given as the categorical one
    name: Name
    from_logits: bool  # the model's outputs are logits, not probabilities
    stated: bool  # False when the file holds no training configuration and the loss was assumed


def parse_loss(stored: Any, model: Any, *, source: str) -> TrainingLoss:
    """Read a stored loss: a name, an object with `class_name` and `config`, or one of these for one output."""
    if isinstance(stored, list) and len(stored) == 1:
        stored = stored[0]
    elif isinstance(stored, dict) and len(stored) == 1 and "class_name" not in stored:
        stored = next(iter(stored.values()))
    if stored is None:
        return TrainingLoss("categorical_crossentropy", ends_linear(model), stated=False)
    name, settings = _name_and_settings(stored)
    if name not in KNOWN:
        raise InputError(f"{source}: found the loss {name!r}, expected {SUPPORTED}")
    for setting, neutral in (("label_smoothing", (None, 0)), ("ignore_class", (None,))):
        if (value := settings.get(setting)) not in neutral:
            raise InputError(f"{source}: found the loss {name!r} with {setting} {value!r}, expected {SUPPORTED}")
    from_logits = settings.get("from_logits", False)
    if not isinstance(from_logits, bool):
        raise InputError(f"{source}: found the loss {name!r} with from_logits {from_logits!r}, expected true or false")
    return TrainingLoss(KNOWN[name], from_logits, stated=True)


def ends_linear(model: Any) -> bool:
    """Whether the last activation of a model is the identity, so that its outputs are logits."""
    return _last_activation(model) is None


def ends_softmax(model: Any) -> bool:
    """Whether the last activation of a model is softmax."""
    return _last_activation(model) is keras.activations.softmax


def _last_activation(model: Any) -> Any:
    """The function that gives a model its outputs, None for the identity."""
    for step in reversed(getattr(model, "operations", model.layers)):
        if isinstance(step, keras.Model):
            return _last_activation(step)
        kind = type(step).__name__
        activation = getattr(step, "activation", None)
        if activation is not None and activation is not keras.activations.linear:
            return activation
        if kind not in (*PASS_THROUGH, "Activation"):  # Softmax as a layer or as an operation of keras.ops
            return {"Softmax": keras.activations.softmax, "Sigmoid": keras.activations.sigmoid}.get(kind)
    return None


def _name_and_settings(stored: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(stored, dict):
        return str(stored), {}
    name, config = stored.get("class_name"), stored.get("config")
    if name == "function":  # Keras 3 stores a function as its name
        return str(config), {}
    settings = config if isinstance(config, dict) else {}
    if name == "LossFunctionWrapper":  # Keras 2 wraps a function in an object
        name = settings.get("fn")
    return str(name), settings
