"""Weights of any layers as what a tuning changes, behind features computed once: as `DenseChain`, through the tail.

A tuning and a mixture run the tail of the model once for each set of weights, so this takes longer than a chain of
matrices, and `DenseChain` stays where all weights are of Dense layers at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine import backend
from engine.backend import keras, ops
from engine.core.types import Float32
from engine.layers.dense_chain import DenseChain, mixed, placed, turned
from engine.layers.head import Head
from engine.layers.tail import Tail, features_width, unpack
from engine.models.graph import Step
from engine.models.weight_paths import layers_below

_BLOCK = 512
"""Rows that pass at once where no more is known of them."""


@dataclass(frozen=True, eq=False)
class TailChain:
    """Weights of any layers with all that they can change; it has the interface of `DenseChain`.

    It travels without the tail, which is a part of a model: `attached` brings it together with one of the same model.
    """

    head: Head  # what follows the logits
    classes: int  # C
    tuned: tuple[str, ...]  # paths of the weights that a tuning changes, in the order of the tail's
    values: Mapping[str, Float32]  # those, and the bias that offsets go into, as they are, float32, by path
    offsets: str | None  # path of the bias that offsets of labels are folded into; None where there is none
    width: int  # F, numbers of a row's features
    widest: int  # most numbers of a row that one step of the tail makes, or of its features
    all_values: int  # numbers of a row that all steps make together
    tail: Tail | None  # of the model in this process; None after a journey

    def __getstate__(self) -> dict[str, Any]:
        """All but the tail."""
        return {**self.__dict__, "tail": None}

    def attached(self, tail: Tail | None) -> TailChain:
        """The same with the tail of a model in this process, unless it has one; a ValueError where there is none."""
        if self.tail is None and tail is None:
            raise ValueError("weights of any layers are tuned or mixed through the tail of their model, expected it")
        return self if self.tail is not None else replace(self, tail=tail)

    @property
    def name(self) -> str:
        """Of what is tuned: its layers."""
        return ", ".join(self._layers)

    @property
    def tuned_layers(self) -> int:
        """Layers whose weights are tuned."""
        return len(self._layers)

    @property
    def tuned_values(self) -> int:
        """How many numbers a tuning changes."""
        return sum(self.values[path].size for path in self.tuned)

    @property
    def kept_values(self) -> int:
        """Numbers of a row that a search keeps of each tuning: none, the features serve all."""
        return 0

    @property
    def unfolded_bytes(self) -> int:
        """Of convolutions that run as products, see `engine.layers.tail.Tail`."""
        return 0 if self.tail is None else self.tail.unfolded_bytes

    def turned(self, path: str, value: Float32) -> Float32:
        """The values as they are: only a chain of matrices has use for turned ones."""
        del path
        return np.ascontiguousarray(value)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that runs the tail, compiled with XLA unless there are convolutions in it, which the CPU's own
        are quicker at (`engine.backend.tail_program`); norms and attention take up to half the time (measured).
        """
        tail = self._tail
        _ = tail.constants  # made now: they cannot be while a function is traced
        convolves = any("Conv" in type(layer).__name__ for step in tail.cut.tail for layer in _layers_of(step))
        compiling: Callable[..., Callable[..., Any]] = backend.tail_program if convolves else backend.compiled
        return compiling(function)

    def logits(self, features: Any, values: Mapping[str, Any]) -> Any:
        """Logits (n, C) of features (n, F) under values by path."""
        tail, offsets = self._tail, self.offsets
        logits = tail.logits(features, [values[path] for path in self.tuned], tail.constants)
        if offsets is None or offsets in self.tuned or offsets not in values:
            return logits
        return logits + (values[offsets] - self.values[offsets])

    def known_logits(self, features: Float32) -> Float32:
        """Logits (n, C) of features (n, F) under the values as they are."""
        values = {path: backend.on_device(self.values[path]) for path in self.tuned}
        program = self.compiled(self.logits)
        blocks = (features[start : start + _BLOCK] for start in range(0, len(features), _BLOCK))
        return np.concatenate([np.asarray(program(backend.on_device(block), values)) for block in blocks])

    def tuning_logits(self, inputs: Any, values: Mapping[str, Any]) -> Any:
        """Logits (G, C, B) of features (F, B) under the values of each of G tunings, by path."""
        features, count = turned(inputs), values[self.tuned[0]].shape[0]
        some = ({path: values[path][number] for path in self.tuned} for number in range(count))
        return ops.stack([turned(self.logits(features, one)) for one in some])

    def mixing(self, changes: Mapping[str, Float32]) -> tuple[Any, Any]:
        """As of `DenseChain`: pairs of what is tuned."""
        return tuple(placed(self.values[path], changes[path]) for path in self.tuned), ()

    def first_mixed(self, inputs: Any, weights: Any) -> Any:
        """As of `DenseChain`: the features (n, F) themselves."""
        del weights
        return inputs

    def mixed_logits(self, shares: Any, values: Any, weights: Any) -> Any:
        """As of `DenseChain`: the tail runs with the weights of each candidate."""
        return self.many_logits(values, [mixed(shares, *pair) for pair in weights])

    def many_logits(self, features: Any, weights: Sequence[Any]) -> Any:
        """Logits (h, C, n) of features (n, F) under weights (h, ..) of h candidates, in the order of `tuned`."""
        tail, rows, count = self._tail, features.shape[0], weights[0].shape[0]
        own = [[values[number] for values in weights] for number in range(count)]
        if not tail.folds:
            return ops.stack([turned(tail.logits(features, one, tail.constants)) for one in own])
        logits = tail.folded(tail.cut.tail, unpack(tail.cut, features), {}, own, tail.constants)
        return turned(ops.reshape(logits, (count, rows, self.classes)))

    @property
    def _layers(self) -> list[str]:
        return list(dict.fromkeys(path.rpartition("/")[0] for path in self.tuned))

    @property
    def _tail(self) -> Tail:
        tail = self.attached(None).tail
        assert tail is not None
        return tail


def _layers_of(step: Step) -> list[Any]:
    """The layer of a step and those in it."""
    if not isinstance(step.operation, keras.Layer):
        return []
    return [step.operation, *(layer for _, layer in layers_below(step.operation))]


def tail_chain_of(tail: Tail, classes: int, last: DenseChain | None) -> TailChain:
    """Weights under repair as a chain; the bias of the last Dense layers, if there are any, takes offsets."""
    cut, paths = tail.cut, tail.space.paths
    made = [math.prod(size or 1 for size in shape[1:]) for step in cut.tail for shape in step.shapes]
    values = {
        path: np.asarray(ops.convert_to_numpy(variable), np.float32)
        for path, variable in zip(paths, tail.variables, strict=True)
    }
    offsets = None if last is None else last.offsets
    if last is not None and offsets is not None:
        values.setdefault(offsets, last.values[offsets])
    width = features_width(cut)
    return TailChain(tail.head, classes, paths, values, offsets, width, max(width, *made), sum(made), tail)


Chain = DenseChain | TailChain
"""What CrossFit tunes and mixes."""


def dense_of(chain: Chain) -> DenseChain:
    """A chain of what works on Dense layers alone; a ValueError where it is of others."""
    if isinstance(chain, TailChain):
        raise ValueError(f"weights of {chain.name} are to be tuned, expected Dense layers at the end of the model")
    return chain
