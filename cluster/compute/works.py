"""Pieces of work, of `engine.core.plans`, here or on workers; their results do not depend on where."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.compute.placement import Placement, place_shares, place_tasks
from cluster.workers.bundles import Bundles, Call
from cluster.workers.model import ModelHandle
from cluster.workers.work import SentWork, this_process
from engine.core.errors import InputError, is_interruption
from engine.core.plans import Done, Ran, Work, value_of

if TYPE_CHECKING:
    from cluster.compute.compute import Compute
    from cluster.workers.pool import WorkerPool

_WORDS = {"tuning": "tuning {} tasks", "repair": "{} repairs", "search": "{} searches"}
Searches = Callable[[Sequence[Work]], Sequence[Any]]


class Works:
    """An `engine.core.plans.Executor` over the workers of one command.

    The first piece of each kind runs here, where it is not known beforehand whether workers pay.
    """

    def __init__(
        self,
        compute: Compute,
        handle: ModelHandle,
        *,
        opens: bool,
        origins: Mapping[str, str] | None = None,
        searches: Searches | None = None,
    ) -> None:
        """Nothing runs yet. With `opens` what plans yield is spread; else each plan runs whole in one place.

        `origins` are those of the methods of other packages that the work is of, by name, as workers must have them
        too; `searches` runs searches, None runs them as other work.
        """
        self._compute, self._handle, self._opens = compute, handle, opens
        self._origins, self._searches = dict(origins or {}), searches
        self._calls: deque[tuple[Any, Work]] = deque()
        self._waiting: list[tuple[Any, Work]] = []
        self._flying = 0
        self._placed: dict[str, Placement] = {}
        self._stream: Generator[Any, None, None] | None = None
        self._bundles = Bundles(1)

    def opens(self, work: Work) -> bool:
        return self._opens

    def submit(self, token: Any, work: Work) -> None:
        if work.kind == "search" and self._searches is not None:
            self._waiting.append((token, work))
        else:
            self._calls.append((token, work))

    def results(self) -> Sequence[Done]:
        if not self._calls and not self._flying:
            return self._searched()
        if self._calls and not self._flying:
            kind = self._calls[0][1].kind
            if kind not in self._placed:
                placement = place_tasks(self._compute.means(), len(self._calls), force_tiles=False)
                if placement is not None:
                    self._place(kind, len(self._calls), placement)
            if kind not in self._placed or self._placed[kind].where == "process":
                return [self._here()]
        return self._there()

    def _place(self, kind: str, count: int, placement: Placement) -> None:
        self._placed[kind] = placement
        self._compute.decide(_WORDS.get(kind, "{} pieces of work").format(count), placement)

    def _here(self) -> Done:
        """Run the next piece in this process; the first of a kind tells where the others run."""
        token, work = self._calls.popleft()
        begun = time.perf_counter()
        error, value = None, None
        try:
            value = value_of(work, self._handle.tail if work.model else None)
        except (Exception, SystemExit) as found:
            if is_interruption(found):
                raise
            error = found if isinstance(found, Exception) else RuntimeError(f"SystemExit: {found}")
        seconds = time.perf_counter() - begun
        if work.kind not in self._placed:
            placement = place_shares(self._compute.means(), len(self._calls), seconds)
            self._place(work.kind, 1 + len(self._calls), placement)
        return Done(token, work, value, error, Ran("process", this_process(), seconds))

    def _there(self) -> Sequence[Done]:
        """Send what waits to the workers, and wait for an answer."""
        pool = self._compute.pool()
        if self._stream is None:
            if self._origins:
                _check_origins(pool, self._origins)
            self._bundles = Bundles(len(pool))
            self._stream = pool.run(depth=2, join=self._join, size=self._bundles.size)
        for token, work in self._calls:
            pool.submit(Call("run_works", (self._sent(work),), tag=(token, work)))
        self._flying += len(self._calls)
        self._calls.clear()
        call, answers, worker = next(self._stream)
        done = []
        for part, (value, error, seconds, size) in zip(call.parts, answers, strict=True):
            self._bundles.took(seconds, size)
            token, work = part.tag
            done.append(Done(token, work, value, error, Ran("worker", pool.worker_name(worker), seconds)))
        self._flying -= len(done)
        if not self._flying and not self._calls:
            self._stream.close()  # so that others can use the pool
            self._stream = None
        return done

    def _join(self, calls: Sequence[Call]) -> Call:
        works = [call.args[0] for call in calls]
        model = self._compute.pool().share(self._handle.shipped) if any(work.model for work in works) else None
        return Call("run_works", (works, model), tag=calls[0].tag, parts=tuple(calls))

    def _searched(self) -> Sequence[Done]:
        assert self._searches is not None
        waiting, self._waiting = self._waiting, []
        ends = self._searches([work for _, work in waiting])
        return [Done(token, work, end, None, Ran("")) for (token, work), end in zip(waiting, ends, strict=True)]

    def _sent(self, work: Work) -> SentWork:
        return SentWork(work.call, tuple(map(self._travelling, work.args)), work.model, self._origins)

    def _travelling(self, value: Any) -> Any:
        """An argument, or a reference to one that may be large: it travels once, however many pieces share it."""
        try:
            return self._compute.pool().share(value)
        except TypeError:  # of a plain type: no weak reference, or no hash
            return value


def _check_origins(pool: WorkerPool, origins: Mapping[str, str]) -> None:
    """Refuse workers that lack a method of another package, or have it in another version than here."""
    calls = [Call("other_methods", (origins,), tag=worker, worker=worker) for worker in range(len(pool))]
    found = {call.tag: why for call, why, _ in pool.run(calls)}
    if why := next((found[worker] for worker in sorted(found) if found[worker]), ""):
        raise InputError(why)
