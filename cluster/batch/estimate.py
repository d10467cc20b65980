"""How long a batch will take, from a few seconds of its own work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import TypeVar

import numpy as np

from cluster.batch.spec import Batch, ChunkFile, tasks_of
from cluster.compute.compute import Compute
from cluster.compute.placement import searches_of
from cluster.runs.ledger import blocks
from cluster.runs.repair import MethodRepair, memory_plan
from cluster.workers.model import ModelHandle
from cluster.workers.task import Base
from engine.core.errors import InputError, is_interruption
from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet, read_images
from engine.passes.classes import predicted_classes
from engine.problem.crossfit import SEARCH_ROWS, CrossFit
from engine.problem.problem import build_fitness
from engine.targets.memory import Plan
from engine.tuning.recipes import Recipe, epochs_of
from engine.tuning.train import BATCH_ROWS, Changes, FoldRows, Tuner

T = TypeVar("T")

BUDGET = 10.0
"""Seconds of calibration once the workers run; only a call of the backend that has begun may end later."""

RECORDING = 0.001
"""Seconds to judge and record one search (benchmarks/scale.py)."""

MEASURED_ROWS = 512
"""Of which the time of a pass is measured."""

_MEASURED_EPOCHS = 2

_PASSES = 1.0  # seconds for the held-out rows, at least


@dataclass(frozen=True)
class Expectation:
    """What a batch will take.

    Attributes:
        jobs: searches of a step, at most: labels without failures are skipped.
        steps: at most.
        resources: what there is to compute with, in words.
        start: seconds to start the workers, measured.
        step: seconds of a step; None where nothing was measured.
        passes: seconds of the passes over held-out rows; None where they were not measured.
        searched: searches that the calibration ran to their end.
        iterations: of searches, that it ran.
        nothing: why nothing was measured, else empty.
    """

    jobs: int
    steps: int
    resources: str
    start: float
    step: float | None
    passes: float | None
    searched: int
    iterations: int
    nothing: str = ""

    @property
    def total(self) -> float | None:
        """Seconds in all, if no step is left out; None where nothing was measured."""
        if self.step is None:
            return None
        return self.start + (self.passes or 0.0) + self.steps * self.step


@dataclass(eq=False)
class _Probe:
    """One search alone: what comes before its first iteration, features and compiling included, and its iterations."""

    setup: float = 0.0
    iterations: tuple[float, ...] = ()

    @property
    def per_iteration(self) -> float:
        """The first one may have compiled."""
        later = self.iterations[1:] or self.iterations
        return sum(later) / len(later)

    def seconds(self, batch: Batch, chunks: int, workers: int) -> float:
        searches = len(batch.labels) * len(batch.seeds)
        iterations = searches * sum(weighting.settings.num_iterations for weighting in batch.weightings)
        return chunks * (self.setup + iterations * self.per_iteration) / max(1, workers)


@dataclass(eq=False)
class _Measured:
    """How far the searches of some chunks came in how many seconds."""

    tasks: float = 0.0
    elapsed: float = 0.0
    share: dict[str, float] = field(default_factory=dict)
    searched: int = 0
    iterations: int = 0

    @property
    def seconds(self) -> float | None:
        done = sum(self.share.values())
        return self.elapsed * self.tasks / done if done else None


def expect(batch: Batch, compute: Compute) -> Expectation:
    """Run some of the work, features and compiling included, for about `BUDGET` seconds, and extrapolate.

    What is unfinished then is given up: no further work should be given to `compute`.

    Raises:
        InputError: no chunk can be read.
    """
    start, workers = timed(compute.start)
    readable = [chunk for chunk in batch.chunks if chunk.images is not None]
    if not readable:
        raise InputError(f"{batch.chunks[0].error}")
    handle = compute.handle(batch.model, batch.target)
    wave = 1 if batch.mode == "chain" else max(1, workers)
    probe, first, again = _Probe(), _Measured(), _Measured()
    begun = time.perf_counter()
    with given_up_after(BUDGET - _PASSES):
        _probe(batch, compute, handle, readable, probe)
        if probe.iterations:
            _measure(batch, compute, handle, readable[:wave], begun + BUDGET * 0.6, "calibration-a", first)
        if first.seconds is not None and len(readable) >= 2 * wave:
            # By now programs are compiled: the chunks to come will take as long as these.
            _measure(batch, compute, handle, readable[wave : 2 * wave], begun + BUDGET, "calibration-b", again)
    ended = time.perf_counter() - begun
    passes: list[float] = []
    with given_up_after(max(_PASSES, BUDGET - ended)):
        passes.append(_passes(batch, handle))
    step, nothing = None, ""
    if probe.iterations:
        step = _step(batch, probe, first, again, len(readable), wave) + RECORDING * batch.jobs_per_step
    elif ended < BUDGET - _PASSES:
        nothing = "the model gets every row of these labels right, or no chunk could be read to its end"
    else:
        nothing = f"no search came to the end of its first iteration in {BUDGET - _PASSES:.0f} s"
    return Expectation(
        jobs=batch.jobs_per_step,
        steps=batch.steps,
        resources=compute.resources(),
        start=start,
        step=step,
        passes=passes[0] if passes else None,
        searched=first.searched + again.searched,
        iterations=len(probe.iterations) + first.iterations + again.iterations,
        nothing=nothing,
    )


def _step(batch: Batch, probe: _Probe, first: _Measured, again: _Measured, readable: int, wave: int) -> float:
    at_first = probe.seconds(batch, wave, wave) if first.seconds is None else first.seconds + probe.setup
    later = at_first if again.seconds is None else again.seconds
    if batch.mode == "chain":
        return (at_first + (batch.steps - 1) * later) / batch.steps
    return at_first + max(0.0, readable / wave - 1) * later


@contextmanager
def given_up_after(seconds: float) -> Iterator[None]:
    """Leave the body where it is after so many seconds, if this is the main thread.

    As Ctrl-C does, which is what libraries that wait in C let through.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    rung: list[int] = []

    def ring(number: int, frame: FrameType | None) -> None:
        rung.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException as error:
        if not (rung and is_interruption(error)):
            raise
    finally:
        signal.signal(signal.SIGALRM, before)


