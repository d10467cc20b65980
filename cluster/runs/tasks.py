"""How the searches of a run become tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cluster.workers.task import SearchJob


def parts_of_groups(groups: int, workers: int) -> int:
    """Into how many tasks the searches on the same rows and weights are divided: in all, two tasks for each worker.

    Searches of one task share calls, so where there are tasks enough they stay together.
    """
    return max(1, -(-2 * workers // max(1, groups)))


def divided(
    group: str, jobs: Sequence[SearchJob], parts: int, has: Callable[[str], bool] = lambda job: False
) -> Iterator[tuple[str, tuple[SearchJob, ...]]]:
    """Names and searches of tasks.

    Args:
        group: names searches on the same rows and weights.
        jobs: these searches.
        parts: tasks to make of them.
        has: whether a search has ended already.
    """
    left = [(number, job) for number, job in enumerate(jobs) if not has(job.name)]
    size = max(1, -(-len(left) // parts))
    for first in range(0, len(left), size):
        members = left[first : first + size]
        yield f"{group}+{members[0][0]}", tuple(job for _, job in members)
