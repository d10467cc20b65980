"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from cli.main import run
from engine.metrics.requirements import read_requirements

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SMALL = ["--num-particles", "8", "--num-iterations", "3", "--fronts", "1", "--positive-weights", "0.15x"]


def execute(example: str) -> None:
    exec(compile(example, "README.md", "exec"), {})


def test_python_example(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(prepared / "data", "data")
    shutil.copy(prepared / "model.keras", "model.keras")
    (example,) = (code for code in EXAMPLES if "repair(Repairs" in code)
    execute(example)
    assert "-6-w" in capfd.readouterr().out
    assert Path("runs/one/jobs.arrow").is_file()
    assert Path("repaired/repair/model.keras").is_file()


def test_batch_requirements_queries_and_patches(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The batch of the README on less data: its requirements file, questions to the tables, and patch commands."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(prepared / "data", "data")
    shutil.copy(prepared / "model.keras", "model.keras")
    (requirements,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    Path("requirements.toml").write_text(requirements, encoding="utf-8")
    names = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    assert len(read_requirements(Path("requirements.toml"), 10, names)) == 13
    assert (
        run(["split", "data/repair.h5", "--chunk-size", "200", "--chunks", "2", "--output-dir", "data/repairsets"]) == 0
    )
    words = ["batch", "--model-dir", "model.keras", "--chunks", "data/repairsets", "--labels", "Shirt"]
    words += ["--val-data", "data/val.h5", "--test-data", "data/test.h5", "--requirements", "requirements.toml"]
    words += ["--mode", "rounds", "--seeds", "2", "--num-workers", "0", *SMALL]
    for name in ("shirt", "coat"):
        assert run([*words, "--output-dir", f"runs/{name}"]) in (0, 3)
    queries = [code for code in EXAMPLES if "runs/shirt" in code]
    assert len(queries) == 3
    for query in queries:
        capfd.readouterr()
        execute(query)
        assert capfd.readouterr().out.strip()
    commands = re.findall(r"^    repair-dist (patch .*)$", README, re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["apply", "revert", "merge", "diff"]
    for command in commands:
        assert run([word.replace("model", "model.keras") if word == "model" else word for word in command.split()]) == 0
