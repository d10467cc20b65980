"""What workers on this machine cost is said, or refused, before any starts."""

from __future__ import annotations

import os
import re

import pytest

from cluster.compute.compute import Compute, ComputeOptions
from cluster.ray_cluster.local_workers import MODELS, PICTURES, WorkerCost, check_local, unasked
from engine.core.errors import InputError
from engine.core.memory import free_memory

CORES = os.cpu_count() or 1


def test_workers_beyond_the_cores_are_warned_of() -> None:
    said: list[str] = []
    with Compute(ComputeOptions(num_workers=CORES), said.append):
        assert said == []
    with Compute(ComputeOptions(num_workers=CORES + 1), said.append):
        assert said == [
            f"warning: {CORES + 1} workers share {CORES} cores: each takes 0.9 GiB and 4 s of a core to start, more "
            f"than {CORES} are no faster; --num-workers {CORES} would do"
        ]


@pytest.mark.parametrize("cost", [MODELS, PICTURES])
def test_workers_beyond_the_memory_are_refused(cost: WorkerCost) -> None:
    most = free_memory() // cost.memory
    with pytest.raises(InputError) as refused:
        check_local(most * 2 + 2, cost, lambda line: None)
    fit = re.search(r"expected at most (\d+) ", str(refused.value))
    assert fit and abs(int(fit[1]) - most) <= max(2, most // 4)  # others take and free memory meanwhile


def test_no_more_unasked_than_memory_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for free, expected in ((16 << 30, 18), (1 << 50, 64), (1 << 20, 1)):
        monkeypatch.setattr("cluster.ray_cluster.local_workers.free_memory", lambda free=free: free)
        assert unasked(MODELS) == expected
