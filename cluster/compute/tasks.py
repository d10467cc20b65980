"""Tasks on workers: each near what serves others too, and none waiting while a worker idles; or cut into tiles."""

from __future__ import annotations

import pickle
import socket
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import ray

from cluster.records.checkpoint import Begun
from cluster.workers.bundles import Bundles
from cluster.workers.harvest import Reaper, Segment, TaskEvent, event_of, segment_of
from cluster.workers.judge import Judge
from cluster.workers.model import ModelHandle
from cluster.workers.passes import NOT_VISIBLE
from cluster.workers.pool import Call, WorkerPool
from cluster.workers.replica import SentTask
from cluster.workers.task import (
    SEGMENT_SECONDS,
    Base,
    ChunkLabel,
    ReadyCase,
    RepairTask,
    SearchResult,
    TaskResult,
    nothing_to_do,
    ready_case,
    task_result,
)
from engine.core.errors import InputError
from engine.core.types import Float32, Float64
from engine.data.image_set import read_images
from engine.fitness.rows import SearchRows
from engine.fitness.tiling import Tile, combine
from engine.problem.problem import Problem, goal_of, prepare, seen_by
from engine.search.loop import Evaluate, Search, advance, offers


@dataclass(frozen=True, eq=False)
class Shipped:
    """References to what every task needs, see `cluster.workers.replica.Replica.run_tasks`; any may be None."""

    model: Any
    base: Any
    judge: Any


class _Joins(Bundles):
    """Calls of `Replica.run_tasks` with several tasks each; a call of one task has the arguments of `SentTask`."""

    def __init__(self, workers: int, shipped: Shipped) -> None:
        super().__init__(workers)
        self._shipped = shipped

    def join(self, calls: Sequence[Call]) -> Call:
        """One call with the tasks of these."""
        beside: dict[int, tuple[int, Any]] = {}
        sent = []
        for call in calls:
            task, begun, extra = call.args
            number = None if extra is None else beside.setdefault(id(extra), (len(beside), extra))[0]
            sent.append(SentTask(task, begun, number))
        shipped = self._shipped
        # Of itself Ray's pickler asks Python about every object in them.
        packed = pickle.dumps(sent, protocol=5)
        fixed = (shipped.model, shipped.base, shipped.judge, packed, SEGMENT_SECONDS, self.seconds)
        return Call("run_tasks", (*fixed, *(extra for _, extra in beside.values())), parts=tuple(calls))


def run_tasks_on_workers(
    pool: WorkerPool,
    shipped: Shipped,
    tasks: Sequence[RepairTask],
    begun: Mapping[str, Begun],
    *,
    one_segment: bool = False,
) -> Iterator[TaskEvent]:
    """Run tasks to their end, the long ones first; reports what each call of some of them brought.

    Args:
        pool: workers.
        shipped: what the tasks need.
        tasks: what to do.
        begun: searches that have begun.
        one_segment: leave those that need more than one.
    """
    homes = _homes(tasks, len(pool))
    joins = _Joins(len(pool), shipped)
    beside: dict[Hashable, Any] = {}

    def call(task: RepairTask, searches: Mapping[str, Begun], worker: int | None, attempts: int = 0) -> Call:
        # Rows that the driver found travel once, however many tasks search on them.
        sent = task
        if isinstance(task.source, ReadyCase):
            sent = replace(task, source=None)
            if id(task.source) not in beside:
                beside[id(task.source)] = ray.put(task.source)
        extra = beside.get(id(task.source), beside.get(task.home))
        return Call("run_tasks", (sent, searches, extra), tag=task, worker=worker)

    def begun_of(task: RepairTask) -> dict[str, Begun]:
        return {job.name: begun[job.name] for job in task.searches if job.name in begun}

    again: Counter[str] = Counter()  # calls of tasks under way that were lost
    ordered = sorted(tasks, key=lambda task: -task.size)
    calls = [call(task, begun_of(task), homes.get(task.home)) for task in ordered]
    for done, harvest, worker in pool.run(calls, depth=2, joins=joins):
        joins.learn(harvest)
        ran: list[tuple[RepairTask, Segment, int]] = []
        left: list[Call] = []
        for part, found in zip(done.parts, harvest.segments, strict=True):
            task, segment = part.tag, found
            if segment is None:
                part.attempts -= 1
                part.worker = worker
                left.append(part)
                continue
            if part.attempts > 1:
                again[task.name] += part.attempts - 1
            if segment == NOT_VISIBLE:
                try:
                    if task.home not in beside:
                        beside[task.home] = _pixels(task)
                except InputError as error:
                    segment = _failed(task, str(error))
                else:
                    left.append(call(task, part.args[1], worker))
                    continue
            if not segment.ended and not one_segment:
                # In front: a task that has begun ends before another begins.
                left.append(call(task, segment.begun, worker))
            ran.append((task, segment, again.pop(task.name, 0) if segment.ended else again[task.name]))
        for more in reversed(left):
            pool.submit(more, first=True)
        if ran:
            name, (tasks_, segments, lost) = pool.worker_name(worker), zip(*ran, strict=True)
            where = "worker", name, name.partition(":")[0]
            yield TaskEvent(tasks_, segments, harvest.rows, harvest.candidates, *where, lost)


