"""Killed workers and nodes cost time and change nothing; `make soak` does this many times."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from cluster.batch.run import run_recorded
from cluster.compute.compute import Compute, ComputeOptions
from cluster.records.store import read_table
from cluster.workers.bundles import Bundles
from tests.support.batches import CALLS, differences, dying, here, on_doomed_node, small_batch

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks come back after every iteration, so that there are many moments."""
    for module in ("compute", "tasks"):
        monkeypatch.setattr(f"cluster.compute.{module}.SEGMENT_SECONDS", 0.0)


def test_killed_worker(cluster: Cluster, chunks: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    at = random.Random(1).randrange(1, CALLS)
    compute = Compute(ComputeOptions(num_workers=2), lambda line: None, dying(at, tmp_path / "calls"))
    with compute:
        assert run_recorded(small_batch(chunks, tmp_path / "run", "rounds"), compute) == 0
        assert compute.redispatched >= 1
    assert (tmp_path / "calls").stat().st_size > at
    assert differences(tmp_path / "run", undisturbed["rounds"]) == []
    assert sum(read_table(tmp_path / "run", "jobs")["redispatched"].to_pylist()) >= 1


def test_killed_worker_with_several_tasks(
    cluster: Cluster, chunks: Path, undisturbed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end in their call, which is lost whole with those before it in the same call."""
    for seconds in ("cluster.compute.tasks.SEGMENT_SECONDS", "cluster.workers.bundles.CALL_SECONDS"):
        monkeypatch.setattr(seconds, 1e9)
    monkeypatch.setattr(Bundles, "size", lambda self, waiting: 3)
    compute = Compute(ComputeOptions(num_workers=2), lambda line: None, dying(2, tmp_path / "calls", behind=True))
    with compute:
        assert run_recorded(small_batch(chunks, tmp_path / "run", "rounds"), compute) == 0
        assert compute.redispatched >= 2
    assert differences(tmp_path / "run", undisturbed["rounds"]) == []


def test_killed_node(cluster: Cluster, chunks: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    with on_doomed_node(cluster, random.Random(2).randrange(1, CALLS)) as (compute, tell):
        assert run_recorded(small_batch(chunks, tmp_path / "run", "rounds"), compute, on_jobs=tell) == 0
        assert compute.redispatched >= 1
    assert differences(tmp_path / "run", undisturbed["rounds"]) == []


@pytest.mark.parametrize(("before", "after"), [(0, 16), (16, 0)])
def test_resumed_with_other_workers(
    chunks: Path, undisturbed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    """Workers decide how searches are divided among tasks: here more or fewer of them find what others began."""
    changes = 0

    def interrupt(_: Mapping[str, Any]) -> None:
        nonlocal changes
        changes += 1
        if changes == 30:
            raise KeyboardInterrupt

    directory = tmp_path / "run"
    monkeypatch.setattr(Compute, "workers", before)
    with here() as compute, pytest.raises(KeyboardInterrupt):
        run_recorded(small_batch(chunks, directory, "rounds"), compute, on_jobs=interrupt)
    assert "running" in read_table(directory, "jobs")["state"].to_pylist()
    monkeypatch.setattr(Compute, "workers", after)
    with here() as compute:
        assert run_recorded(small_batch(chunks, directory, "rounds"), compute, resume=True) == 0
    assert differences(directory, undisturbed["rounds"]) == []
