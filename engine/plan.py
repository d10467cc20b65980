"""What one search will hold in memory and how its iterations are cut, known before it starts.

All of it follows from the job and its options: never from time, free memory or the number of workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from engine import backend
from engine.errors import InputError
from engine.fitness import UNIT_COUNTS, Tiling, Weights, bucket, plan_tiles
from engine.graph import Step
from engine.layer_targets import DeepTarget, Target
from engine.runner import BATCH_ROWS, PASS_ROWS
from engine.tail import Tail, features_width
from engine.tail_fitness import group_weights, held_bytes, kept_bytes, plan_shapes, plan_short

PROCESS = 1100 << 20
"""Bytes of a process with TensorFlow, Keras, Ray's client and compiled programs, before any row (measured)."""

OVERHEAD = 2.5
"""What the allocator and the workspace of convolutions add to the values of a pass or tile (measured)."""


@dataclass(frozen=True)
class Plan:
    """How the iterations of one search are cut, and the memory of the process that runs it, in bytes.

    Attributes:
        particles, rows: of a tile.
        tiles: of an iteration.
        tile: values that one tile holds at once.
        route: `logits` (last Dense layer), `touched units` or `weights in place`; see `engine.tail_fitness`.
        process, model, passes, features, working, swarm: bytes of the parts: TensorFlow and programs, the model, passes
            over rows, the features of all rows, what a tile works with, and the particles.
    """

    particles: int
    rows: int
    tiles: int
    tile: int
    route: str
    process: int
    model: int
    passes: int
    features: int
    working: int
    swarm: int

    @property
    def memory(self) -> int:
        """Bytes of all, at most."""
        return self.process + self.model + self.passes + self.features + self.working + self.swarm

    def facts(self) -> dict[str, Any]:
        """For `run.json`: how iterations are cut and the memory that was stated."""
        cut = {"particles": self.particles, "rows": self.rows, "tiles": self.tiles, "bytes": self.tile}
        return {**cut, "route": self.route, "memory": self.memory}

    def sentences(self) -> list[str]:
        """For people."""
        return [
            f"tiles: {self.tiles} per iteration, {self.particles} particles x {self.rows} rows, "
            f"{_size(self.tile)} of values each, {self.route}",
            f"memory: at most {_size(self.memory)} in one process: {_size(self.process)} TensorFlow and programs, "
            f"{_size(self.model)} model, {_size(self.passes)} passes, {_size(self.features)} rows, "
            f"{_size(self.working)} tiles, {_size(self.swarm)} swarm",
        ]


def plan_search(
    target: Target,
    tail: Tail | None,
    weights: Weights,
    rows: int,
    row_values: int,
    classes: int,
    particles: int,
    tiling: Tiling,
    batch_rows: int = BATCH_ROWS,
) -> Plan:
    """Plan one search.

    Args:
        target: under repair.
        tail: of a deep target, else None.
        weights: the K localised weights.
        rows: n of the search.
        row_values: numbers of one row of the image set.
        classes: C.
        particles: P.
        tiling: what was asked for.
        batch_rows: rows of a pass.
    """
    count = len(weights.old)
    swarm = particles * (count * 8 * 7 + 4 * 8)
    blocks = 3 * PASS_ROWS * row_values * 4
    if tail is None or not isinstance(target, DeepTarget):
        units = bucket(len(set(weights.unit.tolist())), UNIT_COUNTS)
        tiles = plan_tiles(particles, rows, units, tiling)
        high, wide = (stop - start for start, stop in (tiles[0].particles, tiles[0].rows))
        tile = 4 * high * wide * units
        features = rows * (len(set(weights.column.tolist())) + classes) * 4 * 3
        model = 3 * target.kernel.nbytes
        return Plan(high, wide, len(tiles), tile, "logits", PROCESS, model, blocks, features, 4 * tile, swarm)
    split = target.split
    route = plan_short(tail, weights.column)
    groups = None if route is None else group_weights(route, target, weights.column)
    shapes = plan_shapes(held_bytes(split, route, groups), route, tail.folds, rows, particles, tiling)
    kept, width = kept_bytes(split, route, groups), features_width(split)
    # Parts of the features while they are put together, then the features and what the tiles keep of them.
    features = rows * (2 * (width + classes) * 4 + kept) + shapes.places * (width * 4 + 2 * kept)
    before = batch_rows * (row_values * 4 + _live_bytes(split.before))
    after = batch_rows * held_bytes(split, None)
    model = 4 * sum(math.prod(each.shape) * 4 for step in (*split.before, *split.tail) for each in step.variables)
    model += 2 * tail.unfolded_bytes
    return Plan(
        particles=shapes.together,
        rows=shapes.rows,
        tiles=len(shapes.cut(particles, rows)),
        tile=shapes.tile_bytes,
        route="weights in place" if route is None else "touched units",
        process=PROCESS,
        model=model,
        passes=blocks + int(OVERHEAD * max(before, after)),
        features=features,
        working=int(OVERHEAD * shapes.tile_bytes),
        swarm=swarm,
    )


def check_plan(plan: Plan) -> None:
    """Refuse a search that cannot fit in this machine's free memory.

    Raises:
        InputError: says what needs most of it and what would need less.
    """
    free = backend.free_memory()
    # The process is there already.
    needed = plan.memory - plan.process
    if needed <= free:
        return
    parts = {
        "rows": (plan.features, "fewer rows, or --num-input-pos-sampled"),
        "passes": (plan.passes, "a smaller --batch-size"),
        "tiles": (plan.working, "smaller --tile-bytes"),
        "particles": (plan.swarm, "fewer --num-particles"),
        "model": (plan.model, "a machine with more memory"),
    }
    name, (most, advice) = max(parts.items(), key=lambda part: part[1][0])
    raise InputError(
        f"the search needs {_size(needed)} ({_size(most)} of it for {name}) and {_size(free)} are free, "
        f"expected {advice}"
    )


def _live_bytes(steps: tuple[Step, ...]) -> int:
    """Bytes of the values of a pass that are held at once for one row."""
    size = {number: 4 * math.prod(each or 1 for each in shape[1:]) for step in steps for number, shape in _made(step)}
    last = {number: position for position, step in enumerate(steps) for number in step.inputs}
    most, live = 0, set[int]()
    for position, step in enumerate(steps):
        live.update(step.outputs)
        most = max(most, sum(size[number] for number in live))
        live = {number for number in live if last.get(number, len(steps)) > position}
    return most


def _made(step: Step) -> list[tuple[int, tuple[int | None, ...]]]:
    return list(zip(step.outputs, step.shapes, strict=True))


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
