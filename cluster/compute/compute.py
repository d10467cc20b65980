"""The computing of one command: row passes and searches, here or on workers that start only when they are needed."""

from __future__ import annotations

import functools
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.compute.options import ComputeOptions
from cluster.compute.placement import (
    Means,
    Placement,
    cost_of,
    iteration_seconds,
    means_of,
    place_by_cost,
    place_rows,
    place_shares,
    place_tasks,
    place_tiles,
    searches_of,
)
from cluster.compute.values import ValueWatch, warn_on_stderr
from cluster.ray_cluster.local_workers import MODELS, check_local, unasked
from cluster.records.checkpoint import Begun
from cluster.workers.harvest import TaskEvent, event_of
from cluster.workers.judge import Judge
from cluster.workers.model import ModelHandle
from cluster.workers.passes import Pass, SetRows, block_pass, set_rows
from cluster.workers.task import SEGMENT_SECONDS, Base, RepairTask, TaskRunner
from engine import backend
from engine.core.errors import InputError
from engine.core.progress import Tick, ignore
from engine.core.types import Float32, Float64, Int64, Uint8
from engine.data.image_set import ImageSet
from engine.data.row_digests import row_order
from engine.data.value_range import ValueRange
from engine.localize.fronts import Sums
from engine.models.load import LoadedModel
from engine.passes.sizes import PASS_ROWS
from engine.problem.case import LayerInputs
from engine.targets.base import Target

if TYPE_CHECKING:
    from cluster.ray_cluster.connect import Resources
    from cluster.workers.pool import WorkerPool
    from cluster.workers.replica import Replica

__all__ = ["Compute", "ComputeOptions"]

SETS_SECONDS = 2.0  # reading whole sets stays in this process where it takes no longer


