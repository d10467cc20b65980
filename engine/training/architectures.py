"""Networks to train: `base`, `vgg16` and `vgg19` as eAI-Repair-Toolkit has them, and those of `keras.applications`.

Images go in as the data set has them; no network gets a preprocessing of its own, as in the toolkit.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.backend import keras
from engine.core.errors import InputError, WorkError, reason
from engine.core.names import suggestion
from engine.models import hdf5, safe_config

OWN = ("base", "vgg16", "vgg19")
LEFT_OUT = ("vit", "hydra", "hydra_head")
IMAGENET, RANDOM = "imagenet", "none"

Part = tuple[str, Mapping[str, Any]]  # the name of a Keras class and the arguments to make it with
FINE_TUNING: Part = ("SGD", {"learning_rate": 1e-4, "momentum": 0.9})
POOLING: Part = ("GlobalAveragePooling2D", {})

_KEYS = ("model", "optimizer", "augmentation", "layers")


@dataclass(frozen=True)
class Architecture:
    name: str  # one of `OWN`, or of `application_names`
    weights: str | Path  # of its convolutional part: `imagenet`, `none` for random ones, or the path of a file
    # optimizer, augmentation, layers: of a network of keras.applications: what trains it, what changes its images while
    # it is trained, and what stands between it and the last Dense layer
    optimizer: Part = FINE_TUNING
    augmentation: tuple[Part, ...] = ()
    layers: tuple[Part, ...] = (POOLING,)


def application_names() -> list[str]:
    return [name for name, item in vars(keras.applications).items() if name[0].isupper() and callable(item)]


def choose(model: str, settings: Path | None = None, weights: str | Path | None = None) -> Architecture:
    model = model.replace("-", "_")
    if model == "base":
        if weights not in (None, RANDOM):
            raise InputError(f"weights is {weights} and the model base has no trained part, expected none")
        _no_settings(model, settings)
        return Architecture("base", RANDOM)
    chosen = _weights(IMAGENET if weights is None else weights)
    if model in OWN:
        _no_settings(model, settings)
        return Architecture(model, chosen)
    if model == "keras_app" and settings is None:
        raise InputError("the model keras_app is named by --model-settings, expected that option")
    if model != "keras_app":
        _known_name(model, "model", (*OWN, "keras_app"))
    if settings is None:
        return Architecture(model, chosen)
    read = _read_settings(settings, None if model == "keras_app" else model)
    return replace(read, weights=chosen)


def build(architecture: Architecture, input_shape: tuple[int, ...], classes: int, seed: int) -> Any:
    """Compiled; softmax over the classes of images (h, w, c). Sets the global seeds, from which Keras takes its own."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}, expected 0 to {2**32 - 1}")
    if classes < 2:
        raise InputError(f"the images have {classes} class, expected at least 2 to tell apart")
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    makers: dict[str, Callable[..., tuple[Any, Any]]] = {"base": _base, "vgg16": _vgg16, "vgg19": _vgg19}
    make = makers.get(architecture.name, _application)
    what = f"{architecture.name}: cannot be built for images of shape {tuple(input_shape)}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Keras warns of while it reads weights that do not fit is an error too
        model, optimizer = _trying(what, make, architecture, input_shape, classes)
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def describe(architecture: Architecture) -> dict[str, Any]:
    own = {"name": architecture.name, "weights": str(architecture.weights)}
    if architecture.name in OWN:
        return own
    return {**asdict(architecture), **own}


def foreign_layer(model: Any) -> str | None:
    """Why `load_model` needs leave to run code to load a model that was built here; None where it does not."""
    try:
        safe_config.check_config(safe_config.plain_config(keras.saving.serialize_keras_object(model)), source="model")
    except InputError as error:
        return str(error).removeprefix("model: ").partition(", expected")[0]
    return None


def _base(_: Architecture, input_shape: tuple[int, ...], classes: int) -> tuple[Any, Any]:
    layers = keras.layers
    model = keras.Sequential([keras.Input(input_shape)])
    for filters in (32, 64, 128):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.Conv2D(filters, 3, activation="relu"))
        model.add(layers.MaxPooling2D())
        model.add(layers.Dropout(0.2))
    model.add(layers.Flatten())
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(classes, activation="softmax"))
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, decay_steps=10_000, decay_rate=1e-6)
    return model, keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)


def _vgg16(architecture: Architecture, input_shape: tuple[int, ...], classes: int) -> tuple[Any, Any]:
    layers: tuple[Part, ...] = (("Flatten", {}), *[("Dense", {"units": 4096, "activation": "relu"})] * 2)
    return _application(replace(architecture, name="VGG16", layers=layers), input_shape, classes)


def _vgg19(architecture: Architecture, input_shape: tuple[int, ...], classes: int) -> tuple[Any, Any]:
    layers: tuple[Part, ...] = (
        ("Flatten", {}),
        ("Dense", {"units": 4096, "activation": "relu"}),
        ("Dropout", {"rate": 0.5}),
        ("BatchNormalization", {}),
    )
    model, optimizer = _application(replace(architecture, name="VGG19", layers=layers), input_shape, classes)
    for layer in model.layers[:22]:  # up to the last pooling: the part with weights of ImageNet
        layer.trainable = False
    return model, optimizer