def _probe(batch: Batch, compute: Compute, handle: ModelHandle, chunks: Sequence[ChunkFile], found: _Probe) -> None:
    """Begin one search of the first label that has failures."""
    base = Base(batch.target.kernel)
    alone = replace(batch, weightings=batch.weightings[:1], seeds=batch.seeds[:1])
    begun = time.perf_counter()
    for chunk in chunks:
        tasks = list(tasks_of(alone, 0, [chunk], base.key, compute.workers, prefix="calibration"))
        for event in compute.run_tasks(handle, base, tasks, {}):
            if event.segments[0].searches:
                (search,) = event.segments[0].searches
                seconds = tuple(search.seconds.tolist())
                found.setup = time.perf_counter() - begun - sum(seconds)
                found.iterations = seconds
                return


def _measure(
    batch: Batch,
    compute: Compute,
    handle: ModelHandle,
    chunks: Sequence[ChunkFile],
    until: float,
    name: str,
    found: _Measured,
) -> None:
    """Run searches of some chunks up to a moment, as the batch would."""
    base = Base(batch.target.kernel)
    tasks = next(blocks(tasks_of(batch, 0, chunks, base.key, compute.workers, prefix=name)))
    count = len(chunks) * len(batch.labels) * len(batch.weightings) * len(batch.seeds)
    found.tasks = len(tasks) * count / searches_of(tasks)  # of a long plan this is the beginning
    begun = time.perf_counter()
    for event in compute.run_tasks(handle, base, tasks, {}):
        for task, segment in zip(event.tasks, event.segments, strict=True):
            found.iterations += sum(len(search.seconds) for search in segment.searches)
            found.searched += len(segment.searches) if segment.ended else 0
            done = [
                1.0 if search.stop else search.iterations / job.settings.num_iterations
                for search, job in zip(segment.searches, task.searches, strict=False)
            ]
            found.share[task.name] = sum(done) / len(done) if done else 1.0
        found.elapsed = time.perf_counter() - begun
        if time.perf_counter() > until:
            break


def _passes(batch: Batch, handle: ModelHandle) -> float:
    """Seconds of the passes over validation and test rows: once for features, once under the repaired model."""
    seconds, _ = row_seconds(handle, batch.validation)
    return 2 * sum(images.rows for images in batch.held_out.values()) * seconds


def row_seconds(handle: ModelHandle, images: ImageSet) -> tuple[float, Float32]:
    """Seconds of a pass over one row, from up to `MEASURED_ROWS` of a set, and the inputs of those."""
    block = read_images(images, 0, min(MEASURED_ROWS, images.rows))
    inputs = handle.runner.inputs(block)  # which may compile
    seconds, _ = timed(lambda: handle.runner.inputs(block))
    return seconds / len(block), inputs


def timed(call: Callable[[], T]) -> tuple[float, T]:
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


@dataclass(frozen=True)
class CrossFitExpectation:
    """What a batch will take; seconds are None where they were not measured."""

    repairs: int  # of one label each, or 1 of all; at most, as labels without failures are left out
    rows: int  # of the chunks
    plan: Plan  # memory of a repair
    resources: str  # what there is to compute with, in words
    start: float  # seconds to start the workers
    passes: float | None  # seconds of the passes over all rows
    tunings: float | None  # seconds of the tunings of a repair
    search: float | None  # seconds of its search and of judging what was found

    @property
    def total(self) -> float | None:
        """Seconds in all; None where something was not measured."""
        if self.passes is None or self.tunings is None or self.search is None:
            return None
        return self.start + self.passes + self.repairs * (self.tunings + self.search)


