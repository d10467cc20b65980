"""The weights of a model by name, and where layers stand in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.backend import keras
from engine.core.errors import InputError
from engine.models.inputs import has_graph

_AUTOMATIC = re.compile(r"(jax_)?variable(_\d+)?")
"""What Keras calls a weight that was given no name."""


def weight_variables(model: Any) -> dict[str, Any]:
    """The weights of a model, in model order, by path.

    A path is `<layer name>/<variable name>`; weights of nested models carry the outer layer's name in front
    (`backbone/conv/kernel`), those of composite layers the inner layer's (`attention/query/kernel`). A layer
    used twice is listed once. State that is not a weight (the seeds of Dropout) is left out.

    Of classes that are not Keras' own (subclassed models and layers) the path follows the attributes, lists and
    dictionaries that hold a layer or weight (`blocks/0/attention/query/kernel`): Keras numbers the names of their
    layers anew in every process.
    """
    paths = dict(_paths(model))
    found: dict[str, Any] = {}
    for variable in model.weights:
        if id(variable) not in paths:
            raise InputError(
                f"model {model.name!r}: found a weight {variable.name!r} that no attribute, list or dictionary leads "
                "to, expected each layer in one of these"
            )
        path = name = paths[id(variable)]
        count = 1
        while path in found:  # two sublayers of one name in a composite layer
            path, count = f"{name}_{count}", count + 1
        found[path] = variable
    return found


def layers_below(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield (path, layer) for each layer inside a model or layer, at any depth, once; see `weight_variables`."""
    yield from _layers_below(layer, "", not is_own(layer), {id(layer)})


def name_in_layer(layer: Any, variable: Any) -> str:
    """A variable's path inside its layer: `kernel`, or `query/kernel` in a layer made of layers.

    Taken from which layer holds which, as `variable.path` depends on the order in which Keras built them.
    """
    return next(path for number, path in _paths(layer) if number == id(variable))


def _paths(layer: Any) -> Iterator[tuple[int, str]]:
    """Yield (identity, path) of the weights of a model or layer, each once."""
    seen: set[int] = set()
    for prefix, inner in [*((f"{path}/", below) for path, below in layers_below(layer)), ("", layer)]:
        for name, variable in _weights_held(inner):
            if id(variable) not in seen:
                seen.add(id(variable))
                yield id(variable), f"{prefix}{name}"


def _layers_below(layer: Any, prefix: str, renamed: bool, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """`renamed`: Keras makes up the names of the layers inside anew each time, as code of a subclass makes them."""
    for name, inner in _held_layers(layer, renamed):
        if id(inner) not in seen:
            seen.add(id(inner))
            yield f"{prefix}{name}", inner
            yield from _layers_below(inner, f"{prefix}{name}/", renamed or not is_own(inner), seen)


def _held_layers(layer: Any, renamed: bool) -> Iterator[tuple[str, Any]]:
    """Yield (last part of its path, layer) for those that a layer or model holds directly."""
    if has_graph(layer) or is_own(layer):
        yield from _by_name(layer.layers if isinstance(layer, keras.Model) else _in_attributes(layer), renamed)
    if not is_own(layer):
        yield from ((path, value) for path, value in _attributes(layer) if isinstance(value, keras.Layer))


def _by_name(layers: list[Any], renamed: bool) -> Iterator[tuple[str, Any]]:
    names: set[str] = set()
    for layer in {id(layer): layer for layer in layers}.values():
        name = stem = _without_number(layer) if renamed else layer.name
        count = 1
        while renamed and name in names:
            name, count = f"{stem}_{count}", count + 1
        names.add(name)
        yield name, layer


def _weights_held(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, weight) for those that a layer or model holds itself, not those of layers inside."""
    inside = {id(weight) for inner in _in_attributes(layer) for weight in inner.weights}
    attributes = {} if is_own(layer) else {id(value): path for path, value in _attributes(layer)}
    for weight in layer.weights:
        if id(weight) in inside:
            continue
        if is_own(layer) or not _AUTOMATIC.fullmatch(weight.name):
            yield weight.name, weight
        elif id(weight) in attributes:
            yield attributes[id(weight)], weight


def is_own(layer: Any) -> bool:
    """Whether the class is Keras' own: its layers and weights have names that do not change."""
    return type(layer).__module__.split(".")[0] == "keras"


def _without_number(layer: Any) -> str:
    """A layer's name without the number that Keras gives it where the name is made from its class."""
    found = re.fullmatch(r"((?:forward_|backward_)?(.+?))_\d+", layer.name)
    automatic = found and found[2].replace("_", "") == type(layer).__name__.lower().replace("_", "")
    return str(found[1] if found and automatic else layer.name)


def _in_attributes(layer: Any) -> list[Any]:
    """The layers that a layer keeps in its attributes and in lists, of which one, made by Keras, has them all."""
    found: list[Any] = []
    for value in vars(layer).values():
        items = value if isinstance(value, (list, tuple)) else [value]
        found += [item for item in items if isinstance(item, keras.Layer) and item is not layer]
    return found


def _attributes(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield (path, layer or variable) for what the code of a subclass keeps in attributes, lists and dictionaries."""
    for name, value in vars(layer).items():
        if name not in _attributes_of_keras():
            yield from _inside(name, value)


def _inside(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (keras.Layer, keras.Variable)):
        yield path, value
    elif isinstance(value, (Mapping, list, tuple)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _inside(f"{path}/{key}", item)


@cache
def _attributes_of_keras() -> frozenset[str]:
    """The attributes that Keras, with TensorFlow, gives to layers and models; they repeat what the others hold."""
    start = keras.Input((1,), name="start")
    kinds = [
        keras.Layer(name="layer"),
        keras.Model(name="model"),
        keras.Sequential([keras.layers.Identity(name="identity")], name="sequential"),
        keras.Model(start, keras.layers.Identity(name="same")(start), name="functional"),
    ]
    return frozenset().union(*(vars(kind) for kind in kinds))


def assign_weights(model: Any, values: Mapping[str, npt.NDArray[Any]], *, source: str) -> None:
    """Set every weight of a model."""
    variables = weight_variables(model)
    if odd := sorted(set(variables) ^ set(values)):
        raise InputError(f"{source}: the stored weights and the stored model differ in {odd[0]!r}, expected the same")
    for path, variable in variables.items():
        value = np.asarray(values[path])
        shape = tuple(variable.shape)
        if value.shape != shape:
            raise InputError(f"{source}: weight {path!r} has shape {value.shape}, expected the model's {shape}")
        variable.assign(value)
    for _, layer in layers_below(model):
        if layer.weights and hasattr(layer, "finalize_state"):  # Normalization computes with values derived from them
            layer.finalize_state()


def layer_number(model: Any, layer: Any) -> int:
    """The toolkit's number of a layer: its position in `model.layers`.

    A Functional model counts its InputLayer as 0, a Sequential one does not have it.
    """
    for number, candidate in enumerate(model.layers):
        if candidate is layer:
            return number
    raise InputError(f"model {model.name!r}: found no layer {layer.name!r} at its top level, expected one of its own")


def layer_at(model: Any, number: int) -> Any:
    """The layer with the toolkit's number, see `layer_number`."""
    if not 0 <= number < len(model.layers):
        raise InputError(
            f"model {model.name!r}: found layer number {number}, expected 0 to {len(model.layers) - 1} "
            f"({model.layers[-1].name!r})"
        )
    return model.layers[number]