def _failed(task: RepairTask, note: str, seconds: float = 0.0) -> Segment:
    return segment_of(task, {}, TaskResult(note=note, failed=True, seconds=seconds))


def run_task_in_tiles(
    pool: WorkerPool,
    shipped: Shipped,
    task: RepairTask,
    model: ModelHandle,
    base: Base | None,
    judge: Judge | None,
    begun: Mapping[str, Begun],
) -> Iterator[TaskEvent]:
    """Run the searches of a task one after the other, their swarms here and the pieces of every iteration on workers.

    Args:
        pool: workers.
        shipped: what the task needs.
        task: what to do.
        model: the model here.
        base: what searches on chunks start from.
        judge: of what they offer, or None.
        begun: searches that have begun.
    """
    before = pool.redispatched
    started = time.perf_counter()
    host = socket.gethostname()
    known = {job.name: begun[job.name] for job in task.searches if job.name in begun}

    def event(result: TaskResult) -> TaskEvent:
        nonlocal known
        reaper = Reaper(judge)
        reaper.add(task, known, result, None if judge is None else model.runner.layer)
        event = event_of(task, reaper.harvest(), "tiles", f"{len(pool)} workers", host, pool.redispatched - before)
        known = dict(event.segments[0].begun)
        return event

    try:
        ready = _ready(pool, shipped, task, model, base)
    except InputError as error:
        yield event(TaskResult(note=str(error), failed=True, seconds=time.perf_counter() - started))
        return
    if ready is None:
        yield event(nothing_to_do(task, time.perf_counter() - started))
        return
    rows, problems = ready.case.rows, ready.problems(task.searches)
    results = {}
    for problem in problems:
        state = known[problem.name].state if problem.name in known else problem.start()
        goal = goal_of(problem, seen_by(problem, rows), rows)
        results[problem.name] = SearchResult(problem.name, goal, state, (), ())
    for number, problem in enumerate(problems, start=1):
        name, prepared = problem.name, prepare(problem, rows, model.tail_of(problem))
        evaluate = tiled(pool, problem, rows, prepared.fitness.tiles, shipped.model)
        search = Search(problem.settings, problem.source, prepared.objective)
        while True:
            state = results[name].state
            after, done = advance(
                problem.settings, problem.source, prepared.objective, state, evaluate, SEGMENT_SECONDS
            )
            found = [] if after.stop is None else offers(search, after, evaluate, task.offers)
            results[name] = replace(results[name], state=after, iterations=tuple(done), offers=tuple(found))
            # A search that had stopped before has nothing to tell but its offers; with the last of them the task ends.
            if done or number == len(problems):
                yield event(task_result(ready, list(results.values()), time.perf_counter() - started))
                started = time.perf_counter()
            results[name] = replace(results[name], iterations=())
            if after.stop is not None:
                break


def tiled(pool: WorkerPool, problem: Problem, rows: SearchRows, tiles: Sequence[Tile], model: Any) -> Evaluate:
    """An evaluation that sends each worker its share of the tiles in one message and adds the parts in tile order.

    Args:
        pool: workers.
        problem, rows: what is searched.
        tiles: of one iteration.
        model: a reference to the model as it travels, or None where `problem` needs no tail.
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


def _ready(
    pool: WorkerPool, shipped: Shipped, task: RepairTask, model: ModelHandle, base: Base | None
) -> ReadyCase | None:
    """The case of a task, found by a worker where it is one of a chunk, with its search."""
    if isinstance(task.source, ReadyCase):
        return task.source
    if base is None or model.target is None:
        raise ValueError(f"task {task.name} is of a chunk, expected its base and a model with weights under repair")
    arguments = (shipped.model, shipped.base, task)
    ((_, case, _),) = pool.run([Call("task_case", arguments, tag=task)])
    if isinstance(case, str):
        ((_, case, _),) = pool.run([Call("task_case", (*arguments, _pixels(task)), tag=task)])
    return None if case is None else ready_case(model.target, model.batch_rows, base.kernel, case, task)


def _pixels(task: RepairTask) -> Any:
    """A reference to the images of a chunk whose file workers do not see.

    Raises:
        InputError: they cannot be read.
    """
    assert isinstance(task.source, ChunkLabel)
    images = task.source.chunk.image_set
    return ray.put(read_images(images, 0, images.rows))


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
