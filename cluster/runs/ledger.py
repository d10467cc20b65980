"""The books of a run: what each search found goes into the tables, and comes back from them when it is resumed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.records.checkpoint import Begun, pack, unpack
from cluster.records.jobs import JobRow
from cluster.records.rows import patch_rows
from cluster.records.store import RunRecords, read_part, read_table
from cluster.workers.task import RepairTask, SearchJob, SearchResult, TaskEvent, TaskResult
from engine.core.types import Float32, Int64
from engine.patches.patch import Patch

PROGRESS_SECONDS = 0.5
"""`progress.json` is written at most this often."""

OnJobs = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, eq=False)
class EndedSearch:
    """A search that has ended.

    Attributes:
        job: its name.
        index: (K, 2), places of the weights.
        values: (offers, K), the patches it offers, best first; none where there was nothing to search.
        fitness: of the first.
        patched, intact: negatives and positives that the search believes the first gets right.
        iterations: run.
        stop: why it ended.
    """

    job: str
    index: Int64
    values: Float32
    fitness: float
    patched: int
    intact: int
    iterations: int
    stop: str


class Places(Protocol):
    """What the tables call the numbers that are searched: weights of a `Target`, or of a mixture."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by path."""

    def patch(self, index: Int64, old: Float32, new: Float32) -> Patch:
        """The patch of K places (K, 2) from old to new values (K,)."""

    def index_of(self, patch: Patch, source: str) -> Int64:
        """The places (K, 2) that a patch is about; raises InputError, naming `source`, where it is about others."""