@dataclass
class Compute:
    """Context manager; `decisions` lists what ran where and why, as it is also said through `say`."""

    options: ComputeOptions = field(default_factory=ComputeOptions)
    say: Callable[[str], None] = print
    actor_class: type[Replica] | None = None
    decisions: list[str] = field(default_factory=list)
    warn: Callable[[str], None] = warn_on_stderr

    def __post_init__(self) -> None:
        """Nothing starts before it is needed."""
        self.values = ValueWatch(self.warn)
        self._stack = ExitStack()
        self._resources: Resources | None = None
        self._pool: WorkerPool | None = None
        self._starting: tuple[WorkerPool, float] | None = None
        self._tasks = TaskRunner()

    def __enter__(self) -> Compute:
        if self.options.address is None and self.options.num_workers:
            check_local(self.options.num_workers, MODELS, self.say)
        if self.options.num_workers != 0 and (self.options.address or self.options.gpus_per_worker):
            self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        if self._starting is not None:
            self._starting[0].close()
        self._pool = self._starting = None
        self._stack.close()
        self._resources = None

    @property
    def redispatched(self) -> int:
        """Calls that ran again because a worker died."""
        return 0 if self._pool is None else self._pool.redispatched

    @property
    def workers(self) -> int:
        """Workers there are, or could be started; 0 where everything runs in this process."""
        return self.means().workers

    def start(self) -> int:
        """Start the workers that were asked for, if any; returns their number, 0 in this process."""
        means = self.means()
        return len(self.pool()) if means.workers and (means.asked or means.only_workers) else 0

    def begin(self) -> None:
        """Let the workers that were asked for on this machine start while this process goes on."""
        if self._starting is None and self.options.num_workers and self.options.address is None:
            self._begin()

    def warm_up(self, model: ModelHandle, images: ImageSet) -> None:
        """Let workers that start or wait get ready for tasks on such images while this process goes on."""
        if self._starting is not None:
            pool = self._starting[0]
            pool.tell("warm_up", pool.share(model.shipped), images.image_shape)

    def resources(self) -> str:
        """What there is to compute with, in words; of workers once they have started."""
        if self._pool is None or self._resources is None:
            return f"this process, {os.cpu_count() or 1} cores, {backend.hardware_kind()}"
        resources, kinds = self._resources, " and ".join(self._pool.kinds)
        gpus = f" and {resources.gpus_per_worker:g} GPU" if resources.gpus_per_worker else ""
        where = "on this machine" if resources.local else f"of the cluster at {self.options.address}"
        return f"{resources.workers} workers {where}, each with {resources.threads} threads{gpus}, {kinds}"

    def hardware_kind(self) -> str:
        """The kind of hardware whose bits the results are."""
        means = self.means()
        if means.only_workers:
            return " and ".join(self.pool().kinds)
        return backend.hardware_kind()

    def handle(self, loaded: LoadedModel, target: Target | None = None) -> ModelHandle:
        """A model ready to run, with its weights under repair when it is to be repaired."""
        return ModelHandle(loaded, target, self.options.batch_rows)

    def predict(self, model: ModelHandle, images: ImageSet, tick: Tick = ignore) -> Int64:
        """Predicted classes (n,) of all rows."""
        return np.concatenate(self._pass(model, images, "predict", tick))

    def predict_and_digest(self, model: ModelHandle, images: ImageSet, tick: Tick = ignore) -> tuple[Int64, Uint8]:
        """Predicted classes (n,) of all rows, and digests (n, 16) of their numbers."""
        classes, digests = self._columns(model, images, "predict and digest", tick)
        return classes, digests

    def predict_with_losses(self, model: ModelHandle, images: ImageSet, tick: Tick = ignore) -> tuple[Int64, Float64]:
        """Predicted classes (n,) of all rows, and the loss (n,) of each."""
        classes, losses = self._columns(model, images, "predict with losses", tick)
        return classes, losses

    def features(
        self, model: ModelHandle, images: ImageSet, features: Int64 | None, tick: Tick = ignore
    ) -> tuple[Float32, Float32, Uint8]:
        """Inputs of the layer under repair at `features` (n, I), or all, its logits (n, C), and digests (n, 16)."""
        inputs, logits, digests = self._columns(model, images, "features", tick, features)
        return inputs, logits, digests

    def layer_inputs(self, model: ModelHandle, images: ImageSet, tick: Tick = ignore) -> LayerInputs:
        """All rows as the layer under repair sees them."""
        inputs, digests = self._columns(model, images, "inputs", tick)
        return LayerInputs(inputs, images.labels, digests, images.image_shape, images.classes)

    def digests(self, model: LoadedModel, sets: Sequence[ImageSet], tick: Tick = ignore) -> dict[Path, Uint8]:
        """Digests (n, 16) of the rows of each set that can be read to its end, and a look at its values.

        Where that takes more than `SETS_SECONDS` and workers were asked for, they do it.
        """
        known: dict[Path, SetRows | None] = {}
        begun, means = time.perf_counter(), self.means()
        for number, images in enumerate(sets):
            seconds = time.perf_counter() - begun
            left = sets[number:]
            if number and means.asked and means.workers and seconds / number * len(left) > SETS_SECONDS:
                placement = place_shares(means, len(left), seconds / number)
                if placement.where == "workers":
                    from cluster.compute.passes import sets_on_workers

                    self.decide(f"digests of {len(left)} sets", placement)
                    known |= sets_on_workers(self.pool(), left, tick)
                    break
            known[images.path] = set_rows(images)
            tick(images.rows)
        found = {}
        for images in sets:
            rows = known[images.path]
            if rows is not None:  # else the searches on them tell of it
                found[images.path] = rows.digests
                self.values.saw(model, images, rows.values)
        return found

    def localisation_sums(self, model: ModelHandle, images: ImageSet, tick: Tick = ignore) -> Sums:
        """Sums over all rows, added block by block in the order of `LayerInputs`, whatever order the file has.

        The inputs of the layer under repair (n, D) and logits are in memory meanwhile.

        Raises:
            InputError: rows cannot be read.
            NotNumbersError: the model's outputs for a row are not numbers.
        """
        # Almost all of the time is before the last Dense layer, or behind the first of any other weights.
        late = model.runner.target.pooled
        inputs, logits, digests = self.features(model, images, None, ignore if late else tick)
        order, width = row_order(digests, images.labels), inputs.shape[1]
        known = np.empty((images.rows, width + logits.shape[1]), np.float32)
        place = np.argsort(order)
        known[place, :width], known[place, width:] = inputs, logits
        del inputs, logits
        labels = replace(images, labels=images.labels[order])
        parts: list[Any] = self._pass(model, labels, "localise", tick if late else ignore, rows=known)
        total: Sums = functools.reduce(operator.add, parts)
        return total

    def run_tasks(
        self,
        model: ModelHandle,
        base: Base | None,
        tasks: Sequence[RepairTask],
        begun: Mapping[str, Begun],
        judge: Judge | None = None,
    ) -> Iterator[TaskEvent]:
        """Run tasks to their end; their results do not depend on where. A task is reported after each segment.

        Args:
            model: under repair.
            base: what searches on chunks start from; None where all tasks have their cases.
            tasks: what to do.
            begun: searches that have begun.
            judge: of what they offer; None where it is not judged.
        """
        left, known = list(tasks), dict(begun)
        if not left:
            return
        placement = place_tasks(self.means(), searches_of(left), self.options.tiles)
        if placement is not None:
            self.decide("search", placement)
        looked = 0
        while left and (placement is None or placement.where == "process"):
            task, started = left[0], time.perf_counter()
            mine = task.begun(known)
            result = self._tasks.run(model, base, task, mine, SEGMENT_SECONDS)
            event = event_of(task, mine, result, judge, model)
            if result.ended:
                left.pop(0)
            seconds = time.perf_counter() - started
            known.update(event.segments[0].begun)
            yield event
            # The first iteration also compiled: one more tells what they cost.
            looked += len(iteration_seconds(result))
            if placement is None and (result.ended or looked > 1):
                placement = place_by_cost(self.means(), cost_of(left, task, result, seconds))
                self.decide("search", placement)
        if not left:
            return
        from cluster.compute.tasks import Searching

        assert placement is not None
        searching = Searching(self.pool(), model, base, judge, needs_model=any(task.needs_model for task in left))
        in_tiles = placement.where == "tiles"
        if searches_of(left) < len(self.pool()) and not in_tiles:
            # Some workers would idle: a first segment tells whether they had better take pieces of iterations.
            slowest = 0.0
            unfinished = []
            for event in searching.whole(left, known, one_segment=True):
                for task, segment in event.unfinished:
                    unfinished.append(task)
                    known.update(segment.begun)
                    slowest = max(slowest, *(float(search.seconds.max(initial=0.0)) for search in segment.searches))
                yield event
            left = unfinished
            if left:
                placement = place_tiles(self.means(), left[0], slowest)
                in_tiles = placement.where == "tiles"
                self.decide(f"{len(left)} long tasks", placement, "in tiles" if in_tiles else "on workers")
        if not in_tiles:
            yield from searching.whole(left, known)
            return
        for task in left:
            yield from searching.in_tiles(task, known)

    def _columns(
        self, model: ModelHandle, images: ImageSet, what: Pass, tick: Tick, features: Int64 | None = None
    ) -> list[Any]:
        """What a pass says of all rows, an array for each part of the result of a block."""
        return [np.concatenate(parts) for parts in zip(*self._pass(model, images, what, tick, features), strict=True)]

    def _pass(
        self,
        model: ModelHandle,
        images: ImageSet,
        what: Pass,
        tick: Tick,
        features: Int64 | None = None,
        rows: Float32 | None = None,
    ) -> list[Any]:
        """One pass over all rows, or over `rows` (n, D + C) that were seen before; results of the blocks in order."""
        blocks = [(start, min(start + PASS_ROWS, images.rows)) for start in range(0, images.rows, PASS_ROWS)]
        results: list[Any] = [None] * len(blocks)
        means = self.means()
        if self.options.spread_rows and means.workers:
            placement = Placement("workers", "asked for")
        elif means.only_workers:
            placement = place_rows(means, len(blocks), 0.0, 0.0)
        else:
            placement = None
        done = 0
        seconds: list[float] = []
        while done < len(blocks) and (placement is None or placement.where == "process"):
            begun = time.perf_counter()
            start, stop = blocks[done]
            results[done] = block_pass(
                model.runner, what, images, start, stop, features, None if rows is None else rows[start:stop]
            )
            seconds.append(time.perf_counter() - begun)
            tick(stop - start)
            done += 1
            if placement is None and len(seconds) == 2:
                # The first block also compiled; the second tells what a block costs.
                compiling = max(0.0, seconds[0] - seconds[1])
                placement = place_rows(means, len(blocks) - done, seconds[1], compiling)
        if placement is None:
            placement = Placement("process", f"{images.rows} rows took {sum(seconds):.1f} s")
        here = done == len(blocks)
        self.decide(f"{what} {images.rows} rows", placement, "in this process" if here else "")
        if not here:
            from cluster.compute.passes import pass_on_workers

            pass_on_workers(self.pool(), model, images, what, features, tick, blocks, results, rows)
        bad = next((result for result in results if isinstance(result, InputError)), None)
        if bad is not None:  # the first in row order, wherever the blocks ran
            raise bad
        if rows is None:
            self.values.saw(
                model.loaded, images, functools.reduce(ValueRange.joined, (block.values for block in results))
            )
        return [block.result for block in results]

    def means(self) -> Means:
        """What there is to compute with."""
        if self._resources is None or (self._starting is not None and self._pool is None):
            return means_of(self.options)
        return means_of(self.options, self._resources, None if self._pool is None else self._pool.kinds)

    def _connect(self) -> Resources:
        if self._resources is None:
            from cluster.ray_cluster.connect import connected

            options, wanted = self.options, self.options.num_workers
            if wanted is None and options.address is None and not backend.gpu_count():
                wanted = unasked(MODELS)
            found = self._stack.enter_context(connected(options.address, wanted, options.gpus_per_worker))
            self._resources = found if options.threads is None else replace(found, threads=options.threads)
        return self._resources

    def _begin(self) -> tuple[WorkerPool, float]:
        if self._starting is None:
            # Ray takes half a second to be imported: not where everything runs in this process.
            from cluster.workers.pool import WorkerPool
            from cluster.workers.replica import Replica

            begun = time.perf_counter()
            self._starting = WorkerPool(self._connect(), self.actor_class or Replica), begun
        return self._starting

    def pool(self) -> WorkerPool:
        """The workers, once they have started."""
        if self._pool is None:
            pool, begun = self._begin()
            pool.wait_for_start()
            self._pool, resources = pool, pool.resources
            gpus = f", {resources.gpus_per_worker:g} GPU each" if resources.gpus_per_worker else ""
            self.say(
                f"workers: {len(self._pool)} ready in {time.perf_counter() - begun:.1f} s "
                f"({resources.threads} threads each{gpus})"
            )
            if len(self._pool.kinds) > 1:
                self.say(
                    f"warning: the workers are of different kinds ({', '.join(self._pool.kinds)}); "
                    "the same seed may give other bits on each"
                )
        return self._pool

    def decide(self, what: str, placement: Placement, where: str = "") -> None:
        """Say what runs where, and why."""
        if not where and placement.where == "process":
            where = "in this process"
        elif not where:
            where = f"{'in tiles on' if placement.where == 'tiles' else 'on'} {len(self.pool())} workers"
        line = f"{what}: {where} ({placement.reason})"
        self.decisions.append(line)
        self.say(line)
