"""Rows as they travel and as a model takes them: one array for a model with one input, one vector for several."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from engine.backend import keras, ops
from engine.data.image_set import Inputs


@dataclass(frozen=True)
class ModelInput:
    """An input of a model: its name, its shape without the axis of rows (None for an open size), and its dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def has_graph(model: Any) -> bool:
    """Whether a model is Sequential or Functional, or a subclass of these, and so knows its layers in their order."""
    return isinstance(model, (keras.Sequential, keras.src.models.functional.Functional))


def model_inputs(model: Any) -> tuple[ModelInput, ...]:
    """The inputs of a model, in its order; none where it does not say.

    A subclassed model has no symbolic inputs: the shape of the one it has is that of its first call, which Keras
    stores. It takes the rows as float32, whatever it makes of them.
    """
    if has_graph(model):
        return tuple(ModelInput(tensor.name, tuple(tensor.shape[1:]), tensor.dtype) for tensor in model.inputs)
    shape = (model.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, (list, tuple)) or not all(size is None or isinstance(size, int) for size in shape):
        return ()
    return (ModelInput("inputs", tuple(shape[1:]), "float32"),)


def input_specs(model: Any) -> tuple[tuple[tuple[int | None, ...], str], ...]:
    """Shape, the axis of rows (None) first, and dtype of each input of a model."""
    return tuple(((None, *model_input.shape), model_input.dtype) for model_input in model_inputs(model))


def row_shape(model: Any) -> tuple[int, ...]:
    """Shape of a row as it travels: that of the only input, or (F,) for several. All sizes must be fixed."""
    shapes: list[tuple[Any, ...]] = [model_input.shape for model_input in model_inputs(model)]
    return shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)


def several_inputs(model: Any) -> Inputs:
    """Name and shape of each input of a model that has several; else empty. All sizes must be fixed."""
    found: list[tuple[str, Any]] = [(model_input.name, model_input.shape) for model_input in model_inputs(model)]
    return tuple(found) if len(found) > 1 else ()


def unpack(model: Any, rows: Any) -> Any:
    """What a model is called with for rows as they travel."""
    inputs = model_inputs(model)
    if len(inputs) == 1:
        tensors = [ops.cast(rows, inputs[0].dtype)]
    else:
        tensors, first = [], 0
        for model_input in inputs:
            shape: Any = model_input.shape
            part = rows[:, first : first + math.prod(shape)]
            tensors.append(ops.cast(ops.reshape(part, (-1, *shape)), model_input.dtype))
            first += math.prod(shape)
    if isinstance(model, keras.Sequential) or not has_graph(model):
        return tensors[0]
    return keras.tree.pack_sequence_as(model.input, tensors)
