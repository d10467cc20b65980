"""Searches on workers: whole ones, or the tiles of every iteration."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import ray

from cluster.compute.searches import SEGMENT_SECONDS, OnSegment, SearchOutcome, SearchTask, run_here
from cluster.workers.pool import Call, WorkerPool
from engine.core.types import Float32, Float64
from engine.fitness.tiling import Tile, combine
from engine.layers.tail import Tail
from engine.problem.problem import prepare
from engine.search import loop as search

Shipped = tuple[Any, Tail]
"""Of a deep target: a reference to the model as it travels, and its tail here."""


def search_on_workers(
    pool: WorkerPool,
    tasks: Sequence[SearchTask],
    outcomes: Sequence[SearchOutcome],
    report: OnSegment,
    shipped: Shipped | None,
) -> None:
    """Give whole searches to workers, segment by segment."""
    model = None if shipped is None else shipped[0]
    distinct = {id(task.rows): task.rows for task in tasks}
    rows = {key: ray.put(value) for key, value in distinct.items()}
    run = uuid4().hex

    def segment(index: int, worker: int | None) -> Call:
        task = tasks[index]
        key, state = f"{run}-{index}", outcomes[index].state
        arguments = (key, rows[id(task.rows)], task.problem, state, SEGMENT_SECONDS, model)
        return Call("advance", arguments, tag=index, worker=worker)

    for call, (state, iterations), worker in pool.run([segment(index, None) for index in range(len(tasks))]):
        outcome = outcomes[call.tag]
        outcome.state, outcome.where = state, "worker"
        outcome.worker = pool.worker_name(worker)
        outcome.host = outcome.worker.partition(":")[0]
        outcome.seconds += sum(iteration.seconds for iteration in iterations)
        outcome.redispatched += call.attempts - 1
        if state.stop is None:
            # In front: a search that has begun ends before another begins.
            pool.submit(segment(call.tag, worker), first=True)
        report(call.tag, iterations, outcome)


def search_in_tiles(
    pool: WorkerPool,
    tasks: Sequence[SearchTask],
    outcomes: Sequence[SearchOutcome],
    report: OnSegment,
    shipped: Shipped | None,
) -> None:
    """Run one search after the other with the swarm here and the tiles of every iteration on workers."""
    for index, (task, outcome) in enumerate(zip(tasks, outcomes, strict=True)):
        model, tail = shipped or (None, None)
        prepared = prepare(task.problem, task.rows, tail)
        outcome.where = "tiles"
        outcome.worker, outcome.host = f"{len(pool)} workers", socket.gethostname()
        before = pool.redispatched
        evaluate = tiled(pool, task, prepared.fitness.tiles, model)
        run_here(index, task, outcome, prepared.objective, evaluate, report)
        outcome.redispatched = pool.redispatched - before


def tiled(pool: WorkerPool, task: SearchTask, tiles: Sequence[Tile], model: Any = None) -> search.Evaluate:
    """An evaluation that sends each worker its share of the tiles in one message and adds the parts in tile order.

    A deep target needs a reference to its model.
    """
    key, rows, problem = uuid4().hex, ray.put(task.rows), ray.put(task.problem)
    shares = [list(range(worker, len(tiles), len(pool))) for worker in range(min(len(pool), len(tiles)))]

    def evaluate(candidates: Float32) -> Float64:
        parts: list[Any] = [None] * len(tiles)
        calls = [
            Call("evaluate_tiles", (key, rows, problem, share, candidates, model), tag=share, worker=worker)
            for worker, share in enumerate(shares)
        ]
        for call, values, _ in pool.run(calls):
            for tile, value in zip(call.tag, values, strict=True):
                parts[tile] = value
        return combine(tiles, parts)

    return evaluate
