"""How many tasks go to a worker in one call: so many that calls cost little, and no worker is left to wait."""

from __future__ import annotations

from cluster.workers.harvest import Harvest, Segment

CALL_SECONDS = 0.5
"""A call lasts about so long, if there are tasks enough: it is lost whole with its worker."""

SERVED_SECONDS = 0.002
"""And so much longer for each worker, as the driver serves them one after the other."""

CALL_BYTES = 90_000
"""An answer has at most about so many bytes: Ray brings larger ones by way of its object store, at ten times the cost.

Ray's limit is 100 KiB."""

CALL_TASKS = 64

SHARES = 2
"""A call takes at most one in so many of the tasks that wait, shared out: the last ones go one by one."""

_WEIGHT = 0.2  # of the newest call in what tasks take


class Bundles:
    """Sizes of calls, by what the tasks of those before took."""

    def __init__(self, workers: int) -> None:
        """Nothing is known yet: the first calls are of one task each."""
        self._workers = workers
        self.seconds = CALL_SECONDS + SERVED_SECONDS * workers
        """That a call is to last."""
        self._took: tuple[float, float] | None = None

    def size(self, waiting: int) -> int:
        """Tasks of the next call, of so many that wait."""
        if self._took is None:
            return 1
        seconds, size = self._took
        fit = min(self.seconds / max(seconds, 1e-6), CALL_BYTES / max(size, 1.0), float(CALL_TASKS))
        return max(1, min(int(fit), waiting // (SHARES * self._workers)))

    def learn(self, harvest: Harvest) -> None:
        """A call has ended."""
        ran = [segment for segment in harvest.segments if isinstance(segment, Segment)]
        if not ran:
            return
        size = sum(segment.rows.size for segment in ran if segment.rows is not None)
        size += 0 if harvest.rows is None else harvest.rows.size
        size += 0 if harvest.candidates is None else harvest.candidates.size
        self.took(harvest.seconds / len(ran), size / len(ran))

    def took(self, seconds: float, size: float) -> None:
        """What each task of a call took, in seconds and bytes of its answer."""
        newest = seconds, size
        before = self._took or newest
        self._took = (
            before[0] + _WEIGHT * (newest[0] - before[0]),
            before[1] + _WEIGHT * (newest[1] - before[1]),
        )
