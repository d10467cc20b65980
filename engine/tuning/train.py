"""Tunings: the weights under repair fine-tuned by several recipes at once, in one compiled program.

For tuning g with class weight w[g], anchor strength s[g] and rate r[g], over a batch of B rows (x, y):

    loss[g] = mean over rows of w[g, y] CE(z, y) + s[g] anchor(z0, z)
    anchor  = right KL(p0 || p)                         for `kl`
            = (1 + 5 right) mean over classes (z - z0)^2 / 2   for `focal`

z are the logits under the tuned weights and z0 those of the model as it is, p and p0 their class probabilities, and
right is 1 where the model as it is gets the row right, else 0. The weights move by Adam (Kingma and Ba, "Adam: a method
for stochastic optimization", ICLR 2015, algorithm 1) with Keras' constants; its rate falls linearly, from r[g] at the
first step to almost 0 at the last, so that a tuning does not depend on which rows came last (measured: more rows right
out of fold).

While they are tuned, kernels of a chain of Dense layers are turned, (U, I), and rows are the last axis: a step takes a
tenth to a fifth less time (measured at 512 to 2,048 inputs).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from engine import backend
from engine.backend import ops
from engine.core.errors import InputError
from engine.core.rng import generator
from engine.core.types import Float32, Int64, Uint8
from engine.layers.head import probabilities, soft_losses
from engine.layers.tail import Tail
from engine.layers.tail_chain import Chain
from engine.tuning.recipes import MOST_ROW_EPOCHS, Recipe, epochs_of, rate_of

BATCH_ROWS = 128  # rows of a step of Adam, or all where there are fewer

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7


def folds_of(labels: Int64, digests: Uint8, folds: int, seed: int, data: str) -> Int64:
    """The stratified fold (n,), 0 to folds - 1, of rows with labels (n,) and digests (n, 16) of their pixels.

    Rows that are equal in every pixel come into one fold, or one would be judged by a tuning that saw it. The rows of a
    label are dealt in random order, each label going on where the one before stopped, so folds differ by few rows.
    """
    _, first, same = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    same = same.reshape(-1)
    if len(first) < folds:
        raise InputError(f"{len(first)} different rows and {folds} folds, expected at least as many rows")
    fold = np.empty(len(first), np.int64)
    dealt = 0
    # In order of appearance: rows of a repair come by digest, see `engine.data.row_digests.row_order`.
    appearance = np.argsort(first, kind="stable")
    of_label = labels[first]
    for label in np.unique(labels):
        members = appearance[of_label[appearance] == label]
        order = generator(seed, data, int(label), "folds").permutation(len(members))
        fold[members[order]] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    found: Int64 = fold[same]
    return found


@dataclass(frozen=True, eq=False)
class FoldRows:
    inputs: Float32  # (n, D) float32, features of the chain
    labels: Int64  # (n,) int64
    fold: Int64  # (n,) int64, see `folds_of`
    data: str  # fingerprint of the rows; keys their order

    @property
    def folds(self) -> int:
        return int(self.fold.max()) + 1

    @functools.cached_property
    def fewest(self) -> int:
        """Rows of the tuning that sees fewest."""
        return len(self.fold) - int(np.bincount(self.fold).max())


@dataclass(frozen=True, eq=False)
class TuningJob:
    chain: Chain  # the weights, with what they can change
    rows: FoldRows  # to tune on
    repaired: tuple[int, ...]  # labels under repair
    seed: int  # of the order of the rows


_TUNERS: WeakKeyDictionary[TuningJob, Tuner] = WeakKeyDictionary()


def tune(job: TuningJob, fold: int, recipes: Sequence[Recipe], tail: Tail | None = None) -> Changes:
    """The changes of some recipes without a fold, see `Tuner.run`; `tail` is of the model where the chain needs one."""
    if job not in _TUNERS:
        _TUNERS[job] = Tuner(replace(job, chain=job.chain.attached(tail)))
    return _TUNERS[job].run(fold, recipes)


Changes = Mapping[str, Float32]
"""Changes of the tuned weights by path, each (G, ...) float32 of G tunings."""


class Tuner:
    """Runs tunings of one job; what all of them share stays on the device."""

    def __init__(self, job: TuningJob) -> None:
        self._job = job
        self._batch = min(BATCH_ROWS, job.rows.fewest)
        self._programs: dict[tuple[bool, int], Callable[..., Any]] = {}
        chain = job.chain
        self._frozen = {
            path: backend.on_device(chain.turned(path, value))
            for path, value in chain.values.items()
            if path not in chain.tuned
        }

    def run(self, fold: int, recipes: Sequence[Recipe]) -> Changes:
        """Tune by recipes of equally many epochs on all rows but those of a fold."""
        job, count = self._job, len(recipes)
        rows, chain = job.rows, job.chain
        seen = np.flatnonzero(rows.fold != fold)
        # Of the fewest rows: a fold with one row more may not have another number of epochs, or company.
        (epochs,) = {epochs_of(recipe, rows.fewest) for recipe in recipes}
        focal = any(recipe.anchor == "focal" for recipe in recipes)
        before = [chain.turned(path, chain.values[path]) for path in chain.tuned]
        weights = [backend.on_device(np.repeat(value[None], count, axis=0)) for value in before]
        zeros = [backend.on_device(np.zeros((count, *value.shape), np.float32)) for value in before]
        state = (weights, zeros, zeros, backend.on_device(np.zeros((), np.float32)))
        steps = self._steps(recipes[0], len(seen))
        told = tuple(map(backend.on_device, (*self._told(recipes), np.float32(epochs * steps))))
        many = backend.on_device(np.int32(steps))
        for epoch in range(epochs):
            order = backend.on_device(self._order(seen, fold, epoch, steps))
            arguments = self._shared, self._frozen, told, order, many, state
            if (focal, count) not in self._programs:
                program = chain.compiled(functools.partial(self._epoch, focal))
                self._programs[focal, count] = backend.for_shapes(program, arguments)
            state = self._programs[focal, count](*arguments)
        changes = {
            path: chain.turned(path, np.asarray(after)) - chain.values[path][None]
            for path, after in zip(chain.tuned, state[0], strict=True)
        }
        for number, recipe in enumerate(recipes):
            if not all(np.isfinite(change[number]).all() for change in changes.values()):
                raise InputError(f"recipe {recipe.name}: a weight became infinite or NaN, expected a smaller rate")
        return changes

    def _told(self, recipes: Sequence[Recipe]) -> tuple[Float32, ...]:
        """Class weights (G, C), strengths of both anchors (G,) each, rates (G,)."""
        layers = self._job.chain.tuned_layers
        weights = np.ones((len(recipes), self._job.chain.classes), np.float32)
        weights[:, list(self._job.repaired)] = np.array([[recipe.class_weight] for recipe in recipes])
        strengths = [
            [recipe.strength if recipe.anchor == anchor else 0.0 for recipe in recipes] for anchor in ("kl", "focal")
        ]
        rates = [rate_of(recipe, layers) for recipe in recipes]
        return weights, *(np.array(values, np.float32) for values in (*strengths, rates))

    def _steps(self, recipe: Recipe, rows: int) -> int:
        """Of an epoch over so many rows, or as many as are allowed where the recipe does not state its epochs."""
        most = MOST_ROW_EPOCHS if recipe.epochs is None else rows
        return max(1, min(rows, most) // self._batch)

    def _order(self, seen: Int64, fold: int, epoch: int, steps: int) -> Any:
        """Rows of each step (S, B) of an epoch, of which so many are meant; filled up to as many as any fold has."""
        job = self._job
        purpose = f"order of tunings without fold {fold}"
        order = generator(job.seed, job.rows.data, -1, purpose, epoch).permutation(seen)
        most = len(job.rows.fold) // self._batch
        filled = np.zeros((most, self._batch), np.int32)
        filled[:steps] = order[: steps * self._batch].reshape(steps, self._batch)
        return filled

    @functools.cached_property
    def _shared(self) -> tuple[Any, ...]:
        """On the device: inputs, one-hot labels, logits and probabilities of the model, and 1 where it is right."""
        rows, chain = self._job.rows, self._job.chain
        inputs, logits = backend.on_device(rows.inputs), chain.known_logits(rows.inputs)
        scores = np.asarray(chain.head.scores(backend.on_device(logits)))
        right = (scores.argmax(axis=1) == rows.labels).astype(np.float32)
        true = np.eye(chain.classes, dtype=np.float32)[rows.labels]
        known = np.asarray(probabilities(chain.head, backend.on_device(logits)))
        return inputs, *map(backend.on_device, (true, logits, known, right))

    def _epoch(self, focal: bool, shared: Any, frozen: Any, told: Any, order: Any, steps: Any, state: Any) -> Any:
        """All steps of an epoch for G tunings."""
        chain = self._job.chain
        class_weights, kl, focal_strength, rates, total = told

        def loss_of(weights: Sequence[Any], batch: Sequence[Any]) -> Any:
            *some, right = batch
            inputs, true, before, known = map(ops.transpose, some)
            logits = chain.tuning_logits(inputs, {**frozen, **dict(zip(chain.tuned, weights, strict=True))})
            worth = ops.matmul(class_weights, true)  # (G, B)
            losses = worth * soft_losses(chain.head, logits, true, axis=-2)
            losses = losses + kl[:, None] * right * soft_losses(chain.head, logits, known, axis=-2)
            if focal:
                far = ops.sum(ops.square(logits - before), axis=-2) / (2 * chain.classes)
                losses = losses + focal_strength[:, None] * (1.0 + 5.0 * right) * far
            return ops.sum(losses) / self._batch

        def step(number: Any, state: Any) -> Any:
            weights, first, second, count = state
            rows = order[number]
            batch = [ops.take(values, rows, axis=0) for values in shared]
            slopes = backend.gradient(lambda values: loss_of(values, batch), list(weights))
            falling = rates * (1.0 - count / total)
            count = count + 1.0
            pace = falling * ops.sqrt(1.0 - _BETA_2**count) / (1.0 - _BETA_1**count)
            first = [_BETA_1 * old + (1.0 - _BETA_1) * slope for old, slope in zip(first, slopes, strict=True)]
            second = [
                _BETA_2 * old + (1.0 - _BETA_2) * ops.square(slope) for old, slope in zip(second, slopes, strict=True)
            ]
            weights = [
                old - ops.reshape(pace, (-1, *[1] * (len(old.shape) - 1))) * mean / (ops.sqrt(square) + _EPSILON)
                for old, mean, square in zip(weights, first, second, strict=True)
            ]
            return weights, first, second, count

        return ops.fori_loop(0, steps, step, state)
