"""Tunings of a repair, here or on workers, as their tasks say and in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.problem.crossfit import TuningTask
from engine.tuning.train import Changes

if TYPE_CHECKING:
    from cluster.workers.pool import WorkerPool


@dataclass(frozen=True, eq=False)
class TuningEvent:
    """A task of tunings that has ended: what it changes, how long it took, and what ran it."""

    task: TuningTask
    changes: Changes
    seconds: float
    where: str
    worker: str


def run_tunings_on_workers(
    pool: WorkerPool, key: str, job: Any, tasks: Sequence[TuningTask], recipes: Any
) -> Iterator[TuningEvent]:
    """Run tasks on workers, each reported as it ends; `job` and `recipes` are references to what the driver put."""
    from cluster.workers.pool import Call

    calls = [Call("run_tuning", (key, job, task, recipes), tag=task) for task in tasks]
    for call, (changes, seconds), worker in pool.run(calls, depth=2):
        yield TuningEvent(call.tag, changes, seconds, "worker", pool.worker_name(worker))
