"""Run directories: parts that replace each other, runs that go on or refuse to, tables that are whole at any moment."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from cluster.records import store
from cluster.records.schema import OF_METHODS, SCHEMAS
from cluster.records.store import RunRecords, comparable, holds_run, read_facts, read_part, read_table
from engine.core.errors import InputError
from engine.core.files import remove

IDENTITY: dict[str, Any] = {
    "model": "abc",
    "data": {"chunk 0": "one", "test data": "two"},
    "settings": {"num_iterations": 5, "swarm": {"phi": 4.1}},
    "seeds": [0, 1],
    "hardware": "CPU x86_64 avx2",
}


def row(table: str, **values: Any) -> dict[str, Any]:
    """A row with values of the right kind in all columns."""
    made = {}
    for field in SCHEMAS[table]:
        kind = field.type
        if pa.types.is_list(kind):
            made[field.name] = [1, 2]
        elif pa.types.is_string(kind):
            made[field.name] = "x"
        elif pa.types.is_boolean(kind):
            made[field.name] = False
        else:
            made[field.name] = 1
    return made | values


def job(name: str, state: str = "done") -> dict[str, Any]:
    return row("jobs", job=name, state=state)


def swarm(name: str, count: int) -> list[dict[str, Any]]:
    return [row("swarm", job=name, iteration=number + 1) for number in range(count)]


def stopping(after: int) -> Callable[[Path], None]:
    """Removes so many files, and is interrupted at the next."""
    removed: list[Path] = []

    def one(path: Path) -> None:
        if len(removed) == after:
            raise KeyboardInterrupt
        removed.append(path)
        remove(path)

    return one


@pytest.fixture
def records(tmp_path: Path) -> RunRecords:
    return RunRecords.create(tmp_path / "run", {"identity": IDENTITY}, overwrite=False)


def test_a_part_is_replaced(records: RunRecords) -> None:
    records.replace("swarm", "a", swarm("a", 2))
    # Another command that goes on with the run knows nothing of the parts before it.
    RunRecords(records.directory).replace("swarm", "a", swarm("a", 3))
    records.replace("swarm", "b", swarm("b", 2))
    found = read_table(records.directory, "swarm").select(["job", "iteration"]).to_pylist()
    assert [(entry["job"], entry["iteration"]) for entry in found] == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)]
    assert [len(read_part(records.directory, "swarm", part)) for part in ("a", "none")] == [3, 0]


def test_names_that_a_file_cannot_have(records: RunRecords) -> None:
    names = ["a/b", "a_b", "a b", "ä", "a" * 30, "a" * 300, "a" * 301, "../../up"]
    for name in names:
        records.replace("jobs", name, [job(name)])
    assert sorted(read_table(records.directory, "jobs")["job"].to_pylist()) == sorted(names)
    assert [path.name for path in records.directory.parent.iterdir()] == ["run"]


def test_compacting_changes_no_row(records: RunRecords) -> None:
    records.replace("swarm", "a", swarm("a", 3))
    records.replace("jobs", "a", [job("a"), job("b", "skipped")])
    records.replace("patches", "a", [row("patches", job="a", fitness=math.nan)])
    before = {name: read_table(records.directory, name) for name in SCHEMAS}
    records.compact({"identity": IDENTITY, "exit_code": 0})
    after = {name: read_table(records.directory, name) for name in SCHEMAS}
    assert {name: str(table.to_pylist()) for name, table in before.items()} == {
        name: str(table.to_pylist()) for name, table in after.items()
    }
    assert read_facts(records.directory)["state"] == "done"
    left = sorted(path.name for path in records.directory.iterdir())
    assert left == sorted([*(f"{name}.arrow" for name in SCHEMAS if name not in OF_METHODS), "run.json"])
    assert all(table.schema.equals(SCHEMAS[name]) for name, table in after.items()), "also of tables without a file"


def test_tables_of_a_method_are_there_where_it_wrote_them(records: RunRecords) -> None:
    for name in OF_METHODS:
        records.replace(name, "a", [row(name)])
    before = {name: read_table(records.directory, name) for name in OF_METHODS}
    assert all(len(table) == 1 for table in before.values())
    records.compact({"identity": IDENTITY})
    assert {name: read_table(records.directory, name) for name in OF_METHODS} == before
    assert {path.stem for path in records.directory.glob("*.arrow")} == set(SCHEMAS)


def test_going_on_keeps_what_has_ended(records: RunRecords) -> None:
    for name, states in {"a": ["done", "skipped"], "b": ["done", "running"], "c": ["failed"]}.items():
        records.replace("jobs", name, [job(f"{name}{number}", state) for number, state in enumerate(states)])
        records.replace("swarm", name, swarm(f"{name}0", 2))
        records.replace("patches", name, [row("patches", job=f"{name}0")])
    records.write_checkpoint("b", b"state")
    again = RunRecords.resume(records.directory, {"identity": IDENTITY})
    assert read_table(again.directory, "jobs")["job"].to_pylist() == ["a0", "a1"]
    assert set(read_table(again.directory, "swarm")["job"].to_pylist()) == {"a0"}
    assert set(read_table(again.directory, "patches")["job"].to_pylist()) == {"a0"}
    assert [path.read_bytes() for path in again.checkpoints()] == [b"state"]
    assert read_facts(again.directory)["state"] == "running"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": "abd"}, 'model "abc" and this command has "abd"'),
        ({"data": {"chunk 0": "other", "test data": "two"}}, 'data chunk 0 "one" and this command has "other"'),
        ({"data": {"chunk 0": "one"}}, 'data test data "two" and this command has nothing'),
        ({"data": IDENTITY["data"] | {"chunk 1": "new"}}, 'data chunk 1 nothing and this command has "new"'),
        ({"settings": {"num_iterations": 5, "swarm": {"phi": 4.2}}}, "settings swarm phi 4.1"),
        ({"seeds": [0, 1, 2]}, "seeds [0, 1] and this command has [0, 1, 2]"),
        ({"hardware": "GPU"}, 'hardware "CPU x86_64 avx2" and this command has "GPU"'),
    ],
)
def test_going_on_with_something_else_is_refused(records: RunRecords, changed: Mapping[str, Any], says: str) -> None:
    before = {path: path.read_bytes() for path in records.directory.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as refusal:
        RunRecords.resume(records.directory, {"identity": IDENTITY | changed})
    assert says in str(refusal.value) and str(refusal.value).endswith("expected the same to resume")
    assert {path: path.read_bytes() for path in records.directory.rglob("*") if path.is_file()} == before


def test_a_directory_in_use_is_refused(records: RunRecords, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a run is there already"):
        RunRecords.create(records.directory, {}, overwrite=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(InputError, match="something that is not a run is there already"):
        RunRecords.create(tmp_path / "other", {}, overwrite=True)
    records.replace("jobs", "a", [job("a")])
    fresh = RunRecords.create(records.directory, {}, overwrite=True)
    assert read_table(fresh.directory, "jobs").num_rows == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is damaged ("),
        ("[]", "holds no table of facts, expected the facts of a run"),
        ('{"format": "new"}', 'is damaged (format "new"), expected a number'),
    ],
)
def test_a_damaged_run_json_is_said(text: str, says: str, records: RunRecords) -> None:
    (records.directory / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(f"run.json: {says}")):
        read_facts(records.directory)


def test_a_reader_never_sees_a_torn_or_shrinking_table(records: RunRecords) -> None:
    problems: list[str] = []
    seen: list[int] = []
    stop = threading.Event()

    def read() -> None:
        most = 0
        while not stop.is_set():
            try:
                rows = read_table(records.directory, "swarm").num_rows
            except Exception as error:
                problems.append(repr(error))
                return
            if rows < most:
                problems.append(f"{rows} rows after {most}")
            most = max(most, rows)
            seen.append(rows)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        records.replace("swarm", f"j{number}", swarm(f"j{number}", 1))
        records.replace("swarm", f"j{number}", swarm(f"j{number}", 5))
    records.compact({})
    while seen and seen[-1] < 300 and reader.is_alive():
        pass
    stop.set()
    reader.join()
    assert problems == []
    assert seen[-1] == 300 and len(set(seen)) > 5


def test_time_and_place_are_not_compared(records: RunRecords) -> None:
    records.replace("jobs", "a", [job("a")])
    columns = comparable(read_table(records.directory, "jobs")).column_names
    assert not {"worker", "host", "where", "seconds", "ended", "redispatched"} & set(columns)
    assert {"job", "fitness", "positive_weight", "state"} <= set(columns)


def test_a_run_of_another_command_cannot_be_resumed(tmp_path: Path) -> None:
    RunRecords.create(tmp_path / "run", {"command": ["optimize"]}, overwrite=False)
    with pytest.raises(
        InputError, match=r"run: found a run without an identity, expected one of this version, or --overwrite$"
    ):
        RunRecords.check_same(tmp_path / "run", {"identity": IDENTITY})


def test_jobs_are_found_in_their_parts(records: RunRecords) -> None:
    names = ["step1-chunk0-label6+0", "step1-chunkold shoes-label6+0", "step1-chunkold_shoes-label6+0"]
    for number, name in enumerate(names):
        records.replace("jobs", name, [job(f"{number}-a"), job(f"{number}-b")])
    for part in records.parts("jobs"):
        found = read_part(records.directory, "jobs", part).to_pylist()
        assert len(found) == 2
        records.replace("jobs", part, [entry | {"chosen": True} for entry in found])
    table = read_table(records.directory, "jobs").to_pylist()
    assert [entry["job"] for entry in table] == ["0-a", "0-b", "1-a", "1-b", "2-a", "2-b"]
    assert all(entry["chosen"] for entry in table)


def test_a_run_killed_while_its_tables_became_whole_goes_on(records: RunRecords, tmp_path: Path) -> None:
    for name in ("a", "b"):
        records.replace("swarm", name, swarm(name, 3))
        records.replace("jobs", name, [job(name)])
        records.replace("patches", name, [row("patches", job=name)])
    finished = tmp_path / "finished"
    shutil.copytree(records.directory, finished)
    RunRecords(finished).compact({"identity": IDENTITY})
    expected = {name: read_table(finished, name) for name in SCHEMAS}
    tables = [name for name in SCHEMAS if name not in OF_METHODS]
    for killed_at in range(len(tables)):
        run = tmp_path / f"run{killed_at}"
        shutil.copytree(records.directory, run)
        for name in tables[: killed_at + 1]:
            shutil.copy(finished / f"{name}.arrow", run)
        if killed_at == len(tables) - 1:  # all are whole, and some parts are gone
            shutil.rmtree(run / "swarm")
            next((run / "jobs").iterdir()).unlink()
        again = RunRecords.resume(run, {"identity": IDENTITY})
        assert {name: read_table(run, name) for name in SCHEMAS} == expected
        again.compact({"identity": IDENTITY})
        assert {name: read_table(run, name) for name in SCHEMAS} == expected


def test_no_part_is_overlooked_while_it_is_replaced() -> None:
    """On tmpfs a long listing leaves out files that are replaced meanwhile."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or not os.access(memory, os.W_OK):
        pytest.skip("this machine has no /dev/shm to write to")
    parts = 1500
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        records = RunRecords.create(Path(folder) / "run", {}, overwrite=False)
        for number in range(parts):
            records.replace("jobs", f"step1-chunk{number}-label6+0", [job(str(number))])
        stop = threading.Event()
        order = Random(1).sample(range(parts), parts)

        def replace() -> None:
            for number in cycle(order):  # no part twice within two listings, as no search is so short
                if stop.is_set():
                    return
                records.replace("jobs", f"step1-chunk{number}-label6+0", [job(str(number))])

        writer = threading.Thread(target=replace)
        writer.start()
        try:
            seen = [len(records.parts("jobs")) for _ in range(15)]
        finally:
            stop.set()
            writer.join()
    assert seen == [parts] * 15


