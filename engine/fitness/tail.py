"""Fitness of a whole swarm at once, for weights of any layers: the tail of the model on particles x rows.

Where the layer under repair is linear in its weights, only its touched units are computed, up to the next layer that
mixes them (`engine.layers.touched`); otherwise the weights are put in place, one candidate after the other, and what
follows runs for all of them together (`engine.layers.tail`). The shapes of slabs and tiles follow from the job and
`--tile-bytes` alone, so that a candidate's bits do not depend on where, or beside what, it is evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import backend
from engine.backend import ops
from engine.core.types import Float32, Float64, Int64
from engine.fitness.base import Fitness
from engine.fitness.groups import Grouped, GroupSums, arrange_rows, group_sums, sum_count
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.soft import soft_of
from engine.fitness.tiling import SUM_ROWS, UNIT_WEIGHTS, Tile, Tiling, bucket, even, plan_tiles
from engine.layers import touched
from engine.layers.head import row_losses
from engine.layers.space import Space
from engine.layers.tail import Tail, made_bytes, most_live, unpack
from engine.layers.touched import Route
from engine.models.graph import GraphCut

TILE_BYTES = 256 << 20
"""Default of `--tile-bytes`: values of the tail that one call of the program holds at once, at most."""

TILE_ROWS = 1024
"""Rows of a tile at most: larger ones gain nothing."""

MOST_TOGETHER = 64
"""Candidates of a slab at most, on the short way."""

MOST_IN_PLACE = 8
"""Candidates of a slab at most where weights are put in place: the program repeats that step for each."""


@dataclass(frozen=True, eq=False)
class Groups:
    units: Int64  # (U,) int64, distinct and ascending
    slots: Int64  # (U, w) int64, weights of each unit; K, what fills a group up
    kernel_places: Int64  # flat places in the kernel of those that are not biases
    # (U, w) int64, what a slot's change is multiplied by: what a kernel place reads, by its number, then one for a
    # bias, then nothing
    reads: Int64


@dataclass(frozen=True)
class Shapes:
    """Shapes of one job's tiles; a pure function of the job and `--tile-bytes`."""

    rows: int  # of a tile
    together: int  # candidates of a slab
    row_bytes: int  # values of the tail for one candidate and one row that are held at once
    short: bool  # the route goes through touched units

    @property
    def tile_bytes(self) -> int:
        return self.places * self.together * self.row_bytes

    @property
    def places(self) -> int:
        return most_places(self.rows)

    def cut(self, particles: int, rows: int) -> tuple[Tile, ...]:
        return plan_tiles(particles, rows, 1, Tiling(self.together, self.rows))


