"""Calls of workers, and how many tasks go in one: so many that calls cost little, and no worker is left to wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CALL_SECONDS = 0.5  # of a call, if there are tasks enough: it is lost whole with its worker
SERVED_SECONDS = 0.002  # more for each worker, as the driver serves them one after the other
CALL_BYTES = 90_000  # of an answer: from 100 KiB on Ray takes its object store, at ten times the cost
CALL_TASKS = 64  # at most
SHARES = 2  # a call takes at most this part of a worker's share of the tasks that wait: the last ones go one by one
_WEIGHT = 0.2  # of the newest call in what tasks take


@dataclass(eq=False)
class Call:
    """One call of an actor's method; objects that the driver put come as references in its arguments."""

    method: str
    args: tuple[Any, ...]
    tag: Any = None  # the caller's own mark
    worker: int | None = None  # index of the one that has, or is to have, the caches for it
    attempts: int = 0  # how often it was sent
    parts: tuple[Call, ...] = ()  # that this one is made of; they are sent again where it is lost


class Bundles:
    """Sizes of calls, by what the tasks of those before took."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self.seconds = CALL_SECONDS + SERVED_SECONDS * workers  # that a call is to last
        self._took: tuple[float, float] | None = None

    def size(self, waiting: int) -> int:
        """Tasks of the next call, of so many that wait; the first calls are of one task each."""
        if self._took is None:
            return 1
        seconds, size = self._took
        fit = min(self.seconds / max(seconds, 1e-6), CALL_BYTES / max(size, 1.0), float(CALL_TASKS))
        return max(1, min(int(fit), waiting // (SHARES * self._workers)))

    def took(self, seconds: float, size: float) -> None:
        """What each task of a call took, in seconds and bytes of its answer."""
        before = self._took or (seconds, size)
        self._took = (before[0] + _WEIGHT * (seconds - before[0]), before[1] + _WEIGHT * (size - before[1]))
