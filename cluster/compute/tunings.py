"""Tunings of a repair, here or on workers, as their tasks say and in any order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.compute.whole import Whole, this_process
from cluster.workers.model import ModelHandle
from cluster.workers.tunings import TuningRunner
from engine.layers.tail_chain import TailChain
from engine.problem.crossfit import CrossFit, TuningTask
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


def tunings_of(
    model: ModelHandle, repair: CrossFit, runner: TuningRunner, count: int, shipped: Callable[[], Any]
) -> Whole[TuningTask, TuningEvent]:
    """How tunings of a repair are run.

    Args:
        model: under repair.
        repair: of whose tunings some are run.
        runner: runs them here.
        count: tasks of them.
        shipped: makes a reference to the model as it travels.
    """
    job, recipes, key = repair.job, repair.settings.recipes, f"{model.key}|{repair.key}"

    def here(task: TuningTask) -> TuningEvent:
        begun = time.perf_counter()
        changes = runner.run(key, job, task, recipes)
        return TuningEvent(task, changes, time.perf_counter() - begun, "process", this_process())

    def there(pool: WorkerPool, tasks: Sequence[TuningTask]) -> Iterator[TuningEvent]:
        import ray

        from cluster.workers.pool import Call

        travelled = shipped() if isinstance(repair.chain, TailChain) else None
        shared = ray.put(job), ray.put(recipes)
        calls = [Call("run_tuning", (key, shared[0], task, shared[1], travelled), tag=task) for task in tasks]
        for call, (changes, seconds), worker in pool.run(calls, depth=2):
            yield TuningEvent(call.tag, changes, seconds, "worker", pool.worker_name(worker))

    return Whole(f"tuning {count} tasks", here, there)
