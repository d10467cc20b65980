"""What a search or a repair will hold in memory and how it is cut, known before it starts.

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
class MemoryPart:
    """A part of the memory that work needs."""

    size: int  # bytes
    told: str  # in the sentence of a plan
    what: str  # in a refusal, behind the number where `less` is one
    less: str | int  # what would need less; or a number of rows, particles or searches, of which fewer would
    in_turns: bool = False  # held while no other part of this kind is
    # on a GPU, which memory holds it
    host: bool = True
    device: bool = False


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

    def parts(self, weights: int, model: int, passes: int, features: int, working: int) -> tuple[MemoryPart, ...]:
        """The memory of all searches, of K weights each, by the bytes of what follows from the model."""
        blocks = 3 * PASS_ROWS * self.row_values * 4  # rows that a pass holds while the next ones are read
        swarms = f"searches of {self.particles} particles each", self.searches
        if self.searches == 1:
            swarms = "particles", self.particles
        return (
            MemoryPart(model, "model", "model", "a machine with more memory", host=False, device=True),
            MemoryPart(blocks + passes, "passes", "passes", "a smaller --batch-size", host=False, device=True),
            MemoryPart(features, "rows", "rows", self.rows, device=True),
            MemoryPart(working, "tiles", "tiles", "smaller --tile-bytes", host=False, device=True),
            MemoryPart(self.swarm_bytes(weights), "swarm", *swarms),
        )


@dataclass(frozen=True)
class Plan:
    """The memory of the process that needs most, and how its work is cut.

    Attributes:
        work: `search` or `repair`.
        parts: of the memory, besides `PROCESS`.
        cut: for `run.json`: of a search the `particles`, `rows` and `bytes` of a tile, the `tiles` of an iteration and
            the `route` (`logits`, of the last Dense layer, `touched units` or `weights in place`; see
            `engine.fitness.tail`); of a repair its `tunings`.
    """

    work: str
    parts: tuple[MemoryPart, ...]
    cut: Mapping[str, Any]

    @property
    def memory(self) -> int:
        """Bytes of all, at most."""
        return PROCESS + _held(self.parts)

    def facts(self) -> dict[str, Any]:
        """For `run.json`: how the work is cut and the memory that was stated."""
        return {**self.cut, "memory": self.memory}

    def sentences(self) -> list[str]:
        """For people."""
        cut, parts = self.cut, ", ".join(f"{size_text(part.size)} {part.told}" for part in self.parts)
        tiles = "tiles: {tiles} per iteration, {particles} particles x {rows} rows, {size} of values each, {route}"
        return [
            *([tiles.format(**cut, size=size_text(cut["bytes"]))] if "tiles" in cut else []),
            f"memory: at most {size_text(self.memory)} in one process: {size_text(PROCESS)} TensorFlow and programs, "
            + parts,
        ]


def _held(parts: Sequence[MemoryPart]) -> int:
    """Bytes of parts that are held at once, at most."""
    in_turns = [part.size for part in parts if part.in_turns]
    return sum(part.size for part in parts if not part.in_turns) + max(in_turns, default=0)


def check_searches(searches: int, particles: int) -> None:
    """Refuse more searches than can fit whatever they search, before their rows and weights are known."""
    one, free = SearchSize(0, 0, 0, particles, Tiling()).swarm_bytes(1), backend.free_memory()
    if searches * one > free:
        raise InputError(
            f"{searches} searches of {particles} particles each need at least {size_text(searches * one)} and "
            f"{size_text(free)} are free, expected at most {free // one} searches"
        )


def check_plan(plan: Plan) -> None:
    """Refuse work that cannot fit in the free memory of this machine, or of the GPU that computes.

    Raises:
        InputError: says what needs most of it and what would need less.
    """
    if refused := too_large(plan):
        raise InputError(refused)


def too_large(plan: Plan) -> str | None:
    """Why the free memory does not hold some work; None where it does. The process is there already."""
    if not backend.gpu_count():
        return _refusal(plan.work, plan.parts, backend.free_memory(), "are free")
    # Features stay on the device between iterations; they are put together, and optimisers move, on the host.
    on_device, on_host = ([part for part in plan.parts if getattr(part, place)] for place in ("device", "host"))
    refused = on_device and _refusal(plan.work, on_device, backend.device_memory_free(), "are free on the GPU")
    return refused or _refusal(plan.work, on_host, backend.free_memory(), "are free")


def _refusal(work: str, parts: Sequence[MemoryPart], free: int, where: str) -> str | None:
    """Why `free` bytes do not hold these parts: the largest, with what would need less; None where they do."""
    needed, most = _held(parts), max(parts, key=lambda part: part.size)
    if needed <= free:
        return None
    what, advice = most.what, most.less
    if isinstance(advice, int):
        what, advice = f"{advice} {what}", _fewer(advice, most.size, free - needed, what.partition(" ")[0])
    so_far = f"the {work} needs {size_text(needed)} ({size_text(most.size)} of it for {what})"
    return f"{so_far} and {size_text(free)} {where}, expected {advice}"


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
