"""Build a Keras model from its stored configuration without running anything the file brings along.

A configuration names classes and functions; building it calls them. So each name is checked first against
what Keras itself offers for building layers, and everything else is refused: layers with code in them
(Lambda), layers that load other files (TFSMLayer, StringLookup), classes and functions of any other module.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from engine.backend import keras
from engine.core.errors import InputError, reason
from engine.models.keras2_config import modern_config

# Written out, not taken from `keras.layers`: a layer that Keras adds later is refused until it is looked at.
LAYERS = frozenset(
    """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add
    AdditiveAttention AlphaDropout Attention Average AveragePooling1D AveragePooling2D AveragePooling3D
    BatchNormalization Bidirectional CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose
    Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D Cropping3D Dense
    DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Embedding Flatten GRU GRUCell
    GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupQueryAttention Identity
    InputLayer LSTM LSTMCell LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D
    Maximum Minimum MultiHeadAttention Multiply Normalization PReLU Permute RMSNormalization RNN
    RandomBrightness RandomContrast RandomCrop RandomFlip RandomRotation RandomTranslation RandomZoom ReLU
    RepeatVector Rescaling Reshape Resizing SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax
    SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells Subtract
    TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D
    ZeroPadding3D
    """.split()  # noqa: SIM905 (a hundred quoted names would fill two screens)
)
MODELS = frozenset({"Sequential", "Functional", "Model"})
TRAINING = ("_initializer", "_regularizer", "_constraint")
NEWER = frozenset({"quantization_config"})
POLICIES = frozenset({"DTypePolicy", "Policy"})
# Values, not classes: Keras turns them into tensors, tuples and slices.
DATA = frozenset({"__keras_tensor__", "__numpy__", "__tensor__", "__slice__", "__ellipsis__", "__bytes__"})
# Arithmetic on tensors in a Functional model (`a + b`, `x[:, 0]`) is stored as an operation of these modules.
OPERATION_MODULES = ("keras.src.ops.numpy", "keras.src.ops.nn")
# Of this module only those without a Python function (which `Map`, `Scan`, `Cond`, … apply).
CORE_OPERATIONS = {"keras.src.ops.core": frozenset({"Cast", "StopGradient", "Unstack"})}
ADVICE = "expected only parts of Keras that run no code of the file (pass --allow-custom-code if you trust it)"


def build_model(config: Mapping[str, Any], *, source: str, allow_custom_code: bool = False) -> Any:
    """Build the model of a configuration, uncompiled, with fresh weights."""
    try:
        plain: dict[str, Any] = plain_config(config)
        if "module" not in plain:  # Keras 2 does not say where its classes live
            plain = modern_config(plain, LAYERS)
        if not allow_custom_code:
            check_config(plain, source=source)
        else:
            _import_classes(plain, source)
        model = keras.saving.deserialize_keras_object(portable_config(plain), safe_mode=not allow_custom_code)
    except InputError:
        raise
    except Exception as error:  # Keras raises many kinds for a configuration it cannot use
        why = reason(_first_cause(error))
        raise InputError(f"{source}: Keras cannot build the model stored in it ({why})") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{source}: found a stored {type(model).__name__}, expected a model")
    return model


def plain_config(value: Any) -> Any:
    """Copy a configuration without compile settings and with Keras 2's marked tuples and shapes as lists."""
    if isinstance(value, Mapping):
        if value.get("class_name") in ("__tuple__", "TensorShape") and isinstance(value.get("items"), list):
            return [plain_config(item) for item in value["items"]]
        return {key: plain_config(item) for key, item in value.items() if key != "compile_config"}
    if isinstance(value, (list, tuple)):
        return [plain_config(item) for item in value]
    return value


def portable_config(value: Any) -> Any:
    """Copy a plain configuration without what an older Keras 3 refuses though it changes nothing here.

    Initialisers, regularisers and constraints only matter for training, every weight being read from the file; their
    settings differ between releases. Options that came later are left out where they are switched off.
    """
    if isinstance(value, dict):
        return {
            key: portable_config(item)
            for key, item in value.items()
            if not key.endswith(TRAINING) and not (item is None and key in NEWER)
        }
    return [portable_config(item) for item in value] if isinstance(value, list) else value


def check_config(config: Any, *, source: str) -> None:
    """Refuse a plain configuration that names anything but Keras' own building blocks."""
    if not isinstance(config, dict) or not _among(config.get("class_name"), MODELS):
        found = config.get("class_name") if isinstance(config, dict) else type(config).__name__
        raise InputError(
            f"{source}: the stored model is a {found!r}, expected a Sequential or Functional model "
            "(pass --allow-custom-code if you trust the file and its module)"
        )
    _check(config, None, source)


