"""NeuRecover's localisation: which weights the last step of a training spoilt, by two of its checkpoints.

After Tokui et al., "NeuRecover: Regression-Controlled Repair of Deep Neural Networks with Training History", SANER
2022, as eAI-Repair-Toolkit 1.1.0 has it. Of the rows of a repair, `worse` are right under the earlier checkpoint and
wrong under the later one, `better` the other way round; S is either. Over the arrays a of a model, kernels and biases:

    D[a]      = mean |w1 - w0| over a, divided by the sum of that over all arrays
    F[S](i,j) = mean over rows of S of |o[i] w[i,j]|, o the inputs of the layer
    G[S](i,j) = gradient of the cross-entropy, summed over rows of S
    N[S,a]    = mean of F[S] over a, divided by the sum of that over all arrays
    susp[a]   = N[worse,a] / (N[worse,a] + N[better,a]) D[a], 0 where N[worse,a] is 0
    k[a]      = susp[a] times the size of a, rounded, halves to the even number

Blamed in a are those of its weights that are among the k[a] largest by F[worse], by |G[worse]| and by |w1 - w0|, all
three, without those that are among the k[a] largest by both F[better] and |G[better]|. Of equal weights the earlier in
the array comes first.

In the toolkit's code G is the gradient of the sum of the outputs, which of a softmax is rounding noise, F and G are
those of the later checkpoint, not of the model as it is, and sets without rows divide by 0. As there, only kernels of
Dense layers are ever blamed, here those at the end of a model; biases and all other layers count in D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from engine import backend
from engine.backend import ops
from engine.core.errors import InputError
from engine.core.types import Bool, Float32, Float64, Int64
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.head import Head, row_losses
from engine.patches.patch import Patch

ROWS = 64  # rows of a pass; fewer are filled up with copies that count nothing


@dataclass(frozen=True, eq=False)
class Training:
    """The step of a training between two checkpoints."""

    earlier: Mapping[str, Float32]  # earlier, later: weights of the chain, by path
    later: Mapping[str, Float32]
    others: float  # sum, over the arrays of the model that the chain does not have, of their mean |difference|
    was: Int64  # was, became: classes (n,) that the checkpoints predict for the rows of a repair
    became: Int64

    def worse(self, labels: Int64) -> Int64:
        """Rows that the step broke; labels are (n,)."""
        return np.flatnonzero((self.was == labels) & (self.became != labels))

    def better(self, labels: Int64) -> Int64:
        """Rows that the step repaired."""
        return np.flatnonzero((self.was != labels) & (self.became == labels))

    def distances(self) -> dict[str, float]:
        """D of each weight of the chain, by path; refused where all weights are the same in both."""
        moved = {path: float(np.abs(_step(self, path)).mean(dtype=np.float64)) for path in self.later}
        total = sum(moved.values()) + self.others
        if not total:
            raise InputError("both checkpoints hold the same weights, expected two epochs of one training")
        return {path: distance / total for path, distance in moved.items()}


@dataclass(frozen=True, eq=False)
class Traces:
    """What rows of one kind say of the kernels of a chain."""

    impact: Mapping[str, Float64]  # F of each kernel (I, U), by path, float64
    gradient: Mapping[str, Float64]  # |G| of the same

    def shares(self) -> dict[str, float]:
        """N of each kernel; all 0 where no row reaches any."""
        means = {path: float(values.mean()) for path, values in self.impact.items()}
        total = sum(means.values()) or 1.0
        return {path: mean / total for path, mean in means.items()}


@dataclass(frozen=True, eq=False)
class Blame:
    suspicion: Mapping[str, float]  # susp of each kernel that may be changed, by path
    looked_at: Mapping[str, int]  # k of the same
    places: Mapping[str, Int64]  # (K,) flat places of the same, the largest forward impact on `worse` first
    worse: int  # worse, better: how many rows of either kind there were
    better: int

    @property
    def weights(self) -> tuple[str, ...]:
        return tuple(path for path, places in self.places.items() for _ in places)

    @property
    def patch(self) -> Patch:
        """All of them as a patch that changes nothing, which targets find their places by."""
        nothing = np.zeros(len(self.weights), np.float32)
        flat = np.concatenate([np.empty(0, np.int64), *self.places.values()])
        return Patch(self.weights, flat, nothing, nothing)


def blame(chain: DenseChain, inputs: Float32, labels: Int64, training: Training) -> Blame:
    """Find the weights of the tuned layers of a chain that a step of the training spoilt, by rows (n, D) of a repair.

    InputError where no row got worse or none better, checkpoints are equal, or no weight is left to blame.
    """
    worse, better = training.worse(labels), training.better(labels)
    if not len(worse) or not len(better):
        raise InputError(
            f"of {len(labels)} rows {len(worse)} were right at the earlier checkpoint and are wrong at the later one, "
            f"and {len(better)} the other way round, expected at least one of each (--last compares other checkpoints)"
        )
    distances = training.distances()
    spoilt, gained = (traces(chain, inputs[rows], labels[rows]) for rows in (worse, better))
    suspicion = suspicions(spoilt.shares(), gained.shares(), distances)
    kernels = [layer.kernel for layer in chain.layers if layer.tuned]
    looked_at = {path: round(chain.values[path].size * suspicion[path]) for path in kernels}
    places = {path: _places(path, looked_at[path], spoilt, gained, training) for path in kernels}
    if not any(len(found) for found in places.values()):
        sizes = ", ".join(f"{count} of {path}" for path, count in looked_at.items())
        raise InputError(
            f"no weight is among those that moved most and those that rows which got worse depend on most ({sizes} are "
            "looked at), expected some to blame (--last compares other checkpoints)"
        )
    return Blame({path: suspicion[path] for path in kernels}, looked_at, places, len(worse), len(better))


def suspicions(
    worse: Mapping[str, float], better: Mapping[str, float], distances: Mapping[str, float]
) -> dict[str, float]:
    """susp of each kernel, by N of either kind of rows and D."""
    return {path: share / (share + better[path]) * distances[path] if share else 0.0 for path, share in worse.items()}


def largest(values: Any, count: int) -> Bool:
    """Which of the values (any shape) are the `count` largest; of equal ones the first."""
    flat = np.asarray(values).ravel()
    chosen = np.zeros(flat.size, dtype=bool)
    if count:
        least = np.partition(flat, flat.size - count)[flat.size - count]
        chosen = flat > least
        chosen[np.flatnonzero(flat == least)[: count - int(chosen.sum())]] = True
    return chosen.reshape(np.shape(values))


def traces(chain: DenseChain, inputs: Float32, labels: Int64) -> Traces:
    """F and |G| of rows (n, D), at least one, for all kernels of a chain."""
    kernels = [layer.kernel for layer in chain.layers]
    program = _program(chain.head, chain.layers)
    values = [backend.on_device(chain.values[path]) for layer in chain.layers for path in layer.paths]
    sums = [np.zeros(chain.values[path].shape[0]) for path in kernels]
    slopes = [np.zeros(chain.values[path].shape) for path in kernels]
    for start in range(0, len(labels), ROWS):
        count = min(ROWS, len(labels) - start)
        rows = start + np.minimum(np.arange(ROWS), count - 1)
        found, gradients = program(
            backend.on_device(np.ascontiguousarray(inputs[rows], np.float32)),
            backend.on_device(np.eye(chain.classes)[labels[rows]]),
            backend.on_device((np.arange(ROWS) < count).astype(np.float64)),
            values,
        )
        for total, part in zip([*sums, *slopes], [*found, *gradients], strict=True):
            np.add(total, np.asarray(part), out=total)
    impact = {
        path: (total / len(labels))[:, None] * np.abs(chain.values[path].astype(np.float64))
        for path, total in zip(kernels, sums, strict=True)
    }
    return Traces(impact, {path: np.abs(slope) for path, slope in zip(kernels, slopes, strict=True)})


@lru_cache(maxsize=4)
def _program(head: Head, layers: tuple[DenseLayer, ...]) -> Callable[..., Any]:
    """The pass of `traces`: sums over rows of |o| of each layer, and gradients of the summed loss by its kernel.

    Values are arguments: every call of a worker brings a chain of its own.
    """
    chain = DenseChain(head, layers, {})
    names = [path for layer in layers for path in layer.paths]
    kernels = [layer.kernel for layer in layers]

    def sums(rows: Any, true: Any, real: Any, values: list[Any]) -> Any:
        known = dict(zip(names, values, strict=True))
        reached, result = [], rows
        for layer in layers:
            reached.append(ops.sum(ops.abs(ops.cast(result, "float64")) * real[:, None], axis=0))
            result = DenseChain(head, (layer,), {}).logits(result, known)

        def loss(changed: list[Any]) -> Any:
            logits = chain.logits(rows, {**known, **dict(zip(kernels, changed, strict=True))})
            return ops.sum(row_losses(head, ops.cast(logits, "float64"), true) * real)

        return reached, backend.gradient(loss, [known[path] for path in kernels])

    return backend.graph(sums)  # type: ignore[no-any-return]


def _places(path: str, count: int, spoilt: Traces, gained: Traces, training: Training) -> Int64:
    moved = np.abs(_step(training, path))
    chosen = largest(spoilt.impact[path], count) & largest(spoilt.gradient[path], count) & largest(moved, count)
    chosen &= ~(largest(gained.impact[path], count) & largest(gained.gradient[path], count))
    flat = np.flatnonzero(chosen)
    return flat[np.argsort(-spoilt.impact[path].ravel()[flat], kind="stable")]


def _step(training: Training, path: str) -> Float32:
    moved: Float32 = np.asarray(training.later[path], np.float32) - training.earlier[path]
    return moved
