"""What one search will hold in memory and how its iterations are cut, known before it starts.

All of it follows from the job and its options: never from time, free memory or the number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine import backend
from engine.core.errors import InputError
from engine.fitness.last_dense import SLABS
from engine.fitness.tiling import Tiling
from engine.layers.tail import made_bytes, most_live
from engine.models.graph import Step
from engine.passes.sizes import BATCH_ROWS, PASS_ROWS

PROCESS = 1100 << 20
"""Bytes of a process with TensorFlow, Keras, Ray's client and compiled programs, before any row (measured)."""

OVERHEAD = 2.5
"""What the allocator and the workspace of convolutions add to the values of a pass or tile (measured)."""


@dataclass(frozen=True)
class SearchSize:
    """What the memory of one search, or of several on the same rows and weights, follows from.

    Attributes:
        rows: n of the search.
        row_values: numbers of one row of the image set.
        classes: C.
        particles: P of one search.
        tiling: what was asked for.
        batch_rows: rows of a pass.
        searches: that are held at once.
    """

    rows: int
    row_values: int
    classes: int
    particles: int
    tiling: Tiling
    batch_rows: int = BATCH_ROWS
    searches: int = 1

    def swarm_bytes(self, weights: int) -> int:
        """Bytes of the particles of all searches, of K weights each."""
        # float64: position, velocity, personal best, two random numbers and two temporaries of a move; float32: the
        # changes of the candidates in a call; and, as int64, where each change is found.
        return self.searches * self.particles * (weights * (8 * 8 + 4 * SLABS) + 4 * 8)

    @property
    def block_bytes(self) -> int:
        """Bytes of the row blocks that a pass holds while the next one is read."""
        return 3 * PASS_ROWS * self.row_values * 4


@dataclass(frozen=True)
class Plan:
    """How the iterations of one search are cut, and the memory of the process that runs it, in bytes.

    Attributes:
        searches: that are held at once.
        swarm_particles, all_rows: of each search.
        particles, rows: of a tile.
        tiles: of an iteration.
        tile: values that one tile holds at once.
        route: `logits` (last Dense layer), `touched units` or `weights in place`; see `engine.fitness.tail`.
        process, model, passes, features, working, swarm: bytes of the parts: TensorFlow and programs, the model, passes
            over rows, the features of all rows, what a tile works with, and the particles.
    """

    searches: int
    swarm_particles: int
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
            f"{size_text(self.tile)} of values each, {self.route}",
            f"memory: at most {size_text(self.memory)} in one process: "
            f"{size_text(self.process)} TensorFlow and programs, {size_text(self.model)} model, "
            f"{size_text(self.passes)} passes, {size_text(self.features)} rows, "
            f"{size_text(self.working)} tiles, {size_text(self.swarm)} swarm",
        ]


def check_searches(searches: int, particles: int) -> None:
    """Refuse more searches than can fit whatever they search, before their rows and weights are known."""
    one, free = SearchSize(0, 0, 0, particles, Tiling()).swarm_bytes(1), backend.free_memory()
    if searches * one > free:
        raise InputError(
            f"{searches} searches of {particles} particles each need at least {size_text(searches * one)} and "
            f"{size_text(free)} are free, expected at most {free // one} searches"
        )


def check_plan(plan: Plan) -> None:
    """Refuse searches that cannot fit in the free memory of this machine, or of the GPU that computes.

    Raises:
        InputError: says what needs most of it and what would need less.
    """
    # The process is there already.
    computing = {
        "model": (plan.model, "a machine with more memory"),
        "passes": (plan.passes, "a smaller --batch-size"),
        "tiles": (plan.working, "smaller --tile-bytes"),
    }
    if not backend.gpu_count():
        _check_fits(
            plan, plan.memory - plan.process, computing, ("rows", "particles"), backend.free_memory(), "are free"
        )
        return
    # Features stay on the device between iterations; they are put together, and optimisers move, on the host.
    needed = plan.model + plan.passes + plan.working + plan.features
    _check_fits(plan, needed, computing, ("rows",), backend.device_memory_free(), "are free on the GPU")
    on_host = plan.features + plan.swarm
    _check_fits(plan, on_host, {}, ("rows", "particles"), backend.free_memory(), "are free")


def _check_fits(
    plan: Plan, needed: int, parts: Mapping[str, tuple[int, str]], counted: Sequence[str], free: int, where: str
) -> None:
    """Raise InputError unless `free` bytes hold `needed`: the parts, with what would need less, and what is counted."""
    left = free - needed
    sizes = {"rows": (plan.all_rows, "rows", plan.features)}
    if plan.searches == 1:
        sizes["particles"] = plan.swarm_particles, "particles", plan.swarm
    else:
        sizes["particles"] = plan.searches, f"searches of {plan.swarm_particles} particles each", plan.swarm
    named = {
        f"{count} {words}": (size, _fewer(count, size, left, words.partition(" ")[0]))
        for name, (count, words, size) in sizes.items()
        if name in counted
    }
    if refused := refusal("search", needed, named | dict(parts), free, where):
        raise InputError(refused)


def refusal(what: str, needed: int, parts: Mapping[str, tuple[int, str]], free: int, where: str) -> str | None:
    """Why `free` bytes do not hold `needed`: the largest part, with what would need less; None where they do."""
    if needed <= free:
        return None
    name, (most, advice) = max(parts.items(), key=lambda part: part[1][0])
    return (
        f"the {what} needs {size_text(needed)} ({size_text(most)} of it for {name}) and {size_text(free)} {where}, "
        f"expected {advice}"
    )


def _fewer(count: int, size: int, left: int, name: str) -> str:
    """So many of `count` that need `size` bytes as would leave nothing lacking."""
    fit = count * (size + left) // max(size, 1)
    return f"at most {fit} {name}" if fit > 0 else f"fewer {name} and a machine with more memory"


def count_parts(size: int, part: int) -> int:
    """How many parts of at most so much there are."""
    return -(-size // part)


def live_bytes(steps: Sequence[Step]) -> int:
    """Bytes of the values of a pass that are held at once for one row; what no step reads is kept."""
    size = made_bytes(steps)
    return most_live(steps, size, (), size.keys() - {number for step in steps for number in step.inputs})


def size_text(count: int) -> str:
    """Bytes in MiB or GiB, for people."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
