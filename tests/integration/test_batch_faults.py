"""Ctrl-C and a full disk in the midst of a batch: one sentence, nothing left running or half-written, resumable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cluster.batch.run import run_recorded
from cluster.records.store import holds_run, read_facts, read_table
from tests.support.batches import differences, doomed, here, small_batch, words_of

pytestmark = pytest.mark.slow

MARK = "REPAIR_DIST_TEST_MARK"


def check_resumed(data: Path, directory: Path, undisturbed: Path) -> None:
    """Resumed, a run ends as if nothing had happened."""
    with here() as compute:
        assert run_recorded(small_batch(data, directory), compute, resume=True) == 0
    assert differences(directory, undisturbed) == []


def marked(mark: str) -> list[str]:
    """Command lines of the processes with a mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is somebody else's
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def wait_until(what: Callable[[], Any], seconds: float) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_interrupted_in_its_midst(
    number: signal.Signals, code: int, word: str, repairsets: Path, undisturbed: Path, tmp_path: Path
) -> None:
    directory, mark = tmp_path / "run", uuid4().hex
    words = words_of(repairsets, directory, "independent", "--num-workers", "2")
    ended = doomed(100, directory, words, number=number, environment={MARK: mark})
    assert ended.returncode == code, ended.stderr
    assert "search: on 2 workers (" in ended.stderr
    assert ended.stderr.endswith(f"error: {word}\n") and "***" not in ended.stderr
    assert wait_until(lambda: not marked(mark), 15), marked(mark)
    assert read_facts(directory)["state"] == "interrupted"
    jobs = read_table(directory, "jobs").to_pylist()
    assert 0 < sum(row["state"] == "done" for row in jobs) < 14
    check_resumed(repairsets, directory, undisturbed)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_interrupted_while_ray_starts(
    number: signal.Signals, code: int, word: str, repairsets: Path, undisturbed: Path, tmp_path: Path
) -> None:
    directory, mark = tmp_path / "run", uuid4().hex
    words = words_of(repairsets, directory, "independent", "--num-workers", "2")
    command = subprocess.Popen(
        [sys.executable, "-c", "from cli.main import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, MARK: mark},
        start_new_session=True,
    )
    assert wait_until(lambda: any("agent.py" in line or "Agent" in line for line in marked(mark)), 120)
    if number == signal.SIGINT:  # as a terminal does
        os.killpg(command.pid, number)
    else:
        command.send_signal(number)
    _, err = command.communicate(timeout=60)
    assert command.returncode == code, err
    assert err.endswith(f"error: {word}\n") and "***" not in err
    assert wait_until(lambda: not marked(mark), 60), marked(mark)
    assert not holds_run(directory)  # Ray starts before anything else
    check_resumed(repairsets, directory, undisturbed)


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


def test_full_disk(repairsets: Path, undisturbed: Path, tmp_path: Path) -> None:
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
