"""Fitness of a whole swarm of mixtures at once: tunings of one network, mixed by coefficients, plus offsets of labels.

A candidate is (c, o), R coefficients and C offsets. Row i of fold f is judged under weights that no tuning saw it for:

    W = W0 + sum over r of c[r] dW[r, f]

Rows are the last axis of everything: there are many of them, where units and classes may be ten.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import backend
from engine.backend import ops
from engine.core.types import Float32, Float64, Int64
from engine.fitness.base import Fitness
from engine.fitness.groups import SUMS, GroupSums
from engine.fitness.rows import SearchRows
from engine.fitness.soft import soft_of
from engine.fitness.tiling import Tile, Tiling
from engine.layers.head import soft_losses
from engine.layers.tail_chain import Chain
from engine.tuning.train import Changes

TILE_BYTES = 6 << 20
"""Default of `--tile-bytes`: values of the widest layer that one call holds at once; more leave the processor's cache
(measured, of Dense layers and of tails)."""

ROW_STEP = 32
"""Tiles have a multiple of so many rows."""

LEAST_ROWS = 256
"""Tiles have no fewer rows where a group has so many, but fewer particles: every tile mixes the weights behind the
first layer anew, which costs as much as their products with some hundred rows (measured at 512 and 1,024 units)."""

MOST_OVER = 8
"""How much larger than `--tile-bytes` so many rows of one particle may make a tile."""


@dataclass(frozen=True, eq=False)
class Mixture:
    chain: Chain  # the weights as they are
    changes: tuple[Changes, ...]  # by tunings, for each group of rows: by path (R, ...)
    temperature: float  # T of soft correctness, sigmoid((true logit - largest other) / T)
    pairs: tuple[tuple[int, int], ...] = ()  # (true, predicted) labels whose confusion is looked at too

    @property
    def recipes(self) -> int:
        return len(next(iter(self.changes[0].values())))

    @property
    def offsets(self) -> int:
        """C; 0 where the last layer has no bias to fold them into."""
        return 0 if self.chain.offsets is None else self.chain.classes

    @property
    def size(self) -> int:
        """R + C, numbers of a candidate."""
        return self.recipes + self.offsets

    @property
    def sums(self) -> int:
        """S: four as every search has, soft changes of labels, their squares, confusions of pairs, their squares."""
        return SUMS + 2 * self.chain.classes + 2 * len(self.pairs)


class MixtureFitness(Fitness):
    """Sums are those of `Mixture.sums`; of rows, those of a fold are one group, one group after the other."""

    def __init__(self, mixture: Mixture, rows: SearchRows, particles: int, tiling: Tiling) -> None:
        assert rows.group is not None
        self._mixture, self._group = mixture, rows.group
        together, self._most = tile_shape(mixture.chain, len(mixture.changes), len(rows.labels), particles, tiling)
        super().__init__(rows, mixture_tiles(mixture, rows.group, particles, tiling), together, mixture.sums)

    def predict(self, candidates: Float32) -> Int64:
        """Classes (M, n) under each of M candidates: argmax of the scores, first index on ties."""
        found = np.empty((len(candidates), len(self._rows.labels)), np.int64)
        for rows, part in self._pieces(len(candidates)):
            results = np.asarray(self._run(self._predicted, candidates[part], *self._prepared(rows)[:2]))
            found[part, slice(*rows)] = results[: part.stop - part.start, : rows[1] - rows[0]]
        return found

    def start_rows(self, rows: tuple[int, int], part: Float32) -> Callable[[], Float64]:
        results = self._run(self._sums, part, *self._prepared(rows))
        return lambda: np.asarray(results)[: len(part)]

    def _run(self, function: Callable[..., Any], part: Float32, *known: Any) -> Any:
        """Call a function compiled, of candidates that are filled up to a slab; all tiles have the same shapes."""
        filled = np.zeros((self.together, self._mixture.size), np.float32)
        filled[: len(part)] = part
        arguments = backend.on_device(filled), *known
        chain, name = self._mixture.chain, function.__name__
        return self._once(name, lambda: backend.for_shapes(chain.compiled(function), arguments))(*arguments)

    def _prepare(self, where: slice) -> tuple[Any, ...]:
        mixture, known = self._mixture, self._rows
        classes, count = mixture.chain.classes, where.stop - where.start

        def filled(values: Any) -> Any:
            wide = np.zeros((*values.shape[:-1], self._most), values.dtype)
            wide[..., :count] = values
            return wide

        behind, first = self._weights[int(self._group[where.start])]
        inputs = np.zeros((self._most, known.inputs.shape[1]), np.float32)
        inputs[:count] = known.inputs[where]
        labels = known.labels[where]
        soft = GroupSums(classes, mixture.temperature, mixture.pairs).before(known.logits[where], labels)
        kinds = np.stack([known.negative[where], known.positive[where]]).astype(np.float64)
        judged = [np.eye(classes, dtype=np.float32)[:, labels], kinds, soft[0]]
        if mixture.pairs:
            of_pair = [labels == true_label for true_label, _ in mixture.pairs]
            judged += [np.stack(of_pair).astype(np.float64), soft[1:]]
        values = mixture.chain.first_mixed(backend.on_device(inputs), first)
        return values, behind, tuple(backend.on_device(filled(each)) for each in judged)

    @functools.cached_property
    def _weights(self) -> list[tuple[Any, Any]]:
        """Of each group, see `DenseChain.mixing`."""
        return [self._mixture.chain.mixing(changes) for changes in self._mixture.changes]

    def _logits(self, candidates: Any, values: Any, behind: Any) -> Any:
        mixture, recipes = self._mixture, self._mixture.recipes
        shares = ops.concatenate([ops.ones((candidates.shape[0], 1), "float32"), candidates[:, :recipes]], axis=1)
        logits = mixture.chain.mixed_logits(shares, values, behind)
        return logits + candidates[:, recipes:, None] if mixture.offsets else logits

    def _sums(self, candidates: Any, values: Any, behind: Any, judged: Sequence[Any]) -> Any:
        mixture = self._mixture
        head, true, kinds, before = mixture.chain.head, *judged[:3]
        logits = self._logits(candidates, values, behind)
        classes = mixture.chain.classes
        labels = ops.argmax(true, axis=0)
        losses = ops.cast(soft_losses(head, logits, true, axis=-2), "float64")
        losses = ops.where(ops.sum(kinds, axis=0) > 0, losses, 0.0)
        right = ops.cast(ops.argmax(head.scores(logits), axis=-2) == labels, "float64")
        changed = ops.cast(soft_of(logits, true, mixture.temperature, axis=-2) - before, "float64")
        by_label = ops.cast(true, "float64")
        parts = [_summed(losses, kinds), _summed(right, kinds)]
        parts += [_summed(changed, by_label), _summed(ops.square(changed), by_label)]
        if mixture.pairs:
            members, confused_before = judged[3:]
            confused = []
            for number, (_, predicted) in enumerate(mixture.pairs):
                wanted = ops.one_hot(ops.full_like(labels, predicted), classes, axis=0)
                now = soft_of(logits, wanted, mixture.temperature, axis=-2) - confused_before[number]
                confused.append(ops.cast(now, "float64") * members[number])
            parts.append(ops.stack([ops.sum(change, axis=-1) for change in confused], axis=-1))
            parts.append(ops.stack([ops.sum(ops.square(change), axis=-1) for change in confused], axis=-1))
        return ops.concatenate(parts, axis=-1)

    def _predicted(self, candidates: Any, values: Any, behind: Any) -> Any:
        return ops.argmax(self._mixture.chain.head.scores(self._logits(candidates, values, behind)), axis=-2)


def _summed(values: Any, members: Any) -> Any:
    """Sums (h, g) of values (h, n) over rows of groups (g, n); a product's bits would depend on the threads."""
    return ops.sum(values[:, None, :] * members[None], axis=2)


