"""Tasks of a batch on workers: each near the features of its chunk, and none waiting while a worker idles."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray

from cluster.compute.remote_searches import tiled
from cluster.compute.searches import SEGMENT_SECONDS, SearchTask
from cluster.workers.model import ModelHandle
from cluster.workers.passes import NOT_VISIBLE
from cluster.workers.pool import Call, WorkerPool
from cluster.workers.task import (
    RepairTask,
    SearchResult,
    TaskEvent,
    TaskResult,
    nothing_to_do,
    problems_of,
    task_result,
)
from engine.core.errors import InputError
from engine.data.image_set import read_images
from engine.problem.problem import objective_of, prepare, sample_positives
from engine.search.loop import Offer, Search, SearchState, advance, offers


def run_tasks_on_workers(
    pool: WorkerPool,
    model: Any,
    kernel: Any,
    more_positives: Any,
    tasks: Sequence[RepairTask],
    states: Mapping[str, SearchState],
    *,
    one_segment: bool = False,
) -> Iterator[TaskEvent]:
    """Run tasks to their end, the long ones first; reports each task after every segment.

    Args:
        pool: workers.
        model, kernel, more_positives: references to what `Replica.run_task` takes.
        tasks: what to do.
        states: by search, of those that have begun.
        one_segment: leave those that need more than one.
    """
    homes = _homes(tasks, len(pool))
    redispatched: dict[str, int] = {}
    pixels: dict[Any, Any] = {}

    def call(task: RepairTask, begun: Mapping[str, SearchState], worker: int | None) -> Call:
        return Call("run_task", (model, kernel, more_positives, task, begun, SEGMENT_SECONDS), tag=task, worker=worker)

    def begun_of(task: RepairTask) -> dict[str, SearchState]:
        return {job.name: states[job.name] for job in task.searches if job.name in states}

    ordered = sorted(tasks, key=lambda task: -task.chunk.image_set.rows * len(task.searches))
    calls = [call(task, begun_of(task), homes.get(task.chunk.image_set.path)) for task in ordered]
    for done, answer, worker in pool.run(calls, depth=2):
        task, result = done.tag, answer
        redispatched[task.name] = redispatched.get(task.name, 0) + done.attempts - 1
        if isinstance(result, str) and result == NOT_VISIBLE:
            images = task.chunk.image_set
            try:
                if images.path not in pixels:
                    pixels[images.path] = ray.put(read_images(images, 0, images.rows))
            except InputError as error:
                result = TaskResult(note=str(error), failed=True)
            else:
                again = Call("run_task", (*done.args[:6], pixels[images.path]), tag=task, worker=worker)
                pool.submit(again, first=True)
                continue
        if not result.ended and not one_segment:
            # In front: a task that has begun ends before another begins.
            begun = {search.name: search.state for search in result.searches}
            again = call(task, begun, worker)
            pool.submit(Call(again.method, again.args + done.args[6:], tag=task, worker=worker), first=True)
        name = pool.worker_name(worker)
        yield TaskEvent(task, result, "worker", name, name.partition(":")[0], redispatched[task.name])


def run_task_in_tiles(
    pool: WorkerPool,
    model: Any,
    kernel: Any,
    more_positives: Any,
    task: RepairTask,
    handle: ModelHandle,
    values: Any,
    states: Mapping[str, SearchState],
) -> Iterator[TaskEvent]:
    """Run the searches of a task one after the other, their swarms here and the pieces of every iteration on workers.

    Args:
        pool: workers.
        model, kernel, more_positives: references to what `Replica.task_case` takes.
        task: what to do.
        handle: the model here.
        values: the kernel itself.
        states: by search, of those that have begun.
    """
    before = pool.redispatched
    begun = time.perf_counter()
    images = task.chunk.image_set
    host = socket.gethostname()

    def event(result: TaskResult) -> TaskEvent:
        return TaskEvent(task, result, "tiles", f"{len(pool)} workers", host, pool.redispatched - before)

    try:
        ((_, case, _),) = pool.run([Call("task_case", (model, kernel, more_positives, task), tag=task)])
        if isinstance(case, str):
            pixels = ray.put(read_images(images, 0, images.rows))
            ((_, case, _),) = pool.run([Call("task_case", (model, kernel, more_positives, task, pixels), tag=task)])
        if case is None:
            yield event(nothing_to_do(task, time.perf_counter() - begun))
            return
        assert handle.target is not None
        problems = problems_of(handle.target, handle.batch_rows, values, case, task)
    except InputError as error:
        yield event(TaskResult(note=str(error), failed=True, seconds=time.perf_counter() - begun))
        return
    seen = {
        problem.name: sample_positives(case.rows, problem.source, problem.settings.num_input_pos_sampled)
        for problem in problems
    }
    results = {
        problem.name: SearchResult(
            problem.name,
            objective_of(problem.settings, seen[problem.name], case.rows).positive_weight,
            states[problem.name] if problem.name in states else problem.start(),
            (),
            (),
        )
        for problem in problems
    }
    for problem in problems:
        prepared = prepare(problem, case.rows, handle.tail)
        shipped = None if handle.tail is None else model
        evaluate = tiled(pool, SearchTask(problem, case.rows), prepared.fitness.tiles, shipped)
        search = Search(problem.settings, problem.source, prepared.objective)
        while True:
            name, state = problem.name, results[problem.name].state
            after, done = advance(
                problem.settings, problem.source, prepared.objective, state, evaluate, SEGMENT_SECONDS
            )
            found: list[Offer] = []
            if after.stop is not None:
                found = offers(search, after, evaluate, task.offers)
            results[name] = replace(results[name], state=after, iterations=tuple(done), offers=tuple(found))
            yield event(task_result(case, list(results.values()), time.perf_counter() - begun))
            begun = time.perf_counter()
            results[name] = replace(results[name], iterations=())
            if after.stop is not None:
                break


def _homes(tasks: Sequence[RepairTask], workers: int) -> dict[Any, int]:
    """A worker for each chunk, so that its features are computed once; none where there are fewer chunks."""
    load: dict[Any, int] = {}
    for task in tasks:
        path = task.chunk.image_set.path
        load[path] = load.get(path, 0) + task.chunk.image_set.rows * len(task.searches)
    if len(load) < workers:
        return {}
    total = [0] * workers
    homes = {}
    for path, size in sorted(load.items(), key=lambda item: -item[1]):
        homes[path] = total.index(min(total))
        total[homes[path]] += size
    return homes
