"""What each worker gets, and what a cluster that is not there or too small is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from cluster.compute.compute import Compute, ComputeOptions
from cluster.ray_cluster.connect import _share, runtime_environment
from engine.core.errors import InputError


@pytest.mark.parametrize(
    ("machine", "asked", "workers", "gpus"),
    [
        ((64, 8), (None, None), 8, 1.0),
        ((64, 8), (8, None), 8, 1.0),
        ((64, 8), (4, None), 4, 1.0),
        ((64, 8), (24, None), 24, 0.3333),  # rounded down, so that the sum is no more than there is
        ((64, 8), (None, 0.5), 16, 0.5),
        ((64, 8), (8, 0.0), 8, 0.0),
        ((6, 0), (None, None), 6, 0.0),  # without GPUs every CPU is a worker
        ((6, 0), (3, None), 3, 0.0),
    ],
)
def test_what_each_worker_gets(
    machine: tuple[int, int], asked: tuple[int | None, float | None], workers: int, gpus: float
) -> None:
    found = _share({"CPU": machine[0], "GPU": machine[1]}, *asked, local=False)
    assert (found.workers, found.gpus_per_worker) == (workers, gpus)


def test_more_than_the_cluster_has_is_refused() -> None:
    with pytest.raises(InputError, match="need 2 GPUs and the cluster has 1"):
        _share({"CPU": 8.0, "GPU": 1.0}, 2, 1.0, local=False)
    with pytest.raises(InputError, match="9 workers need as many CPUs and the cluster has 8"):
        _share({"CPU": 8.0}, 9, None, local=False)


def test_more_gpus_than_a_real_cluster_has(cluster: Cluster) -> None:
    options = ComputeOptions(num_workers=2, gpus_per_worker=1.0)
    with pytest.raises(InputError, match="the cluster has 0"), Compute(options, lambda line: None):
        pass


def test_workers_never_start_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    environment = runtime_environment(tmp_path, ship_code=True)
    assert environment["working_dir"] == str(tmp_path)
    assert [Path(module).name for module in environment["py_modules"]] == ["engine", "cluster"]


@pytest.mark.parametrize("stated", ["programs", "", "off"])
def test_workers_keep_programs_in_the_same_folder(stated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPAIR_DIST_CACHE", stated)
    told = runtime_environment(tmp_path, ship_code=False)["env_vars"]["REPAIR_DIST_CACHE"]
    assert told == (str(tmp_path / stated) if stated == "programs" else stated)


def test_a_submitted_job_keeps_its_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"runtime_env": {"working_dir": "gcs://package.zip"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert "working_dir" not in runtime_environment(tmp_path, ship_code=False)
