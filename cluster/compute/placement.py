"""Where work runs, decided by measured cost; every decision carries its reason in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Where = Literal["process", "workers", "tiles"]

START_SECONDS = 8.0
"""Starting Ray here and TensorFlow actors in it (4 + 4 s measured on 2 cores; benchmarks/optimize.py prints yours)."""

JOIN_SECONDS = 4.0
"""Starting TensorFlow actors in a cluster that runs already."""


def round_trip(workers: int) -> float:
    """Seconds of one synchronous exchange with every worker: 0.5 ms + 0.4 ms each, measured on one machine."""
    return 0.0005 + 0.0004 * workers


@dataclass(frozen=True)
class Placement:
    """A decision and why."""

    where: Where
    reason: str


@dataclass(frozen=True)
class Means:
    """What there is to compute with.

    Attributes:
        workers: how many workers there are, or could be started; 0 forces this process.
        asked: the number was asked for, so starting them costs nothing extra.
        adds_hardware: the workers have cores or GPUs that this process has not.
        only_workers: results must come from the workers' hardware, which is not this process's.
        start_seconds: still to pay before the first call, 0 when they run or were asked for.
    """

    workers: int
    asked: bool
    adds_hardware: bool
    only_workers: bool
    start_seconds: float


def place_rows(means: Means, blocks: int, block_seconds: float, compile_seconds: float) -> Placement:
    """Row blocks of one pass: here, or spread over the workers.

    Args:
        means: what there is.
        blocks: still to do.
        block_seconds: of one block here, measured.
        compile_seconds: of the first block here beyond that; each worker has to pay it as well.
    """
    here = blocks * block_seconds
    there = means.start_seconds + compile_seconds + here / max(means.workers, 1) + blocks * 0.001
    if means.workers == 0:
        return Placement("process", "no workers were asked for")
    if means.only_workers:
        return Placement("workers", "the workers' hardware differs from this process's")
    if means.workers == 1 or not means.adds_hardware:
        return Placement("process", "the workers would share this process's cores")
    if there < here:
        return Placement("workers", f"{here:.1f} s expected here, {there:.1f} s on {means.workers} workers")
    return Placement("process", f"{here:.1f} s expected here, {there:.1f} s on {means.workers} workers")


def place_tasks(means: Means, tasks: int, task_seconds: float) -> Placement:
    """The tasks of a batch: here, or on workers.

    Args:
        means: what there is.
        tasks: still to do.
        task_seconds: of one here, measured; unused where workers were asked for.
    """
    here = tasks * task_seconds
    there = means.start_seconds + here / max(means.workers, 1)
    if means.workers == 0:
        return Placement("process", "no workers were asked for")
    if means.only_workers:
        return Placement("workers", "the workers' hardware differs from this process's")
    if means.asked:
        return Placement("workers", f"{means.workers} workers were asked for")
    where: Where = "workers" if there < here else "process"
    return Placement(where, f"{here:.1f} s expected here, {there:.1f} s on {means.workers} workers")


def place_search(
    means: Means, jobs: int, tiles: int, iterations: int, iteration_seconds: float, force_tiles: bool
) -> Placement:
    """The searches of a command: all here, whole searches on workers, or tiles of every iteration on workers.

    Args:
        means: what there is.
        jobs: number of searches.
        tiles: of one iteration of the first job.
        iterations: at most, of each job.
        iteration_seconds: of the first job here, measured; 0 where it could not be.
        force_tiles: `--tiles` was given.
    """
    here = jobs * iterations * iteration_seconds
    per_iteration = f"{iteration_seconds * 1e3:.2f} ms per iteration here"
    if means.workers == 0:
        return Placement("process", "no workers were asked for")
    if force_tiles:
        return Placement("tiles", f"asked for: {tiles} tiles per iteration over {means.workers} workers")
    if jobs > 1 and means.asked:
        return Placement("workers", f"{jobs} searches on the {means.workers} workers asked for, {per_iteration}")
    if means.only_workers:
        return Placement("workers", "the workers' hardware differs from this process's")
    if jobs > 1:
        there = means.start_seconds + here / min(means.workers, jobs)
        where: Where = "workers" if there < here else "process"
        return Placement(where, f"{here:.1f} s expected here, {there:.1f} s on {means.workers} workers")
    spread = min(means.workers, tiles)
    gain = iteration_seconds * (1 - 1 / spread) - round_trip(spread)
    if means.adds_hardware and gain > 0 and gain * iterations > means.start_seconds:
        return Placement(
            "tiles", f"{per_iteration}, {tiles} tiles over {means.workers} workers save {gain * 1e3:.1f} ms"
        )
    return Placement("process", f"{per_iteration}: messages to workers would cost more than they save")
