"""How long a batch will take, from a few seconds of its own work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.batch.spec import Batch, ChunkFile, tasks_of
from cluster.compute.compute import Compute
from cluster.workers.model import ModelHandle
from cluster.workers.task import Base
from engine.core.errors import InputError
from engine.data.image_set import read_images

BUDGET = 10.0
"""Seconds of calibration, at most, once the workers run."""

RECORDING = 0.005
"""Seconds to record one search (benchmarks/batch.py)."""

_MEASURED_ROWS = 512


@dataclass(frozen=True)
class Expectation:
    """What a batch will take.

    Attributes:
        jobs: searches of a step, at most: labels without failures are skipped.
        steps: at most.
        resources: what there is to compute with, in words.
        start: seconds to start the workers, measured.
        step: seconds of a step.
        passes: seconds of the passes over held-out rows.
        searched: searches that the calibration ran.
    """

    jobs: int
    steps: int
    resources: str
    start: float
    step: float
    passes: float
    searched: int

    @property
    def total(self) -> float:
        """Seconds in all, if no step is left out."""
        return self.start + self.passes + self.steps * self.step


def expect(batch: Batch, compute: Compute) -> Expectation:
    """Run some of the work, features and compiling included, and extrapolate.

    Raises:
        InputError: no chunk can be read.
    """
    begun = time.perf_counter()
    workers = compute.start()
    start = time.perf_counter() - begun
    readable = [chunk for chunk in batch.chunks if chunk.images is not None]
    if not readable:
        raise InputError(f"{batch.chunks[0].error}")
    handle = compute.handle(batch.model, batch.target)
    wave = 1 if batch.mode == "chain" else max(1, workers)
    first, count = _measure(batch, compute, handle, readable[:wave], BUDGET * 0.6, "calibration-a")
    again, more = first, 0
    if len(readable) >= 2 * wave:
        # By now programs are compiled: the chunks to come will take as long as these.
        again, more = _measure(batch, compute, handle, readable[wave : 2 * wave], BUDGET * 0.4, "calibration-b")
    if batch.mode == "chain":
        steps, step = batch.steps, (first + (batch.steps - 1) * again) / batch.steps
    else:
        steps, step = batch.steps, first + max(0.0, len(readable) / wave - 1) * again
    return Expectation(
        jobs=batch.jobs_per_step,
        steps=steps,
        resources=compute.resources(),
        start=start,
        step=step + RECORDING * batch.jobs_per_step,
        passes=_passes(batch, handle),
        searched=count + more,
    )


def _measure(
    batch: Batch, compute: Compute, handle: ModelHandle, chunks: Sequence[ChunkFile], budget: float, name: str
) -> tuple[float, int]:
    """Seconds for all searches of some chunks, extrapolated where the budget ends before them; searches that ended."""
    base = Base(batch.target.kernel)
    tasks = tasks_of(batch, 0, chunks, base.key, compute.workers, prefix=name)
    begun = time.perf_counter()
    ended = searches = 0
    share: dict[str, float] = {}
    for event in compute.run_tasks(handle, base, tasks, {}):
        task, result = event.task, event.result
        share[task.name] = 1.0
        if result.ended:
            ended += 1
            searches += len(result.searches)
        else:
            share[task.name] = max(
                search.state.swarm.iteration / job.settings.num_iterations
                for search, job in zip(result.searches, task.searches, strict=True)
            )
        if time.perf_counter() - begun > budget:
            break
    elapsed = time.perf_counter() - begun
    return elapsed * len(tasks) / max(sum(share.values()), 1e-3), searches


def _passes(batch: Batch, handle: ModelHandle) -> float:
    """Seconds of the passes over validation and test rows: once for features, once under the repaired model."""
    images = batch.validation
    block = read_images(images, 0, min(_MEASURED_ROWS, images.rows))
    handle.runner.inputs(block)
    begun = time.perf_counter()
    handle.runner.inputs(block)
    seconds = (time.perf_counter() - begun) / len(block)
    rows = sum(held_out.rows for held_out in (batch.validation, batch.test) if held_out is not None)
    return 2 * rows * seconds
