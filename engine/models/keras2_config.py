"""Configurations of Keras 2, rewritten as Keras 3 writes them.

Keras 3 has a reader for the old form, but it refuses settings that were dropped since (MobileNet's `groups`),
and it turns any text that is also the name of one of its functions into that function.
"""

from __future__ import annotations

from typing import Any

from engine.core.errors import InputError

CONVOLUTIONS = {"groups": 1}
SEPARABLE = {"groups": 1, "kernel_initializer": ..., "kernel_regularizer": ..., "kernel_constraint": ...}
RECURRENT = {"time_major": False}
SPATIAL = {"trainable": True, "noise_shape": None}
# Settings that Keras 3 does not have, and the value with which they change nothing (...: any).
DROPPED: dict[str, dict[str, Any]] = {
    "DepthwiseConv1D": CONVOLUTIONS,
    "DepthwiseConv2D": CONVOLUTIONS,
    "Conv1DTranspose": CONVOLUTIONS,
    "Conv2DTranspose": CONVOLUTIONS,
    "Conv3DTranspose": CONVOLUTIONS,
    "SeparableConv1D": SEPARABLE,
    "SeparableConv2D": SEPARABLE,
    "ConvLSTM1D": RECURRENT,
    "ConvLSTM2D": RECURRENT,
    "ConvLSTM3D": RECURRENT,
    "GRU": RECURRENT,
    "LSTM": RECURRENT,
    "RNN": RECURRENT,
    "SimpleRNN": RECURRENT,
    "MultiHeadAttention": {"query_shape": ..., "key_shape": ..., "value_shape": ...},
    "SpatialDropout1D": SPATIAL,
    "SpatialDropout2D": SPATIAL,
    "SpatialDropout3D": SPATIAL,
}
RENAMED = {"LeakyReLU": {"alpha": "negative_slope"}}
"""Settings with another name in Keras 3."""
OTHER_FUNCTION = "hard_sigmoid"
"""0.2 x + 0.5 within 0 and 1 in Keras 2, x / 6 + 0.5 in Keras 3."""
MODELS = ("Sequential", "Functional", "Model")
LAYER_MODULE = "keras.layers"
INPUT_SHAPE = "batch_input_shape"
FUNCTIONAL = {"module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional"}


def modern_config(value: Any, layers: frozenset[str]) -> Any:
    """Copy a plain configuration of Keras 2 in the form of Keras 3."""
    if not isinstance(value, dict):
        return [modern_config(item, layers) for item in value] if isinstance(value, list) else value
    node = {key: modern_config(item, layers) for key, item in value.items()}
    name, config = node.get("class_name"), node.get("config")
    if node.get("module", LAYER_MODULE) != LAYER_MODULE or not isinstance(config, dict):
        return node
    if name == "Sequential":
        return {**node, "module": "keras", "registered_name": None, "config": _with_input(value, config)}
    if name in ("Functional", "Model"):
        return {**node, **FUNCTIONAL, "config": _graph(config)}
    if name in layers:
        return {**node, "module": LAYER_MODULE, "registered_name": None, "config": _settings(name, config)}
    return node


def refuse_other_functions(value: Any, source: str) -> None:
    """Raise InputError where a configuration of Keras 2 names what is another function in Keras 3."""
    if isinstance(value, list):
        for item in value:
            refuse_other_functions(item, source)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key.endswith("activation") and item == OTHER_FUNCTION:
                found = f"layer {value.get('name')!r} has {OTHER_FUNCTION} of Keras 2"
                raise InputError(f"{source}: {found}, expected activations that Keras 3 has")
            refuse_other_functions(item, source)


def _with_input(old: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """A Sequential model that states its input shape in its first layer alone gets an input layer."""
    layers = config.get("layers")
    if not isinstance(layers, list) or not layers:
        return config
    first = old["config"]["layers"][0]
    if not isinstance(first, dict) or first.get("class_name") in (None, "InputLayer"):
        return config
    shape = first.get("config", {}).get(INPUT_SHAPE)
    start = {"class_name": "InputLayer", "config": {"batch_shape": shape, "name": "input"}}
    return config if shape is None else {**config, "layers": [{**start, "module": LAYER_MODULE}, *layers]}


def _graph(config: dict[str, Any]) -> dict[str, Any]:
    """The calls of a Functional model, each `[[layer, node, tensor, arguments], …]`, as Keras 3 states them.

    A graph that Keras 3 wrote into HDF5 has this form already and stays as it is. Keras 2 counts the calls of
    a nested model from 1; Keras 3 counts from 0, except where the outer model's outputs come from a nested
    Functional model.
    """
    if any(isinstance(node, dict) for layer in config["layers"] for node in layer["inbound_nodes"]):
        return config
    kinds = {layer["name"]: layer["class_name"] for layer in config["layers"]}
    layers = [
        {**layer, "inbound_nodes": [_call(node, kinds) for node in layer["inbound_nodes"]]}
        for layer in config["layers"]
    ]
    outputs = [[name, node - (kinds[name] == "Sequential"), tensor] for name, node, tensor in config["output_layers"]]
    ends = {"input_layers": config["input_layers"], "output_layers": outputs}
    # A list of one would make the model return a list of one.
    single = {key: value[0] if len(value) == 1 else value for key, value in ends.items()}
    return {**config, **single, "layers": layers}


def _call(node: Any, kinds: dict[str, str]) -> Any:
    if not isinstance(node, list) or not node:
        return node
    inputs = [_tensor(entry, kinds) for entry in node]
    arguments = {key: _tensor(item, kinds) for entry in node for key, item in (*entry, {})[3].items()}
    return {"args": inputs if len(inputs) == 1 else [inputs], "kwargs": arguments}


def _tensor(value: Any, kinds: dict[str, str]) -> Any:
    """`[layer, node, tensor, …]` as the marker of a tensor; the shape in it is not looked at."""
    if not isinstance(value, list):
        return value
    if len(value) not in (3, 4) or not isinstance(value[0], str) or value[0] not in kinds:
        return [_tensor(item, kinds) for item in value]
    name, node, tensor = value[:3]
    history = [name, node - (kinds[name] in MODELS), tensor]
    settings = {"shape": [], "dtype": "float32", "keras_history": history}
    return {"class_name": "__keras_tensor__", "config": settings}


def _settings(name: str, config: dict[str, Any]) -> dict[str, Any]:
    neutral = DROPPED.get(name, {})
    kept = {key: item for key, item in config.items() if key not in neutral or neutral[key] not in (..., item)}
    kept = {RENAMED.get(name, {}).get(key, key): item for key, item in kept.items()}
    shape = kept.pop(INPUT_SHAPE, None)
    if name == "InputLayer" and shape is not None:
        kept["batch_shape"] = shape
    axis = kept.get("axis")
    if isinstance(axis, list) and len(axis) == 1:  # BatchNormalization once took several
        kept["axis"] = axis[0]
    return kept