def tile_shape(chain: Chain, groups: int, rows: int, particles: int, tiling: Tiling) -> tuple[int, int]:
    """Particles and rows of a tile: a pure function of the job and of `tiling`.

    Particles of a tile divide those of a swarm, so that a candidate has the same place in it whichever swarms share a
    call.
    """
    even = -(-max(1, rows) // groups // ROW_STEP) * ROW_STEP
    places = (tiling.bytes or TILE_BYTES) // 4 // chain.widest  # particles times rows that fit

    def together(most: int) -> int:
        return next(count for count in range(max(1, min(particles, most)), 0, -1) if particles % count == 0)

    def fitting(high: int) -> int:
        return places // high // ROW_STEP * ROW_STEP

    high, least = together(tiling.particles or 64), max(ROW_STEP, min(LEAST_ROWS, fitting(1) * MOST_OVER))
    wide = min(even, tiling.rows or max(least, fitting(high)))
    if not tiling.particles:
        high = together(min(high, places // wide))
    return high, wide if tiling.rows else min(even, max(wide, fitting(high)))


def mixture_tiles(mixture: Mixture, group: Int64, particles: int, tiling: Tiling) -> tuple[Tile, ...]:
    """Tiles of particles and rows (n,), each of one group, rows varying fastest."""
    together, most = tile_shape(mixture.chain, len(mixture.changes), len(group), particles, tiling)
    ends = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(group)]
    ranges = [
        (start, min(start + most, stop))
        for begin, stop in itertools.pairwise(ends)
        for start in range(begin, stop, most)
    ]
    return tuple(
        Tile((first, min(first + together, particles)), rows)
        for first in range(0, particles, together)
        for rows in ranges
    )
