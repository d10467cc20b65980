"""What tasks bring to the driver: ready-made rows for its tables, and of each search only what it decides by."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.records.checkpoint import Begun
from cluster.records.rows import (
    TableRows,
    iteration_numbers,
    joined,
    labels_batch,
    packed,
    patches_batch,
    rows_batch,
    swarm_batch,
)
from cluster.records.schema import JobRow
from cluster.workers.judge import Candidate, Candidates, Judge
from cluster.workers.model import ModelHandle
from cluster.workers.task import RepairTask, SearchJob, SearchResult, TaskResult
from cluster.workers.work import this_process
from engine.core.types import Float32, Float64, Int64
from engine.metrics.accuracy import LabelChange
from engine.passes.runners import LayerPasses

SECONDS = -1  # column of `iteration_numbers` with the time of each iteration


@dataclass(frozen=True, eq=False)
class EndedSearch:
    job: str
    index: Int64  # (K, 2), places of the weights
    values: Float32  # (offers, K), the patches it offers, best first
    fitness: float  # of the first
    start_fitness: float  # of the first candidate of the first iteration
    patched: int  # negatives that the search believes the first gets right
    intact: int  # positives
    iterations: int
    stop: str

    @staticmethod
    def of(row: Mapping[str, Any], index: Int64, values: Float32) -> EndedSearch:
        names = ("job", "fitness", "start_fitness", "patched", "intact", "iterations", "stop")
        return EndedSearch(index=index, values=values, **{name: row[name] for name in names})


@dataclass(frozen=True, eq=False)
class SearchStep:
    """What a search did in a call."""

    name: str
    seconds: Float64  # (n,) of each of the iterations that it ran
    iterations: int  # in all
    best: float  # fitness so far
    stop: str  # why it is over, empty while it is not


@dataclass(frozen=True, eq=False)
class Segment:
    """How far a task is after a call; of one that was judged neither `searches` nor `found` come along."""

    state: str  # running, done, skipped or failed, as in the table `jobs`
    iterations: int  # that its searches ran in this call
    note: str = ""  # why there was nothing to search or why it failed
    begun: Mapping[str, Begun] = field(default_factory=dict)  # searches of a task that has not ended
    searches: tuple[SearchStep, ...] = ()  # in the order of the task
    found: tuple[EndedSearch, ...] = ()  # of a task that has ended
    rows: TableRows | None = None  # of its own: it comes back more than once, or has failed

    @property
    def ended(self) -> bool:
        return self.state != "running"


@dataclass(frozen=True, eq=False)
class Harvest:
    """What a call of several tasks brought."""

    segments: tuple[Segment | str | None, ...]  # None: not begun in this call; a text: `passes.NOT_VISIBLE`
    rows: TableRows | None  # of all tasks without rows of their own, in this order
    candidates: Candidates | None = None  # what searches of tasks that have ended offer, where somebody judged that
    seconds: float = 0.0  # of the call

    @property
    def cost(self) -> tuple[float, float] | None:
        """Seconds and bytes of each task that ran; None where none did."""
        ran = [segment for segment in self.segments if isinstance(segment, Segment)]
        if not ran:
            return None
        size = sum(segment.rows.size for segment in ran if segment.rows is not None)
        size += sum(shared.size for shared in (self.rows, self.candidates) if shared is not None)
        return self.seconds / len(ran), size / len(ran)


@dataclass(frozen=True, eq=False)
class TaskEvent:
    """Tasks that a call has brought further; see `Harvest`."""

    tasks: tuple[RepairTask, ...]
    segments: tuple[Segment, ...]
    rows: TableRows | None
    candidates: Candidates | None
    where: str  # process, worker or tiles
    worker: str
    host: str
    redispatched: tuple[int, ...]  # of each task, calls so far that ran again because a worker died

    @property
    def unfinished(self) -> list[tuple[RepairTask, Segment]]:
        return [pair for pair in zip(self.tasks, self.segments, strict=True) if not pair[1].ended]


Batches = dict[str, list[pa.RecordBatch]]  # by table


class Reaper:
    """Makes a harvest of the results of tasks, one after the other."""

    def __init__(self, judge: Judge | None) -> None:
        self._judge = judge
        self._segments: list[Segment | str | None] = []
        self._shared: Batches = defaultdict(list)
        self._candidates: list[Candidate] = []

    def skip(self, answer: str | None) -> None:
        self._segments.append(answer)

    def add(self, task: RepairTask, before: Mapping[str, Begun], result: TaskResult, layer: LayerPasses | None) -> None:
        """A task has run, of which some searches had begun before; `layer` is None where nobody judges."""
        alone = bool(before) or result.failed or not result.ended
        table: Batches = defaultdict(list) if alone else self._shared
        begun = _begun(before, result)
        rows = [row.cells for row in job_rows(task, result, begun)]
        table["jobs"].append(rows_batch("jobs", rows))
        if result.searches:
            table["swarm"].append(swarm_batch({name: search.iterations for name, search in begun.items()}))
        found: list[EndedSearch] = []
        if result.ended and result.searches:
            assert result.ready is not None
            index = result.ready.case.index
            for row, search in zip(rows, result.searches, strict=True):
                found.append(EndedSearch.of(row, index, np.stack([offer.values for offer in search.offers])))
            offers = {each.name: [(offer.fitness, offer.values) for offer in each.offers] for each in result.searches}
            table["patches"].append(patches_batch(offers, result.ready.places))
        if found and self._judge is not None:
            assert layer is not None
            changes: dict[str, Sequence[LabelChange]] = {}
            for job, ended in zip(task.searches, found, strict=True):
                more, changed = self._judge.judged(layer, job.name, job.place, ended.index, ended.values)
                self._candidates += more
                changes[job.name] = changed
            if any(changes.values()):
                table["labels"].append(labels_batch(changes))
        state = "done" if result.searches else "skipped"
        state = "failed" if result.failed else state if result.ended else "running"
        segment = Segment(
            state=state,
            iterations=sum(len(search.iterations) for search in result.searches),
            note=result.note,
            begun={} if result.ended else begun,
            searches=() if result.ended and self._judge is not None else tuple(map(_step, result.searches)),
            found=tuple(found) if self._judge is None else (),
            rows=_packed(table) if alone else None,
        )
        self._segments.append(segment)

    def harvest(self, seconds: float = 0.0) -> Harvest:
        rows = _packed(self._shared) if self._shared else None
        candidates = Candidates.of(self._candidates) if self._candidates else None
        return Harvest(tuple(self._segments), rows, candidates, seconds)


def _packed(table: Batches) -> TableRows:
    return TableRows(sum(map(len, table["jobs"])), {name: packed(name, joined(found)) for name, found in table.items()})


def event_of(
    task: RepairTask,
    before: Mapping[str, Begun],
    result: TaskResult,
    judge: Judge | None = None,
    model: ModelHandle | None = None,
    where: str = "process",
    worker: str = "",
    redispatched: int = 0,
) -> TaskEvent:
    """What one task brought to this process; the model, under repair, is asked where somebody judges."""
    reaper = Reaper(judge)
    reaper.add(task, before, result, None if judge is None or model is None else model.runner.layer)
    harvest = reaper.harvest()
    (segment,) = harvest.segments
    assert isinstance(segment, Segment)
    place = where, worker or this_process(), socket.gethostname()
    return TaskEvent((task,), (segment,), harvest.rows, harvest.candidates, *place, (redispatched,))


def job_rows(task: RepairTask, result: TaskResult, begun: Mapping[str, Begun]) -> list[JobRow]:
    columns = [job_columns(job, task.step, task.folder, task.label) for job in task.searches]
    if not result.searches:
        state, seconds = "failed" if result.failed else "skipped", result.seconds / len(task.searches)
        return [JobRow(**mine, state=state, note=result.note, seconds=seconds) for mine in columns]
    return [
        JobRow(
            **{**mine, "positive_weight": search.objective.positive_weight},
            data="" if result.ready is None else result.ready.case.data,
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
            seconds=sum(begun[search.name].iterations[:, SECONDS].tolist()),
        )
        for mine, search in zip(columns, result.searches, strict=True)
    ]


def job_columns(job: SearchJob, step: int, folder: Path, label: int) -> dict[str, Any]:
    """What is known of a search before it has run."""
    return {
        "job": job.name,
        "step": step,
        "chunk": str(folder),
        "label": label,
        "seed": job.seed,
        "positive_weight": job.settings.positive_weight,
    }


def _begun(before: Mapping[str, Begun], result: TaskResult) -> dict[str, Begun]:
    begun = {}
    for search in result.searches:
        rows = [before[search.name].iterations] if search.name in before else []
        rows.append(iteration_numbers(search.iterations))
        begun[search.name] = Begun(search.state, np.concatenate(rows))
    return begun


def _step(search: SearchResult) -> SearchStep:
    swarm = search.state.swarm
    seconds = np.array([iteration.seconds for iteration in search.iterations], np.float64)
    return SearchStep(search.name, seconds, swarm.iteration, swarm.global_fitness, search.state.stop or "")
