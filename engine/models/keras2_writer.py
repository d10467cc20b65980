"""Models written as Keras 2.15 writes them into HDF5, for TensorFlow 2.15 and what is built on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from engine.backend import keras
from engine.core.errors import InputError
from engine.models.hdf5 import layer_variables
from engine.models.keras2_config import INPUT_SHAPE, MODELS, RENAMED
from engine.models.safe_config import plain_config

KERAS_VERSION = "2.15.0"

_ANY = "name trainable dtype "
_LEARNT = "{0}_initializer {0}_regularizer {0}_constraint "
_KERNEL, _BIAS = _LEARNT.format("kernel"), "use_bias activation activity_regularizer " + _LEARNT.format("bias")
_DEPTHWISE, _POINTWISE = _LEARNT.format("depthwise"), _LEARNT.format("pointwise")
_SCALED = "axis epsilon center scale " + _LEARNT.format("gamma") + _LEARNT.format("beta")
_WINDOW = "kernel_size strides padding data_format dilation_rate "
_POOL = "pool_size strides padding data_format"
_FILL = "fill_mode fill_value interpolation seed"
ARGUMENTS = {
    kind: frozenset((_ANY + names).split())
    for kind, names in {
        **dict.fromkeys(("Add", "Average", "Identity", "Maximum", "Minimum", "Multiply", "Subtract"), ""),
        **dict.fromkeys(("AveragePooling1D", "AveragePooling2D", "MaxPooling1D", "MaxPooling2D"), _POOL),
        **dict.fromkeys(("Conv1D", "Conv2D"), f"filters groups {_WINDOW}{_KERNEL}{_BIAS}"),
        **dict.fromkeys(
            ("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling2D"), "data_format keepdims"
        ),
        "Activation": "activation",
        "BatchNormalization": f"momentum synchronized moving_mean_initializer moving_variance_initializer {_SCALED}",
        "CenterCrop": "height width",
        "Concatenate": "axis",
        "Conv2DTranspose": f"filters output_padding {_WINDOW}{_KERNEL}{_BIAS}",
        "Cropping2D": "cropping data_format",
        "Dense": f"units {_KERNEL}{_BIAS}",
        "DepthwiseConv2D": f"depth_multiplier {_WINDOW}{_DEPTHWISE}{_BIAS}",
        "Dropout": "rate noise_shape seed",
        "ELU": "alpha",
        "Flatten": "data_format",
        "GaussianNoise": "stddev seed",
        "InputLayer": "batch_input_shape sparse ragged",
        "LayerNormalization": _SCALED,
        "LeakyReLU": "alpha",
        "MultiHeadAttention": "num_heads key_dim value_dim dropout output_shape attention_axes query_shape key_shape "
        f"value_shape {_KERNEL}{_BIAS}",
        "Normalization": "axis mean variance invert",
        "PReLU": "shared_axes " + _LEARNT.format("alpha"),
        "Permute": "dims",
        "RandomBrightness": "factor value_range seed",
        "RandomContrast": "factor seed",
        "RandomCrop": "height width seed",
        "RandomFlip": "mode seed",
        "RandomRotation": f"factor {_FILL}",
        "RandomTranslation": f"height_factor width_factor {_FILL}",
        "RandomZoom": f"height_factor width_factor {_FILL}",
        "ReLU": "max_value negative_slope threshold",
        "Rescaling": "scale offset",
        "Reshape": "target_shape",
        "Resizing": "height width interpolation crop_to_aspect_ratio",
        "SeparableConv2D": f"filters depth_multiplier {_WINDOW}{_DEPTHWISE}{_POINTWISE}{_BIAS}",
        "Softmax": "axis",
        "SpatialDropout2D": "rate data_format",
        "UpSampling2D": "size data_format interpolation",
        "ZeroPadding2D": "padding data_format",
    }.items()
}
"""Layers that both have, and the settings of each in Keras 2.15."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "activity_regularizer": (None,),
    "antialias": (False,),
    "autocast": (True,),
    "data_format": ("channels_last",),
    "flash_attention": (None,),
    "noise_shape": (None,),
    "optional": (False,),
    "pad_to_aspect_ratio": (False,),
    "rms_scaling": (False,),
    "seed": (None,),
    "sliding_window": (None,),
    "use_gate": (False,),
    "value_range": ([0, 255], [0.0, 255.0]),
    **dict.fromkeys(
        ("lora_alpha", "lora_rank", "quantization_config", "renorm", "renorm_clipping", "virtual_batch_size"),
        (None, False),
    ),
}
"""Values with which a setting that Keras 2.15 lacks changes nothing."""

_IDLE = {"BatchNormalization": ("renorm_momentum",), "Resizing": ("fill_mode", "fill_value")}
"""Settings that mean something only beside another that is refused."""

