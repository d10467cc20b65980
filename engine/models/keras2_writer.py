"""Models written as Keras 2 writes them into HDF5, for TensorFlow up to 2.15 and what is built on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from engine.backend import keras
from engine.core.errors import InputError
from engine.models.keras2_config import INPUT_SHAPE, MODELS, RENAMED
from engine.models.safe_config import plain_config

KERAS_VERSION = "2.15.0"

_ANY_LAYER = {"quantization_config": None, "lora_rank": None, "lora_alpha": None, "autocast": True}
_IMAGES = {"data_format": "channels_last"}
ADDED: dict[str, dict[str, Any]] = {
    "InputLayer": {"optional": False},
    "LayerNormalization": {"rms_scaling": False},
    "MultiHeadAttention": {"use_gate": False, "sliding_window": None, "seed": None, "flash_attention": None},
    "RandomBrightness": _IMAGES,
    "RandomContrast": {**_IMAGES, "value_range": ...},
    "RandomCrop": _IMAGES,
    "RandomFlip": _IMAGES,
    "RandomRotation": _IMAGES,
    "RandomTranslation": _IMAGES,
    "RandomZoom": _IMAGES,
    "Resizing": {
        **_IMAGES,
        "pad_to_aspect_ratio": False,
        "fill_mode": ...,
        "fill_value": ...,
        "antialias": False,
    },
}
"""Settings that Keras 2 does not have, and the value with which they change nothing (...: any)."""

_PLAIN = """
Activation Add Average AveragePooling1D AveragePooling2D BatchNormalization CenterCrop Concatenate Conv1D Conv2D
Conv2DTranspose Cropping2D Dense DepthwiseConv2D Dropout ELU Flatten GaussianNoise GlobalAveragePooling1D
GlobalAveragePooling2D GlobalMaxPooling2D Identity LeakyReLU MaxPooling1D MaxPooling2D Maximum Minimum Multiply
Normalization PReLU Permute ReLU Rescaling Reshape SeparableConv2D Softmax SpatialDropout2D Subtract UpSampling2D
ZeroPadding2D
"""
KINDS = frozenset({*_PLAIN.split(), *ADDED})
"""Layers that both have."""

OPTIMIZERS = frozenset({"SGD", "Adam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Ftrl"})
_NEW_IN_OPTIMIZERS = ("loss_scale_factor", "gradient_accumulation_steps")
_NOT_LEGACY = {"is_legacy_optimizer": False, "jit_compile": False}
"""Without it Keras 2 takes an older class of the same name, with other settings."""

_ACTIVATIONS = {"silu": "swish"}
"""What Keras 2 calls otherwise."""


def keras2_config(model: Any) -> dict[str, Any]:
    """The configuration of a model as Keras 2 states it: a Sequential or Functional model of `KINDS`.

    Raises:
        InputError: a layer, or a setting of one, that Keras 2 does not have.
    """
    return _model(plain_config(keras.saving.serialize_keras_object(model)))


def training_config(model: Any) -> dict[str, Any]:
    """How a compiled model is trained, as Keras 2 states it.

    Raises:
        InputError: an optimizer that Keras 2 does not have.
    """
    optimizer = plain_config(keras.saving.serialize_keras_object(model.optimizer))
    name, config = optimizer["class_name"], optimizer["config"]
    new = [key for key in _NEW_IN_OPTIMIZERS if config.pop(key, None) is not None]
    if name not in OPTIMIZERS or new:
        what = f"the setting {new[0]!r} of {name}" if new else f"the optimizer {name}"
        raise InputError(f"{what} is not in Keras 2, expected --format keras")
    return {
        "loss": model.loss,
        "metrics": ["accuracy"],
        "weighted_metrics": None,
        "loss_weights": None,
        "optimizer_config": {"class_name": name, "config": {**config, **_NOT_LEGACY}},
    }


def check_model(model: Any) -> None:
    """Raise InputError for a compiled model that `write_model` would refuse."""
    keras2_config(model)
    training_config(model)


def write_model(model: Any, path: Path) -> None:
    """Write a model and how it is trained, without the state of its optimizer; equal models are equal files.

    Raises:
        InputError: see `keras2_config` and `training_config`.
        OSError: the file cannot be written.
    """
    described, trained = keras2_config(model), training_config(model)
    with h5py.File(path, "w") as file:
        file.attrs["backend"], file.attrs["keras_version"] = "tensorflow", KERAS_VERSION
        file.attrs["model_config"] = json.dumps(described)
        file.attrs["training_config"] = json.dumps(trained)
        weights = file.create_group("model_weights")
        # An attribute holds at most 64 KiB; names of more layers are spread over several, as Keras reads them.
        _write_names(weights, "layer_names", [layer.name for layer in model.layers])
        for layer in model.layers:
            group = weights.create_group(layer.name)
            variables = [*layer.trainable_weights, *layer.non_trainable_weights]
            names = [f"{variable.path}:0" for variable in variables]
            _write_names(group, "weight_names", names)
            for name, variable in zip(names, variables, strict=True):
                group.create_dataset(name, data=np.asarray(keras.ops.convert_to_numpy(variable)))


def _write_names(group: h5py.Group, attribute: str, names: list[str]) -> None:
    encoded = np.array([name.encode() for name in names] or np.empty(0, "S1"))
    parts = np.array_split(encoded, max(1, -(-encoded.nbytes // (1 << 15))))
    for number, part in enumerate(parts):
        group.attrs[attribute if len(parts) == 1 else f"{attribute}{number}"] = part


def _model(node: Mapping[str, Any]) -> dict[str, Any]:
    name, config = node["class_name"], node["config"]
    if name == "Sequential":
        layers = [_layer(layer) for layer in config["layers"]]
        return {"class_name": name, "config": {"name": config["name"], "layers": layers}}
    if name in MODELS:
        return {"class_name": "Functional", "config": _graph(config)}
    raise InputError(f"a model of class {name} is not in Keras 2, expected --format keras")


def _graph(config: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {layer["config"]["name"]: layer["class_name"] for layer in config["layers"]}
    layers = [
        {
            **_layer(layer),
            "name": layer["config"]["name"],
            "inbound_nodes": [_call(node, kinds) for node in layer["inbound_nodes"]],
        }
        for layer in config["layers"]
    ]
    ends = {key: _ends(config[key], kinds) for key in ("input_layers", "output_layers")}
    return {"name": config["name"], "trainable": config.get("trainable", True), "layers": layers, **ends}


def _ends(value: Any, kinds: Mapping[str, str]) -> list[Any]:
    """Inputs or outputs of a graph, `[layer, call, tensor]` each; Keras 3 states a single one without the list."""
    ends = [value] if isinstance(value[0], str) else value
    return [[name, call + (kinds[name] in MODELS), tensor] for name, call, tensor in ends]


def _call(node: Mapping[str, Any], kinds: Mapping[str, str]) -> list[Any]:
    """`{"args": [tensors], "kwargs": {…}}` as `[[layer, call, tensor, arguments], …]`.

    Keras 2 counts the calls of a nested model from 1. The arguments go with the first tensor.
    """
    first, *others = node["args"]
    arguments = {key: _argument(value, kinds) for key, value in node["kwargs"].items() if value is not None}
    tensors = first if isinstance(first, list) else [first]
    names = ("value", "key")
    arguments |= {name: _history(value, kinds) for name, value in zip(names, others, strict=False)}
    return [[*_history(tensor, kinds), {} if number else arguments] for number, tensor in enumerate(tensors)]


def _argument(value: Any, kinds: Mapping[str, str]) -> Any:
    tensor = isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"
    return _history(value, kinds) if tensor else value


def _history(tensor: Any, kinds: Mapping[str, str]) -> list[Any]:
    try:
        name, call, number = tensor["config"]["keras_history"]
    except (TypeError, KeyError):
        raise InputError(
            "a layer is called with a constant, which Keras 2 cannot state, expected --format keras"
        ) from None
    return [name, call + (kinds[name] in MODELS), number]


def _layer(layer: Mapping[str, Any]) -> dict[str, Any]:
    kind = layer["class_name"]
    if kind in MODELS:
        return _model(layer)
    module = layer.get("module") or layer.get("registered_name")
    if kind not in KINDS or module != "keras.layers":
        name = layer["config"].get("name", kind)
        raise InputError(f"layer {name!r} is {module}.{kind}, which Keras 2 does not have, expected --format keras")
    settings = _settings(kind, layer["config"])
    if kind == "MultiHeadAttention":
        shapes = layer["build_config"]["shapes_dict"]
        value = shapes["value_shape"]
        settings |= {"query_shape": shapes["query_shape"], "value_shape": value}
        settings["key_shape"] = shapes.get("key_shape") or value
    return {"class_name": kind, "config": settings}


def _settings(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    neutral = {**_ANY_LAYER, **ADDED.get(kind, {})}
    old_names = {new: old for old, new in RENAMED.get(kind, {}).items()}
    settings: dict[str, Any] = {}
    for key, value in config.items():
        if key in neutral:
            if neutral[key] not in (..., value):
                raise InputError(
                    f"layer {config['name']!r}: Keras 2 has no {key!r}, here {value!r}, expected --format keras"
                )
        elif key == "batch_shape":
            settings[INPUT_SHAPE] = value
        elif key == "dtype":
            settings[key] = _policy(value)
        else:
            settings[old_names.get(key, key)] = _setting(value)
    return settings


def _setting(value: Any) -> Any:
    """A setting; an object in it in the old form, without what is not set."""
    if isinstance(value, str):
        return _ACTIVATIONS.get(value, value)
    if isinstance(value, dict) and "class_name" in value:
        config = {key: _setting(item) for key, item in value["config"].items() if item is not None}
        return {"class_name": value["class_name"], "config": config}
    return value


def _policy(value: Any) -> Any:
    name = value["config"]["name"] if isinstance(value, dict) else value
    return {"class_name": "Policy", "config": {"name": name}} if "mixed" in str(name) else name
