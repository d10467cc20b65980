"""Dense layers of a chain as a target: searches of single weights need no more of the model than these layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine import backend
from engine.backend import keras, ops
from engine.core.errors import InputError
from engine.core.types import Float32, Int64
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.weight_stats import WeightStats
from engine.models.graph import cut_graph, graph_of
from engine.passes.classes import batched
from engine.passes.sizes import BATCH_ROWS
from engine.patches.patch import Patch
from engine.targets.base import deep_target
from engine.targets.last_dense import dense_target
from engine.targets.model_runner import ModelRunner


def last_alone(chain: DenseChain, inputs: Float32) -> tuple[DenseChain, Float32]:
    """The last layer of a chain as a chain of its own, which is tuned, and the values (n, U) that reach it from inputs
    (n, D) of the chain.

    Those are computed as a pass of the whole model computes them, in a graph and in batches of `BATCH_ROWS`, so that a
    search of the last layer has the same bits whether its rows come from here or from such a pass.
    """
    *front, last = chain.layers
    if front:
        before = DenseChain(chain.head, tuple(front), chain.values)
        values = {path: backend.on_device(chain.values[path]) for layer in front for path in layer.paths}
        program = backend.graph(before.logits)
        inputs = batched(lambda batch: program(batch, values), inputs, BATCH_ROWS)
    own = {path: chain.values[path] for path in last.paths}
    return DenseChain(chain.head, (replace(last, tuned=True),), own), inputs


def last_target(chain: DenseChain, inputs: Float32) -> tuple[ModelRunner, Float32]:
    """The layer of `last_alone` as a model of its own with its target; refused where it has an activation of its own in
    front of the head.
    """
    alone, features = last_alone(chain, inputs)
    (layer,) = alone.layers
    _check_head(chain)
    kernel = alone.values[layer.kernel]
    dense = keras.layers.Dense(kernel.shape[1], use_bias=layer.bias is not None)
    reaching = keras.Input(kernel.shape[:1])
    model = keras.Model(reaching, dense(reaching))
    dense.set_weights([np.array(alone.values[path]) for path in layer.paths])
    return ModelRunner(model, dense_target(dense, 0, layer.kernel, alone.head)), features


def few_weights(chain: DenseChain, inputs: Float32, patch: Patch) -> tuple[ModelRunner, Float32, Int64]:
    """Some weights of kernels of a chain as a model of their own; those of the last layer alone are of `last_target`.

    Of each layer from the first of them on, only the columns are kept that can change, and only the rows that a change
    reaches or that hold such a weight; what the others add to a pre-activation is computed once:

        z[units] = (h[others] W[others, units] + b[units]) + h[rows] W[rows, units]

    So few weights of a wide layer take few operations for each candidate. Inputs are (n, D) of the chain; the values of
    the patch are not read.

    Returns the model with its target, whose paths are those of the chain and whose shapes are not; the features (n, F)
    that reach the target; the places (K, 2) of the weights in it.
    """
    kernels = [layer.kernel for layer in chain.layers]
    if unknown := [path for path in patch.paths if path not in kernels]:
        raise InputError(f"{unknown[0]!r} is no kernel of the chain, expected one of {', '.join(kernels)}")
    _check_head(chain)
    places = {path: patch.flat_index[rows] for path, rows in patch.by_weight()}
    if list(places) == [kernels[-1]]:
        last, features = last_target(chain, inputs)
        return last, features, last.target.index_of(patch, "the chain")
    parts = _parts_of(chain, places)
    model, variables = _model_of(chain, parts)
    held = tuple(part.path for part in parts if part.path in places)
    cut = cut_graph(graph_of(model), [variables[path] for path in held])
    target = deep_target(chain.head, {path: variables[path] for path in held}, cut, held, {})
    by_path = {part.path: part for part in parts}
    flat = np.empty(len(patch), np.int64)
    for path, rows in patch.by_weight():
        flat[rows] = by_path[path].places(patch.flat_index[rows], chain.values[path].shape)
    reaching = _reaching(chain, inputs, parts)
    features = np.concatenate([reaching[number] for number in cut.crossing], axis=1)
    return ModelRunner(model, target), features, target.index_of(replace(patch, flat_index=flat), "the chain")


def few_stats(chain: DenseChain, patch: Patch) -> WeightStats:
    """Of all values of the kernel that each of the K weights of a patch belongs to, arrays (K,)."""
    stats = {path: WeightStats.with_room(chain.values[path]) for path in patch.paths}
    return WeightStats.joined([stats[path] for path in patch.weight])


@dataclass(frozen=True, eq=False)
class _Part:
    """What is kept of a layer."""

    layer: DenseLayer  # whole
    reached: Int64  # inputs that what is kept of the layer before makes
    others: Int64  # further inputs, with weights that may change
    units: Int64  # kept

    @property
    def path(self) -> str:
        """Of the kernel."""
        return self.layer.kernel

    @property
    def rows(self) -> Int64:
        """Rows of the kernel that are kept, in their order here."""
        return np.concatenate([self.reached, self.others])

    def places(self, flat: Int64, shape: tuple[int, ...]) -> Int64:
        """Flat places of the kernel, of this shape, as flat places of what is kept of it."""
        row, unit = np.unravel_index(flat, shape)
        order = np.argsort(self.rows)
        kept = order[np.searchsorted(self.rows, row, sorter=order)]
        found: Int64 = kept * len(self.units) + np.searchsorted(self.units, unit)
        return found


def _parts_of(chain: DenseChain, places: Mapping[str, Int64]) -> list[_Part]:
    """What is kept of each layer, from the first with any of these places on."""
    parts: list[_Part] = []
    reached = np.empty(0, np.int64)
    for layer in chain.layers:
        if not parts and layer.kernel not in places:
            continue
        shape = chain.values[layer.kernel].shape
        row, unit = np.unravel_index(places.get(layer.kernel, np.empty(0, np.int64)), shape)
        units = np.arange(shape[1]) if parts else np.unique(unit).astype(np.int64)
        parts.append(_Part(layer, reached, np.setdiff1d(row, reached).astype(np.int64), units))
        reached = units
    return parts


def _model_of(chain: DenseChain, parts: Sequence[_Part]) -> tuple[Any, dict[str, Any]]:
    """A Keras model of what is kept of a chain, and its kernels by the paths of the chain.

    Its inputs are, layer by layer, further inputs of it where there are any, and what the others add. Names of layers,
    which may have a "/" in a chain, are Keras' own choice.
    """
    variables: dict[str, Any] = {}
    inputs, result = [], []
    for part in parts:
        if len(part.others):
            inputs.append(keras.Input((len(part.others),)))
            result.append(inputs[-1])
        inputs.append(keras.Input((len(part.units),)))
        dense = keras.layers.Dense(len(part.units), use_bias=False)
        moved = dense(keras.layers.Concatenate()(result) if len(result) > 1 else result[0])
        dense.set_weights([chain.values[part.path][np.ix_(part.rows, part.units)]])
        variables[part.path] = dense.kernel
        result = [keras.layers.Activation(part.layer.activation)(keras.layers.Add()([moved, inputs[-1]]))]
    return keras.Model(inputs, result[0]), variables


def _reaching(chain: DenseChain, inputs: Float32, parts: Sequence[_Part]) -> list[Float32]:
    """Values of the inputs of `_model_of` for rows (n, D)."""

    def values(rows: Any, known: dict[str, Any]) -> list[Any]:
        found, kept = [], {part.path: part for part in parts}
        for layer in chain.layers:
            part = kept.get(layer.kernel)
            if part is not None:
                if len(part.others):
                    found.append(ops.take(rows, part.others, axis=1))
                still = np.ones(chain.values[layer.kernel].shape[0], np.float32)
                still[part.rows] = 0
                fixed = ops.matmul(rows * still, ops.take(known[layer.kernel], part.units, axis=1))
                found.append(fixed if layer.bias is None else fixed + ops.take(known[layer.bias], part.units))
            rows = DenseChain(chain.head, (layer,), chain.values).logits(rows, known)
        return found

    placed = {path: backend.on_device(value) for path, value in chain.values.items()}
    return [np.asarray(value) for value in backend.compiled(values)(backend.on_device(inputs), placed)]


def _check_head(chain: DenseChain) -> None:
    last = chain.layers[-1]
    if last.activation != "linear":
        raise InputError(f"{last.name} has the activation {last.activation} before the head, expected none")
