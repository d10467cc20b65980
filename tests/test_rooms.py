"""The linter's contracts on imports fail where an import goes up or in a circle, or the engine learns of Ray."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code and the contracts in a folder of their own."""
    root = tmp_path_factory.mktemp("copied")
    for name in ("engine", "cluster", "cli"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "quickstart_data"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def contracts(root: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)


def test_the_code_keeps_them(copied: Path) -> None:
    done = contracts(copied)
    assert done.returncode == 0, done.stdout
    assert "7 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("engine/core/files.py", "from engine.data import chunks", "Rooms of the engine"),
        ("engine/search/swarm.py", "from engine.targets.base import Target", "Rooms of the engine"),
        ("engine/search/loop.py", "import ray", "The engine knows no Ray and no click"),
        ("cluster/runs/optimize.py", "from engine.targets.last_dense import find_target", "One kind of target"),
        ("engine/problem/case.py", "from cluster.workers import lru", "Packages: imports go down"),
        ("cluster/records/rows.py", "from cluster.runs import reports", "Rooms of the cluster"),
        ("cluster/workers/pool.py", "import cli.main", "Packages: imports go down"),
        ("cli/shared/options.py", "from cli.commands import batch", "Rooms of the command line"),
        ("engine/fitness/soft.py", "from engine.fitness import groups", "No circles inside of rooms"),
        ("cluster/compute/placement.py", "from cluster.compute import works", "No circles inside of rooms"),
        ("cli/shared/options.py", "from cli.shared import method_options", "No circles inside of rooms"),
    ],
)
def test_an_import_that_must_not_be_breaks_them(copied: Path, file: str, line: str, broken: str) -> None:
    path = copied / file
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}\n\ndef later() -> None:\n    {line}  # also where it is local\n", encoding="utf-8")
    try:
        done = contracts(copied)
    finally:
        path.write_text(before, encoding="utf-8")
    assert done.returncode == 1
    assert any(line.startswith(broken) and " BROKEN" in line for line in done.stdout.splitlines())


def test_a_room_that_nobody_planned_breaks_them(copied: Path) -> None:
    room = copied / "engine" / "misc"
    room.mkdir()
    (room / "__init__.py").touch()
    try:
        done = contracts(copied)
    finally:
        shutil.rmtree(room)
    assert done.returncode == 1 and "misc" in done.stdout


def test_the_page_has_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package in ("engine", "cluster"):
        part = text.partition(f"## `{package}`")[2].partition("\n## ")[0]
        rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert rooms == {line.split("`")[1] for line in part.splitlines() if line.startswith("| `")}
