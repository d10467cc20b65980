"""Lost workers are told of in one short sentence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ray.exceptions import ActorDiedError, ActorUnschedulableError, OutOfMemoryError, WorkerCrashedError

from cluster.ray_cluster.losses import why_lost

KILLED = (
    """1 worker(s) were killed due to the node running low on memory.
Memory on the node (IP: 192.0.2.2, ID: 561f) was 5.06GB used / 23.54GB limit (0.215125)
"""
    + "Top 10 memory users: PID MEM(GB) COMMAND\n" * 60
)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OutOfMemoryError(KILLED),
            "Ray killed workers as memory ran low on their machine (5.06GB of 23.54GB used), exp",
        ),
        (
            OutOfMemoryError("gone"),
            "Ray killed workers as memory ran low on their machine, expected fewer --num-workers",
        ),
        (ActorDiedError(), "the process of the worker crashed or was killed, as Linux does when memory runs out"),
        (WorkerCrashedError(), "the process of the worker crashed or was killed, as Linux does when memory runs out"),
        (ActorUnschedulableError("no node has 3 GPUs. " * 50), "The actor is not schedulable: no node has 3 GPUs."),
    ],
)
def test_why_a_worker_was_lost(error: Exception, says: str) -> None:
    found = why_lost(error)
    assert found.startswith(says)
    assert len(found) <= 200 and "\n" not in found


@pytest.mark.slow
def test_workers_that_ray_kills_for_memory() -> None:
    """Ray watches the memory of the machine and kills workers above a share of it, here above none."""
    script = (
        "from cluster.compute.compute import Compute, ComputeOptions\n"
        "from engine.core.errors import WorkError\n"
        "try:\n"
        "    with Compute(ComputeOptions(num_workers=1), lambda line: None) as compute:\n"
        "        compute.start()\n"
        "except WorkError as error:\n"
        "    print(error)\n"
    )
    low = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "50"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **low},
        timeout=250,
    )
    assert done.stdout.startswith("no worker could start: Ray killed workers as memory ran low on their machine (")
    assert done.stdout.endswith("expected fewer --num-workers, smaller --tile-bytes or more memory\n")
    assert done.stdout.count("\n") == 1
