"""Where work runs, decided by measured cost; every decision carries its reason in words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cluster.compute.options import ComputeOptions
from cluster.ray_cluster.local_workers import MODELS, unasked
from cluster.workers.task import ReadyCase, RepairTask, TaskResult
from engine import backend
from engine.fitness.mixture import mixture_tiles
from engine.fitness.tiling import plan_tiles

if TYPE_CHECKING:
    from cluster.ray_cluster.connect import Resources

Where = Literal["process", "workers", "tiles"]

# Starting Ray here and TensorFlow actors in it (4 + 4 s measured on 2 cores; benchmarks/optimize.py prints yours), and
# the actors in a cluster that runs already.
START_SECONDS, JOIN_SECONDS = 8.0, 4.0


def round_trip(workers: int) -> float:
    """Seconds of one synchronous exchange with every worker: 0.5 ms + 0.4 ms each, measured on one machine."""
    return 0.0005 + 0.0004 * workers


@dataclass(frozen=True)
class Placement:
    where: Where
    reason: str


@dataclass(frozen=True)
class Means:
    workers: int  # that there are, or could be started; 0 forces this process
    asked: bool  # the number was asked for, so starting them costs nothing extra
    adds_hardware: bool  # the workers have cores or GPUs that this process has not
    only_workers: bool  # results must come from the workers' hardware, which is not this process's
    start_seconds: float  # still to pay before the first call, 0 when they run or were asked for

    def cheaper(self, here: float, there: float) -> Placement:
        """Where so many seconds of work run sooner, that here take `here` and on workers, once started, `there`."""
        there += self.start_seconds
        where: Where = "workers" if there < here else "process"
        return Placement(where, f"{here:.1f} s expected here, {there:.1f} s on {self.workers} workers")


def means_of(options: ComputeOptions, resources: Resources | None = None, kinds: list[str] | None = None) -> Means:
    """What there is: `resources` of a cluster that was joined, else what could be started here; `kinds` of hardware of
    workers that run already.
    """
    if options.num_workers == 0:
        return Means(0, asked=True, adds_hardware=False, only_workers=False, start_seconds=0.0)
    asked, cores, gpus = options.num_workers is not None, os.cpu_count() or 1, backend.gpu_count()
    # Where every worker has the threads that keep the bits the same, so has this process, and leaves cores idle.
    here = min(options.threads or cores, cores)
    if resources is None:
        # Started here, CPU workers share this machine's cores; several GPUs add hardware to the one used here.
        workers = options.num_workers or (gpus if gpus > 1 else unasked(MODELS))
        adds = gpus > 1 or (gpus == 0 and min(workers * here, cores) > here)
        return Means(workers, asked, adds, only_workers=False, start_seconds=0.0 if asked else START_SECONDS)
    if kinds is None:
        only, start = resources.gpus_per_worker > 0 and gpus == 0, 0.0 if asked else JOIN_SECONDS
    else:
        only, start = kinds != [backend.hardware_kind()], 0.0
    there = resources.workers * resources.threads
    adds = resources.gpus_per_worker > 0 or (min(there, cores) if resources.local else there) > here
    return Means(resources.workers, asked, adds, only, start)


def place_rows(means: Means, blocks: int, block_seconds: float, compile_seconds: float) -> Placement:
    """Row blocks of one pass: here, or spread over the workers, each of which has to compile it too."""
    if means.workers == 0:
        return Placement("process", "no workers were asked for")
    if means.only_workers:
        return Placement("workers", "the workers' hardware differs from this process's")
    if means.workers == 1 or not means.adds_hardware:
        return Placement("process", "the workers would share this process's cores")
    here = blocks * block_seconds
    return means.cheaper(here, compile_seconds + here / means.workers + blocks * 0.001)


@dataclass(frozen=True)
class Cost:
    """What is left of some tasks, by what a segment of the first took here."""

    searches: int
    seconds: float  # of all of them here
    longest: tuple[RepairTask, float] | None  # the task that runs longest, and seconds of an evaluation of its swarm


def searches_of(tasks: Sequence[RepairTask]) -> int:
    return sum(len(task.searches) for task in tasks)


def iteration_seconds(result: TaskResult) -> list[float]:
    return [iteration.seconds for search in result.searches for iteration in search.iterations]


def cost_of(left: Sequence[RepairTask], task: RepairTask, result: TaskResult, seconds: float) -> Cost:
    """What is left, `left[0]` first, after a first segment of a task here, which took so many seconds in all."""
    paces = iteration_seconds(result)
    pace = min(paces, default=0.0)  # the first iteration also compiles
    whole, rest, others = seconds, 0.0, len(left)
    if not result.ended:
        iterations = [
            job.settings.num_iterations - search.state.swarm.iteration
            for job, search in zip(task.searches, result.searches, strict=True)
            if search.state.stop is None
        ]
        rest, others = pace * sum(iterations), len(left) - 1
        whole = seconds + rest
    longest = (max(left, key=lambda other: other.size), pace) if left else None
    return Cost(searches_of(left), rest + others * whole, longest)


def place_tasks(means: Means, searches: int, force_tiles: bool) -> Placement | None:
    """Where so many searches run, if that is known before anything is measured; `force_tiles` as `--tiles` says."""
    if means.workers == 0:
        return Placement("process", "no workers were asked for")
    if force_tiles:
        return Placement("tiles", "asked for")
    if means.only_workers:
        return Placement("workers", "the workers' hardware differs from this process's")
    if means.asked and searches > 1:
        return Placement("workers", f"{searches} searches on the {means.workers} workers asked for")
    return None


def place_by_cost(means: Means, cost: Cost) -> Placement:
    """Where what is left of the tasks runs: here, on workers, or the pieces of every iteration on workers."""
    if cost.longest is None:
        return Placement("process", "it took no longer than a look at its cost")
    if cost.searches == 1:
        return place_tiles(means, *cost.longest)
    return means.cheaper(cost.seconds, cost.seconds / min(max(means.workers, 1), cost.searches))


def place_shares(means: Means, left: int, seconds: float) -> Placement:
    """Where so many pieces of work of about `seconds` each run: here, or on workers."""
    if not left:
        return Placement("process", "it took no longer than a look at its cost")
    return means.cheaper(left * seconds, -(-left // max(means.workers, 1)) * seconds)


def place_tiles(means: Means, task: RepairTask, iteration: float) -> Placement:
    """One search: the pieces of its iterations, of so many seconds each, on workers, or whole where it is."""
    settings, tiles = task.searches[0].settings, _tiles_of(task)
    spread = min(means.workers, tiles)
    gain = iteration * (1 - 1 / spread) - round_trip(spread)
    per_iteration = f"{iteration * 1e3:.2f} ms per iteration"
    if means.adds_hardware and gain > 0 and gain * settings.num_iterations > means.start_seconds:
        return Placement(
            "tiles", f"{per_iteration}, {tiles} tiles over {means.workers} workers save {gain * 1e3:.1f} ms"
        )
    return Placement("process", f"{per_iteration}: messages to workers would cost more than they save")


def _tiles_of(task: RepairTask) -> int:
    settings = task.searches[0].settings
    particles = settings.swarm.num_particles
    if isinstance(task.source, ReadyCase) and (group := task.source.case.rows.group) is not None:
        mixture = task.source.problem.mixture
        assert mixture is not None  # whose rows these are
        return len(mixture_tiles(mixture, group, particles, settings.tiling))
    return len(plan_tiles(particles, task.rows, 1, settings.tiling))
