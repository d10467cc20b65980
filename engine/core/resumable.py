"""Long work that survives the end of its process: a folder `.NAME.unfinished` beside the result NAME.

It holds `job.json`, which says what work it is, `journal.jsonl`, one line for each piece that is done, and the files
themselves. The next command with the same job goes on from there. Nothing is forced to disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from engine.core.files import remove, replace_directory, replace_file
from engine.core.lock import LOCK, Lock, locked

_JOB = "job.json"
_JOURNAL = "journal.jsonl"
_TAIL = 1 << 16


class WorkFolder:
    """An unfinished result; made by `work_folder`."""

    def __init__(self, path: Path, result: Path, journal: IO[str], resumed: bool, lock: Lock) -> None:
        self.path = path
        self.resumed = resumed
        self._result = result
        self._journal = journal
        self._lock = lock

    def records(self) -> Iterator[Any]:
        """What was recorded so far, by earlier commands too, in the order of recording."""
        self._journal.flush()
        with (self.path / _JOURNAL).open(encoding="utf-8") as journal:
            for line in journal:
                yield json.loads(line)

    def record(self, entry: Any) -> None:
        """Note that a piece is done; its files must be in place."""
        self._lock.check()
        self._journal.write(json.dumps(entry) + "\n")
        self._journal.flush()

    def become_result(self) -> None:
        """Finish: the folder takes the place of its result, and whatever was there goes."""
        self._lock.check()
        self._journal.close()
        with replace_directory(self._result) as place:
            self.path.replace(place)
            (place / _JOB).unlink()
            (place / _JOURNAL).unlink()


@contextmanager
def work_folder(result: Path, job: Mapping[str, Any]) -> Iterator[WorkFolder]:
    """Yield the folder in which `result` is made, as an earlier command with the same `job` left it.

    When the body succeeds the folder has become the result, or goes; on an exception it stays if anything was recorded.
    """
    result = result.resolve()
    path = result.with_name(f".{result.name}.unfinished")
    with locked(result.with_name(f".{result.name}{LOCK}"), result) as lock:
        yield from _work(path, result, json.dumps(job, sort_keys=True, indent=1), lock)


def _work(path: Path, result: Path, text: str, lock: Lock) -> Iterator[WorkFolder]:
    job_file, journal_file = path / _JOB, path / _JOURNAL
    resumed = job_file.is_file() and job_file.read_text(encoding="utf-8") == text
    if not resumed:
        remove(path)
        path.mkdir(parents=True)
        journal_file.touch()
        with replace_file(job_file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    _drop_torn_line(journal_file)
    with journal_file.open("a", encoding="utf-8") as journal:
        try:
            yield WorkFolder(path, result, journal, resumed, lock)
        except BaseException:
            if not lock.lost and (not journal_file.exists() or journal_file.stat().st_size == 0):
                remove(path)
            raise
    lock.check()
    remove(path)


def _drop_torn_line(journal: Path) -> None:
    with journal.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        whole = 0
        while end and not whole:
            start = max(0, end - _TAIL)
            file.seek(start)
            whole = start + file.read(end - start).rfind(b"\n") + 1
            whole, end = (whole, end) if whole > start else (0, start)
        file.truncate(whole)
