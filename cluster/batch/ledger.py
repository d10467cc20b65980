"""The books of a batch: what each search found goes into the tables, and comes back from them when a run is resumed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cluster.batch.selection import OfferedPatches
from cluster.records.checkpoint import Begun, pack, unpack
from cluster.records.rows import patch_rows
from cluster.records.store import RunRecords, read_part, read_table
from cluster.workers.task import RepairTask, SearchJob, TaskEvent, TaskResult
from engine.patches.patch import Patch
from engine.targets.base import Target

PROGRESS_SECONDS = 0.5
"""`progress.json` is written at most this often."""

OnJobs = Callable[[Mapping[str, Any]], None]


class Ledger:
    """Knows which searches have ended, and how; everything it knows is in the run directory."""

    def __init__(self, records: RunRecords, target: Target, on_jobs: OnJobs | None) -> None:
        """Read what an earlier command left.

        Args:
            records: of the run.
            target: the weights under repair.
            on_jobs: called with the content of `progress.json` whenever it changes.
        """
        self.records = records
        self.counts: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self._target, self._on_jobs = target, on_jobs
        self._parts: dict[str, str] = {}
        self._outcomes: dict[str, OfferedPatches] = {}
        self._running: dict[str, Begun] = {}
        self._workers: Counter[str] = Counter()
        self._progress: dict[str, Any] = {"step": 0, "steps": None, "jobs_done": 0, "jobs": 0, "searched_iterations": 0}
        self._progress |= {"best": "", "elapsed": 0.0, "left": None, "workers": {}}
        self._known_total: int | None = None
        self._written = 0.0
        self._begun = time.perf_counter()
        self._earlier = 0.0
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
        self._tell()

    def has(self, job: str) -> bool:
        """Whether a search has ended already."""
        return job in self._parts

    def states(self, tasks: Sequence[RepairTask]) -> dict[str, Any]:
        """States of the searches of these tasks that had begun."""
        names = {job.name for task in tasks for job in task.searches}
        return {name: begun.state for name, begun in self._running.items() if name in names}

    def outcomes(self, jobs: Sequence[str]) -> list[OfferedPatches]:
        """Of these searches, those that offer something, in this order."""
        return [self._outcomes[job] for job in jobs if job in self._outcomes]

    def fail(self, step: int, folder: Path, label: int, jobs: Sequence[SearchJob], note: str) -> None:
        """Record searches of a chunk that cannot be read."""
        part = f"step{step}-{folder.name}-{label}-unreadable"
        rows = [_empty_row(job, step, folder, label, "failed", note) for job in jobs]
        self.records.replace("jobs", part, [row | self._place(None, 0.0) for row in rows])
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
        rows = [row | self._place(event, result.seconds / len(task.searches)) for row in self._rows(task, result)]
        # The table `jobs` comes last: a job that is in it as done has everything else in its place.
        if any(search.offers for search in result.searches):
            self.records.replace("patches", task.name, self._offers(result))
        self.records.replace("jobs", task.name, rows)
        if not result.ended:
            running = {search.name: self._running[search.name] for search in result.searches}
            self.records.write_checkpoint(task.name, pack(running))
            self._tell()
            return
        self.records.drop_checkpoint(task.name)
        for search in result.searches:
            del self._running[search.name]
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
        jobs = read_table(directory, "jobs").select(["job", "state", "ended", "iterations"]).to_pylist()
        self._earlier = max((row["ended"] for row in jobs), default=0.0)
        ended = {row["job"]: row["state"] for row in jobs if row["state"] in ("done", "skipped")}
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
        offers: dict[str, dict[int, list[dict[str, Any]]]] = {}
        for row in patches.filter(pc.field("job") != "batch").to_pylist():
            offers.setdefault(row["job"], {}).setdefault(row["rank"], []).append(row)
        for job, ranks in offers.items():
            if job in ended:
                paths = tuple(row["weight"] for row in ranks[0])
                flat = np.array([row["flat_index"] for row in ranks[0]], dtype=np.int64)
                unknown = np.zeros(len(flat), dtype=np.float32)
                index = self._target.index_of(Patch(paths, flat, unknown, unknown), str(self.records.directory))
                values = np.array([[row["new"] for row in rows] for _, rows in sorted(ranks.items())], np.float32)
                self._outcomes[job] = OfferedPatches(job, index, values)

    def _close(self, part: str, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self.counts[row["state"]] += 1
            if row["state"] == "failed":
                self.failed.setdefault(row["chunk"], row["note"])
            else:
                self._parts[row["job"]] = part
        self._progress["jobs_done"] += len(rows)
        self._tell()

    def _rows(self, task: RepairTask, result: TaskResult) -> list[dict[str, Any]]:
        folder = task.chunk.image_set.path.parent
        if not result.searches:
            state = "failed" if result.failed else "skipped"
            return [_empty_row(job, task.step, folder, task.label, state, result.note) for job in task.searches]
        rows = []
        for job, search in zip(task.searches, result.searches, strict=True):
            swarm, sums = search.state.swarm, search.state.best_sums
            rows.append(
                {
                    **_empty_row(job, task.step, folder, task.label, "done" if search.state.stop else "running", ""),
                    "data": result.data,
                    "positive_weight": search.positive_weight,
                    "weights": len(swarm.global_position),
                    "negatives": result.negatives,
                    "positives": result.positives,
                    "iterations": swarm.iteration,
                    "fitness": swarm.global_fitness,
                    "start_fitness": search.state.start_fitness,
                    "patched": int(sums[2]),
                    "intact": int(sums[3]),
                    "stop": search.state.stop or "",
                }
            )
        return rows

    def _place(self, event: TaskEvent | None, seconds: float) -> dict[str, Any]:
        """Columns of time and place."""
        now = self._earlier + time.perf_counter() - self._begun
        place = {"where": "", "worker": "", "host": "", "redispatched": 0}
        if event is not None:
            place = {name: getattr(event, name) for name in place}
        return {**place, "ended": now, "seconds": seconds}

    def _offers(self, result: TaskResult) -> list[dict[str, Any]]:
        index, old = result.index, result.old
        assert index is not None and old is not None
        rows = []
        for search in (search for search in result.searches if search.offers):
            for rank, offer in enumerate(search.offers):
                patch = self._target.patch(index, old, offer.values)
                rows += patch_rows(search.name, rank, offer.fitness, patch, self._target.shapes)
            values = np.stack([offer.values for offer in search.offers])
            self._outcomes[search.name] = OfferedPatches(search.name, index, values)
        return rows

    def _tell(self) -> None:
        progress = self._progress
        elapsed = time.perf_counter() - self._begun
        progress["elapsed"] = self._earlier + elapsed
        progress["workers"] = dict(self._workers)
        left = progress["jobs"] - progress["jobs_done"]
        progress["left"] = elapsed / self._done_here * left if self._done_here else None
        if self._on_jobs is not None:
            self._on_jobs(progress)
        if time.perf_counter() - self._written >= PROGRESS_SECONDS:
            self.records.write_progress(progress)
            self._written = time.perf_counter()


def _empty_row(job: SearchJob, step: int, folder: Path, label: int, state: str, note: str) -> dict[str, Any]:
    """A row of the table `jobs` for a search that has not run."""
    return {
        "job": job.name,
        "step": step,
        "chunk": str(folder),
        "data": "",
        "label": label,
        "seed": job.seed,
        "positive_weight": job.settings.positive_weight,
        "weights": 0,
        "negatives": 0,
        "positives": 0,
        "iterations": 0,
        "fitness": None,
        "start_fitness": None,
        "patched": 0,
        "intact": 0,
        "stop": "",
        "state": state,
        "note": note,
        "chosen": False,
    }
