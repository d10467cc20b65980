"""Batches on any number of workers, simulated from what their tasks and the driver were measured to take."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.workers.bundles import Bundles

DEPTH = 2
"""Calls with one worker at a time, as `cluster.compute.tasks` has it."""


@dataclass(frozen=True)
class Costs:
    """Measured seconds.

    Attributes:
        tasks: each a task of one label of one chunk, features included where it computed them.
        size: bytes of an answer for each task.
        call: of the driver's processor to send, receive and record a call.
        task: of the driver's processor for each task in it.
        per_answer: to ask whether one of the answers under way has come.
    """

    tasks: tuple[float, ...]
    size: float
    call: float
    task: float
    per_answer: float


@dataclass(frozen=True)
class Simulated:
    """How a simulated batch went: seconds, share of it the driver was busy, its longest task, tasks of a call."""

    seconds: float
    driver: float
    longest: float
    together: float


class Simulation:
    """Tasks on workers with a driver that does one thing at a time, and sizes its calls as `Bundles` does."""

    def __init__(self, costs: Costs, workers: int, tasks: int, scale: float = 1.0, seed: int = 0) -> None:
        """Nothing has been sent yet.

        Args:
            costs: measured.
            workers: that ask the driver for tasks and bring results.
            tasks: their times are drawn from the measured ones.
            scale: of the times of tasks.
            seed: of the draw.
        """
        rng = random.Random(seed)
        self._costs, self._bundles = costs, Bundles(workers)
        self._left = [scale * rng.choice(costs.tasks) for _ in range(tasks)]
        self._longest, self._tasks, self._calls = max(self._left), tasks, 0
        self._queued: list[list[list[float]]] = [[] for _ in range(workers)]
        self._flying = [0] * workers
        self._ends: list[tuple[float, int, list[float]]] = []  # (a call ends, worker, its tasks)
        self._now = self._busy = 0.0

    def run(self) -> Simulated:
        """Run to the end."""
        workers = len(self._flying)
        self._send(range(workers))
        while self._ends:
            under_way = sum(self._flying)
            some = max(1, under_way // 64)
            ready = sorted(self._ends)[min(some, len(self._ends)) - 1][0]  # so many have come, or the wait ends
            self._now = max(self._now, min(ready, max(self._now, self._ends[0][0]) + 0.02))
            self._work(self._costs.per_answer * under_way)
            free: list[int] = []
            while self._ends and self._ends[0][0] <= self._now and len(free) < some:
                ended, worker, tasks = heapq.heappop(self._ends)
                self._flying[worker] -= 1
                self._start(worker, ended)  # the next one is at the worker already
                self._bundles.took(sum(tasks) / len(tasks), self._costs.size)
                self._work(self._costs.call / 2 + self._costs.task * len(tasks))
                free.append(worker)
            self._send(free)
        return Simulated(self._now, self._busy / self._now, self._longest, self._tasks / self._calls)

    def _work(self, seconds: float) -> None:
        self._now += seconds
        self._busy += seconds

    def _send(self, free: Sequence[int]) -> None:
        """As `cluster.workers.pool` does: one call for each first, and a second one where there are many tasks."""
        for most in range(1, DEPTH + 1):
            if most > 1 and len(self._left) < 2 * len(self._flying):
                break
            for worker in free:
                if self._left and self._flying[worker] < most:
                    size = self._bundles.size(len(self._left))
                    tasks, self._left = self._left[-size:], self._left[:-size]
                    self._work(self._costs.call / 2)
                    self._calls += 1
                    self._flying[worker] += 1
                    self._queued[worker].append(tasks)
                    if self._flying[worker] == 1:
                        self._start(worker, self._now)

    def _start(self, worker: int, at: float) -> None:
        if self._queued[worker]:
            tasks = self._queued[worker].pop(0)
            heapq.heappush(self._ends, (at + sum(tasks), worker, tasks))