def test_a_run_whose_place_another_takes(records: RunRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped among the removals, nothing of either is left to go on with."""
    directory = records.directory
    for name in ("a", "b"):
        records.replace("jobs", name, [job(name)])
        records.replace("swarm", name, swarm(name, 2))
    records.compact({"identity": IDENTITY, "exit_code": 0})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "remove", stopping(3))
        RunRecords.create(directory, {"identity": IDENTITY}, overwrite=True)
    assert not holds_run(directory)
    RunRecords.check_new(directory, overwrite=False)
    again = RunRecords.create(directory, {"identity": IDENTITY}, overwrite=False)
    assert len(read_table(again.directory, "jobs")) == len(read_table(again.directory, "swarm")) == 0
    assert read_facts(directory)["state"] == "running"


def test_steps_behind_one_that_failed_are_begun_again(records: RunRecords) -> None:
    """They began from what that left, which may be something else now."""
    for name, step, state in (("a", 1, "done"), ("b", 2, "failed"), ("c", 2, "done"), ("d", 3, "done")):
        records.replace("jobs", name, [job(name, state) | {"step": step}])
        records.replace("patches", name, [row("patches", job=name)])
    records.write_checkpoint("e", b"of step 3")
    again = RunRecords.resume(records.directory, {"identity": IDENTITY})
    assert read_table(again.directory, "jobs")["job"].to_pylist() == ["a", "c"]
    assert set(read_table(again.directory, "patches")["job"].to_pylist()) == {"a", "c"}
    assert again.checkpoints() == []


JOBS = (("a", 1, "done"), ("b", 1, "skipped"), ("c", 2, "done"), ("d", 2, "failed"), ("e", 3, "done"))
OF_JOBS = ("swarm", "patches")


def ended_with_failures(records: RunRecords) -> None:
    for name, step, state in JOBS:
        for table in (*OF_JOBS, "jobs"):
            more = {"step": step, "state": state} if table == "jobs" else {}
            records.replace(table, name, [row(table, job=name) | more])
    records.replace("labels", "e", [row("labels", job="e")])


def goes_on(directory: Path) -> None:
    """What failed is tried again; what it brings is read, and joined, with what is kept of the command before."""
    again = RunRecords.resume(directory, {"identity": IDENTITY})
    assert len(read_table(directory, "labels")) == 0
    for table in (*OF_JOBS, "jobs"):
        assert set(read_table(directory, table)["job"].to_pylist()) == {"a", "b", "c"}
        again.replace(table, "d", [row(table, job="d") | ({"state": "done"} if table == "jobs" else {})])
    for _ in ("in parts", "whole"):
        for table in (*OF_JOBS, "jobs"):
            assert read_table(directory, table)["job"].to_pylist() == ["a", "b", "c", "d"]
        again.join_tables()


def test_killed_behind_whole_tables_and_as_they_go(records: RunRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    ended_with_failures(records)
    records.join_tables()
    records.write_checkpoint("e", b"of step 3")
    for stops in count():
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(store, "remove", stopping(stops))
            RunRecords.resume(records.directory, {"identity": IDENTITY})
            break
    assert stops > len(SCHEMAS)
    assert records.checkpoints() == []
    goes_on(records.directory)


@pytest.mark.parametrize("whole", [["swarm"], ["swarm", "labels", "jobs"]])
def test_killed_among_whole_tables(whole: list[str], records: RunRecords, tmp_path: Path) -> None:
    """Some of them were written, and all parts are still there."""
    ended_with_failures(records)
    shutil.copytree(records.directory, tmp_path / "joined")
    RunRecords(tmp_path / "joined").join_tables()
    for name in whole:
        shutil.copy(tmp_path / "joined" / f"{name}.arrow", records.directory)
    goes_on(records.directory)


def test_whole_tables_without_failures_stay(records: RunRecords) -> None:
    records.replace("jobs", "a", [job("a"), job("b", "skipped")])
    records.join_tables()
    before = (records.directory / "jobs.arrow").read_bytes()
    RunRecords.resume(records.directory, {"identity": IDENTITY})
    assert (records.directory / "jobs.arrow").read_bytes() == before


def test_records_that_move_while_they_are_read(records: RunRecords, tmp_path: Path) -> None:
    """As those of an evaluation do at its end."""
    unfinished, place = tmp_path / store.EVALUATE_UNFINISHED, tmp_path / store.EVALUATE_RUN
    records.directory.rename(unfinished)

    def read(directory: Path) -> Path:
        if directory == unfinished and unfinished.exists():
            unfinished.rename(place)
        read_facts(directory)
        return directory

    assert store.read_there(place, read) == place
    assert store.read_there(place, read) == place
    with pytest.raises(InputError, match=r"found no run\.json"):
        store.read_there(tmp_path / "other", read)


def test_a_folder_with_nothing_but_what_a_killed_command_began_is_empty(tmp_path: Path) -> None:
    (tmp_path / ".run.tmp-0123456789ab").touch()
    (tmp_path / ".lock").touch()
    RunRecords.check_new(tmp_path, overwrite=False)
    RunRecords.create(tmp_path, {"identity": IDENTITY}, overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "run.json"]
    (tmp_path / "other" / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match="something that is not a run"):
        RunRecords.check_new(tmp_path / "other", overwrite=False)
