"""Tasks on workers: each near what serves others too, and none waiting while a worker idles; or cut into tiles."""

from __future__ import annotations

import functools
import pickle
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import numpy as np
import ray

from cluster.records.checkpoint import Begun
from cluster.workers.bundles import Bundles, Call
from cluster.workers.harvest import Segment, TaskEvent, event_of
from cluster.workers.judge import Judge
from cluster.workers.model import ModelHandle
from cluster.workers.passes import NOT_VISIBLE
from cluster.workers.pool import WorkerPool
from cluster.workers.replica import SentTask
from cluster.workers.task import (
    SEGMENT_SECONDS,
    Base,
    ChunkLabel,
    Elsewhere,
    ReadyCase,
    RepairTask,
    TaskResult,
    TaskRunner,
    ready_case,
)
from engine.core.errors import InputError
from engine.core.types import Float32, Float64
from engine.data.image_set import read_images
from engine.fitness.rows import SearchRows
from engine.fitness.tiling import Tile, combine
from engine.layers.tail import Tail
from engine.problem.problem import Problem, build_fitness, seen_by
from engine.search.loop import Evaluate


class Searching:
    """Runs tasks on workers."""

    def __init__(
        self, pool: WorkerPool, model: ModelHandle, base: Base | None, judge: Judge | None, *, needs_model: bool
    ) -> None:
        """Ship what every task needs; a large model takes its time to travel, and is left out where none needs it."""
        self._pool, self._model, self._base, self._judge = pool, model, base, judge
        self._shipped_model = pool.share(model.shipped) if needs_model else None
        self._shipped_base = None if base is None else pool.share(base)
        self._shipped_judge = None if judge is None else pool.share(judge)
        self._images: dict[Hashable, Any] = {}  # references to those of chunks whose files workers do not see, by home

    def whole(
        self, tasks: Sequence[RepairTask], begun: Mapping[str, Begun], *, one_segment: bool = False
    ) -> Iterator[TaskEvent]:
        """Run tasks to their end, or one segment of each, the long ones first; tells what each call brought."""
        pool = self._pool
        homes, bundles = _homes(tasks, len(pool)), Bundles(len(pool))

        def join(calls: Sequence[Call]) -> Call:
            beside: dict[int, tuple[int, Any]] = {}
            sent = []
            for call in calls:
                task, searches, extra = call.args
                number = None if extra is None else beside.setdefault(id(extra), (len(beside), extra))[0]
                sent.append(SentTask(task, searches, number))
            # Of itself Ray's pickler asks Python about every object in them.
            packed = pickle.dumps(sent, protocol=5)
            shipped = self._shipped_model, self._shipped_base, self._shipped_judge
            fixed = (*shipped, packed, SEGMENT_SECONDS, bundles.seconds)
            return Call("run_tasks", (*fixed, *(extra for _, extra in beside.values())), parts=tuple(calls))

        again: Counter[str] = Counter()  # calls of tasks under way that were lost
        ordered = sorted(tasks, key=lambda task: -task.size)
        calls = [self._call(task, task.begun(begun), homes.get(task.home)) for task in ordered]
        for done, harvest, worker in pool.run(calls, depth=2, join=join, size=bundles.size):
            if harvest.cost is not None:
                bundles.took(*harvest.cost)
            ran: list[tuple[RepairTask, Segment, int]] = []
            left: list[Call] = []
            for part, answer in zip(done.parts, harvest.segments, strict=True):
                task, segment = part.tag, answer
                if segment is None:
                    part.attempts -= 1
                    part.worker = worker
                    left.append(part)
                    continue
                if part.attempts > 1:
                    again[task.name] += part.attempts - 1
                if segment == NOT_VISIBLE:
                    try:
                        self._read(task)
                    except InputError as error:
                        (segment,) = event_of(task, {}, TaskResult(note=str(error), failed=True)).segments
                    else:
                        left.append(self._call(task, part.args[1], worker))
                        continue
                if not segment.ended and not one_segment:
                    # In front: a task that has begun ends before another begins.
                    left.append(self._call(task, segment.begun, worker))
                ran.append((task, segment, again.pop(task.name, 0) if segment.ended else again[task.name]))
            for more in reversed(left):
                pool.submit(more, first=True)
            if ran:
                name, (tasks_, segments, lost) = pool.worker_name(worker), zip(*ran, strict=True)
                where = "worker", name, name.partition(":")[0]
                yield TaskEvent(tasks_, segments, harvest.rows, harvest.candidates, *where, lost)

    def _call(self, task: RepairTask, searches: Mapping[str, Begun], worker: int | None) -> Call:
        """A call with a task, its searches that have begun, and what travels beside it, once for all that share it."""
        if isinstance(task.source, ReadyCase):
            sent, beside = replace(task, source=None), self._pool.share(task.source)
        else:
            sent, beside = task, self._images.get(task.home)
        return Call("run_tasks", (sent, searches, beside), tag=task, worker=worker)

    def _read(self, task: RepairTask) -> Any:
        """A reference to the images of a chunk whose file workers do not see."""
        assert isinstance(task.source, ChunkLabel)
        if task.home not in self._images:
            images = task.source.chunk.image_set
            self._images[task.home] = ray.put(read_images(images, 0, images.rows))
        return self._images[task.home]

    def in_tiles(self, task: RepairTask, begun: Mapping[str, Begun]) -> Iterator[TaskEvent]:
        """Run the searches of a task, their swarms here and the tiles of iterations on workers."""
        pool, known = self._pool, task.begun(begun)
        runner = _InTiles(pool, self._shipped_model, functools.cache(self._ready))
        before, ended = pool.redispatched, False
        while not ended:
            result = runner.run(self._model, self._base, task, known, SEGMENT_SECONDS)
            lost = pool.redispatched - before
            event = event_of(task, known, result, self._judge, self._model, "tiles", f"{len(pool)} workers", lost)
            known, ended = dict(event.segments[0].begun), result.ended
            yield event

    def _ready(self, task: RepairTask) -> ReadyCase | None:
        """The case of a task, found by a worker where it is one of a chunk, with its search."""
        if isinstance(task.source, ReadyCase):
            return task.source
        target = self._model.target
        if self._base is None or target is None:
            raise ValueError(f"task {task.name} is of a chunk, expected its base and a model with weights under repair")
        arguments = (self._shipped_model, self._shipped_base, task)
        ((_, case, _),) = self._pool.run([Call("task_case", arguments, tag=task)])
        if isinstance(case, str):
            ((_, case, _),) = self._pool.run([Call("task_case", (*arguments, self._read(task)), tag=task)])
        return None if case is None else ready_case(target, self._model.batch_rows, self._base.kernel, case, task)