_SAME = "elu exponential gelu linear mish relu relu6 selu sigmoid softmax softplus softsign tanh"
ACTIVATIONS = {**{name: name for name in _SAME.split()}, "silu": "swish"}
"""The names in Keras 2.15 of activations that are the same function there; `hard_sigmoid` is another."""

OPTIMIZERS = frozenset({"SGD", "Adam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Ftrl"})
_NEW_IN_OPTIMIZERS = ("loss_scale_factor", "gradient_accumulation_steps")
_NOT_LEGACY = {"is_legacy_optimizer": False, "jit_compile": False}
"""Without it Keras 2 takes an older class of the same name, with other settings."""


def keras2_config(model: Any) -> dict[str, Any]:
    """The configuration of a Sequential or Functional model of layers of `ARGUMENTS`, as Keras 2.15 states it."""
    return _model(plain_config(keras.saving.serialize_keras_object(model)))


def training_config(model: Any) -> dict[str, Any]:
    """How a compiled model is trained, as Keras 2 states it."""
    optimizer = plain_config(keras.saving.serialize_keras_object(model.optimizer))
    name, config = optimizer["class_name"], optimizer["config"]
    new = [key for key in _NEW_IN_OPTIMIZERS if config.pop(key, None) is not None]
    if name not in OPTIMIZERS or new:
        what = f"the setting {new[0]!r} of {name}" if new else f"the optimizer {name}"
        raise InputError(f"{what} cannot be read from HDF5 by Keras 2, expected --format keras")
    if not isinstance(model.loss, str):
        raise InputError(f"the loss is a {type(model.loss).__name__}, expected a name for Keras 2, or --format keras")
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
    """Write a model and how it is trained, without the state of its optimizer; equal models are equal files."""
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
            variables = layer_variables(layer)
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
    """Inputs or outputs of a graph, `[layer, call, tensor]` each; Keras 3 states a single one without the list, and
    counts the calls of a nested Functional model from 1 here, as Keras 2 does everywhere.
    """
    ends = [value] if isinstance(value[0], str) else value
    return [[name, call + (kinds[name] == "Sequential"), tensor] for name, call, tensor in ends]


def _call(node: Mapping[str, Any], kinds: Mapping[str, str]) -> list[Any]:
    """`{"args": [tensors], "kwargs": {…}}` as `[[layer, call, tensor, arguments], …]`, the arguments with each tensor.

    Keras 2 counts the calls of a nested model from 1.
    """
    names = ("value", "key")
    if not 1 <= len(node["args"]) <= 1 + len(names):
        found = f"a layer is called with {len(node['args'])} arguments that have no name"
        raise InputError(f"{found}, expected 1 to {1 + len(names)} for Keras 2, or --format keras")
    first, *others = node["args"]
    arguments = {key: _argument(value, kinds) for key, value in node["kwargs"].items() if _is_set(value)}
    arguments |= {name: _history(value, kinds) for name, value in zip(names, others, strict=False)}
    tensors = first if isinstance(first, list) else [first]
    return [[*_history(tensor, kinds), arguments] for tensor in tensors]


def _is_set(value: Any) -> bool:
    return any(map(_is_set, value)) if isinstance(value, list) else value is not None


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
    if kind not in ARGUMENTS or module != "keras.layers":
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
    old_names = {"batch_shape": INPUT_SHAPE, **{new: old for old, new in RENAMED.get(kind, {}).items()}}
    settings: dict[str, Any] = {}
    for key, value in config.items():
        name = old_names.get(key, key)
        if name in ARGUMENTS[kind]:
            settings[name] = _setting(name, value, config["name"])
        elif key not in _IDLE.get(kind, ()) and value not in NEUTRAL.get(key, ()):
            raise _lacking(config["name"], f"{key!r} of {value!r}")
    return settings


def _setting(name: str, value: Any, layer: str) -> Any:
    """A setting; an object in it in the old form, without what is not set."""
    if name == "dtype":
        return _policy(value)
    if name.endswith("activation") and value is not None:
        if not isinstance(value, str) or value not in ACTIVATIONS:
            text = value.get("config", value.get("class_name")) if isinstance(value, dict) else value
            raise _lacking(layer, f"{name!r} of {text!r}")
        return ACTIVATIONS[value]
    if isinstance(value, dict) and "class_name" in value:
        if not str(value.get("module")).startswith("keras."):
            raise _lacking(layer, f"{name!r} of {value['class_name']}")
        config = {key: item for key, item in value["config"].items() if item is not None}
        return {"class_name": value["class_name"], "config": config}
    return value


def _lacking(layer: str, what: str) -> InputError:
    return InputError(f"layer {layer!r} has {what}, which Keras 2 does not have, expected --format keras")


def _policy(value: Any) -> Any:
    name = value["config"]["name"] if isinstance(value, dict) else value
    return {"class_name": "Policy", "config": {"name": name}} if "mixed" in str(name) else name