def plan_shapes(per_row: int, route: Route | None, folds: bool, rows: int, particles: int, tiling: Tiling) -> Shapes:
    """Shapes of a job's tiles; rows come first, because a longer tile uses the weights of the tail better."""
    budget = tiling.bytes or TILE_BYTES
    sizes = range(SUM_ROWS, TILE_ROWS + 1, SUM_ROWS)
    fitting = (size for size in sizes if per_row * most_places(size) <= budget)
    wide = min(tiling.rows or max(fitting, default=SUM_ROWS), rows)
    most = 1 if not folds else MOST_TOGETHER if route else MOST_IN_PLACE
    room = max(1, min(most, tiling.particles or most, particles, budget // (per_row * most_places(wide))))
    # A slab is computed whole, however few candidates are in it.
    together = room if tiling.particles else even(particles, room)
    return Shapes(wide, together, per_row, route is not None)


def most_places(rows: int) -> int:
    """Places that so many rows of two kinds take at most, see `arrange_rows`."""
    return bucket(-(-rows // SUM_ROWS) + 1) * SUM_ROWS


def value_bytes(cut: GraphCut) -> dict[int, int]:
    return made_bytes(cut.tail) | {n: 4 * math.prod(shape) for n, shape in zip(cut.crossing, cut.shapes, strict=True)}


def kept_bytes(cut: GraphCut, route: Route | None, groups: Groups | None) -> int:
    """Bytes that stay on the device between iterations for one row, besides its class."""
    size = value_bytes(cut)
    if route is None or groups is None:
        return sum(size[number] for number in cut.crossing)
    others = sum(size[number] for number in kept_cut(cut, route))
    return 4 * (groups.slots.size + len(groups.units)) * touched.places_per_row(route) + size[route.number] + others


def kept_cut(cut: GraphCut, route: Route) -> list[int]:
    """The values at the cut that the steps behind the short way read."""
    needed = {number for step in route.rest for number in step.inputs}
    return [number for number in cut.crossing if number in needed]


def held_bytes(cut: GraphCut, route: Route | None, groups: Groups | None = None) -> int:
    """Bytes of values that the tail holds at once for one row of one candidate, at most."""
    start = cut.crossing if route is None else (route.number,)
    most = most_live(cut.tail if route is None else route.rest, value_bytes(cut), start, {cut.output})
    # Touched units before and behind the chain, and what is made of them in between.
    chain = 0 if route is None or groups is None else 4 * 4 * len(groups.units) * touched.places_per_row(route)
    return max(most + chain, 4)


class TailFitness(Fitness):
    """See the module."""

    def __init__(
        self,
        tail: Tail,
        kernel: Float32,
        rows: SearchRows,
        weights: Weights,
        particles: int,
        tiling: Tiling,
        misses: bool = False,
        wanted: GroupSums | None = None,
    ) -> None:
        """Choose the route and the shapes; nothing is computed on rows yet.

        Args:
            tail: of the model under repair.
            kernel: values (W, 1) that the search starts from.
            rows: their inputs are the features (n, F).
            weights: features are places in the flat vector (W,), units are not used.
            particles, tiling: of the swarm, and shapes asked for.
            misses, wanted: as of `engine.fitness.last_dense.TiledFitness`.
        """
        self._tail, self._misses, self._wanted = tail, misses, wanted
        # With blocks of one row groups fill nothing up: a row takes longer here than what is known of it to travel.
        self._block = SUM_ROWS if wanted is None else 1
        self._old, self._places = weights.old, weights.feature
        self._flat = np.ascontiguousarray(kernel[:, 0])
        self._route = plan_short(tail, weights.feature)
        self._groups = None if self._route is None else group_weights(self._route, tail.space, weights.feature)
        per_row = held_bytes(tail.cut, self._route, self._groups)
        self.shapes = plan_shapes(per_row, self._route, tail.folds, len(rows.labels), particles, tiling)
        tiles = self.shapes.cut(particles, len(rows.labels))
        super().__init__(rows, tiles, self.shapes.together, sum_count(wanted, misses))
        self._classes = rows.logits.shape[1]
        self._evaluate = backend.tail_program(self._in_place if self._route is None else self._short)

    def start_rows(self, rows: tuple[int, int], part: Float32) -> Callable[[], Float64]:
        """See `Fitness`."""
        slab = self.together
        if self._groups is None:
            filled = np.repeat(self._old[None, :], slab, axis=0)
            filled[: len(part)] = part
        else:
            change = np.zeros((slab, part.shape[1] + 1), dtype=np.float32)
            change[: len(part), :-1] = part.astype(np.float64) - self._old.astype(np.float64)
            filled = np.ascontiguousarray(change[:, self._groups.slots].transpose(1, 0, 2))
        blocks, constants = self._prepared(rows)
        arguments = (backend.on_device(filled), *constants, *self._tail.constants)
        shapes = tuple(tuple(constant.shape) for constant in constants)
        results = self._once(shapes, lambda: backend.for_shapes(self._evaluate, arguments))(*arguments)

        def finish() -> Float64:
            if self._wanted is not None:
                return group_sums(self._wanted, blocks, results)[: len(part)]
            # Added row by row of a C-contiguous array: the order does not depend on the number of candidates.
            sums = [values[:, kind].sum(axis=-1) for values in map(np.asarray, results) for kind in blocks.kinds]
            return np.stack(sums, axis=-1)[: len(part)]

        return finish

    def _prepare(self, where: slice) -> tuple[Grouped, tuple[Any, ...]]:
        """Where the rows of a tile are, and its constants on the device."""
        rows, wanted = self._rows, self._wanted
        grouped = arrange_rows(rows, where, wanted, self._block)
        place, size = grouped.place, grouped.size
        features = np.zeros((size, rows.inputs.shape[1]), dtype=np.float32)
        features[place] = rows.inputs[where]
        labels = np.zeros(size, dtype=np.int32)
        labels[place] = rows.labels[where]
        real = np.zeros(size, dtype=np.float32)
        real[place] = 1.0
        if wanted is not None and wanted.soft:
            before = np.zeros((wanted.soft, size), dtype=np.float32)
            before[:, place] = wanted.before(rows.logits[where], rows.labels[where])
            real = np.concatenate([real[None], before])
        known = tuple(map(backend.on_device, (labels, real, self._flat)))
        return grouped, (*known, *(self._base(features) if self._route else (backend.on_device(features),)))

    def _base(self, features: Float32) -> tuple[Any, ...]:
        """What does not depend on the candidate, on the short way, of features (n, F)."""
        route, groups, cut = self._route, self._groups, self._tail.cut
        assert route is not None and groups is not None
        kept = kept_cut(cut, route)

        def base(features: Any, flat: Any, *constants: Any) -> Any:
            values = unpack(cut, features)
            with self._tail.scope(constants, self._tail.parts(flat)):
                inputs = values[route.first.inputs[0]]
                before, start = touched.base_values(route, values)
                before = ops.reshape(before, (before.shape[0], -1, before.shape[-1]))
                chosen = ops.take(before, groups.units, axis=-1)
                shape = (1, *before.shape[:2])
                reads = [ops.ones(shape, "float32"), ops.zeros(shape, "float32")]
                if len(groups.kernel_places):
                    reads.insert(0, route.family.reads(route.first.operation, inputs, groups.kernel_places))
            grouped = ops.take(ops.concatenate(reads), groups.reads.ravel(), axis=0)
            grouped = ops.reshape(grouped, (*groups.slots.shape, -1))
            chosen = ops.reshape(ops.transpose(chosen, (2, 0, 1)), (len(groups.units), -1))
            return grouped, chosen, start, *(values[number] for number in kept)

        program = backend.graph(base)
        return tuple(program(backend.on_device(features), backend.on_device(self._flat), *self._tail.constants))

    def _short(
        self, change: Any, labels: Any, real: Any, flat: Any, reads: Any, before: Any, start: Any, *others: Any
    ) -> tuple[Any, ...]:
        """Sums of a slab: changes (U, h, w) by unit, what they multiply (U, w, n S), pre-activations (U, n S)."""
        route, groups, cut = self._route, self._groups, self._tail.cut
        assert route is not None and groups is not None
        kept = kept_cut(cut, route)
        shared = dict(zip(kept, others[: len(kept)], strict=True))
        constants = others[len(kept) :]
        count, rows = change.shape[1], labels.shape[0]
        place = route.first.shapes[0][1:-1]
        units = len(groups.units)
        weights = self._tail.parts(flat)  # later layers may hold some that are not touched
        with self._tail.scope(constants, weights):
            moved = before[:, None, :] + ops.matmul(change, reads)
            moved = ops.transpose(ops.reshape(moved, (units, count * rows, *place)), _last(len(place) + 2))
            base = ops.transpose(ops.reshape(before, (units, rows, *place)), _last(len(place) + 2))
            after = touched.through_chain(route, moved, groups.units)
            still = touched.through_chain(route, base, groups.units)
            difference = ops.reshape(after, (count, *still.shape)) - still
            difference = ops.reshape(difference, (count * rows, *still.shape[1:]))
            value = touched.into_rest(route, ops.concatenate([start] * count), difference, groups.units)
        logits = self._tail.folded(route.rest, shared, {route.number: value}, [weights] * count, constants, alike=True)
        return self._sums(logits, labels, real, count)

    def _in_place(
        self, candidates: Any, labels: Any, real: Any, flat: Any, features: Any, *constants: Any
    ) -> tuple[Any, ...]:
        """Sums of a slab, given the candidates (h, K)."""
        cut = self._tail.cut
        count = candidates.shape[0]
        places = ops.convert_to_tensor(self._places[:, None].astype(np.int32))
        weights = [self._tail.parts(ops.scatter_update(flat, places, candidates[number])) for number in range(count)]
        logits = self._tail.folded(cut.tail, unpack(cut, features), {}, weights, constants)
        return self._sums(logits, labels, real, count)

    def _sums(self, logits: Any, labels: Any, real: Any, count: int) -> tuple[Any, ...]:
        """Summed loss and number of correct rows of each block, (h, n / block) float64, of logits (h * n, C); with
        `misses` also 1 / (loss + 1) of wrong rows; of soft changes and their squares, where those are wanted: then
        `real`, which rows count, has soft correctness as it is below it.
        """
        head, wanted = self._tail.head, self._wanted
        rows = labels.shape[0]
        soft = wanted is not None and wanted.soft > 0
        real, *before = ops.unstack(real, axis=0) if soft else (real,)
        wide = ops.reshape(ops.cast(logits, "float64"), (count, rows, self._classes))
        true = ops.cast(ops.one_hot(labels, self._classes), "float64")
        loss = row_losses(head, wide, true[None])
        scores = head.scores(ops.reshape(logits, (count, rows, self._classes)))
        correct = ops.cast(ops.cast(ops.argmax(scores, axis=-1), "int32") == labels, "float64")
        weight = ops.cast(real, "float64")
        loss = ops.where(weight > 0, loss, 0.0)
        blocks = (count, rows // self._block, self._block)
        values = [loss, correct * weight]
        if soft:
            assert wanted is not None and wanted.temperature is not None
            classes = [labels, *(ops.full_like(labels, predicted) for _, predicted in wanted.pairs)]
            narrow = ops.reshape(logits, (count, rows, self._classes))
            for known, wanted_class in zip(before, classes, strict=True):
                own = ops.one_hot(wanted_class, self._classes)
                change = ops.cast(soft_of(narrow, own, wanted.temperature) - known, "float64")
                change = ops.where(weight > 0, change, 0.0)
                values += [change, ops.square(change)]
        if self._misses:
            values.append(ops.where(ops.logical_and(weight > 0, correct < 1), 1.0 / (1.0 + loss), 0.0))
        return tuple(ops.sum(ops.reshape(each, blocks), axis=-1) for each in values)


def group_weights(route: Route, space: Space, places: Int64) -> Groups:
    part = space.part(places)
    within = places - space.offsets[part]
    is_kernel = np.array([path.endswith("/kernel") for path in space.paths])[part]
    unit = np.where(is_kernel, route.family.units(route.first.operation, within), within)
    units = np.unique(unit)
    members = [np.flatnonzero(unit == unit_number) for unit_number in units]
    slots = np.full((len(units), bucket(max(map(len, members), default=1), UNIT_WEIGHTS)), len(places))
    for group, member in zip(slots, members, strict=True):
        group[: len(member)] = member
    kernel_places = within[is_kernel]
    ones = len(kernel_places)
    reads = np.append(np.where(is_kernel, np.cumsum(is_kernel) - 1, ones), ones + 1)[slots]
    return Groups(units, slots, kernel_places, reads)


def plan_short(tail: Tail, places: Int64) -> Route | None:
    """The short way for changes at these places (K,) of the flat vector, or None."""
    touched_parts = sorted(set(tail.space.part(places).tolist()))
    if not touched_parts or not tail.folds:
        return None
    return touched.plan_route(tail.cut, [tail.variables[number] for number in touched_parts])


def _last(rank: int) -> tuple[int, ...]:
    return (*range(1, rank), 0)