def expect_mixtures(repair: MethodRepair, compute: Compute, *, separate: bool) -> CrossFitExpectation:
    """As `expect`, of a few hundred rows of a repair by mixtures, for `BUDGET` seconds at most."""
    start, workers = timed(compute.start)
    measured: dict[str, float] = {}
    handle = compute.handle(repair.model, repair.target)
    # Workers of this machine share its cores.
    spread = workers if compute.options.address else min(workers, os.cpu_count() or 1)
    with given_up_after(BUDGET):
        _measure_mixtures(repair, handle, spread, measured)
    asked = len(repair.repaired) or repair.model.classes
    return CrossFitExpectation(
        repairs=asked if separate else 1,
        rows=sum(images.rows for images in repair.rows),
        plan=memory_plan(repair),
        resources=compute.resources(),
        start=start,
        passes=measured.get("passes"),
        tunings=measured.get("tunings"),
        search=measured.get("search"),
    )


def _measure_mixtures(repair: MethodRepair, handle: ModelHandle, workers: int, measured: dict[str, float]) -> None:
    rows = sum(images.rows for images in repair.rows)
    images = max(repair.rows, key=lambda images: images.rows)
    seconds, inputs = row_seconds(handle, images)
    # Held-out rows are predicted before and after, and validation rows are needed as features too.
    times = {"validation": 3, "test": 2}
    passed = rows + sum(times[split] * held_out.rows for split, held_out in repair.held_out.items())
    measured["passes"] = passed * seconds / max(1, workers)
    taken = np.arange(min(MEASURED_ROWS, rows)) % len(inputs)
    small = _fit(repair, inputs[taken], images.labels[taken])
    nothing = np.broadcast_to(np.zeros(1, np.float32), (rows, inputs.shape[1]))  # takes no memory
    changes, tunings = _tunings(small, _fit(repair, nothing, np.zeros(rows, np.int64)), workers)
    measured["tunings"] = tunings
    measured["search"] = _search_seconds(small, changes, rows, len(repair.seeds), workers)


def _tunings(small: CrossFit, whole: CrossFit, workers: int) -> tuple[Changes, float]:
    """Changes of all recipes from a few epochs of a few rows, and seconds of all tunings of all rows."""
    tuner, recipes = Tuner(small.job), small.settings.recipes
    of_fold = [task for task in whole.tasks if task.fold == 0]
    seen = len(whole.rows.labels) - len(whole.rows.labels) // whole.rows.folds
    found: list[Changes] = []
    compiling = total = 0.0
    for task in of_fold:
        group = [recipes[number] for number in task.recipes]
        first, _ = timed(partial(tuner.run, 0, _of_epochs(group, 1)))
        again, _ = timed(partial(tuner.run, 0, _of_epochs(group, 1)))
        longer, changes = timed(partial(tuner.run, 0, _of_epochs(group, 1 + _MEASURED_EPOCHS)))
        found.append(changes)
        compiling += max(0.0, first - again)
        steps = max(1, (small.rows.fewest // BATCH_ROWS) * _MEASURED_EPOCHS)
        wanted = epochs_of(recipes[task.recipes[0]], seen) * max(1, seen // BATCH_ROWS)
        total += again + max(0.0, longer - again) / steps * wanted
    rounds = -(-len(whole.tasks) // max(1, workers))
    joined = {path: np.concatenate([changes[path] for changes in found]) for path in small.chain.tuned}
    return joined, compiling + rounds * total / len(of_fold)


def _of_epochs(recipes: Sequence[Recipe], epochs: int) -> list[Recipe]:
    return [replace(recipe, epochs=epochs) for recipe in recipes]


def _search_seconds(small: CrossFit, changes: Changes, rows: int, seeds: int, workers: int) -> float:
    """Seconds of the searches, on workers in tiles where there are some, and of judging all rows at every step."""
    settings = small.settings.search
    case, problem = small.case([changes] * small.rows.folds, settings)
    fitness = build_fitness(problem, case.rows)
    candidates = np.zeros((settings.swarm.num_particles, problem.weights.old.size), np.float32)
    first, _ = timed(lambda: fitness.evaluate(candidates))
    again, _ = timed(lambda: fitness.evaluate(candidates))
    per_row = again / len(case.rows.labels)
    searched = seeds * settings.num_iterations * min(rows, SEARCH_ROWS) / max(1, workers)
    judged = rows * len(small.settings.steps) / len(candidates)
    return 2 * max(0.0, first - again) + (searched + judged) * per_row  # the judge compiles too


def _fit(repair: MethodRepair, inputs: Float32, labels: Int64) -> CrossFit:
    """A repair of rows that are dealt into folds one after the other; all labels are under repair."""
    fold = np.arange(len(labels)) % repair.settings.crossfit.folds
    logits = np.zeros((len(labels), repair.chain.classes), np.float32)
    before = predicted_classes(repair.chain.head, logits)
    present = tuple(np.unique(labels).tolist())
    rows = FoldRows(inputs, labels, fold, "calibration")
    return CrossFit(repair.chain, rows, logits, before, present, repair.requirements, repair.settings.crossfit, 0)
