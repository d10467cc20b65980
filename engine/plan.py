"""What one search will hold in memory and how its iterations are cut, known before it starts.

All of it follows from the job and its options: never from time, free memory or the number of workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from engine import backend
from engine.core.errors import InputError
from engine.fitness import SLABS, UNIT_COUNTS, Tiling, Weights, bucket, tile_shape
from engine.layer_targets import DeepTarget, Target
from engine.models.graph import Step
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
        all_particles, all_rows: of the searches.
        particles, rows: of a tile.
        tiles: of an iteration.
        tile: values that one tile holds at once.
        route: `logits` (last Dense layer), `touched units` or `weights in place`; see `engine.tail_fitness`.
        process, model, passes, features, working, swarm: bytes of the parts: TensorFlow and programs, the model, passes
            over rows, the features of all rows, what a tile works with, and the particles.
    """

    all_particles: int
    all_rows: int
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
    searches: int = 1,
) -> Plan:
    """Plan one search, or several on the same rows and weights.

    Args:
        target: under repair.
        tail: of a deep target, else None.
        weights: the K localised weights.
        rows: n of the search.
        row_values: numbers of one row of the image set.
        classes: C.
        particles: P of one search.
        tiling: what was asked for.
        batch_rows: rows of a pass.
        searches: that are held at once.
    """
    # float64: position, velocity, personal best, two random numbers and two temporaries of a move; float32: the changes
    # of the candidates in a call.
    swarm = searches * particles * (len(weights.old) * (8 * 7 + 4 * SLABS) + 4 * 8)
    whole = {"all_particles": searches * particles, "all_rows": rows}
    blocks = 3 * PASS_ROWS * row_values * 4
    if tail is None or not isinstance(target, DeepTarget):
        units = bucket(len(set(weights.unit.tolist())), UNIT_COUNTS)
        high, wide = tile_shape(particles, units, tiling)
        wide = min(wide, rows)
        tiles = _count(particles, high) * _count(rows, wide)
        tile = 4 * high * wide * units
        features = rows * (len(set(weights.column.tolist())) + classes) * 4 * 3
        model = 3 * target.kernel.nbytes
        return Plan(
            **whole,
            particles=high,
            rows=wide,
            tiles=tiles,
            tile=tile,
            route="logits",
            process=PROCESS,
            model=model,
            passes=blocks,
            features=features,
            working=4 * tile,
            swarm=swarm,
        )
    cut = target.cut
    route = plan_short(tail, weights.column)
    groups = None if route is None else group_weights(route, target, weights.column)
    shapes = plan_shapes(held_bytes(cut, route, groups), route, tail.folds, rows, particles, tiling)
    kept, width = kept_bytes(cut, route, groups), features_width(cut)
    # Parts of the features while they are put together, then the features and what the tiles keep of them.
    features = rows * (2 * (width + classes) * 4 + kept) + shapes.places * (width * 4 + 2 * kept)
    before = batch_rows * (row_values * 4 + _live_bytes(cut.before))
    after = batch_rows * held_bytes(cut, None)
    model = 4 * sum(math.prod(each.shape) * 4 for step in (*cut.before, *cut.tail) for each in step.variables)
    model += 2 * tail.unfolded_bytes
    return Plan(
        **whole,
        particles=shapes.together,
        rows=shapes.rows,
        tiles=_count(particles, shapes.together) * _count(rows, shapes.rows),
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
    """Refuse searches that cannot fit in this machine's free memory.

    Raises:
        InputError: says what needs most of it and what would need less.
    """
    free = backend.free_memory()
    # The process is there already.
    needed = plan.memory - plan.process
    if needed <= free:
        return
    left = free - needed
    parts = {
        f"{plan.all_rows} rows": (plan.features, _fewer(plan.all_rows, plan.features, left, "rows")),
        "passes": (plan.passes, "a smaller --batch-size"),
        "tiles": (plan.working, "smaller --tile-bytes"),
        f"{plan.all_particles} particles": (plan.swarm, _fewer(plan.all_particles, plan.swarm, left, "particles")),
        "model": (plan.model, "a machine with more memory"),
    }
    name, (most, advice) = max(parts.items(), key=lambda part: part[1][0])
    raise InputError(
        f"the search needs {_size(needed)} ({_size(most)} of it for {name}) and {_size(free)} are free, "
        f"expected {advice}"
    )


def _fewer(count: int, size: int, left: int, name: str) -> str:
    """So many of `count` that need `size` bytes as would leave nothing lacking."""
    fit = count * (size + left) // size
    return f"at most {fit} {name}" if fit > 0 else f"fewer {name} and a machine with more memory"


def _count(size: int, part: int) -> int:
    return -(-size // part)


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
