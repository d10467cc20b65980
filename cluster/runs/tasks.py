"""How the searches of a run become tasks; as many of them as are wanted are made, and no list of them all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from cluster.workers.task import RepairTask, SearchJob

TASK_SEARCHES = 64
"""Searches of one task at most: a task comes back whole after every segment."""

BLOCK_SEARCHES = 65_536
"""Searches of the tasks that are handed out at once: of a longer plan the rest waits."""


def parts_of_groups(groups: int, workers: int) -> int:
    """Into how many tasks the searches on the same rows and weights are divided: in all, two tasks for each worker.

    Searches of one task share calls, so where there are tasks enough they stay together.
    """
    return max(1, -(-2 * workers // max(1, groups)))


def divided(
    group: str, jobs: Iterable[SearchJob], count: int, parts: int, has: Callable[[str], bool] = lambda job: False
) -> Iterator[tuple[str, tuple[SearchJob, ...]]]:
    """Names and searches of `parts` tasks, more where one would be longer than `TASK_SEARCHES`.

    `group` names `count` searches on the same rows and weights; those that have ended, as `has` knows, are left out.
    """
    size = max(1, min(TASK_SEARCHES, -(-count // parts)))
    left = ((number, job) for number, job in enumerate(jobs) if not has(job.name))
    while members := list(itertools.islice(left, size)):
        yield f"{group}+{members[0][0]}", tuple(job for _, job in members)


def blocks(tasks: Iterable[RepairTask]) -> Iterator[list[RepairTask]]:
    """Tasks in lists of at most `BLOCK_SEARCHES` searches; a task of more is a list of its own."""
    block: list[RepairTask] = []
    held = 0
    for task in tasks:
        if block and held + len(task.searches) > BLOCK_SEARCHES:
            yield block
            block, held = [], 0
        block.append(task)
        held += len(task.searches)
    if block:
        yield block
