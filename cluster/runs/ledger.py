"""The books of a run: what each search found goes into the tables, and comes back from them when it is resumed."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.compute.compute import Compute
from cluster.records.checkpoint import Begun, pack, unpack
from cluster.records.rows import TableRows, unpacked, with_columns
from cluster.records.schema import JobRow
from cluster.records.store import RunRecords, read_part, read_table
from cluster.workers.harvest import EndedSearch, Segment, TaskEvent, job_columns
from cluster.workers.judge import Judge
from cluster.workers.model import ModelHandle
from cluster.workers.task import Base, RepairTask, SearchJob
from engine.core.types import Float32, Int64
from engine.patches.patch import Patch

TASK_SEARCHES = 64
"""Searches of one task at most: a task comes back whole after every segment."""

BLOCK_SEARCHES = 65_536
"""Searches of the tasks that are handed out at once: of a longer plan the rest waits."""


def parts_of_groups(groups: int, workers: int) -> int:
    """Into how many tasks the searches on the same rows and weights are divided: in all, two tasks for each worker.

    Searches of one task share calls, so where there are tasks enough they stay together.
    """
    return max(1, -(-2 * workers // max(1, groups)))


def divided(
    group: str, jobs: Iterable[SearchJob], count: int, parts: int, has: Callable[[str], bool] = lambda job: False
) -> Iterator[tuple[str, tuple[SearchJob, ...]]]:
    """Names and searches of `parts` tasks, more where one would be longer than `TASK_SEARCHES`.

    `group` names `count` searches on the same rows and weights; those that have ended, as `has` knows, are left out.
    """
    size = max(1, min(TASK_SEARCHES, -(-count // parts)))
    left = ((number, job) for number, job in enumerate(jobs) if not has(job.name))
    while members := list(itertools.islice(left, size)):
        yield f"{group}+{members[0][0]}", tuple(job for _, job in members)


def blocks(tasks: Iterable[RepairTask]) -> Iterator[list[RepairTask]]:
    """Tasks in lists of at most `BLOCK_SEARCHES` searches; a task of more is a list of its own."""
    block: list[RepairTask] = []
    held = 0
    for task in tasks:
        if block and held + len(task.searches) > BLOCK_SEARCHES:
            yield block
            block, held = [], 0
        block.append(task)
        held += len(task.searches)
    if block:
        yield block


PROGRESS_SECONDS = 0.5
"""`progress.json` is written at most this often, and so is what has ended, with the answer that comes after that."""

OnJobs = Callable[[Mapping[str, Any]], None]

_TOGETHER = "ended"
"""Begins the names of parts in which many tasks are; no task has such a name, see `cluster.runs.ledger.divided`."""


def run_searches(
    compute: Compute,
    handle: ModelHandle,
    base: Base | None,
    tasks: Iterable[RepairTask],
    ledger: Ledger,
    on_event: Callable[[TaskEvent], None],
    judge: Judge | None = None,
) -> None:
    """Run the searches of tasks to their end and take them down; `judge` is of what they offer."""
    with ledger.flushing():
        for block in blocks(tasks):
            for event in compute.run_tasks(handle, base, block, ledger.begun(block), judge):
                ledger.take(event)
                on_event(event)


class Places(Protocol):
    """What the tables call the numbers that are searched: weights of a `Target`, or of a mixture."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]: ...
    def patch(self, index: Int64, old: Float32, new: Float32) -> Patch: ...
    def index_of(self, patch: Patch, source: str) -> Int64:
        """The places (K, 2) that a patch is about; raises InputError, naming `source`, where it is about others."""


_PLACE = ("where", "worker", "host", "ended")
"""Columns of `jobs` that say where and when tasks came further."""


@dataclass(frozen=True, eq=False)
class _Came:
    """Rows that have come: from where, and how often the calls of each job were lost."""

    rows: TableRows
    place: Mapping[str, Any]  # by the columns of `_PLACE`
    again: Sequence[int]


