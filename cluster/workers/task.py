"""Tasks, searches of the same rows and weights: pure functions of their arguments, so they may run anywhere, twice, or
in segments. What is kept between them is a cache: features of a chunk serve all labels, seeds, weights and rounds.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.records.checkpoint import Begun
from cluster.records.rows import patch_places
from cluster.workers.lru import Cache
from cluster.workers.model import ModelHandle, ReceivedModel
from cluster.workers.passes import ShippedRows
from engine import backend
from engine.core.errors import InputError
from engine.core.rng import RngKey
from engine.core.types import Float32
from engine.data.image_set import ImageSet, read_images, stretches
from engine.data.row_digests import row_digests
from engine.fitness.base import Fitness
from engine.fitness.objective import Objective
from engine.fitness.rows import SearchRows
from engine.layers.tail import Tail
from engine.localize.fronts import Impact
from engine.passes.classes import rows_of
from engine.passes.sizes import PASS_ROWS
from engine.problem.case import LayerInputs, RepairCase, find_case
from engine.problem.problem import Problem, build_fitness, goal_of, problem_of, seen_by
from engine.search.loop import Evaluate, Iteration, Offer, Search, SearchSettings, SearchState, advance_together, offers
from engine.targets.base import Target
from engine.targets.memory import SearchSize, check_plan
from engine.targets.model_runner import ModelRunner

SEGMENT_SECONDS = 2.0  # a task comes back to the driver this often, to lose little when its worker dies
KEPT_FEATURES = 1 << 30  # bytes that a process keeps, if an eighth of its free memory is no less
KEPT_CASES = 16


@dataclass(frozen=True)
class SearchJob:
    """One search of a task."""

    name: str  # unique within a run
    settings: SearchSettings
    seed: int
    place: int = 0  # in its step


@dataclass(frozen=True, eq=False)
class Base:
    """What searches on chunks start from."""

    kernel: Float32  # (D, C), or (W, 1) of a deep target
    more_positives: LayerInputs | None = None  # rows beyond the chunk's that must not break

    @cached_property
    def key(self) -> str:
        more = "" if self.more_positives is None else self.more_positives.fingerprint
        return hashlib.sha256(np.ascontiguousarray(self.kernel).tobytes() + more.encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class ChunkLabel:
    """One label of a chunk, whose case is found where the task runs, with what its localisation needs."""

    chunk: ShippedRows
    num_grad: int | None  # size of the pool
    impact: Impact  # forward
    fronts: int  # of Pareto


@dataclass(frozen=True, eq=False)
class ReadyCase:
    """A case with its search; searches of a task differ in name, seed and settings."""

    case: RepairCase
    problem: Problem
    folder: Path  # of the rows
    places: pa.RecordBatch  # see `patch_places`; old values are those of the kernel that the searches start from

    def problems(self, jobs: Sequence[SearchJob]) -> list[Problem]:
        source = RngKey(0, self.case.data, self.case.label)
        return [
            replace(self.problem, name=job.name, source=replace(source, seed=job.seed), settings=job.settings)
            for job in jobs
        ]


@dataclass(frozen=True, eq=False)
class RepairTask:
    """Searches of the same rows and weights."""

    name: str  # unique within a run
    step: int  # of the run
    folder: Path  # of the repair rows
    label: int  # under repair, -1 for several
    searches: tuple[SearchJob, ...]  # at least one; swarms of one size
    base: str  # names what the searches start from
    source: ChunkLabel | ReadyCase | None  # the rows and weights; None where a case travels beside its task
    offers: int  # patches that each search offers at most

    @property
    def rows(self) -> int:
        """Rows of the source, to tell long tasks from short ones."""
        if isinstance(self.source, ChunkLabel):
            return self.source.chunk.image_set.rows
        return 0 if self.source is None else len(self.source.case.rows.labels)

    def begun(self, known: Mapping[str, Begun]) -> dict[str, Begun]:
        return {job.name: known[job.name] for job in self.searches if job.name in known}

    @property
    def size(self) -> int:
        return self.rows * len(self.searches)

    @property
    def needs_model(self) -> bool:
        """The model is run, or candidates are evaluated by its tail."""
        return not isinstance(self.source, ReadyCase) or self.source.problem.needs_tail

    @property
    def home(self) -> Hashable:
        """What a worker keeps of a task that serves others with the same home."""
        if isinstance(self.source, ChunkLabel):
            return self.source.chunk.image_set.path
        return None if self.source is None else self.source.case.data


@dataclass(frozen=True, eq=False)
class SearchResult:
    name: str
    objective: Objective
    state: SearchState
    iterations: tuple[Iteration, ...]  # of this call
    offers: tuple[Offer, ...]  # when its task has ended


@dataclass(frozen=True, eq=False)
class TaskResult:
    searches: tuple[SearchResult, ...] = ()  # in the order of the task; none where there was nothing to search
    note: str = ""  # why there was nothing to search or why it failed
    failed: bool = False  # the chunk is damaged, or the model's outputs for one of its rows are not numbers
    ready: ReadyCase | None = None  # what was searched
    seconds: float = 0.0  # of this call

    @property
    def ended(self) -> bool:
        """Nothing of the task is left to do: every search has stopped and says what it offers."""
        return all(search.offers for search in self.searches)


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """An evaluation in other processes, where no swarm stays on a device."""

    evaluate: Evaluate
    resident: None = None


@dataclass(frozen=True, eq=False)
class _Group:
    """Searches on the same rows, with their evaluation."""

    searches: tuple[Search, ...]
    problems: tuple[Problem, ...]
    fitness: Fitness | Elsewhere


class TaskRunner:
    """Runs tasks in this process."""

    def __init__(self) -> None:
        limit = min(KEPT_FEATURES, backend.free_memory() // 8)
        self._features: Cache[LayerInputs] = Cache(limit, lambda value: value.inputs.nbytes)
        self._cases: Cache[RepairCase | None] = Cache(KEPT_CASES)
        self._groups: Cache[list[_Group]] = Cache(KEPT_CASES)

    def run(
        self,
        model: ModelHandle | ReceivedModel,
        base: Base | None,
        task: RepairTask,
        begun: Mapping[str, Begun],
        seconds: float,
        beside: Float32 | ReadyCase | None = None,
    ) -> TaskResult:
        """Run the searches of a task that have not ended, of which some have begun, for about `seconds`.

        `beside` is its case, or the images (n, h, w, c) of a chunk whose file is not visible here.
        """
        started = time.perf_counter()
        try:
            ready = self.ready(model, base, task, beside)
            if ready is None:
                note = f"the model gets every row of label {task.label} right"
                return TaskResult(note=note, seconds=time.perf_counter() - started)
            case = ready.case
            groups = self._groups.get(
                (model.key, case.data, task.base, task.searches),
                lambda: _groups(ready.problems(task.searches), case.rows, model.tail_of(ready.problem), self.fitness),
            )
        except InputError as error:
            return TaskResult(note=str(error), failed=True, seconds=time.perf_counter() - started)
        deadline = time.monotonic() + seconds
        results: dict[str, SearchResult] = {}
        for group in groups:
            left = max(0.0, deadline - time.monotonic()) if results else seconds
            results.update({result.name: result for result in _advance(group, begun, left)})
        if all(result.state.stop is not None for result in results.values()):
            for group in groups:
                for search, problem in zip(group.searches, group.problems, strict=True):
                    found = results[problem.name]
                    best = offers(search, found.state, group.fitness.evaluate, task.offers)
                    results[problem.name] = replace(found, offers=tuple(best))
        ordered = tuple(results[job.name] for job in task.searches)
        return TaskResult(ordered, ready=ready, seconds=time.perf_counter() - started)

    def ready(
        self,
        model: ModelHandle | ReceivedModel,
        base: Base | None,
        task: RepairTask,
        beside: Float32 | ReadyCase | None,
    ) -> ReadyCase | None:
        """The case of a task with its search; None where the model gets the whole label right."""
        if isinstance(beside, ReadyCase):
            return beside
        if isinstance(task.source, ReadyCase):
            return task.source
        if task.source is None or base is None:
            raise ValueError(f"task {task.name} has neither a case nor a chunk with its base")
        case = self.case(model, base, task, task.source, beside)
        runner = model.runner
        return None if case is None else ready_case(runner.target, runner.batch_rows, base.kernel, case, task)

    def fitness(self, problem: Problem, rows: SearchRows, tail: Tail | None) -> Fitness | Elsewhere:
        """The evaluation of a search, and of all others of its task on the same rows."""
        return build_fitness(problem, seen_by(problem, rows), tail)

    def case(
        self,
        model: ModelHandle | ReceivedModel,
        base: Base,
        task: RepairTask,
        source: ChunkLabel,
        images: Float32 | None = None,
    ) -> RepairCase | None:
        """Rows and weights of one label of a chunk; None where the model gets the whole label right."""
        chunk = source.chunk
        place = (model.key, chunk.image_set.path, chunk.size)

        def features() -> LayerInputs:
            return self._features.get(place, lambda: layer_inputs(model.runner, chunk.image_set, images))

        runner = model.runner
        with rows_of(chunk.image_set.path, 0, runner.path):
            return self._cases.get(
                (*place, task.base, task.label, source.num_grad, source.impact, source.fronts),
                lambda: find_case(
                    runner,
                    base.kernel,
                    features(),
                    task.label,
                    base.more_positives,
                    num_grad=source.num_grad,
                    impact=source.impact,
                    fronts=source.fronts,
                ),
            )


def layer_inputs(runner: ModelRunner, images: ImageSet, pixels: Float32 | None = None) -> LayerInputs:
    """Run the model up to the layer under repair on a whole image set, or on its `pixels` where they are given."""
    inputs, digests = [], []
    for start, stop in stretches(range(images.rows), PASS_ROWS):
        block = read_images(images, start, stop) if pixels is None else pixels[start:stop]
        inputs.append(runner.inputs(block))
        digests.append(row_digests(block))
    rows = np.concatenate(inputs), images.labels, np.concatenate(digests)
    return LayerInputs(*rows, images.image_shape, images.classes)


def ready_case(target: Target, batch_rows: int, kernel: Float32, case: RepairCase, task: RepairTask) -> ReadyCase:
    """The case of a task on a chunk, with its search; raises InputError where it does not fit in memory."""
    assert isinstance(task.source, ChunkLabel)
    settings = task.searches[0].settings
    size = SearchSize(
        rows=len(case.rows.labels),
        row_values=math.prod(task.source.chunk.image_set.image_shape),
        classes=case.rows.logits.shape[1],
        particles=settings.swarm.num_particles,
        tiling=settings.tiling,
        batch_rows=batch_rows,
        searches=len(task.searches),
    )
    check_plan(target.memory_plan(case.weights, size))
    source = RngKey(0, case.data, case.label)
    problem = problem_of(target, kernel, case.index, case.weights, name=task.name, source=source, settings=settings)
    places = patch_places(target.patch(case.index, case.weights.old, case.weights.old), target.shapes)
    return ReadyCase(case, problem, task.folder, places)


def _groups(
    problems: Sequence[Problem],
    rows: SearchRows,
    tail: Tail | None,
    fitness: Callable[[Problem, SearchRows, Tail | None], Fitness | Elsewhere],
) -> list[_Group]:
    """Searches that sample their positives see rows of their own; all others share theirs."""
    together: dict[int | None, list[Problem]] = {}
    for problem in problems:
        alone = problem.settings.num_input_pos_sampled is not None
        together.setdefault(problem.source.seed if alone else None, []).append(problem)
    groups = []
    for members in together.values():
        seen = seen_by(members[0], rows)
        searches = [Search(problem.settings, problem.source, goal_of(problem, seen, rows)) for problem in members]
        groups.append(_Group(tuple(searches), tuple(members), fitness(members[0], rows, tail)))
    return groups


def _advance(group: _Group, begun: Mapping[str, Begun], seconds: float) -> Sequence[SearchResult]:
    before = [begun[each.name].state if each.name in begun else each.start() for each in group.problems]
    after, done = advance_together(group.searches, before, group.fitness.evaluate, seconds, group.fitness.resident)
    return [
        SearchResult(problem.name, search.objective, state, tuple(iterations), ())
        for search, problem, state, iterations in zip(group.searches, group.problems, after, done, strict=True)
    ]
