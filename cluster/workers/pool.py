"""A pool of replica actors that loses no call: a dead actor is replaced and its unfinished calls run again."""

from __future__ import annotations

import operator
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from cluster.ray_cluster.connect import Resources
from cluster.ray_cluster.losses import why_lost
from cluster.workers.bundles import Call
from engine.core.errors import InputError, WorkError

__all__ = ["CALL_ATTEMPTS", "Actor", "Call", "DeadlyCallError", "WorkerError", "WorkerPool"]

LOST = (RayActorError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)

# In seconds: a node may have to unpack code and import TensorFlow from a cold disk.
START_TIMEOUT = 180.0  # for the first worker to answer
STRAGGLER_TIMEOUT = 30.0  # for others once one has; a worker that waits for resources joins whenever it can
SILENCE_TIMEOUT = 300.0  # without any live worker

CALL_ATTEMPTS = 5  # a call that took down so many workers is not tried again: it is the call's fault


class WorkerError(WorkError):
    """The workers cannot finish the work."""


class DeadlyCallError(WorkerError):
    """A call that took down one worker after the other: how many, and why."""

    def __init__(self, call: str, workers: int, why: str) -> None:
        super().__init__(f"{call} took down {workers} workers: {why}")
        self.workers, self.why = workers, why


class Actor(Protocol):
    """What the pool asks of the class of its actors, which is made with the number of threads of a worker."""

    def describe(self) -> tuple[str, int, str]:
        """Host, process id and kind of hardware."""


@dataclass
class _Slot:
    actor: Any
    host: str = ""
    pid: int = 0
    kind: str = ""
    flying: dict[Any, Call] = field(default_factory=dict)
    probe: Any = None
    retry_at: float = 0.0
    error: str = ""

    @property
    def ready(self) -> bool:
        return self.probe is None and self.retry_at == 0.0