def _application(architecture: Architecture, input_shape: tuple[int, ...], classes: int) -> tuple[Any, Any]:
    start = x = keras.Input(input_shape)
    if architecture.augmentation:
        x = keras.Sequential([_part(keras.layers, part) for part in architecture.augmentation])(x)
    network = _convolutional_part(architecture, x)
    x = network.output
    for layer in architecture.layers:
        x = _part(keras.layers, layer)(x)
    if len(x.shape) != 2:
        raise InputError(
            f"{architecture.name}: before the last Dense layer an image has shape {tuple(x.shape[1:])}, expected a "
            "vector: layers that end with Flatten or GlobalAveragePooling2D"
        )
    model = keras.Model(start, keras.layers.Dense(classes, activation="softmax")(x))
    return model, _part(keras.optimizers, architecture.optimizer)


def _convolutional_part(architecture: Architecture, images: Any) -> Any:
    """Without its top, on a tensor of images (n, h, w, c)."""
    name, weights = architecture.name, architecture.weights
    make = getattr(keras.applications, name)

    def network(source: str | None, tensor: Any) -> Any:
        return make(include_top=False, weights=source, input_tensor=tensor, input_shape=tuple(images.shape[1:]))

    if weights == IMAGENET:
        try:
            return network(IMAGENET, images)
        except Exception as error:
            why = reason(error)
            if not isinstance(error, OSError) and not why.startswith(("URL fetch failure", "Incomplete or corrupt")):
                raise
            raise WorkError(
                f"the ImageNet weights of {name} cannot be downloaded ({why}); pass --weights none to start from "
                "random ones, or --weights FILE for a copy of that file"
            ) from error
    part = network(None, images)
    if isinstance(weights, Path):
        # Into a copy without augmentation, which is what the file was written from.
        alone = network(None, keras.Input(images.shape[1:]))
        _trying(f"{weights}: does not fit {name} without its top", alone.load_weights, str(weights))
        part.set_weights(alone.get_weights())
    return part


def _part(module: Any, part: Part, where: str = "") -> Any:
    name, arguments = part
    if "lr" in arguments:  # Keras 2 took both names
        arguments = {("learning_rate" if key == "lr" else key): value for key, value in arguments.items()}
    return _trying(f"{where}{name} cannot be made with {json.dumps(arguments)}", getattr(module, name), **arguments)


def _trying(what: str, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call a function of Keras; what it refuses becomes one sentence."""
    try:
        return function(*args, **keywords)
    except (InputError, WorkError):
        raise
    except Exception as error:  # Keras raises many kinds
        raise InputError(f"{what} ({reason(error)}), expected what Keras can build") from error


def _known_name(name: Any, key: str, others: tuple[str, ...] = ()) -> str:
    known = application_names()
    if isinstance(name, str) and name in known:
        return name
    offered = f"{', '.join(others)} or a name" if others else "a name"
    if name in LEFT_OUT:
        raise InputError(f"{key} {name} of eAI-Repair-Toolkit is left out, expected {offered} of keras.applications")
    hint = suggestion(name, [*others, *known]) if isinstance(name, str) else ""
    raise InputError(f"{key} is {name!r}{hint}, expected {offered} of keras.applications such as MobileNetV2")


def _no_settings(model: str, settings: Path | None) -> None:
    if settings is not None:
        raise InputError(f"{settings}: the model {model} takes no settings, expected them with keras_app")


def _weights(weights: str | Path) -> str | Path:
    if weights in (IMAGENET, RANDOM):
        return str(weights)
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"weights is {weights}, expected imagenet, none or a file with the weights of the network")
    if not path.name.endswith((".h5", ".hdf5")):
        raise InputError(f"{path}: is no .h5 file, expected weights as Keras stores them")
    with hdf5.open_hdf5(path):
        pass  # looked through for links before Keras reads it
    return path


def _read_settings(path: Path, model: str | None) -> Architecture:
    """`model` is what the command line names, None where the file must."""
    try:
        settings = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected a JSON file of settings") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({reason(error)}), expected an object of settings") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds a {type(settings).__name__}, expected an object with {', '.join(_KEYS)}")
    if odd := sorted(set(settings) - set(_KEYS)):
        raise InputError(f"{path}: has the key {odd[0]!r}, expected only {', '.join(_KEYS)}")
    name = _known_name(settings.get("model", model), f"{path}: model")
    if model not in (None, name):
        raise InputError(f"{path}: model is {name} and the command line says {model}, expected the same")
    readers = {"optimizer": _optimizer, "augmentation": _parts, "layers": _parts}
    stated: dict[str, Any] = {key: read(path, key, settings[key]) for key, read in readers.items() if key in settings}
    return Architecture(name, RANDOM, **stated)


def _parts(path: Path, key: str, entries: Any) -> tuple[Part, ...]:
    if not isinstance(entries, list):
        raise InputError(f"{path}: {key} is {entries!r}, expected a list of [layer class, arguments]")
    found = tuple(_entry(path, key, entry) for entry in entries)
    for part in found:
        if part[0] not in safe_config.LAYERS:
            raise InputError(f"{path}: {key} names {part[0]!r}, expected a layer of Keras without code of its own")
        _part(keras.layers, part, f"{path}: ")
    return found


def _optimizer(path: Path, key: str, entry: Any) -> Part:
    name, arguments = _entry(path, key, entry)
    kind = getattr(keras.optimizers, name, None)
    if not isinstance(kind, type) or not issubclass(kind, keras.optimizers.Optimizer):
        raise InputError(f"{path}: optimizer is {name!r}, expected one of Keras such as SGD or Adam")
    _part(keras.optimizers, (name, arguments), f"{path}: ")
    return name, arguments


def _entry(path: Path, key: str, entry: Any) -> Part:
    good = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], dict)
    if not good:
        raise InputError(f"{path}: {key} has {json.dumps(entry)}, expected [class, {{arguments}}]")
    return entry[0], entry[1]
