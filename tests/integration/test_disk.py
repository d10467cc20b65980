"""Disks that are full or read-only, and files in the way: one sentence, and what was there before stays."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import SHIPPED, Command
from tests.support.batches import words_of

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


FULL = """
import contextlib, io, json, os, subprocess, sys
from pathlib import Path

disk, words = Path(sys.argv[1]), json.loads(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
run_directory, ballast = disk / "run", disk / "ballast"
repaired, whole = run_directory / "repair" / "model.keras", Path(sys.argv[3]) / "repair" / "model.keras"

from cli.main import run
from cluster.records.schema import SCHEMAS
from cluster.records.store import read_facts, read_table

def leave(free):
    "Fill the disk up to so many bytes."
    ballast.unlink(missing_ok=True)
    status = os.statvfs(disk)
    ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - free))

def call(*more):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*words, "--output-dir", str(run_directory), *more])
    return {
        "code": code,
        "err": err.getvalue(),
        "files": sorted(str(path.relative_to(run_directory)) for path in run_directory.rglob("*")),
        "state": read_facts(run_directory)["state"],
        "rows": {name: read_table(run_directory, name).num_rows for name in SCHEMAS},
        "done": read_table(run_directory, "jobs")["state"].to_pylist().count("done"),
        "model": repaired.read_bytes() == whole.read_bytes() if repaired.exists() else None,
    }

said = {}
leave(150_000)
said["searches"] = call()
leave(280_000)
said["model"] = call("--resume")
leave(440_000)
said["tables"] = call("--resume")
subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
said["end"] = call("--resume")

from tests.support.batches import differences
said["differences"] = differences(run_directory, Path(sys.argv[3]))
print(json.dumps(said))
"""


@pytest.mark.slow
def test_full_among_the_searches_of_a_batch(repairsets: Path, undisturbed: Path, tmp_path: Path) -> None:
    """A disk of 1 MB in a user namespace, filled so that the room ends among the searches, at the model, after it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no disk of our own in a user namespace: {probe.stderr.strip()}")
    words = words_of(repairsets, Path("unused"), "independent", "--num-workers", "0", "--verbose", "0")
    done = subprocess.run(
        [*alone, sys.executable, "-c", FULL, disk, json.dumps(words), undisturbed],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    sentence = f"error: {disk / 'run'}: no space is left on the disk; what was written before is whole; free some space"
    for full in ("searches", "model", "tables"):
        assert said[full]["code"] == 1
        assert said[full]["err"].startswith(sentence) and said[full]["err"].count("\n") == 1
        assert said[full]["state"] in ("running", "failed")
        assert not [name for name in said[full]["files"] if Path(name).name.startswith(".")]
    assert 0 < said["searches"]["done"] < said["model"]["done"] == said["tables"]["done"] == 14
    assert [said[full]["model"] for full in ("searches", "model", "tables", "end")] == [None, None, True, True]
    assert not [name for name in said["model"]["files"] if name.startswith("repair")]
    assert (said["end"]["code"], said["end"]["err"], said["end"]["state"]) == (0, "", "done")
    assert said["differences"] == []


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