class Ledger:
    """Knows which searches have ended, and how; everything it knows is in the run directory."""

    def __init__(self, records: RunRecords, target: Places, on_jobs: OnJobs | None = None) -> None:
        """Read what an earlier command left.

        Args:
            records: of the run.
            target: names the places that are searched.
            on_jobs: called with the content of `progress.json` whenever it changes.
        """
        self.records = records
        self.counts: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self._target, self._on_jobs = target, on_jobs
        self._parts: dict[str, str] = {}
        self._ended: dict[str, EndedSearch] = {}
        self._running: dict[str, Begun] = {}
        self._workers: Counter[str] = Counter()
        self._progress: dict[str, Any] = {"step": 0, "steps": None, "jobs_done": 0, "jobs": 0, "searched_iterations": 0}
        self._progress |= {"best": "", "elapsed": 0.0, "left": None, "workers": {}}
        self._known_total: int | None = None
        self._written = 0.0
        self._begun = time.perf_counter()
        self.earlier = 0.0
        """Seconds of the commands before this one, up to the end of the last search that they recorded."""
        self._done_here = 0
        self._load()

    def plan(self, steps: int | None, jobs: int | None) -> None:
        """Say how many steps and jobs there will be, where that is known."""
        self._progress["steps"], self._known_total = steps, jobs

    def begin(self, step: int, jobs: int) -> None:
        """Start a step of so many searches."""
        self._progress["step"] = step
        planned = self._progress["jobs"] + jobs if self._known_total is None else self._known_total
        self._progress["jobs"] = planned
        self._tell(at_once=True)

    def tunings(self, done: int, total: int) -> None:
        """Say how many tunings have ended, of how many."""
        self._progress["tunings"] = [done, total]
        self._tell()

    def has(self, job: str) -> bool:
        """Whether a search has ended already."""
        return job in self._parts

    def states(self, tasks: Sequence[RepairTask]) -> dict[str, Any]:
        """States of the searches of these tasks that had begun."""
        names = {job.name for task in tasks for job in task.searches}
        return {name: begun.state for name, begun in self._running.items() if name in names}

    def ended(self, jobs: Iterable[str]) -> list[EndedSearch]:
        """Of these searches, those that offer something, in this order."""
        return [self._ended[job] for job in jobs if job in self._ended]

    def fail(self, step: int, folder: Path, label: int, jobs: Sequence[SearchJob], note: str) -> None:
        """Record searches of a chunk that cannot be read."""
        part = f"step{step}-{folder.name}-{label}-unreadable"
        rows = [
            JobRow(
                **_job_columns(job, step, folder, label), state="failed", note=note, ended=self._now(), seconds=0.0
            ).cells
            for job in jobs
        ]
        self.records.replace("jobs", part, rows)
        self._close(part, rows)

    def take(self, event: TaskEvent) -> None:
        """Record a segment of a task."""
        task, result = event.task, event.result
        for search in result.searches:
            earlier = self._running[search.name].iterations if search.name in self._running else ()
            self._running[search.name] = Begun(search.state, (*earlier, *search.iterations))
            self._progress["searched_iterations"] += len(search.iterations)
        if result.searches:
            swarm = [
                {"job": search.name, **asdict(iteration)}
                for search in result.searches
                for iteration in self._running[search.name].iterations
            ]
            self.records.replace("swarm", task.name, swarm)
        rows = [row.cells for row in self._rows(event)]
        # The table `jobs` comes last: a job that is in it as done has everything else in its place.
        if any(search.offers for search in result.searches):
            self.records.replace("patches", task.name, self._patches(result))
        self.records.replace("jobs", task.name, rows)
        if not result.ended:
            running = {search.name: self._running[search.name] for search in result.searches}
            self.records.write_checkpoint(task.name, pack(running))
            self._tell()
            return
        self.records.drop_checkpoint(task.name)
        for search in result.searches:
            del self._running[search.name]
            self._ended[search.name] = _ended_search(search, result)
        self._workers[event.worker] += len(rows)
        self._done_here += len(rows)
        self._close(task.name, rows)

    def choose(self, jobs: Sequence[str]) -> None:
        """Mark searches whose patches are in the model of a step."""
        parts: dict[str, set[str]] = {}
        for job in jobs:
            parts.setdefault(self._parts[job], set()).add(job)
        for part, chosen in parts.items():
            rows = read_part(self.records.directory, "jobs", part)
            if rows is not None:
                self.records.replace(
                    "jobs", part, [row | {"chosen": row["chosen"] or row["job"] in chosen} for row in rows]
                )

    def best(self, words: str) -> None:
        """Say what is best so far."""
        self._progress["best"] = words
        self._tell()

    def _load(self) -> None:
        directory = self.records.directory
        for path in self.records.checkpoints():
            self._running.update(unpack(path))
        columns = ["job", "state", "ended", "iterations", "fitness", "patched", "intact", "stop"]
        jobs = read_table(directory, "jobs").select(columns).to_pylist()
        self.earlier = max((row["ended"] for row in jobs), default=0.0)
        rows = {row["job"]: row for row in jobs if row["state"] in ("done", "skipped")}
        ended = {job: row["state"] for job, row in rows.items()}
        # Which part a job is in matters only while the table is in parts.
        self._parts = {job: part for job, part in self.records.parts_of("jobs").items() if job in ended}
        self._parts |= {job: "" for job in ended if job not in self._parts}
        self.counts.update(ended.values())
        self._progress["jobs_done"] = len(ended)
        self._progress["searched_iterations"] = sum(row["iterations"] or 0 for row in jobs if row["job"] in ended)
        self._running = {name: begun for name, begun in self._running.items() if name not in ended}
        if not ended:
            return
        patches = read_table(directory, "patches")
        for job, index, values in self._offered(patches.filter(pc.field("job") != "batch"), ended):
            told = {name: rows[job][name] for name in ("fitness", "patched", "intact", "iterations", "stop")}
            self._ended[job] = EndedSearch(job, index, values, **told)

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

    def _close(self, part: str, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self.counts[row["state"]] += 1
            if row["state"] == "failed":
                self.failed.setdefault(row["chunk"], row["note"])
            else:
                self._parts[row["job"]] = part
        self._progress["jobs_done"] += len(rows)
        self._tell()

    def _rows(self, event: TaskEvent) -> list[JobRow]:
        task, result = event.task, event.result
        place = {name: getattr(event, name) for name in ("where", "worker", "host", "redispatched")}
        shared = {**place, "ended": self._now()}
        columns = [_job_columns(job, task.step, task.folder, task.label) for job in task.searches]
        if not result.searches:
            state, seconds = "failed" if result.failed else "skipped", result.seconds / len(task.searches)
            return [JobRow(**mine, state=state, note=result.note, seconds=seconds, **shared) for mine in columns]
        return [
            JobRow(
                **{**mine, **shared, "positive_weight": search.objective.positive_weight},
                data=result.data,
                weights=len(search.state.swarm.global_position),
                negatives=search.objective.negatives,
                positives=search.objective.positives,
                iterations=search.state.swarm.iteration,
                fitness=search.state.swarm.global_fitness,
                start_fitness=search.state.start_fitness,
                patched=int(search.state.best_sums[2]),
                intact=int(search.state.best_sums[3]),
                # One that has stopped is done when its patches have come too.
                stop=(search.state.stop or "") if search.offers else "",
                state="done" if search.offers else "running",
                seconds=sum(iteration.seconds for iteration in self._running[search.name].iterations),
            )
            for mine, search in zip(columns, result.searches, strict=True)
        ]

    def _patches(self, result: TaskResult) -> list[dict[str, Any]]:
        index, old = result.index, result.old
        assert index is not None and old is not None
        rows = []
        for search in result.searches:
            for rank, offer in enumerate(search.offers):
                patch = self._target.patch(index, old, offer.values)
                rows += patch_rows(search.name, rank, offer.fitness, patch, self._target.shapes)
        return rows

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


def _job_columns(job: SearchJob, step: int, folder: Path, label: int) -> dict[str, Any]:
    """What is known of a search before it has run."""
    return {
        "job": job.name,
        "step": step,
        "chunk": str(folder),
        "label": label,
        "seed": job.seed,
        "positive_weight": job.settings.positive_weight,
    }


def _ended_search(search: SearchResult, result: TaskResult) -> EndedSearch:
    assert result.index is not None
    sums = search.state.best_sums
    return EndedSearch(
        job=search.name,
        index=result.index,
        values=np.stack([offer.values for offer in search.offers]),
        fitness=search.state.swarm.global_fitness,
        patched=int(sums[2]),
        intact=int(sums[3]),
        iterations=search.state.swarm.iteration,
        stop=search.state.stop or "",
    )
