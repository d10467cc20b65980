"""Repairs by methods, here or on workers, as their tasks say and in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.compute.whole import Whole, this_process
from cluster.workers.methods import MethodTask, foreign_origins, missing_methods, run_method
from engine.core.errors import InputError
from engine.methods.base import Subject
from engine.methods.outcome import MethodOutcome

if TYPE_CHECKING:
    from cluster.workers.pool import WorkerPool


@dataclass(frozen=True, eq=False)
class MethodEvent:
    """A repair that has ended, and what ran it."""

    task: MethodTask
    outcome: MethodOutcome
    where: str
    worker: str


def check_methods_on_workers(pool: WorkerPool, names: Sequence[str]) -> None:
    """Refuse workers that lack a method of another package, or have it in another version than here.

    Raises:
        InputError: names the first of them, with its node.
    """
    from cluster.workers.pool import Call

    origins = foreign_origins(names)
    if not origins:
        return
    calls = [Call("other_methods", (origins,), tag=worker, worker=worker) for worker in range(len(pool))]
    found = {call.tag: why for call, why, _ in pool.run(calls)}
    if why := next((found[worker] for worker in sorted(found) if found[worker]), ""):
        raise InputError(why)


def repairs_of(subject: Subject, tasks: Sequence[MethodTask], data: str) -> Whole[MethodTask, MethodEvent]:
    """How repairs by methods are run.

    Args:
        subject: what they share.
        tasks: all of them.
        data: fingerprint of the pool.

    Raises:
        InputError: a method cannot be had here; on a worker, as they are run there.
    """
    names = tuple(dict.fromkeys(task.method for task in tasks))
    if why := missing_methods(names):
        raise InputError(why)

    def here(task: MethodTask) -> MethodEvent:
        return MethodEvent(task, run_method(subject, task, data), "process", this_process())

    def there(pool: WorkerPool, left: Sequence[MethodTask]) -> Iterator[MethodEvent]:
        import ray

        from cluster.workers.pool import Call

        check_methods_on_workers(pool, names)
        origins, shared = foreign_origins(names), ray.put(subject)
        calls = [Call("run_method", (shared, task, data, origins.get(task.method, "")), tag=task) for task in left]
        for call, outcome, worker in pool.run(calls):
            yield MethodEvent(call.tag, outcome, "worker", pool.worker_name(worker))

    return Whole(f"{len(tasks)} repairs", here, there)