class Ledger:
    """Knows which searches have ended, and how; everything it knows is in the run directory."""

    def __init__(self, records: RunRecords, target: Places, on_jobs: OnJobs | None = None) -> None:
        """Read what an earlier command left; `on_jobs` gets the content of `progress.json` whenever that changes."""
        self.records = records
        self.counts: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self._target, self._on_jobs = target, on_jobs
        self._known: set[str] = set()
        self._parts: dict[str, str] = {}
        self._together: list[str] = []
        self._waiting: list[_Came] = []
        self._ended: dict[str, EndedSearch] = {}
        self._running: dict[str, Begun] = {}
        self._workers: Counter[str] = Counter()
        self._progress: dict[str, Any] = {"step": 0, "steps": None, "jobs_done": 0, "jobs": 0, "searched_iterations": 0}
        self._progress |= {"best": "", "elapsed": 0.0, "left": None, "workers": {}}
        self._known_total: int | None = None
        self._written = self._flushed = 0.0
        self._begun = time.perf_counter()
        self.earlier = 0.0
        """Seconds of the commands before this one, up to the end of the last search that they recorded."""
        self._done_here = 0
        self._load()

    def plan(self, steps: int | None, jobs: int | None) -> None:
        """Say how many steps and jobs there will be, where that is known."""
        self._progress["steps"], self._known_total = steps, jobs

    def begin(self, step: int, jobs: int) -> None:
        """Start a step of so many searches; no part has searches of two steps."""
        self.flush()
        self._progress["step"] = step
        planned = self._progress["jobs"] + jobs if self._known_total is None else self._known_total
        self._progress["jobs"] = planned
        self._tell(at_once=True)

    def tunings(self, done: int, total: int) -> None:
        """Say how many tunings have ended, of how many."""
        self._progress["tunings"] = [done, total]
        self._tell()

    def has(self, job: str) -> bool:
        """Whether a search had ended before this command."""
        return job in self._known

    @property
    def goes_on(self) -> bool:
        """Whether any search had ended before this command."""
        return bool(self._known)

    def begun(self, tasks: Sequence[RepairTask]) -> dict[str, Begun]:
        """The searches of these tasks that had begun."""
        names = {job.name for task in tasks for job in task.searches}
        return {name: begun for name, begun in self._running.items() if name in names}

    def ended(self, jobs: Iterable[str]) -> list[EndedSearch]:
        """Of these searches, those that offer something, in this order; not those that were judged where they ran."""
        return [self._ended[job] for job in jobs if job in self._ended]

    def fail(self, step: int, folder: Path, label: int, jobs: Sequence[SearchJob], note: str) -> None:
        """Record searches of a chunk that cannot be read."""
        part = f"step{step}-{folder.name}-{label}-unreadable"
        rows = [
            JobRow(
                **job_columns(job, step, folder, label), state="failed", note=note, ended=self._now(), seconds=0.0
            ).cells
            for job in jobs
        ]
        self.records.replace("jobs", part, rows)
        self._count("failed", len(rows), str(folder), note)
        self._tell()

    def take(self, event: TaskEvent) -> None:
        """Record what tasks have brought; rows of many tasks wait a little and share a file, see `flush`."""
        place = dict(zip(_PLACE, (event.where, event.worker, event.host, self._now()), strict=True))
        shared: list[int] = []
        for task, segment, count in zip(event.tasks, event.segments, event.redispatched, strict=True):
            self._progress["searched_iterations"] += segment.iterations
            if segment.rows is None:
                shared += [count] * len(task.searches)
            else:
                self._write(task.name, [_Came(segment.rows, place, [count] * len(task.searches))])
            self._close(task, segment, event.worker)
        if event.rows is not None:
            self._waiting.append(_Came(event.rows, place, shared))
        if time.perf_counter() - self._flushed >= PROGRESS_SECONDS:
            self.flush()
        self._tell()

    @contextmanager
    def flushing(self) -> Iterator[None]:
        """Write what waits for it when the body ends, also by an interruption or error, if that can be written."""
        try:
            yield
        except BaseException:
            with suppress(Exception):
                self.flush()
            raise
        self.flush()

    def flush(self) -> None:
        """Write what has ended and waits for that."""
        if not self._waiting:
            return
        self._flushed = time.perf_counter()
        number = 1 + int(self._together[-1].rpartition("-")[2]) if self._together else 0
        part = f"{_TOGETHER}-{number:06d}"
        self._write(part, self._waiting)
        self._together.append(part)
        self._waiting = []

    def choose(self, jobs: Sequence[str]) -> None:
        """Mark searches whose patches are in the model of a step."""
        self.flush()
        taken = frozenset(jobs)
        parts = {self._parts[job] for job in jobs if job in self._parts}
        left = taken - self._parts.keys()
        for part in reversed(self._together):  # the last step's are the last
            if not left:
                break
            if mine := left.intersection(self._jobs_of(part)):
                left -= mine
                parts.add(part)
        for part in parts:
            if rows := read_part(self.records.directory, "jobs", part).to_pylist():
                chosen = [row | {"chosen": row["chosen"] or row["job"] in taken} for row in rows]
                self.records.replace("jobs", part, chosen)

    def best(self, words: str) -> None:
        """Say what is best so far."""
        self._progress["best"] = words
        self._tell()

    def _load(self) -> None:
        directory = self.records.directory
        for path in self.records.checkpoints():
            self._running.update(unpack(path))
        columns = ["job", "state", "ended", "iterations", "fitness", "start_fitness", "patched", "intact", "stop"]
        jobs = read_table(directory, "jobs").select(columns).to_pylist()
        self.earlier = max((row["ended"] for row in jobs), default=0.0)
        rows = {row["job"]: row for row in jobs if row["state"] in ("done", "skipped")}
        ended = {job: row["state"] for job, row in rows.items()}
        self._known = set(ended)
        # Which part a job is in matters only while the table is in parts.
        self._together = [part for part in self.records.parts("jobs") if part.startswith(f"{_TOGETHER}-")]
        alone = [part for part in self.records.parts("jobs") if not part.startswith(f"{_TOGETHER}-")]
        self._parts = {job: part for part in alone for job in self._jobs_of(part) if job in ended}
        self.counts.update(ended.values())
        self._progress["jobs_done"] = len(ended)
        self._progress["searched_iterations"] = sum(row["iterations"] or 0 for row in jobs if row["job"] in ended)
        self._running = {name: begun for name, begun in self._running.items() if name not in ended}
        if not ended:
            return
        patches = read_table(directory, "patches")
        for job, index, values in self._offered(patches.filter(pc.field("job") != "batch"), ended):
            self._ended[job] = EndedSearch.of(rows[job], index, values)

    def _jobs_of(self, part: str) -> list[str]:
        return list(read_part(self.records.directory, "jobs", part)["job"].to_pylist())

    def _offered(self, patches: pa.Table, ended: Container[str]) -> Iterator[tuple[str, Int64, Float32]]:
        """Name, places (K, 2) and values (offers, K) of every search in a table of patches, sorted by its key."""
        if not len(patches):
            return
        jobs = patches["job"].to_numpy()
        starts = np.flatnonzero(np.r_[True, jobs[1:] != jobs[:-1]])
        ranks, flat, new = (patches[name].to_numpy() for name in ("rank", "flat_index", "new"))
        for start, stop in zip(starts, [*starts[1:], len(jobs)], strict=True):
            if jobs[start] not in ended:
                continue
            count = int(np.count_nonzero(ranks[start:stop] == 0))
            paths = tuple(patches["weight"][start : start + count].to_pylist())
            unknown = np.zeros(count, dtype=np.float32)
            places = Patch(paths, flat[start : start + count].astype(np.int64), unknown, unknown)
            index = self._target.index_of(places, str(self.records.directory))
            yield jobs[start], index, new[start:stop].reshape(-1, count).astype(np.float32)

    def _close(self, task: RepairTask, segment: Segment, worker: str) -> None:
        """Take note of how far a task is, once its rows are written or wait."""
        names = [job.name for job in task.searches]
        if not segment.ended:
            self._running.update(segment.begun)
            self.records.write_checkpoint(task.name, pack(segment.begun))
            return
        if segment.rows is not None:
            self.records.drop_checkpoint(task.name)
            for name in names:
                self._running.pop(name, None)
                if segment.state != "failed":
                    self._parts[name] = task.name
        self._ended.update({search.job: search for search in segment.found})
        self._workers[worker] += len(names)
        self._done_here += len(names)
        self._count(segment.state, len(names), str(task.folder), segment.note)

    def _count(self, state: str, searches: int, chunk: str, note: str) -> None:
        self.counts[state] += searches
        self._progress["jobs_done"] += searches
        if state == "failed":
            self.failed.setdefault(chunk, note)

    def _write(self, part: str, came: Sequence[_Came]) -> None:
        """Write a part of all tables; `jobs` comes last: a job that is in it as done has all else in its place."""
        for table in ("swarm", "patches", "labels", "jobs"):
            messages = [one.rows.messages[table] for one in came if table in one.rows.messages]
            if not messages:
                continue
            rows = unpacked(table, messages)
            if table == "jobs":
                counts = [one.rows.jobs for one in came]
                places = {name: [one.place[name] for one in came] for name in _PLACE}
                columns = {name: np.repeat(values, counts).tolist() for name, values in places.items()}
                rows = with_columns(rows, columns | {"redispatched": [count for one in came for count in one.again]})
            self.records.write(table, part, rows)

    def _now(self) -> float:
        """Seconds of the run, with those of the commands before this one."""
        return self.earlier + time.perf_counter() - self._begun

    def _tell(self, *, at_once: bool = False) -> None:
        progress = self._progress
        elapsed = time.perf_counter() - self._begun
        progress["elapsed"] = self.earlier + elapsed
        progress["workers"] = dict(self._workers)
        left = progress["jobs"] - progress["jobs_done"]
        progress["left"] = elapsed / self._done_here * left if self._done_here else None
        if self._on_jobs is not None:
            self._on_jobs(progress)
        if at_once or time.perf_counter() - self._written >= PROGRESS_SECONDS:
            self.records.write_progress(progress)
            self._written = time.perf_counter()
