"""The linter's contracts on imports fail where an import goes up or in a circle, or the engine learns of Ray."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
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


WRONG = [
    ("engine.core.files", "engine.data.chunks", "Rooms of the engine"),
    ("engine.search.swarm", "engine.targets.base", "Rooms of the engine"),
    ("engine.search.loop", "ray", "The engine knows no Ray and no click"),
    ("cluster.runs.optimize", "engine.targets.last_dense", "One kind of target"),
    ("engine.problem.case", "cluster.workers.lru", "Packages: imports go down"),
    ("cluster.records.rows", "cluster.runs.reports", "Rooms of the cluster"),
    ("cluster.workers.pool", "cli.main", "Packages: imports go down"),
    ("cli.shared.options", "cli.commands.batch", "Rooms of the command line"),
]
CIRCLES = [
    ("engine.fitness.soft", "engine.fitness.groups"),
    ("cluster.compute.placement", "cluster.compute.works"),
    ("cli.shared.options", "cli.shared.method_options"),
]
"""Imports that must not be: a module, what it imports, and the contract that forbids it."""


def adding(copied: Path, imports: Iterable[tuple[str, ...]]) -> str:
    """What the linter says where modules import others too, be it locally."""
    before = {}
    for importer, imported, *_ in imports:
        path = copied / f"{importer.replace('.', '/')}.py"
        before.setdefault(path, path.read_text(encoding="utf-8"))
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\n\ndef later() -> None:\n    import {imported}\n")
    try:
        done = contracts(copied)
    finally:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")
    assert done.returncode == 1
    return done.stdout


def test_imports_that_must_not_be_break_them(copied: Path) -> None:
    found = adding(copied, WRONG)
    for importer, imported, broken in WRONG:
        assert re.search(rf"^{broken}.* BROKEN$", found, re.MULTILINE), broken
        (part,) = re.findall(rf"^{broken}[^\n]*\n-+\n(.*?)(?:\n\n\n|\Z)", found, re.DOTALL | re.MULTILINE)
        assert re.search(rf"{re.escape(importer)} -> {re.escape(imported)}\b", part), (importer, part)


def test_circles_break_them(copied: Path) -> None:
    found = adding(copied, CIRCLES)
    assert re.search(r"^No circles inside of rooms BROKEN$", found, re.MULTILINE)
    for names in CIRCLES:
        assert all(name in found for name in names), names


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