class WorkerPool:
    """Actors and the calls that wait for them."""

    def __init__(self, resources: Resources, actor_class: type[Actor]) -> None:
        """Start the actors; `wait_for_start` waits until they answer."""
        self.resources = resources
        self.redispatched = 0
        self._remote = ray.remote(num_cpus=1, num_gpus=resources.gpus_per_worker, max_restarts=0, max_task_retries=0)(
            actor_class
        )
        self._slots = [_Slot(self._new_actor()) for _ in range(resources.workers)]
        self._shared: deque[Call] = deque()
        self._own: list[deque[Call]] = [deque() for _ in self._slots]
        self._waiting = 0
        self._flying: dict[Any, int] = {}
        self._free = set(range(len(self._slots)))
        self._alive_at = time.monotonic()
        self._depth = 1
        self._join: Callable[[Sequence[Call]], Call] = operator.itemgetter(0)
        self._size: Callable[[int], int] = lambda waiting: 1
        # What nobody here needs any more leaves the object store too.
        self._references: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        for slot in self._slots:
            slot.probe = slot.actor.describe.remote()

    def wait_for_start(self) -> None:
        """Wait for the workers; once one has answered, the others get a little longer and may join later."""
        probes = [slot.probe for slot in self._slots if slot.probe is not None]
        ray.wait(probes, num_returns=1, timeout=START_TIMEOUT)
        ray.wait(probes, num_returns=len(probes), timeout=STRAGGLER_TIMEOUT)
        self._alive_at = time.monotonic()
        for slot in self._slots:
            self._check_probe(slot)
        if not any(slot.ready for slot in self._slots):
            reason = next((slot.error for slot in self._slots if slot.error), f"none answered in {START_TIMEOUT:.0f} s")
            raise WorkerError(f"no worker could start: {reason}")

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def kinds(self) -> list[str]:
        return sorted({slot.kind for slot in self._slots if slot.kind})

    def worker_name(self, index: int) -> str:
        return f"{self._slots[index].host}:{self._slots[index].pid}"

    def share(self, value: Any) -> Any:
        """A reference to an object that is compared by identity: it travels once, however many calls take it."""
        if value not in self._references:
            self._references[value] = ray.put(value)
        return self._references[value]

    def submit(self, call: Call, *, first: bool = False) -> None:
        """Queue a call, in front of the others if `first`."""
        queue = self._shared if call.worker is None else self._own[call.worker]
        self._waiting += 1
        if first:
            queue.appendleft(call)
        else:
            queue.append(call)

    def run(
        self,
        calls: Iterable[Call] = (),
        depth: int = 1,
        join: Callable[[Sequence[Call]], Call] = operator.itemgetter(0),
        size: Callable[[int], int] = lambda waiting: 1,
    ) -> Generator[tuple[Call, Any, int], None, None]:
        """Send queued calls and yield (call, result, worker) as they finish, until none is left.

        Calls submitted while iterating are taken up. At most `depth` calls are with one worker, so that it does not
        wait for its next one; only one as soon as there are few left, so that none waits behind another. `join` makes
        the calls that are sent, each of at most `size` of those that wait; those that were lost go alone. Raises what a
        call raises, and WorkerError where one took down several workers, or no worker is left.
        """
        self._depth, self._join, self._size = depth, join, size
        for call in calls:
            self.submit(call)
        try:
            while self._waiting or self._flying:
                self.send()
                yield from self._collect()
        finally:
            # An error or a caller that stops early leaves nothing behind for the next run.
            for queue in (self._shared, *self._own):
                queue.clear()
            for slot in self._slots:
                slot.flying.clear()
            self._flying.clear()
            self._waiting, self._free = 0, set(range(len(self._slots)))

    def tell(self, method: str, *args: Any) -> None:
        """Call a method that raises nothing on every worker of now, and go on; nobody asks what came of it."""
        for slot in self._slots:
            getattr(slot.actor, method).remote(*args)

    def close(self) -> None:
        for slot in self._slots:
            ray.kill(slot.actor)

    def _new_actor(self) -> Any:
        return self._remote.remote(self.resources.threads)

    def send(self) -> None:
        """Give calls to the workers that may take one; how many workers there are besides costs nothing."""
        now = time.monotonic()
        for most in range(1, self._depth + 1):
            if not self._waiting or (most > 1 and self._waiting < 2 * len(self._slots)):
                break
            for index in sorted(self._free):
                slot = self._slots[index]
                if not slot.ready:
                    self._revive(slot, now)
                    continue
                while len(slot.flying) < most:
                    call = self._next_for(index)
                    if call is None:
                        break
                    for part in call.parts or (call,):
                        part.attempts += 1
                    ref = getattr(slot.actor, call.method).remote(*call.args)
                    slot.flying[ref] = call
                    self._flying[ref] = index
                if len(slot.flying) >= self._depth:
                    self._free.discard(index)

    def _next_for(self, index: int) -> Call | None:
        """What this worker should take: a call of its own, or anybody's, or else the last of a busy or lost worker's.

        Rebuilding caches beats waiting. Calls are joined with those behind them in the same queue.
        """
        queue = self._own[index] or self._shared
        take, following = queue.popleft, 0
        if not queue:
            others = [
                queue
                for queue, slot in zip(self._own, self._slots, strict=True)
                if queue and (slot.flying or not slot.ready)
            ]
            if not others or self._slots[index].flying:
                return None
            queue = max(others, key=len)
            take, following = queue.pop, -1
        calls = [take()]
        most = 1 if calls[0].attempts else self._size(self._waiting)
        while len(calls) < most and queue and not queue[following].attempts:
            calls.append(take())
        self._waiting -= len(calls)
        return self._join(calls)

    def _collect(self) -> Iterator[tuple[Call, Any, int]]:
        probes = [slot.probe for slot in self._slots if slot.probe is not None] if self._free else []
        waiting = [*probes, *self._flying]
        if not waiting:
            time.sleep(0.05)
        # Ray looks at every answer under way: of many it is asked for several at a time, so that one costs no more.
        some = max(1, len(waiting) // 64)
        ready = ray.wait(waiting, num_returns=some, timeout=0.5 if some == 1 else 0.02)[0] if waiting else []
        if probes:
            for slot in self._slots:
                if slot.probe in ready:
                    self._check_probe(slot)
        for ref in ready:
            index = self._flying.get(ref)
            if index is None:
                continue
            slot = self._slots[index]
            call = slot.flying.pop(ref)
            del self._flying[ref]
            self._free.add(index)
            try:
                value = ray.get(ref)
            except RayTaskError as error:
                raise _cause(error) from None
            except LOST as error:
                self._requeue(slot, call, error)
            else:
                self._alive_at = time.monotonic()
                yield call, value, index
        if any(slot.ready for slot in self._slots):
            self._alive_at = time.monotonic()
        elif time.monotonic() - self._alive_at > SILENCE_TIMEOUT:
            reason = next((f": {slot.error}" for slot in self._slots if slot.error), "")
            raise WorkerError(f"no worker has answered for {SILENCE_TIMEOUT:.0f} s{reason}")

    def _requeue(self, slot: _Slot, call: Call, error: Exception) -> None:
        """Put the calls of a lost worker back in front, and replace it."""
        for part in call.parts or (call,):
            if part.attempts >= CALL_ATTEMPTS:
                name = f"{call.method} of {getattr(part.tag, 'name', part.tag)}"
                raise DeadlyCallError(name, part.attempts, why_lost(error)) from error
        slot.error = why_lost(error)
        lost = [call, *slot.flying.values()]
        for ref in slot.flying:
            del self._flying[ref]
        slot.flying.clear()
        again = [part for whole in lost for part in whole.parts or (whole,)]
        self.redispatched += len(again)
        for lost_call in reversed(again):
            lost_call.worker = None
            self.submit(lost_call, first=True)
        if not isinstance(error, ObjectLostError):
            slot.retry_at = time.monotonic()

    def _revive(self, slot: _Slot, now: float) -> None:
        if slot.probe is None and now >= slot.retry_at:
            ray.kill(slot.actor)  # it may be only unreachable, and must not keep its resources
            slot.actor = self._new_actor()
            slot.probe = slot.actor.describe.remote()

    def _check_probe(self, slot: _Slot) -> None:
        if not ray.wait([slot.probe], timeout=0)[0]:
            return
        probe, slot.probe = slot.probe, None
        try:
            slot.host, slot.pid, slot.kind = ray.get(probe)
            slot.retry_at = 0.0
        except (*LOST, ActorUnschedulableError) as error:
            slot.error = why_lost(error)
            slot.retry_at = time.monotonic() + 1.0


def _cause(error: RayTaskError) -> Exception:
    cause = getattr(error, "cause", None)
    if isinstance(cause, MemoryError):
        return WorkerError(
            "a worker ran out of memory, expected fewer --num-workers, smaller --tile-bytes or more memory"
        )
    return cause if isinstance(cause, InputError | WorkError) else error
