"""One name, one repair: a method gives equal weights by `optimize` and `evaluate` on the same rows and seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import Command

FEW = [
    "--model-dir",
    "model.keras",
    "--num-particles",
    "8",
    "--num-iterations",
    "8",
    "--num-workers",
    "0",
    "--seed",
    "3",
]


@pytest.mark.parametrize("method", ["CrossFit", "offsets"])
def test_equal_weights(method: str, workspace: Path, command: Command) -> None:
    Path("goals.toml").write_text("[[require]]\nmax_drop = 0.5\n", encoding="utf-8")
    folds = ["--folds", "3", "--requirements", "goals.toml", "--val-data", "data/test.h5"]
    words = [*FEW, *folds, "--method", method]
    target = ["--target-data-dir", "data/negative/6"]
    assert command("optimize", *words, *target, "--output-dir", "one", "--run-dir", "run").code in (0, 3)
    assert command("evaluate", *words, *target, "--output-dir", "many", "--num-runs", "1").code == 0
    patches = [Path(name, "patch.arrow").read_bytes() for name in ("one", "many/repaired_model_0")]
    assert patches[0] == patches[1]
    model = Path("one/repair/model.keras").read_bytes()
    assert model == Path("many/repaired_model_0/repair/model.keras").read_bytes() != Path("model.keras").read_bytes()
