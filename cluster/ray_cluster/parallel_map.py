"""Independent pieces of work on Ray workers, or in this process where that is sooner done.

For pictures, not models: nothing here imports TensorFlow, so workers are there in a second or two. Pieces go to plain
tasks, one per worker at a time, because Ray itself runs a task again whose process or node died.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

from cluster.ray_cluster.local_workers import PICTURES, check_local, unasked
from engine.core.errors import InputError, WorkError

P = TypeVar("P")
R = TypeVar("R")

RAY_START_SECONDS = 6.0
"""Starting Ray here and processes in it that import NumPy and scikit-image, measured on two cores."""

PIECE_ATTEMPTS = 5
"""A piece that took down this many processes is not tried again."""

_END = object()


class RayMap:
    """An `engine.core.parallel.ParallelMap` over the workers of one command; a context manager."""

    def __init__(
        self, num_workers: int | None = None, address: str | None = None, say: Callable[[str], None] = print
    ) -> None:
        """Nothing starts before it is needed.

        Args:
            num_workers: 0 for this process, None to decide by measured cost.
            address: of a running Ray cluster; None starts one here when it pays.
            say: is told where the work is done and why.

        Raises:
            InputError: for a negative number of workers, more than memory carries, or none of a cluster.
        """
        if num_workers is not None and num_workers < 0:
            raise InputError(f"num_workers is {num_workers}, expected 0 (this process) or more")
        if num_workers == 0 and address is not None:
            raise InputError(
                f"num_workers is 0 (this process) and address is {address!r}, expected one without the other"
            )
        if num_workers and address is None:
            check_local(num_workers, PICTURES, say)
        self._num_workers, self._address, self._say = num_workers, address, say
        self._stack = ExitStack()
        self._workers = 0
        self._blind = False

    def __enter__(self) -> RayMap:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, function: Callable[[P], R], pieces: Iterable[P], count: int) -> Iterator[tuple[P, R]]:
        """See `engine.core.parallel.ParallelMap`.

        Raises InputError as `function` does, and WorkError where a piece takes down one process after the other.
        """
        waiting = iter(pieces)
        if self._num_workers is None and self._address is None:
            # The first piece also imports what it needs; the second one tells what a piece costs.
            seconds = 0.0
            for _ in range(2):
                begun = time.perf_counter()
                piece: Any = next(waiting, _END)
                if piece is _END:
                    return
                yield piece, function(piece)
                seconds = time.perf_counter() - begun
            here = (count - 2) * seconds
            workers = unasked(PICTURES)
            there = RAY_START_SECONDS + here / workers
            reason = f"{here:.1f} s expected here, {there:.1f} s on {workers} workers"
            remote = there < here
        else:
            remote = self._num_workers != 0
            reason = "asked for" if remote else "no workers were asked for"
        if remote:
            self._start()
            self._say(f"{count} pieces of work: on {self._workers} workers ({reason})")
            yield from self._on_workers(function, waiting)
        else:
            self._say(f"{count} pieces of work: in this process ({reason})")
            for piece in waiting:
                yield piece, function(piece)

    def _start(self) -> None:
        if not self._workers:
            from cluster.ray_cluster.connect import connected

            local = unasked(PICTURES) if self._address is None else None
            wanted = self._num_workers or local
            resources = self._stack.enter_context(connected(self._address, wanted, 0.0))
            self._workers = resources.workers if wanted else _cpus()  # pictures want no GPU

    def _on_workers(self, function: Callable[[P], R], waiting: Iterator[P]) -> Iterator[tuple[P, R]]:
        import ray

        task = ray.remote(num_cpus=1, max_retries=PIECE_ATTEMPTS - 1)(_call)
        flying: dict[Any, P] = {}

        def send() -> None:
            while len(flying) < self._workers and (piece := next(waiting, _END)) is not _END:
                flying[task.remote(function, piece)] = piece  # type: ignore[assignment]

        try:
            send()
            while flying:
                (ready,), _ = ray.wait(list(flying), num_returns=1)
                piece = flying.pop(ready)
                send()
                yield piece, self._result(ready, function, piece)
        finally:
            for reference in flying:
                with contextlib.suppress(Exception):  # the cluster may be gone
                    ray.cancel(reference, force=True)

    def _result(self, ready: Any, function: Callable[[P], R], piece: P) -> R:
        import ray
        from ray.exceptions import ObjectLostError, OutOfMemoryError, RayTaskError, WorkerCrashedError

        try:
            result: R = ray.get(ready)
        except RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, InputError):
                raise cause from None
            if not isinstance(cause, FileNotFoundError):
                raise
            if not self._blind:
                self._blind = True
                self._say(f"a worker does not see {cause.filename}: what workers do not see is done in this process")
            return function(piece)
        except (ObjectLostError, OutOfMemoryError, WorkerCrashedError) as error:
            from cluster.ray_cluster.losses import why_lost

            raise WorkError(f"{PIECE_ATTEMPTS} workers died over one piece of work: {why_lost(error)}") from error
        return result


def _cpus() -> int:
    """CPUs of the cluster that was joined."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _call(function: Callable[[P], R], piece: P) -> R:
    return function(piece)
