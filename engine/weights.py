"""The weights of a model by name, and where layers stand in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

import engine.backend as _backend  # noqa: F401  (sets the variables that must precede Keras)
from engine.errors import InputError


def weight_variables(model: Any) -> dict[str, Any]:
    """The weights of a model, in model order, by path.

    A path is `<layer name>/<variable name>`; weights of nested models carry the outer layer's name in front
    (`backbone/conv/kernel`), those of composite layers the inner layer's (`attention/query/kernel`). A layer
    used twice is listed once. State that is not a weight (the seeds of Dropout) is left out.

    Args:
        model: a built Keras model.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for prefix, layer in leaf_layers(model):
        for variable in layer.weights:
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            path = name = f"{prefix}{layer.name}/{name_in_layer(layer, variable)}"
            count = 1
            while path in found:  # two sublayers of one name in a composite layer
                path, count = f"{name}_{count}", count + 1
            found[path] = variable
    return found


def leaf_layers(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path of the model that holds it, layer) for each layer that is not itself a model."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaf_layers(layer, f"{prefix}{layer.name}/")
        else:
            yield prefix, layer


def name_in_layer(layer: Any, variable: Any) -> str:
    """A variable's path inside its layer: `kernel`, or `query/kernel` in a layer made of layers.

    Taken from which layer holds which, as `variable.path` depends on the order in which Keras built them.
    """
    for inner in _inner_layers(layer):
        if any(weight is variable for weight in inner.weights):
            return f"{inner.name}/{name_in_layer(inner, variable)}"
    return str(variable.name)


def _inner_layers(layer: Any) -> list[Any]:
    """The layers that a layer keeps in its attributes, or a model in its list."""
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    found: list[Any] = []
    for value in vars(layer).values():
        items = value if isinstance(value, (list, tuple)) else [value]
        found += [item for item in items if isinstance(item, keras.Layer) and item is not layer]
    return found


def assign_weights(model: Any, values: Mapping[str, npt.NDArray[Any]], *, source: str) -> None:
    """Set every weight of a model.

    Args:
        model: a built Keras model.
        values: one array per path of `weight_variables`, of that weight's shape.
        source: the file the values come from, for messages.

    Raises:
        InputError: a weight is missing, left over or of another shape.
    """
    variables = weight_variables(model)
    if odd := sorted(set(variables) ^ set(values)):
        raise InputError(f"{source}: the stored weights and the stored model differ in {odd[0]!r}, expected the same")
    for path, variable in variables.items():
        value = np.asarray(values[path])
        shape = tuple(variable.shape)
        if value.shape != shape:
            raise InputError(f"{source}: weight {path!r} has shape {value.shape}, expected the model's {shape}")
        variable.assign(value)
    for _, layer in leaf_layers(model):
        if layer.weights and hasattr(layer, "finalize_state"):  # Normalization computes with values derived from them
            layer.finalize_state()


def layer_number(model: Any, layer: Any) -> int:
    """The toolkit's number of a layer: its position in `model.layers`.

    A Functional model counts its InputLayer as 0, a Sequential one does not have it.

    Raises:
        InputError: the layer is not one of the model's own (a nested model's layers have no number).
    """
    for number, candidate in enumerate(model.layers):
        if candidate is layer:
            return number
    raise InputError(f"model {model.name!r}: found no layer {layer.name!r} at its top level, expected one of its own")


def layer_at(model: Any, number: int) -> Any:
    """The layer with the toolkit's number, see `layer_number`.

    Raises:
        InputError: there is no such layer.
    """
    if not 0 <= number < len(model.layers):
        raise InputError(
            f"model {model.name!r}: found layer number {number}, expected 0 to {len(model.layers) - 1} "
            f"({model.layers[-1].name!r})"
        )
    return model.layers[number]
