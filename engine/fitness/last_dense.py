"""Fitness of a whole swarm at once, for weights of the last Dense layer.

A candidate changes K weights of a layer that is linear in them, so of the C logits of a row only the U touched ones
move: L[u] = Z[u] + sum over k with unit u of delta[k] * a[k]. The untouched ones enter through constants of the row
(their largest score, whether that one comes before the true label, and a sum), so the P x n x C logits never exist.

Rows and particles are cut into tiles whose shapes depend on the job alone. Every tile goes through the same compiled
function wherever it runs, and partial sums are added in tile order in float64: where tiles run changes no bit. It
evaluates as many candidates as a tile has, a slab, filled up where there are fewer: one program evaluates every
candidate, however many others are beside it. (Compilers and libraries round otherwise for other shapes.) Several swarms
on the same rows share a call, of that program for each slab.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import backend
from engine.backend import ops
from engine.core.types import Bool, Float32, Float64, Int64
from engine.fitness.base import Fitness, Resident
from engine.fitness.groups import (
    Grouped,
    GroupSums,
    arrange_rows,
    block_rows,
    group_sums,
    sum_count,
    untouched_soft,
)
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.soft import LOWEST, block_sums, soft_changes, soft_sums
from engine.fitness.tiling import (
    SUM_ROWS,
    UNIT_WEIGHTS,
    Tiling,
    bucket,
    filled_up,
    kind_masks,
    kind_sums,
    plan_tiles,
)
from engine.layers.head import EPSILON, Head, binary_terms

LEAST = np.float32(1e-30)
"""Gives a loss of 0 a sign, and is lost in any other."""

UNROLLED_UNITS = 16
"""Up to this many units one fused loop per unit is fastest; above, compiling it would take seconds."""

UNIT_COUNTS = (1, 3, 6, 8, 9, 10, UNROLLED_UNITS)
"""Units that programs are compiled for; a job pads to the next one."""

TIER_UNITS = (0, 1, 2, 3, 4, 6, 8, 10, UNROLLED_UNITS)
"""How many units programs have in a width and those above it."""

WEIGHT_COUNTS = (4, 8, 16)
"""Weights that programs of swarms on the device are compiled for; others are filled up to the next one."""

SLABS = 4
"""Slabs of candidates in one call, at most; more gain nothing."""


def unit_widths(counts: Sequence[int]) -> tuple[int, ...]:
    """The weights that a program has room for, unit by unit, for units with `counts` of them.

    Many weights come in four widths, widest first, as units differ a lot: 312 places instead of 480 for the 256 that
    are blamed first in the quickstart's model. Few come in one, so that programs are shared.
    """
    widest = bucket(max(counts, default=0), UNIT_WEIGHTS)
    units = bucket(len(counts), UNIT_COUNTS)
    if widest <= UNIT_WEIGHTS[-1] or units > UNROLLED_UNITS:
        return (widest,) * units
    widths = [-(-widest * quarters // 4) for quarters in (1, 2, 3, 4)]
    wider = [bucket(sum(count > width for count in counts), TIER_UNITS) for width in widths[:-1]]
    return tuple(widths[sum(unit < more for more in wider)] for unit in range(units))


class TiledFitness(Fitness):
    """See the module; row constants are prepared per tile on first use and stay on the device."""

    def __init__(
        self,
        head: Head,
        rows: SearchRows,
        weights: Weights,
        particles: int,
        tiling: Tiling,
        misses: bool = False,
        wanted: GroupSums | None = None,
    ) -> None:
        """Group the weights by unit; nothing is computed on rows yet.

        With `misses` there are two sums more, of 1 / (loss + 1) over wrong rows, negative and positive; or those of
        groups of rows that are `wanted`.
        """
        self._head, self._weights, self._wanted = head, weights, wanted
        touched = np.unique(weights.unit)
        members = [np.flatnonzero(weights.unit == unit) for unit in touched]
        widths = unit_widths([len(member) for member in members])
        if len(set(widths)) > 1:
            order = sorted(range(len(members)), key=lambda group: -len(members[group]))
            touched, members = touched[order], [members[group] for group in order]
        self._units = np.full(len(widths), -1, dtype=np.int32)
        self._units[: len(touched)] = touched
        # Position K of a row of changes padded with one zero: what fills a group up.
        groups = [np.full(width, len(weights.old)) for width in widths]
        for group, member in zip(groups, members, strict=False):
            group[: len(member)] = member
        self._groups = [np.stack(list(same)) for _, same in itertools.groupby(groups, len)]
        tiles = plan_tiles(particles, len(rows.labels), len(self._units), tiling)
        together = max((stop - start for start, stop in (tile.particles for tile in tiles)), default=1)
        super().__init__(rows, tiles, together, sum_count(wanted, misses))
        self._places = self._places_of(len(weights.old))
        self._changes = np.zeros((SLABS, len(self._places)), dtype=np.float32)
        self._block, temperature = SUM_ROWS, None
        if wanted is not None:
            self._block, temperature = block_rows(rows.negative, rows.labels, len(self._ranges())), wanted.temperature
        self._slab_program = _slab_program(head, rows.logits.shape[1], misses, self._block, temperature)

    def start_rows(self, rows: tuple[int, int], part: Float32) -> Callable[[], Float64]:
        """See `Fitness`."""
        return lambda: self._evaluate_rows(rows, self._moved(part))[: len(part)]

    def evaluate(self, candidates: Float32) -> Float64:
        """Several slabs share a call."""
        total = np.zeros((len(candidates), self.sums))
        for start in range(0, len(candidates), SLABS * self.together):
            part = total[start : start + SLABS * self.together]
            slabs = self._moved(candidates[start : start + len(part)])
            for rows in self._ranges():
                part += self._evaluate_rows(rows, slabs)[: len(part)]
        return total

    def _moved(self, part: Float32) -> list[Any]:
        """What candidates (m, K), at most `SLABS` slabs, change, slab by slab as `_moved_logits` takes it."""
        used = -(-len(part) // self.together)
        change = np.zeros((used * self.together, part.shape[1] + 1), dtype=np.float32)
        np.subtract(part, self._weights.old, out=change[: len(part), :-1], dtype=np.float64, casting="same_kind")
        np.take(change.reshape(used, -1), self._places, axis=1, out=self._changes[:used], mode="clip")
        return [backend.on_device(slab) for slab in self._changes[:used]]

    def _evaluate_rows(self, rows: tuple[int, int], slabs: list[Any]) -> Float64:
        """Sums (candidates of the slabs, S) over one range of rows."""
        kinds, constants = self._prepared(rows)
        program = self._once(rows, lambda: backend.for_shapes(self._slab_program, (slabs[0], *constants)))
        results = [program(slab, *constants) for slab in slabs]
        blocks = [np.concatenate(parts) for parts in zip(*results, strict=True)]
        if self._wanted is not None:
            return group_sums(self._wanted, kinds, blocks)
        values = np.stack(blocks, axis=1)
        sums: Float64 = kind_sums(values.reshape(-1, values.shape[-1]).astype(np.float64), kinds, np)
        return sums.reshape(-1, self.sums)

    @cached_property
    def resident(self) -> Resident | None:
        """Where a swarm is one tile and changes something, for four sums."""
        if len(self.tiles) != 1 or not len(self._weights.old) or self.sums != 4:
            return None
        masks, constants = self._prepared(self.tiles[0].rows)
        old = self._weights.old.astype(np.float64)
        weights = bucket(len(old), WEIGHT_COUNTS)
        arguments = filled_up(old, weights), self._places_of(weights).astype(np.int32)
        return Resident(
            changes=_changes,
            arguments=tuple(map(backend.on_device, arguments)),
            weights=weights,
            blocks=_evaluation(self._head, self._rows.logits.shape[1]),
            constants=tuple(constants),
            masks=backend.on_device(masks),
        )

    def _places_of(self, weights: int) -> Int64:
        """Places of a slab's changes (particles, `weights` + 1) as products take them: width by width (units,
        particles, weights). The last of a row is 0, and fills units up.
        """
        rows_of = (weights + 1) * np.arange(self.together)[:, None]
        groups = (np.where(group < len(self._weights.old), group, weights) for group in self._groups)
        return np.concatenate([(group[:, None, :] + rows_of).ravel() for group in groups])

    def _prepare(self, where: slice) -> tuple[Bool | Grouped, list[Any]]:
        """Which blocks of a tile are of negative and positive rows (2, b), or of wanted groups, and its row constants
        as `_evaluation` takes them.

        Rows of a kind are padded to whole blocks, and blocks to a bucket, with rows that count as nothing.
        """
        logits = self._rows.logits[where].astype(np.float32)
        labels = self._rows.labels[where]
        rest, rest_is_first = _untouched(self._head, logits, labels, self._units[self._units >= 0])
        grouped = arrange_rows(self._rows, where, self._wanted, self._block)
        place, size = grouped.place, grouped.size
        blocks = kind_masks(grouped.kinds, size // SUM_ROWS) if self._wanted is None else grouped
        inputs = [np.zeros((*group.shape, size), dtype=np.float32) for group in self._groups]
        block = self._rows.inputs[where]
        for values, group in zip(inputs, self._groups, strict=True):
            for slot in zip(*np.nonzero(group < len(self._weights.old)), strict=True):
                values[(*slot, place)] = block[:, self._weights.feature[group[slot]]]
        touched = np.full((len(self._units), size), LOWEST, dtype=np.float32)
        real = np.flatnonzero(self._units >= 0)
        touched[real[:, None], place] = logits[:, self._units[real]].T

        constants = np.zeros((4, size), dtype=np.float32)
        constants[:3, place] = rest
        constants[3] = 1.0
        table = np.concatenate([touched, constants])
        # Known beforehand: of integers that a program compares as it goes, iterations took a quarter longer.
        masks = np.zeros((3 * len(self._units) + 2, size), dtype=np.bool_)
        units, mine = self._units[:, None], labels[None, :]
        rival = (units >= 0) & (units != mine)
        masks[:, place] = np.concatenate(
            [units == mine, rival, rival & (units < mine), rest_is_first[None], np.ones_like(mine, np.bool_)]
        )
        soft: tuple[Any, ...] = ()
        if self._wanted is not None and self._wanted.soft:
            soft = untouched_soft(self._wanted, logits, labels, self._units.astype(np.int64), place, size)
        return blocks, [backend.on_device(values) for values in (*soft, *inputs, table, masks)]


def _untouched(head: Head, logits: Float32, labels: Int64, touched: npt.NDArray[Any]) -> tuple[list[Any], Bool]:
    """What the untouched units add to rows, (n,) each: their largest score beside the true one, what the loss needs of
    all of them, and the true score; and whether that largest one wins a tie with the true one.
    """
    rows = np.arange(len(labels))
    scores = np.asarray(head.scores(backend.on_device(logits)), dtype=np.float32)
    free = np.ones(logits.shape[1], dtype=bool)
    free[touched] = False
    true_is_free = free[labels]
    true_score = np.where(true_is_free, scores[rows, labels], np.float32(0))
    rivals = scores.astype(np.float64)
    rivals[:, ~free] = -np.inf
    rivals[rows, labels] = -np.inf
    winner = rivals.argmax(axis=1)
    largest = rivals[rows, winner]
    some = np.isfinite(largest)
    if head.form == "log_softmax":
        shifted = np.exp(rivals - np.where(some, largest, 0.0)[:, None]).sum(axis=1)
        remainder = np.where(some, largest + np.log(np.where(some, shifted, 1.0)), LOWEST)
    elif head.form == "normalised":
        remainder = np.where(np.isfinite(rivals), rivals, 0.0).sum(axis=1)
    else:
        true = np.zeros_like(scores)
        true[rows, labels] = 1.0
        terms = np.asarray(binary_terms(head, *map(backend.on_device, (logits, scores, true))), dtype=np.float64)
        remainder = terms[:, free].sum(axis=1)
    return [np.where(some, largest, LOWEST), remainder, true_score], some & (winner < labels)


def _changes(candidates: Any, old: Any, places: Any) -> Any:
    """As `TiledFitness._moved`, of a slab, inside a compiled function; `old` is float64."""
    change = ops.cast(ops.cast(candidates, "float64") - old, "float32")
    return ops.take(ops.reshape(ops.pad(change, ((0, 0), (0, 1))), (-1,)), places)


@cache
def _slab_program(head: Head, classes: int, misses: bool, block: int, temperature: float | None) -> Callable[..., Any]:
    """The compiled evaluation of one tile; XLA makes one program per combination of (bucketed) shapes."""
    program: Callable[..., Any] = backend.compiled(_evaluation(head, classes, misses, block, temperature))
    return program


@cache
def _evaluation(
    head: Head, classes: int, misses: bool = False, block: int = SUM_ROWS, temperature: float | None = None
) -> Callable[..., tuple[Any, ...]]:
    """Of changes (P * W,) and the constants of a tile, sums of blocks of rows, (P, b) each: loss, correct rows; with
    `misses` 1 / (loss + 1) of wrong rows, or with a temperature soft changes and their squares.

    The constants are, with a temperature, the two of `engine.fitness.groups.untouched_soft`; the inputs of each width,
    see `_moved_logits`; a table of numbers and one of masks, whose rows are those that `TiledFitness` makes.
    """

    def evaluate(change: Any, *constants: Any) -> tuple[Any, ...]:
        first = 0 if temperature is None else 2
        soft, inputs, (table, masks) = constants[:first], constants[first:-2], constants[-2:]
        products = _moved_logits(change, inputs)
        count, size, particles = sum(values.shape[0] for values in inputs), table.shape[1], products[0].shape[1]
        # One expression for each unit; of an axis of units XLA makes slower sums.
        unrolled = count <= UNROLLED_UNITS
        (base,), (largest, remainder, true_score, one) = _by_unit(table, 1, count, unrolled)
        kinds, (largest_is_first, real_row) = _by_unit(masks, 3, count, unrolled)
        if unrolled:
            total = largest_of = _itself
            products = [by_unit for product in products for by_unit in ops.unstack(product, axis=0)]
        else:
            total, largest_of = partial(ops.sum, axis=0), partial(ops.max, axis=0)
        units_of = []
        true_total = true_score
        # The largest scores of the other classes: of those that win a tie with the true one, and of all.
        ahead, largest_rival = ops.where(largest_is_first, largest, -math.inf), largest
        for moved_by, start, is_true, is_rival, is_first in zip(products, base, *kinds, strict=True):
            logits = moved_by + start
            score = head.scores(logits)
            true_total = true_total + total(ops.where(is_true, score, 0.0))
            rival = ops.where(is_rival, score, -math.inf)
            ahead = _larger(ahead, largest_of(ops.where(is_first, score, -math.inf)))
            largest_rival = _larger(largest_rival, largest_of(rival))
            units_of.append((logits, score, rival, is_true, is_rival))
        correct = ops.logical_and(true_total > ahead, true_total >= largest_rival)

        if head.form == "log_softmax":
            top = _larger(largest_rival, true_total)
            mass = ops.exp(remainder - top)
            for _, _, rival, *_ in units_of:
                mass = mass + total(ops.exp(rival - top))
            # log1p of what is beside the largest term: confident rows keep their small losses.
            loss = (top - true_total) + _log1p(mass + (ops.exp(true_total - top) - 1.0))
        elif head.form == "normalised":
            everything = remainder + true_total
            for _, score, _, _, is_rival in units_of:
                everything = everything + total(ops.where(is_rival, score, 0.0))
            share = true_total / everything
            # 0 / 0 has no loss; some releases of XLA would clip it to one.
            loss = ops.where(ops.isnan(share), share, -ops.log(ops.clip(share, EPSILON, 1.0 - EPSILON)))
        else:
            loss = remainder
            for logits, score, _, is_true, is_rival in units_of:
                terms = binary_terms(head, logits, score, ops.cast(is_true, "float32"))
                loss = loss + total(ops.where(ops.logical_or(is_true, is_rival), terms, 0.0))
            loss = loss / classes
        # One value for both sums, or compilers do the work that they share twice: the loss, negative where the row is
        # correct. Padding rows may have no finite loss (0 / 0 where all scores are 0).
        loss = ops.where(real_row, ops.maximum(loss, 0.0), 0.0)
        signed = ops.where(ops.logical_and(correct, real_row), -(loss + LEAST), loss)
        # Without weights there is no particle axis: every candidate is the model as it is.
        signed = backend.once(ops.broadcast_to(signed, (particles, size)), one)
        # Its size, without `abs`, which TensorFlow takes 5 ms to give to XLA, as it does each `exp`.
        sums = block_sums(ops.maximum(signed, -signed), block), block_sums(ops.cast(signed < 0, "float32"), block)
        if temperature is not None:
            # Of padding rows nothing counts; where no weight is searched there is no particle axis.
            changes = [
                backend.once(ops.broadcast_to(ops.where(real_row, change, 0.0), (particles, size)), one)
                for change in soft_changes([logits for logits, *_ in units_of], soft, temperature, total, largest_of)
            ]
            return *sums, *soft_sums(changes, block)
        if not misses:
            return sums
        # A loss that is not a number stays one.
        wrong = ops.logical_and(real_row, ops.logical_not(signed < 0))
        return *sums, block_sums(ops.where(wrong, 1.0 / (1.0 + signed), 0.0), block)

    return evaluate


def _by_unit(table: Any, kinds: int, count: int, unrolled: bool) -> tuple[list[Any], Any]:
    """Of a table (kinds * count + m, n) what belongs to the units, by kind, and the m rows (n,) behind."""
    if unrolled:
        rows = ops.unstack(table, axis=0)
        return [rows[kind * count : (kind + 1) * count] for kind in range(kinds)], rows[kinds * count :]
    *parts, others = ops.split(table, [count * (kind + 1) for kind in range(kinds)], axis=0)
    return [[ops.expand_dims(part, 1)] for part in parts], ops.unstack(others, axis=0)


def _itself(values: Any) -> Any:
    return values


def _log1p(x: Any) -> Any:
    """log(1 + x) of x >= 0 within 2e-6 relative (the series is exact to 1e-8 below 1/32), in half the time of XLA's."""
    series = x * (1.0 - x * (0.5 - x * (1.0 / 3.0 - x * (0.25 - x * 0.2))))
    return ops.where(x < 1.0 / 32.0, series, ops.log(1.0 + x))


def _larger(first: Any, second: Any) -> Any:
    """The larger one, in a third of a maximum's instructions; where a score is not a number it may be lost."""
    return ops.where(first > second, first, second)


def _moved_logits(change: Any, inputs: Sequence[Any]) -> list[Any]:
    """What changes (P * W,) move the logits of the units by: a product (u, P, n) for each width of units, given the
    inputs (u, w, n) of each; of a width the changes are (u, P, w) in a row, see `unit_widths`.
    """
    shapes = [tuple(read.shape[:2]) for read in inputs]
    particles = change.shape[0] // sum(units * width for units, width in shapes)
    edges = list(itertools.accumulate(units * width * particles for units, width in shapes))[:-1]
    cut = ops.split(change, edges) if edges else [change]
    return [
        ops.matmul(ops.reshape(mine, (units, particles, width)), read)
        for (units, width), mine, read in zip(shapes, cut, inputs, strict=True)
    ]