def _import_classes(value: Any, source: str) -> None:
    """Import the modules of a plain configuration's own classes, so that they register themselves with Keras."""
    if isinstance(value, list):
        for item in value:
            _import_classes(item, source)
    elif isinstance(value, dict):
        module, registered = value.get("module"), value.get("registered_name")
        own = isinstance(module, str) and module.split(".")[0] not in ("keras", "builtins")
        if own and isinstance(registered, str) and keras.saving.get_registered_object(registered) is None:
            try:
                importlib.import_module(str(module))
            except Exception as error:  # whatever the module raises
                raise InputError(
                    f"{source}: {registered!r} is of the module {module!r}, which cannot be imported "
                    f"({reason(error)}), expected it on Python's path (PYTHONPATH) here and on every worker"
                ) from error
        for item in value.values():
            _import_classes(item, source)


def _first_cause(error: BaseException) -> BaseException:
    """The exception that started a chain: Keras wraps the telling one in general ones."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _check(value: Any, layer: str | None, source: str) -> None:
    if isinstance(value, list):
        for item in value:
            _check(item, layer, source)
    elif isinstance(value, dict):
        if "class_name" in value:
            layer = _layer_name(value) or layer
            _check_object(value, layer, source)
        for key, item in value.items():
            _check_named_function(key, item, layer, source)
            _check(item, layer, source)


def _layer_name(node: dict[str, Any]) -> str | None:
    inner = node.get("config")
    if _among(node["class_name"], POLICIES | DATA) or not isinstance(inner, dict):
        return None
    name = inner.get("name")
    return name if isinstance(name, str) else None


def _check_object(node: dict[str, Any], layer: str | None, source: str) -> None:
    name, module, registered = node["class_name"], node.get("module"), node.get("registered_name")
    if _among(name, DATA):
        return
    if name == "function":
        name = node.get("config")
        allowed = _among(name, _names().activations) and module in (None, "builtins", "keras.activations")
    elif module is None:
        allowed = _among(name, _names().without_module)
    else:
        allowed = isinstance(module, str) and _among(name, _names().by_module.get(module, frozenset()))
    if not allowed or registered not in (None, name):
        origin = f" of {module}" if module else ""
        other = f" registered as {registered!r}" if registered not in (None, name) else ""
        raise InputError(f"{source}: layer {layer!r} uses {name!r}{origin}{other}, {ADVICE}")


def _among(name: object, allowed: frozenset[str]) -> bool:
    return isinstance(name, str) and name in allowed


def _check_named_function(key: str, value: Any, layer: str | None, source: str) -> None:
    """Check `"activation": "relu"` and its like: Keras looks such strings up as functions and classes."""
    if not isinstance(value, str):
        return
    if key.endswith("activation"):
        allowed = value in _names().activations
    elif key.endswith(("_initializer", "_regularizer", "_constraint")):
        allowed = value in _names().parts
    else:
        return
    if not allowed:
        raise InputError(f"{source}: layer {layer!r} has {key} {value!r}, {ADVICE}")


class _Names:
    """What a configuration may name, by the module Keras stores with it."""

    def __init__(self) -> None:
        self.activations = frozenset(
            name
            for name, item in vars(keras.activations).items()
            if inspect.isfunction(item) and name not in ("get", "serialize", "deserialize")
        )
        parts = {
            f"keras.{module.__name__.rsplit('.', 1)[-1]}": frozenset(
                name for name, item in vars(module).items() if inspect.isclass(item)
            )
            for module in (keras.initializers, keras.regularizers, keras.constraints)
        }
        self.parts = frozenset().union(*parts.values())
        self.by_module: dict[str, frozenset[str]] = {
            **parts,
            **{module: _operations(module) for module in OPERATION_MODULES},
            **CORE_OPERATIONS,
            "keras": MODELS | POLICIES,
            "keras.models": MODELS,
            "keras.src.models.functional": frozenset({"Functional"}),
            "keras.src.models.sequential": frozenset({"Sequential"}),
            "keras.layers": LAYERS,
            "keras.dtype_policies": POLICIES,
        }
        self.without_module = LAYERS | MODELS | POLICIES | self.parts


@cache
def _names() -> _Names:
    return _Names()


def _operations(module: str) -> frozenset[str]:
    found = vars(importlib.import_module(module)).items()
    return frozenset(
        name
        for name, item in found
        if inspect.isclass(item)
        and issubclass(item, keras.Operation)
        and item.__module__ == module
        and name != "Vectorize"  # applies a Python function
    )
