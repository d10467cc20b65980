"""Dense layers at the end of a model as a chain of matrices: what a tuning changes, behind features computed once.

h[0] = features,  z[l] = h[l-1] W[l] + b[l],  h[l] = a[l](z[l]),  logits = z[last]
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import backend
from engine.backend import keras, ops
from engine.core.errors import InputError
from engine.core.names import in_words, listed
from engine.core.types import Float32
from engine.layers.head import ELEMENTWISE, Head, activation_name
from engine.models.graph import Graph, Step
from engine.models.weight_paths import weight_variables

_PASSING = frozenset(["Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"])
"""Layers that do nothing when a model is used."""


_compiled = functools.cache(backend.compiled)

NARROW = 32
"""Units below which a product has rows in front after all: with few rows in its result, its bits would depend on the
number of threads."""


def turned(values: Any) -> Any:
    """Values (.., a, b) as (.., b, a): a kernel whose products have rows as their last axis, or such a product."""
    return ops.swapaxes(values, -1, -2)


@dataclass(frozen=True)
class DenseLayer:
    """One layer of a chain."""

    kernel: str  # path of its kernel (I, U)
    bias: str | None  # path of its bias (U,); None where it has none
    activation: str  # elementwise, by Keras' name; `linear` of the last layer, whose activation the head has
    tuned: bool = True  # a tuning changes it

    @property
    def name(self) -> str:
        """Of the layer in the model."""
        return self.kernel.rpartition("/")[0]

    @property
    def paths(self) -> tuple[str, ...]:
        """Kernel and, where there is one, bias."""
        return (self.kernel,) if self.bias is None else (self.kernel, self.bias)


@dataclass(frozen=True, eq=False)
class DenseChain:
    """The last Dense layers of a model, from the first that is tuned on.

    Attributes:
        head: what follows the logits.
        layers: in the order of the pass; the first is tuned.
        values: kernels and biases as they are, float32, by path.
    """

    head: Head
    layers: tuple[DenseLayer, ...]
    values: Mapping[str, Float32]

    @property
    def classes(self) -> int:
        """C."""
        return int(self.values[self.layers[-1].kernel].shape[1])

    @property
    def tuned(self) -> tuple[str, ...]:
        """Paths of what a tuning changes, in the order of the pass."""
        return tuple(path for layer in self.layers if layer.tuned for path in layer.paths)

    @property
    def tuned_values(self) -> int:
        """Numbers that a tuning changes."""
        return sum(self.values[path].size for path in self.tuned)

    @property
    def offsets(self) -> str | None:
        """Path of the bias that offsets of labels are folded into; None where the last layer has none."""
        return self.layers[-1].bias

    @property
    def tuned_layers(self) -> int:
        """Layers that are tuned."""
        return sum(layer.tuned for layer in self.layers)

    @property
    def width(self) -> int:
        """D, numbers of a row's features."""
        return int(self.values[self.layers[0].kernel].shape[0])

    @property
    def widest(self) -> int:
        """Units of the widest layer."""
        return max(int(self.values[layer.kernel].shape[1]) for layer in self.layers)

    @property
    def all_values(self) -> int:
        """Units of all layers."""
        return sum(int(self.values[layer.kernel].shape[1]) for layer in self.layers)

    @property
    def kept_values(self) -> int:
        """Numbers of a row that a search keeps of each tuning: pre-activations of the first layer."""
        return int(self.values[self.layers[0].kernel].shape[1])

    unfolded_bytes = 0  # see `engine.layers.tail_chain.TailChain`

    def attached(self, tail: Any) -> DenseChain:
        """The chain itself, which needs nothing of the model; see `TailChain.attached`."""
        del tail
        return self

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that computes with the chain, compiled."""
        program: Callable[..., Any] = backend.compiled(function)
        return program

    def turned(self, path: str, value: Float32) -> Float32:
        """A kernel (.., I, U) as (.., U, I), or the other way round; a bias as it is."""
        is_kernel = any(path == layer.kernel for layer in self.layers)
        return np.ascontiguousarray(np.swapaxes(value, -1, -2) if is_kernel else value)

    def logits(self, features: Any, values: Mapping[str, Any]) -> Any:
        """Logits (.., n, C) of features (.., n, D) under values by path; leading axes are those of the values."""
        result = features
        for layer in self.layers:
            result = ops.matmul(result, values[layer.kernel])
            if layer.bias is not None:
                bias = values[layer.bias]
                result = result + (bias if len(bias.shape) == 1 else bias[..., None, :])
            result = backend.activation(layer.activation)(result)
        return result

    def known_logits(self, features: Float32) -> Float32:
        """Logits (n, C) of features (n, D) under the values as they are."""
        values = {path: backend.on_device(value) for path, value in self.values.items()}
        return np.asarray(self.compiled(self.logits)(backend.on_device(features), values))

    def tuning_logits(self, inputs: Any, values: Mapping[str, Any]) -> Any:
        """Logits (G, C, B) of inputs (D, B) under turned values by path, of each of G tunings where they are tuned."""
        result = inputs
        for layer in self.layers:
            kernel = values[layer.kernel]
            if kernel.shape[-2] < NARROW:
                result = turned(ops.matmul(turned(result), turned(kernel)))
            else:
                result = ops.matmul(kernel, result)
            if layer.bias is not None:
                result = result + values[layer.bias][..., None]
            result = backend.activation(layer.activation)(result)
        return result

    def mixing(self, changes: Mapping[str, Float32]) -> tuple[Any, Any]:
        """What changes (R, ..) by path make, on the device: what `mixed_logits` takes, and what `first_mixed` takes.

        Pairs (as they are, changes), None for changes that there are none of: of the layers behind the first, with
        kernels turned, and of the first.
        """
        first = [placed(self.values[path], changes[path]) for path in self.layers[0].paths]

        def pair(path: str) -> tuple[Any, Any]:
            change = self.turned(path, changes[path]) if path in changes else None
            return placed(self.turned(path, self.values[path]), change)

        behind = tuple(tuple(map(pair, layer.paths)) for layer in self.layers[1:])
        return behind, tuple(first)

    def first_mixed(self, inputs: Any, weights: Any) -> Any:
        """What is the same for all candidates, of inputs (n, D): pre-activations (R + 1, U, n) of the first layer, as
        it is and of each tuning, as they are linear in the shares.
        """
        return _compiled(_pre_activations)(inputs, *weights)

    def mixed_logits(self, shares: Any, values: Any, weights: Any) -> Any:
        """Logits (h, C, n) of h candidates with shares (h, R + 1), from what `first_mixed` made.

        Shares (1, c[1], .., c[R]) are of the weights as they are and of what R tunings change.
        """
        result = weighted(shares, values)
        for before, pairs in zip(self.layers, weights, strict=False):
            result = backend.activation(before.activation)(result)
            kernel, *bias = (mixed(shares, *pair) for pair in pairs)
            result = ops.matmul(kernel, result)
            for offset in bias:
                result = result + offset[..., None]
        return result


def _pre_activations(inputs: Any, kernel: Any, bias: Any = None) -> Any:
    """Of inputs (n, D), as the layer is and of each tuning: (R + 1, U, n).

    As a product with the inputs behind, its bits would depend on the number of threads where units are few.
    """
    values = ops.matmul(inputs, ops.concatenate([kernel[0][None], kernel[1]], axis=0))
    if bias is not None:
        values = values + ops.concatenate([bias[0][None], bias[1]], axis=0)[:, None, :]
    return turned(values)


def placed(value: Any, changes: Any) -> tuple[Any, Any]:
    """Both on the device."""
    return backend.on_device(value), None if changes is None else backend.on_device(changes)


def mixed(shares: Any, value: Any, changes: Any) -> Any:
    """A weight mixed for each candidate, (h, ..), or as it is where no tuning changes it."""
    if changes is None:
        return value
    return weighted(shares, ops.concatenate([value[None], changes], axis=0))


def weighted(shares: Any, parts: Any) -> Any:
    """Sums (h, ..) of parts (r, ..) with shares (h, r), term by term: as a product of matrices of so few terms it would
    take longer, and its bits would depend on the number of threads.
    """
    shape = (shares.shape[0], *[1] * (len(parts.shape) - 1))
    total = ops.reshape(shares[:, 0], shape) * parts[0][None]
    for number in range(1, parts.shape[0]):
        total = total + ops.reshape(shares[:, number], shape) * parts[number][None]
    return total


def chain_of(model: Any, graph: Graph, head: Head, path: Path, wanted: Sequence[str] = ()) -> DenseChain:
    """The Dense layers behind the last layer that is not one, or those of them whose weights are wanted.

    Args:
        model: Keras model.
        graph: of the model up to its logits, see `engine.targets.resolve.headed`.
        head: what follows those.
        path: of the model, for messages.
        wanted: paths of weights, each kernel standing for its bias too; none for all.

    Raises:
        InputError: the last layer is no Dense layer in float32, or a wanted weight is of another layer.
    """
    names = {id(variable): name for name, variable in weight_variables(model).items()}
    found = _dense_steps(graph, names)
    if not found:
        last = next((step for step in graph.steps if graph.output in step.outputs), None)
        kind = "its inputs" if last is None else f"{in_words(last.operation.name)} ({type(last.operation).__name__})"
        raise InputError(
            f"{path}: the logits come from {kind}, expected a Dense layer of float32 with a kernel of its own and at "
            "most one activation behind it"
        )
    known = {layer.kernel: layer for layer, _ in found} | {
        layer.bias: layer for layer, _ in found if layer.bias is not None
    }
    others = [name for name in wanted if name not in known]
    if others:
        raise InputError(
            f"{path}: {in_words(others[0])} is no weight of a Dense layer behind which only Dense layers follow, "
            f"expected layers of {listed([layer.name for layer, _ in found])}"
        )
    asked = {known[name].kernel for name in wanted} or {layer.kernel for layer, _ in found}
    layers = [DenseLayer(layer.kernel, layer.bias, layer.activation, layer.kernel in asked) for layer, _ in found]
    first = next(number for number, layer in enumerate(layers) if layer.tuned)
    values = {
        name: np.asarray(ops.convert_to_numpy(variable), dtype=np.float32)
        for layer, (_, dense) in zip(layers[first:], found[first:], strict=True)
        for name, variable in zip(layer.paths, (dense.kernel, dense.bias), strict=False)
    }
    return DenseChain(head, tuple(layers[first:]), values)


def _dense_steps(graph: Graph, names: Mapping[int, str]) -> list[tuple[DenseLayer, Any]]:
    """Layers of the chain with their Keras layers, in the order of the pass."""
    makers = {number: step for step in graph.steps for number in step.outputs}
    holders = [id(variable) for step in graph.steps for variable in step.variables]
    found: list[tuple[DenseLayer, Any]] = []
    number, activation = graph.output, "linear"
    while (step := makers.get(number)) is not None and len(step.inputs) == 1 == len(step.outputs):
        kind, layer = type(step.operation), step.operation
        if kind is keras.layers.Dense:
            own = "linear" if step.linear else activation_name(layer.activation)
            if not _plain(layer, step, names) or own not in ELEMENTWISE or "linear" not in (own, activation):
                break
            if any(holders.count(id(variable)) > 1 for variable in layer.variables):
                break  # called twice, or another layer computes with its weights
            both = own if activation == "linear" else activation
            if not found and both != "linear":
                break  # the head has one activation too: offsets would come before this one
            bias = names[id(layer.bias)] if layer.use_bias else None
            found.append((DenseLayer(names[id(layer.kernel)], bias, both), layer))
            activation = "linear"
        elif kind is keras.layers.Activation:
            own = activation_name(layer.activation)
            if own not in ELEMENTWISE or "linear" not in (own, activation):
                break
            activation = own if activation == "linear" else activation
        elif kind.__name__ not in _PASSING or kind is not getattr(keras.layers, kind.__name__, None):
            break
        number = step.inputs[0]
    return found[::-1]


def _plain(layer: Any, step: Step, names: Mapping[int, str]) -> bool:
    """Whether a Dense layer multiplies rows (n, I) by a float32 kernel of its own."""
    return (
        len(step.shapes[0]) == 2
        and getattr(layer, "quantization_mode", None) is None
        and id(layer.kernel) in names
        and layer.compute_dtype == "float32"
    )
