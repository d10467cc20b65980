"""Logits of a chain whose weights are mixed for each candidate: of Dense layers, and through the tail of a model.

A candidate has shares (1, c[1], .., c[R]) of the weights as they are and of what R tunings change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from engine import backend
from engine.backend import ops
from engine.layers.dense_chain import DenseChain, turned
from engine.layers.tail_chain import Chain, TailChain
from engine.tuning.train import Changes


class MixedChain(Protocol):
    """How candidates are computed, in a compiled function; rows n are the last axis of what comes of it."""

    def weights(self, changes: Changes) -> tuple[Any, Any]:
        """What changes (R, ..) by path make, on the device: what `logits` takes, and what `first` takes."""

    def first(self, inputs: Any, weights: Any) -> Any:
        """What is the same for all candidates, of inputs (n, D)."""

    def logits(self, shares: Any, values: Any, weights: Any) -> Any:
        """Logits (h, C, n) of h candidates with shares (h, R + 1), from what `first` made."""


class MixedLayers:
    """Dense layers. Pre-activations of the first are linear in the shares, so those of every tuning are computed once;
    what follows is computed for each candidate, with its own weights where a tuning changes them.
    """

    def __init__(self, chain: DenseChain) -> None:
        """Of a chain."""
        self._chain = chain
        self._first: Callable[..., Any] = chain.compiled(_pre_activations)

    def weights(self, changes: Changes) -> tuple[Any, Any]:
        """See `MixedChain.weights`: pairs (as they are, changes), None for changes that there are none of, of the
        layers behind the first, with kernels turned; and of the first.
        """
        chain = self._chain
        first = [_pair(chain.values[path], changes[path]) for path in chain.layers[0].paths]

        def pair(path: str) -> tuple[Any, Any]:
            change = chain.turned(path, changes[path]) if path in changes else None
            return _pair(chain.turned(path, chain.values[path]), change)

        behind = tuple(tuple(map(pair, layer.paths)) for layer in chain.layers[1:])
        return behind, tuple(first)

    def first(self, inputs: Any, weights: Any) -> Any:
        """Pre-activations of the first layer, as it is and of each tuning: (R + 1, U, n)."""
        return self._first(inputs, *weights)

    def logits(self, shares: Any, values: Any, weights: Any) -> Any:
        """See `MixedChain.logits`."""
        mixed = _weighted(shares, values)
        for before, pairs in zip(self._chain.layers, weights, strict=False):
            mixed = backend.activation(before.activation)(mixed)
            kernel, *bias = (_mix(shares, *pair) for pair in pairs)
            mixed = ops.matmul(kernel, mixed)
            for offset in bias:
                mixed = mixed + offset[..., None]
        return mixed


class MixedTail:
    """Weights of any layers: the tail runs with the weights of each candidate."""

    def __init__(self, chain: TailChain) -> None:
        """Of a chain."""
        self._chain = chain

    def weights(self, changes: Changes) -> tuple[Any, Any]:
        """See `MixedChain.weights`."""
        chain = self._chain
        return tuple(_pair(chain.values[path], changes[path]) for path in chain.tuned), ()

    def first(self, inputs: Any, weights: Any) -> Any:
        """The features (n, F) themselves."""
        del weights
        return inputs

    def logits(self, shares: Any, values: Any, weights: Any) -> Any:
        """See `MixedChain.logits`."""
        return self._chain.mixed_logits(values, [_mix(shares, *pair) for pair in weights])


def mixed_chain(chain: Chain) -> MixedChain:
    """How candidates of a chain are computed."""
    return MixedTail(chain) if isinstance(chain, TailChain) else MixedLayers(chain)


def _pre_activations(inputs: Any, kernel: Any, bias: Any = None) -> Any:
    """Of inputs (n, D), as the layer is and of each tuning: (R + 1, U, n).

    As a product with the inputs behind, its bits would depend on the number of threads where units are few.
    """
    values = ops.matmul(inputs, ops.concatenate([kernel[0][None], kernel[1]], axis=0))
    if bias is not None:
        values = values + ops.concatenate([bias[0][None], bias[1]], axis=0)[:, None, :]
    return turned(values)


def _pair(value: Any, changes: Any) -> tuple[Any, Any]:
    """Both on the device."""
    return backend.on_device(value), None if changes is None else backend.on_device(changes)


def _mix(shares: Any, value: Any, changes: Any) -> Any:
    """A weight mixed for each candidate, (h, ..), or as it is where no tuning changes it."""
    if changes is None:
        return value
    return _weighted(shares, ops.concatenate([value[None], changes], axis=0))


def _weighted(shares: Any, parts: Any) -> Any:
    """Sums (h, ..) of parts (r, ..) with shares (h, r), term by term: as a product of matrices of so few terms it would
    take longer, and its bits would depend on the number of threads.
    """
    shape = (shares.shape[0], *[1] * (len(parts.shape) - 1))
    total = ops.reshape(shares[:, 0], shape) * parts[0][None]
    for number in range(1, parts.shape[0]):
        total = total + ops.reshape(shares[:, number], shape) * parts[number][None]
    return total
