"""Two commands in one run directory: one works, the other is refused or takes over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.batch.run import run_recorded
from cluster.records.store import read_facts
from engine.core.errors import WorkError
from engine.core.lock import LOCK, read_holder, this_process
from tests.integration.conftest import Command, contents
from tests.support.batches import differences, here, small_batch, words_of


def begun(words: list[str], directory: Path) -> subprocess.Popen[str]:
    """A command, stopped as soon as the first of its searches has ended; it does nothing more until it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from cli.main import main; main()", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not list((directory / "jobs").glob("[!.]*")) and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    return process


def test_the_second_is_refused_and_the_first_ends_as_if_alone(
    repairsets: Path, undisturbed: Path, tmp_path: Path, command: Command
) -> None:
    directory = tmp_path / "run"
    words = words_of(repairsets, directory, "independent", "--num-workers", "0", "--resume")
    first = begun(words, directory)
    before = contents(directory)
    for more in ((), ("--verbose", "0")):
        second = command(*words, *more)
        assert second.code == 2
        holder = read_holder(directory / LOCK)
        assert holder is not None and holder.pid == first.pid
        assert second.err.splitlines()[-1] == (
            f"error: {directory}: is held by process {first.pid} on {holder.host} since {holder.since}, expected that "
            "to end first"
        )
    assert command("report", directory, "--html", tmp_path / "report.html").code == 0
    assert contents(directory) == before
    os.kill(first.pid, signal.SIGCONT)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    assert differences(directory, undisturbed) == []


def test_one_that_has_lost_its_lock_stops_and_leaves_all_to_its_successor(
    repairsets: Path, undisturbed: Path, tmp_path: Path, command: Command
) -> None:
    directory = tmp_path / "run"
    words = words_of(repairsets, directory, "independent", "--num-workers", "0", "--resume")
    first = begun(words, directory)
    (directory / LOCK).unlink()
    assert command(*words, "--verbose", "0").code == 0
    assert differences(directory, undisturbed) == []
    after = contents(directory)
    os.kill(first.pid, signal.SIGCONT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 1
    assert err.splitlines()[-1] == (
        f"error: {directory}: its lock {LOCK} was removed while this command held it, so it stopped here, expected "
        "nobody else to work there"
    )
    found = contents(directory)
    assert {name: found.get(name) for name in after} == after  # a file may have been on its way into its place
    assert read_facts(directory)["state"] == "done"


def steal(directory: Path) -> None:
    (directory / LOCK).unlink()
    (directory / LOCK).write_text(json.dumps(asdict(replace(this_process(), host="elsewhere"))))


@pytest.mark.parametrize("at", [1, 6])
def test_nothing_is_written_once_the_lock_is_lost(repairsets: Path, tmp_path: Path, at: int) -> None:
    directory = tmp_path / "run"
    told: list[Mapping[str, Any]] = []
    before: dict[str, str] = {}

    def tell(progress: Mapping[str, Any]) -> None:
        told.append(progress)
        if len(told) == at:
            steal(directory)
            before.update(contents(directory))

    with here() as compute, pytest.raises(WorkError, match=r"was taken over by process \d+ on elsewhere"):
        run_recorded(small_batch(repairsets, directory), compute, on_jobs=tell)
    assert before and contents(directory) == before
    assert read_facts(directory)["state"] == "running"


def test_a_folder_with_nothing_but_the_lock_of_a_dead_process_is_empty(
    repairsets: Path, undisturbed: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    me = this_process()
    (directory / LOCK).write_text(json.dumps(asdict(replace(me, start=me.start - 1))))
    with here() as compute:
        run_recorded(small_batch(repairsets, directory), compute)
    assert differences(directory, undisturbed) == []


OPTIMIZE = ["optimize", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6", "--num-particles", "8"]
OPTIMIZE += ["--num-iterations", "2", "--num-workers", "0", "--verbose", "0", "--run-dir", "run", "--output-dir", "out"]


def test_optimize_is_refused_where_another_is_at_work(
    workspace: Path, command: Command, refused: Callable[..., str]
) -> None:
    assert command(*OPTIMIZE).code == 0
    left = {path.name for path in Path("run").iterdir()}
    assert LOCK not in left
    Path("run", LOCK).write_text(json.dumps(asdict(this_process())))
    refused(*OPTIMIZE, "--overwrite", says=("run: is held by process", "expected that to end first"))
