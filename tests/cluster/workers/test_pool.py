"""The pool of actors: calls are finished once each, errors are the caller's, hopeless calls end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from cluster.ray_cluster.connect import Resources
from cluster.workers.pool import CALL_ATTEMPTS, Call, WorkerError, WorkerPool
from cluster.workers.replica import Replica
from engine.core.errors import InputError


def _class() -> type[Replica]:
    """Made in a function, so that it travels to the workers by value."""

    class Worker(Replica):
        def double(self, number: int) -> int:
            return 2 * number

        def doubles(self, *numbers: int) -> list[int]:
            for number in numbers:
                if number == 13 or (number == 7 and len(numbers) > 1):
                    os.kill(os.getpid(), signal.SIGKILL)
            return [2 * number for number in numbers]

        def refuse(self, number: int) -> int:
            raise InputError(f"{number}: found nothing, expected something")

        def fill(self) -> None:
            raise MemoryError

        def die(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    return Worker


@pytest.fixture(scope="module")
def pool(cluster: Cluster) -> Iterator[WorkerPool]:
    workers = WorkerPool(Resources(workers=2, gpus_per_worker=0.0, threads=1, local=True), _class())
    workers.wait_for_start()
    yield workers
    workers.close()


def test_every_call_is_answered_once(pool: WorkerPool) -> None:
    answers = {
        call.tag: value for call, value, _ in pool.run([Call("double", (i,), tag=i) for i in range(40)], depth=2)
    }
    assert answers == {i: 2 * i for i in range(40)}


def test_calls_may_follow_from_answers(pool: WorkerPool) -> None:
    seen = []
    for call, value, worker in pool.run([Call("double", (1,), tag=1)]):
        seen.append(value)
        if value < 64:
            pool.submit(Call("double", (value,), tag=call.tag, worker=worker), first=True)
    assert seen == [2, 4, 8, 16, 32, 64]


def join(calls: Sequence[Call]) -> Call:
    return Call("doubles", tuple(call.args[0] for call in calls), parts=tuple(calls))


THREES: Any = {"join": join, "size": lambda waiting: 3}


def test_calls_that_wait_travel_together(pool: WorkerPool) -> None:
    """Those that are queued for one worker only with one another."""
    calls = [Call("double", (i,), tag=i, worker=i % 2 if i < 120 else None) for i in range(100, 140)]
    joined = [(call, value) for call, value, _ in pool.run(calls, depth=2, **THREES)]
    assert sorted(part.tag for call, _ in joined for part in call.parts) == list(range(100, 140))
    assert max(len(call.parts) for call, _ in joined) == 3
    for call, value in joined:
        assert value == [2 * part.tag for part in call.parts]
        assert len({part.worker for part in call.parts}) == 1


def test_calls_that_were_lost_together_go_alone(pool: WorkerPool) -> None:
    before = pool.redispatched
    calls = [Call("double", (i,), tag=i) for i in range(12)]
    joined = [(call, value) for call, value, _ in pool.run(calls, **THREES)]
    assert sorted(part.tag for call, _ in joined for part in call.parts) == list(range(12))
    lost = [call for call, _ in joined if call.parts[0].attempts > 1]
    assert 7 in [call.parts[0].tag for call in lost] and all(len(call.parts) == 1 for call in lost)
    assert pool.redispatched - before == sum(call.parts[0].attempts - 1 for call in lost) >= 3


@pytest.mark.slow
def test_the_call_that_kills_is_named_and_not_its_company(pool: WorkerPool) -> None:
    with pytest.raises(WorkerError) as ended:
        list(pool.run([Call("double", (i,), tag=i) for i in range(12, 15)], **THREES))
    assert str(ended.value) == (
        f"doubles of 13 took down {CALL_ATTEMPTS} workers: the process of the worker crashed or was killed, as Linux "
        "does when memory runs out, expected fewer --num-workers or smaller --tile-bytes where it does"
    )
    assert [value for _, value, _ in pool.run([Call("double", (3,))])] == [6]


def test_bad_input_found_by_a_worker_keeps_its_sentence(pool: WorkerPool) -> None:
    with pytest.raises(InputError, match=r"^7: found nothing, expected something$"):
        list(pool.run([Call("refuse", (7,))]))
    # The pool is as good as new.
    assert [value for _, value, _ in pool.run([Call("double", (3,))])] == [6]


def test_memory_that_a_worker_misses_is_told(pool: WorkerPool) -> None:
    with pytest.raises(WorkerError, match="a worker ran out of memory, expected fewer --num-workers"):
        list(pool.run([Call("fill", ())]))


def test_what_workers_are_told_beside_calls_harms_none(pool: WorkerPool, capfd: pytest.CaptureFixture[str]) -> None:
    """Nobody asks for the answer; who dies of it is replaced."""
    for method, args in (("double", (3,)), ("die", ())):
        pool.tell(method, *args)
        answers = [value for _, value, _ in pool.run([Call("double", (i,), tag=i) for i in range(6)])]
        assert sorted(answers) == [0, 2, 4, 6, 8, 10]
    time.sleep(6)  # after five seconds Ray tells of errors that nobody asked for
    assert "Unhandled error" not in capfd.readouterr().err


def test_a_worker_that_cannot_start_is_told_with_its_reason(cluster: Cluster) -> None:
    class Broken(Replica):
        def __init__(self, threads: int) -> None:
            raise RuntimeError("no device here")

    with pytest.raises(WorkerError, match="no device here"):
        WorkerPool(Resources(workers=1, gpus_per_worker=0.0, threads=1, local=True), Broken).wait_for_start()
