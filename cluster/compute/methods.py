"""Repairs by methods, here or on workers, as their tasks say and in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.workers.methods import MethodTask, foreign_origins
from engine.core.errors import InputError
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


def run_methods_on_workers(
    pool: WorkerPool, subject: Any, tasks: Sequence[MethodTask], data: str
) -> Iterator[MethodEvent]:
    """Run tasks on workers, each told of as it ends; `subject` is a reference to what the driver put."""
    from cluster.workers.pool import Call

    origins = foreign_origins(tuple(dict.fromkeys(task.method for task in tasks)))
    calls = [Call("run_method", (subject, task, data, origins.get(task.method, "")), tag=task) for task in tasks]
    for call, outcome, worker in pool.run(calls):
        yield MethodEvent(call.tag, outcome, "worker", pool.worker_name(worker))
