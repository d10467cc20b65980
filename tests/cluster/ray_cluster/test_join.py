"""A command of its own process joins a running cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.cluster.conftest import SHIPPED, Case


@pytest.mark.slow
def test_join_by_address(cluster: Cluster, case: Case, tmp_path: Path) -> None:
    """Rows go to workers of the cluster, which run the code that came with the job, and nothing stays behind."""
    (tmp_path / "engine.py").write_text("raise RuntimeError('the decoy was imported')\n", encoding="utf-8")
    there = _run(tmp_path, case, "--num-workers", "2", "--spread-rows", "--address", cluster.address)
    assert "on 2 workers (asked for)" in there.stderr
    here = _run(tmp_path, case, "--num-workers", "0")
    assert there.stdout == here.stdout
    assert there.stdout.startswith("accuracy: ")


def _run(directory: Path, case: Case, *options: str) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("repair-dist")
    words = [script, "test", "--model-dir", SHIPPED / "model.keras", "--data-dir", case.data, "--target-data", "repair"]
    done = subprocess.run(
        [*map(str, words), *options], cwd=directory, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    return done
