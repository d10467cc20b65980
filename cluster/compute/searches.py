"""Searches with their swarm in this process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.fitness.objective import Objective
from engine.fitness.rows import SearchRows
from engine.layers.tail import Tail
from engine.problem.problem import Prepared, Problem, prepare
from engine.search import loop as search
from engine.search.loop import Iteration, SearchState

SEGMENT_SECONDS = 2.0
"""A search comes back to the driver this often, to be recorded and to lose little when its worker dies."""


@dataclass(frozen=True, eq=False)
class SearchTask:
    """A problem and the rows it is judged on; tasks with the same rows object share one copy on the workers."""

    problem: Problem
    rows: SearchRows


@dataclass(eq=False)
class SearchOutcome:
    """How a search went.

    Attributes:
        state: where it is.
        where, worker, host: what ran the last part of it.
        seconds: spent in its iterations.
        redispatched: parts of it that ran again because a worker died.
        ended: seconds after the start of the run.
    """

    state: SearchState
    where: str = "process"
    worker: str = ""
    host: str = ""
    seconds: float = 0.0
    redispatched: int = 0
    ended: float = 0.0


OnSegment = Callable[[int, list[Iteration], SearchOutcome], None]
"""Called with (task, new iterations, outcome so far) whenever a part of a search is done."""


def search_here(
    tasks: Sequence[SearchTask],
    outcomes: Sequence[SearchOutcome],
    first: Prepared,
    report: OnSegment,
    tail: Tail | None,
) -> None:
    """Run one search after the other in this process; `first` is the first task, prepared."""
    for index, (task, outcome) in enumerate(zip(tasks, outcomes, strict=True)):
        prepared = first if index == 0 else prepare(task.problem, task.rows, tail)
        outcome.worker, outcome.host = f"{socket.gethostname()}:{os.getpid()}", socket.gethostname()
        run_here(index, task, outcome, prepared.objective, prepared.fitness.evaluate, report)


def run_here(
    index: int,
    task: SearchTask,
    outcome: SearchOutcome,
    objective: Objective,
    evaluate: search.Evaluate,
    report: OnSegment,
) -> None:
    """Run one search with the swarm in this process, segment by segment."""
    while outcome.state.stop is None:
        outcome.state, iterations = search.advance(
            task.problem.settings, task.problem.source, objective, outcome.state, evaluate, SEGMENT_SECONDS
        )
        outcome.seconds += sum(iteration.seconds for iteration in iterations)
        report(index, iterations, outcome)


def iteration_seconds(prepared: Prepared, state: SearchState) -> float:
    """Seconds of one evaluation of the swarm here, after compiling."""
    candidates = state.swarm.position.astype(np.float32)
    prepared.fitness.evaluate(candidates)
    begun = time.perf_counter()
    prepared.fitness.evaluate(candidates)
    return time.perf_counter() - begun
