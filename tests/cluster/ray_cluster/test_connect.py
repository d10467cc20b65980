"""What each worker gets, and what a cluster that is not there or too small is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from cluster.compute.compute import Compute, ComputeOptions
from cluster.ray_cluster.connect import _share, runtime_environment
from engine.core.errors import InputError


def test_gpus_are_shared_among_the_workers() -> None:
    machine = {"CPU": 64.0, "GPU": 8.0}
    assert _share(machine, None, None, local=False).workers == 8
    assert _share(machine, 8, None, local=False).gpus_per_worker == 1.0
    assert _share(machine, 4, None, local=False).gpus_per_worker == 1.0
    shared = _share(machine, 24, None, local=False)
    assert 0 < shared.gpus_per_worker * 24 <= 8
    assert _share(machine, None, 0.5, local=False).workers == 16
    assert _share(machine, 8, 0.0, local=False).gpus_per_worker == 0.0


def test_without_gpus_every_cpu_is_a_worker() -> None:
    assert _share({"CPU": 6.0}, None, None, local=False).workers == 6
    assert _share({"CPU": 6.0}, 3, None, local=False).gpus_per_worker == 0.0


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
