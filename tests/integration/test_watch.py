"""`watch`: a run followed from another process, on a terminal and without one, to its end or its driver's."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.records.store import RunRecords, read_facts, read_table
from tests.integration.conftest import Command
from tests.support.run_samples import write_run

QUICK = ["--interval", "0.05"]


def write_progress(run: Path, **changes: Any) -> None:
    """Replace `progress.json` as a batch does."""
    progress = {
        "step": 2,
        "steps": 3,
        "jobs_done": 41,
        "jobs": 108,
        "searched_iterations": 1700,
        "best": "6 Shirt +12.40 points, all -0.20",
        "elapsed": 20.5,
        "left": 34.0,
        "workers": {"node-a:4100": 11, "node-a:4101": 30},
    }
    RunRecords(run).write_progress(progress | changes)


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """A run in its second round, whose driver is this process."""
    directory = write_run(tmp_path, "running")
    write_progress(directory)
    return directory


def end(run: Path, state: str = "done") -> None:
    RunRecords(run).write_facts(read_facts(run) | {"state": state})


def age(run: Path, seconds: float) -> None:
    """Let the run look as if nothing had been written for so long."""
    then = time.time() - seconds
    for path in [*run.iterdir(), run]:
        os.utime(path, (then, then))


class Watching:
    """`watch` in a process of its own; what it says can be waited for."""

    def __init__(self, run: Path, *, terminal: bool = False) -> None:
        words = [sys.executable, "-c", "from cli.main import main; main()", "watch", str(run), *QUICK]
        reads, writes = pty.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(writes, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=writes, cwd=Path(__file__).parents[2])
        os.close(writes)
        self.said = ""
        self._thread = threading.Thread(target=self._read, args=(reads,))
        self._thread.start()

    def _read(self, descriptor: int) -> None:
        while True:
            try:
                part = os.read(descriptor, 4096)
            except OSError:  # how a terminal ends
                part = b""
            if not part:
                os.close(descriptor)
                return
            self.said += part.decode()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in self.said:
            assert time.monotonic() < deadline, self.said
            assert self.process.poll() is None, self.said
            time.sleep(0.02)

    def ended(self) -> tuple[int, str]:
        out, _ = self.process.communicate(timeout=30)
        self._thread.join()
        return self.process.returncode, out.decode()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    started: list[Watching] = []

    def start(run: Path, *, terminal: bool = False) -> Watching:
        started.append(Watching(run, terminal=terminal))
        return started[-1]

    yield start
    for watching in started:
        if watching.process.poll() is None:
            watching.process.kill()
            watching.ended()


Watch = Callable[..., Watching]


def test_a_line_for_every_change_and_the_report_at_the_end(running: Path, watch: Watch, command: Command) -> None:
    watching = watch(running)
    watching.wait_for("2 workers")
    time.sleep(0.3)  # several looks at the same state
    write_progress(running, jobs_done=60, left=400.0, best="6 Shirt +13.10 points, all -0.15")
    watching.wait_for("60 of 108")
    end(running)
    code, out = watching.ended()
    assert code == 0
    assert watching.said.splitlines() == [
        "step 2 of 3, 41 of 108 searches, 2.0 searches/s, 34 s left, 2 workers, best: 6 Shirt +12.40 points, all -0.20",
        "step 2 of 3, 60 of 108 searches, 2.9 searches/s, 6 min 40 s left, 2 workers, "
        "best: 6 Shirt +13.10 points, all -0.15",
    ]
    assert out == command("report", running).out
    assert "rounds, 6 Shirt, done" in out


def test_lines_are_rewritten_on_a_terminal(running: Path, watch: Watch) -> None:
    watching = watch(running, terminal=True)
    watching.wait_for("41 of 108 searches, 2.0 searches/s, 34 s left, 2 workers")
    watching.wait_for("best: 6 Shirt +12.40 points, all -0.20")
    write_progress(running, jobs_done=54)
    watching.wait_for("54 of 108")
    end(running, "interrupted")
    code, out = watching.ended()
    assert code == 0
    assert "interrupted" in out
    bars = re.findall(r"\|([^|]{24})\| step 2 of 3, 54 of 108", watching.said)
    assert {bar.count("█") for bar in bars} == {12}, "half of a bar of 24"
    # Both lines are wiped: after the last one there are blanks only.
    screen: dict[int, str] = {}
    row = column = 0
    for part in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", watching.said):
        if part == "\x1b[A":
            row -= 1
        elif part == "\r":
            column = 0
        elif part == "\n":
            row += 1
        else:
            line = screen.get(row, "").ljust(column)
            screen[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    assert [line for line in screen.values() if line.strip()] == []


def test_a_driver_that_died(running: Path, watch: Watch) -> None:
    """It is taken as dead when its process is gone and it has been quiet for a minute: not for one of them."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    RunRecords(running).write_facts(read_facts(running) | {"pid": dead.pid})
    watching = watch(running)
    watching.wait_for("41 of 108")
    time.sleep(0.3)
    assert watching.process.poll() is None, "it wrote a moment ago"
    age(running, 75)
    code, out = watching.ended()
    assert code == 0
    last = watching.said.splitlines()[-1]
    assert f"{running}: the run seems to have stopped, its process {dead.pid} is gone" in last
    assert re.search(r"for 1 min \d\d s", last)
    assert "--resume" in last
    assert "The run has not ended" in out


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_quiet_driver_is_watched_on(running: Path, watch: Watch, where: str) -> None:
    """A process that lives, or that is on another machine and cannot be seen."""
    if where == "elsewhere":
        dead = subprocess.Popen(["true"])
        dead.wait()
        RunRecords(running).write_facts(read_facts(running) | {"pid": dead.pid, "host": "elsewhere.invalid"})
    age(running, 75)
    watching = watch(running)
    watching.wait_for("no sign of life for 1 min")
    write_progress(running, jobs_done=42)
    watching.wait_for("42 of 108")
    assert "no sign of life" not in watching.said.splitlines()[-1]
    watching.process.send_signal(signal.SIGINT)
    code, out = watching.ended()
    assert (code, out) == (130, "")
    assert watching.said.splitlines()[-1] == "error: interrupted"


def test_a_run_without_progress_is_read_from_its_tables(running: Path, watch: Watch) -> None:
    (running / "progress.json").unlink()
    watching = watch(running)
    watching.wait_for("\n")
    end(running)
    assert watching.ended()[0] == 0
    jobs = read_table(running, "jobs").to_pylist()
    ended = sum(job["state"] != "running" for job in jobs)
    assert 0 < ended < len(jobs)
    best = max(job["fitness"] or 0 for job in jobs)
    rate = r"\d+\.\d searches/(s|min|h)"
    assert re.fullmatch(rf"step 2, {ended} searches, {rate}, 4 workers, best: fitness {best:.4g}\n", watching.said)


def test_a_run_that_has_ended(tmp_path: Path, command: Command) -> None:
    directory = write_run(tmp_path, "optimize")
    watched, reported = command("watch", directory), command("report", directory)
    assert watched == reported
    assert watched.code == 0
    assert "optimize" in watched.out


def test_bad_input(running: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("watch", tmp_path / "empty", says=("empty", "run.json"))
    refused("watch", running, "--interval", "0", says=("interval is 0",))
    refused("watch", running, "--interval=nan", says=("interval is nan",))
    facts = json.loads((running / "run.json").read_text())
    assert facts["state"] == "running"
