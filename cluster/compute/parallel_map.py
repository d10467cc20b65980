"""Independent pieces of work on pictures on Ray workers, or in this process where that is sooner done.

Nothing here imports TensorFlow, so workers are there in a second or two.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.compute.options import ComputeOptions
from cluster.ray_cluster.local_workers import PICTURES, check_local, unasked
from cluster.workers.bundles import Call
from engine.core.errors import WorkError

if TYPE_CHECKING:
    from cluster.workers.pool import WorkerPool

P = TypeVar("P")
R = TypeVar("R")

RAY_START_SECONDS = 6.0  # of Ray here and processes in it that import NumPy and scikit-image, measured on two cores
_END: Any = object()


class PictureWorker:
    """An actor that calls functions; see `cluster.workers.pool.Actor`."""

    def __init__(self, threads: int) -> None:
        del threads

    def describe(self) -> tuple[str, int, str]:
        return socket.gethostname(), os.getpid(), ""

    def call(self, function: Callable[[P], R], piece: P) -> R | FileNotFoundError:
        """The result of a function, or of a file that cannot be seen here the error."""
        try:
            return function(piece)
        except FileNotFoundError as error:
            return error


class RayMap:
    """An `engine.core.parallel.ParallelMap` over the workers of one command; a context manager."""

    def __init__(
        self, num_workers: int | None = None, address: str | None = None, say: Callable[[str], None] = print
    ) -> None:
        """Nothing starts before it is needed; without a number of workers measured cost decides, here or on workers."""
        ComputeOptions(num_workers, address)
        if num_workers and address is None:
            check_local(num_workers, PICTURES, say)
        self._num_workers, self._address, self._say = num_workers, address, say
        self._stack = ExitStack()
        self._pool: WorkerPool | None = None
        self._blind = False

    def __enter__(self) -> RayMap:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()
        self._stack.close()

    def __call__(self, function: Callable[[P], R], pieces: Iterable[P], count: int) -> Iterator[tuple[P, R]]:
        """See `engine.core.parallel.ParallelMap`; WorkError where a piece takes down one process after the other."""
        waiting = iter(pieces)
        if self._num_workers is None and self._address is None:
            # The first piece also imports what it needs; the second one tells what a piece costs.
            seconds = 0.0
            for _ in range(2):
                begun = time.perf_counter()
                piece = next(waiting, _END)
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
            pool = self._start()
            self._say(f"{count} pieces of work: on {len(pool)} workers ({reason})")
            yield from self._on_workers(pool, function, waiting)
        else:
            self._say(f"{count} pieces of work: in this process ({reason})")
            for piece in waiting:
                yield piece, function(piece)

    def _start(self) -> WorkerPool:
        if self._pool is None:
            import ray

            from cluster.ray_cluster.connect import connected
            from cluster.workers.pool import WorkerPool

            wanted = self._num_workers or (unasked(PICTURES) if self._address is None else None)
            resources = self._stack.enter_context(connected(self._address, wanted, 0.0))
            if wanted is None:  # one for each CPU, also where there are GPUs: pictures want none
                resources = replace(resources, workers=max(1, int(ray.cluster_resources().get("CPU", 1))))
            self._pool = WorkerPool(resources, PictureWorker)
        return self._pool

    def _on_workers(self, pool: WorkerPool, function: Callable[[P], R], waiting: Iterator[P]) -> Iterator[tuple[P, R]]:
        from cluster.workers.pool import DeadlyCallError

        def submit(count: int) -> None:
            for _ in range(count):
                if (piece := next(waiting, _END)) is not _END:
                    pool.submit(Call("call", (function, piece), tag=piece))

        submit(len(pool))
        try:
            for call, result, _ in pool.run():
                submit(1)
                pool.send()  # workers go on while the caller takes the result
                missed = isinstance(result, FileNotFoundError)
                yield call.tag, self._here(function, call.tag, result) if missed else result
        except DeadlyCallError as error:
            raise WorkError(f"{error.workers} workers died over one piece of work: {error.why}") from error

    def _here(self, function: Callable[[P], R], piece: P, missed: FileNotFoundError) -> R:
        if not self._blind:
            self._blind = True
            self._say(f"a worker does not see {missed.filename}: what workers do not see is done in this process")
        return function(piece)
