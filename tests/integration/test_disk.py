"""Disks that are full or read-only, and files in the way: one sentence, and what was there before stays."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import SHIPPED, Command

HERE = ["--num-workers", "0", "--verbose", "0"]
MODEL = ["--model-dir", "model.keras"]
OPTIMIZE = ["optimize", *MODEL, "--target-data-dir", "data/negative/6", "--num-particles", "6", "--num-iterations", "1"]
PREPARE = ["prepare", "fashion-mnist", "--input-dir", SHIPPED, "--data-ratio", "0,0.5,0,0.5"]
CHART = ["utils", "draw_radar_chart", *MODEL, "--data-dir", "data", *HERE]

Commands = dict[str, Callable[[Path], list[object]]]

COMMANDS: Commands = {
    "target": lambda out: ["target", *MODEL, "--data-dir", out / "in", *HERE],
    "split": lambda out: ["split", "data/repair.h5", "--output-dir", out / "chunks"],
    "localize": lambda out: ["localize", *MODEL, "--target-data-dir", out / "in", *HERE],
    "optimize": lambda out: [*OPTIMIZE, "--run-dir", "run", "--output-dir", out / "repaired", *HERE],
    "prepare": lambda out: [*PREPARE, "--output-dir", out / "prepared"],
    "patch": lambda out: ["patch", "apply", *MODEL, "--output-dir", out / "patched", "undo.arrow"],
    "chart": lambda out: [*CHART, "--output-dir", out / "charts"],
    "merge": lambda out: [
        *["utils", "merge_repair_data", "--input-dir1", "data", "--input-dir2", "data"],
        "--output-dir",
        out / "m",
    ],
    "extract": lambda out: [*["utils", "extract_images", "--input-dir", "data"], "--output-dir", out / "pictures"],
}
INPUTS = {"target": "data/repair.h5", "localize": "data/negative/6/repair.h5"}
"""What lies in the folder that such a command writes into."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB, which a user may not always mount."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if (
        os.geteuid()
        or shutil.which("mount") is None
        or subprocess.run(words, capture_output=True, check=False).returncode
    ):
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def shown(place: Path) -> list[str]:
    return sorted(str(path) for path in place.rglob("*") if not path.is_dir())


@pytest.fixture
def undo(workspace: Path, command: Command) -> None:
    """A patch of no change that can be applied."""
    assert command(*OPTIMIZE, "--run-dir", "first", "--output-dir", "first-out", *HERE).code == 0
    assert command("patch", "revert", "first", "--output", "redo.arrow").code == 0
    assert command("patch", "revert", "redo.arrow", "--output", "undo.arrow").code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_full_and_read_only(
    name: str, disk: Path, workspace: Path, request: pytest.FixtureRequest, command: Command
) -> None:
    if name == "patch":
        request.getfixturevalue("undo")
    if name in INPUTS:
        (disk / "in").mkdir()
        (disk / "in" / "repair.h5").symlink_to(Path(INPUTS[name]).absolute())
    (disk / "filling").write_bytes(bytes(1012 << 10))
    before = shown(disk)
    done = command(*COMMANDS[name](disk))
    assert done.code == 1, done.err
    assert done.err.startswith(f"error: {disk}/")
    assert done.err.endswith(": cannot be written (the disk is full), expected more free space\n")
    assert done.err.count("\n") == 1
    assert shown(disk) == before
    (disk / "filling").unlink()
    shutil.rmtree("run", ignore_errors=True)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = command(*COMMANDS[name](disk))
    assert done.code == 2, done.err
    assert done.err.startswith(f"error: {disk}")
    assert ".tmp-" not in done.err
    assert re.search(r": cannot be .* \(Read-only file system\), expected a .*\n$", done.err)
    assert done.err.count("\n") == 1


def test_a_file_where_folders_belong(workspace: Path, command: Command) -> None:
    Path("file").touch()
    for words in (
        [*PREPARE, "--output-dir", "file"],
        ["utils", "extract_images", "--input-dir", "data", "--output-dir", "file"],
        ["quickstart", "--output-dir", "file/below"],
    ):
        done = command(*words)
        assert done.code == 2, done.err
        assert done.err.count("\n") == 1
        assert done.err.startswith("error: ") and ", expected " in done.err