class _InTiles(TaskRunner):
    """Runs searches here, and their evaluation on workers."""

    def __init__(self, pool: WorkerPool, model: Any, ready: Callable[[RepairTask], ReadyCase | None]) -> None:
        super().__init__()
        self._pool, self._model, self._ready = pool, model, ready

    def ready(self, model: Any, base: Any, task: RepairTask, beside: Any) -> ReadyCase | None:
        return self._ready(task)

    def fitness(self, problem: Problem, rows: SearchRows, tail: Tail | None) -> Elsewhere:
        particles = problem.settings.swarm.num_particles
        here = build_fitness(problem, seen_by(problem, rows), tail)
        evaluate = tiled(self._pool, problem, rows, here.tiles, self._model)
        return Elsewhere(lambda asked: np.concatenate([evaluate(swarm) for swarm in _swarms(asked, particles)]))


def _swarms(candidates: Float32, particles: int) -> list[Float32]:
    """Candidates of some searches by search: a tile is of one swarm."""
    return [candidates[start : start + particles] for start in range(0, len(candidates), particles)]


def tiled(pool: WorkerPool, problem: Problem, rows: SearchRows, tiles: Sequence[Tile], model: Any) -> Evaluate:
    """An evaluation that sends each worker its share of the tiles in one message and adds the parts in tile order.

    `model` is a reference to the model as it travels, or None where `problem` needs no tail.
    """
    key, there, what = uuid4().hex, ray.put(rows), ray.put(problem)
    shares = [list(range(worker, len(tiles), len(pool))) for worker in range(min(len(pool), len(tiles)))]

    def evaluate(candidates: Float32) -> Float64:
        parts: list[Any] = [None] * len(tiles)
        calls = [
            Call("evaluate_tiles", (key, there, what, share, candidates, model), tag=share, worker=worker)
            for worker, share in enumerate(shares)
        ]
        for call, values, _ in pool.run(calls):
            for tile, value in zip(call.tag, values, strict=True):
                parts[tile] = value
        return combine(tiles, parts)

    return evaluate


def _homes(tasks: Sequence[RepairTask], workers: int) -> dict[Hashable, int]:
    """A worker for each home, so that what is kept there is made once; none where there are fewer homes."""
    load: dict[Hashable, int] = {}
    for task in tasks:
        load[task.home] = load.get(task.home, 0) + task.size
    if len(load) < workers:
        return {}
    total = [0] * workers
    homes = {}
    for home, size in sorted(load.items(), key=lambda item: -item[1]):
        homes[home] = total.index(min(total))
        total[homes[home]] += size
    return homes
