"""Folders of unfinished work: what stays, what goes, and half lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import InputError, WorkError
from engine.core.resumable import work_folder


def leave(result: Path, job: dict[str, int], *entries: object) -> None:
    """Work that is interrupted after some records."""
    with pytest.raises(KeyboardInterrupt), work_folder(result, job) as work:
        for entry in entries:
            work.record(entry)
        raise KeyboardInterrupt


def test_records_come_back(tmp_path: Path) -> None:
    result = tmp_path / "result"
    leave(result, {"a": 1}, [1, "é"], {"x": None})
    leave(result, {"a": 1}, 3)
    with work_folder(result, {"a": 1}) as work:
        assert work.resumed
        work.record(4)
        assert list(work.records()) == [[1, "é"], {"x": None}, 3, 4]
        (work.path / "file").write_text("kept")
        work.become_result()
    assert {path.name for path in tmp_path.rglob("*")} == {"result", "file"}


def test_another_job_and_no_record_leave_nothing(tmp_path: Path) -> None:
    result = tmp_path / "a" / "b" / "result"
    leave(result, {"a": 1})
    assert not list(tmp_path.iterdir())
    leave(result, {"a": 1}, 1)
    with work_folder(result, {"a": 2}) as work:
        assert not work.resumed
        assert list(work.records()) == []
    assert not list(result.parent.iterdir())


@given(st.lists(st.text(max_size=20), max_size=4), st.integers(0, 300))
def test_a_torn_line_is_dropped(tmp_path_factory: pytest.TempPathFactory, entries: list[str], length: int) -> None:
    result = tmp_path_factory.mktemp("torn") / "result"
    leave(result, {}, "first", *entries)
    journal = result.parent / ".result.unfinished" / "journal.jsonl"
    with journal.open("a") as file:
        file.write("x" * length * 300)  # up to more than is looked at in one go
    with work_folder(result, {}) as work:
        work.record("last")
        assert list(work.records()) == ["first", *entries, "last"]


def test_a_killed_beginning_is_begun_anew(tmp_path: Path) -> None:
    """Without `job.json` nothing is known of the folder."""
    result = tmp_path / "result"
    leave(result, {"a": 1}, 1)
    (tmp_path / ".result.unfinished" / "job.json").unlink()
    with work_folder(result, {"a": 1}) as work:
        assert list(work.records()) == []


def test_the_result_is_replaced_whole(tmp_path: Path) -> None:
    result = tmp_path / "result"
    result.mkdir()
    (result / "old").write_text("old")
    with work_folder(result, {}) as work:
        (work.path / "new").write_text("new")
        assert (result / "old").exists()
        work.become_result()
    assert [path.name for path in result.iterdir()] == ["new"]


def test_another_command_is_refused_while_one_is_at_work(tmp_path: Path) -> None:
    result = tmp_path / "result"
    with work_folder(result, {"a": 1}) as work:
        (work.path / "file").write_text("mine")
        for job in ({"a": 1}, {"a": 2}):
            with pytest.raises(InputError, match="result: is held by process"), work_folder(result, job):
                pass
        work.become_result()
    assert [path.name for path in tmp_path.rglob("*")] == ["result", "file"]


@pytest.mark.parametrize("recorded", [False, True])
def test_work_that_another_command_has_taken_over_is_left_to_it(tmp_path: Path, recorded: bool) -> None:
    result = tmp_path / "result"
    for end in ("record", "become_result", "leave"):
        with pytest.raises(WorkError, match="was removed while"), work_folder(result, {}) as work:
            if recorded:
                work.record(1)
            (tmp_path / ".result.lock").unlink()
            if end == "record":
                work.record(2)
            elif end == "become_result":
                work.become_result()
        assert (work.path / "job.json").exists()
        assert list((work.path / "journal.jsonl").read_text()) == (["1", "\n"] if recorded else [])
        with work_folder(result, {}):
            pass
        assert not list(tmp_path.iterdir())
