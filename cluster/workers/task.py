"""Tasks: searches of the same rows and weights, to the patches they offer.

The rows and weights are a case that the driver has found, or the task finds them itself in one label of a chunk, from
its images on. A task is a pure function of its arguments, so it may run anywhere, twice, or in segments. What a runner
keeps between tasks is a cache: features serve all labels, seeds, weights and rounds of a chunk, because a repair
changes nothing before the layer under repair.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cluster.records.batches import PatchPlaces
from cluster.records.checkpoint import Begun
from cluster.workers.lru import Cache
from cluster.workers.model import ModelHandle, ReceivedModel
from cluster.workers.passes import ShippedRows
from engine import backend
from engine.core.errors import InputError
from engine.core.rng import RngKey
from engine.core.types import Float32, Uint8
from engine.data.image_set import ImageSet, open_reader
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
from engine.search.loop import Iteration, Offer, Search, SearchSettings, SearchState, advance_together, offers
from engine.targets.base import Target
from engine.targets.memory import SearchSize, check_plan
from engine.targets.model_runner import ModelRunner

SEGMENT_SECONDS = 2.0
"""A task comes back to the driver this often, to be recorded and to lose little when its worker dies."""

KEPT_FEATURES = 1 << 30
"""Bytes of features that a process keeps, if an eighth of its free memory is no less."""

KEPT_CASES = 16


@dataclass(frozen=True)
class SearchJob:
    """One search of a task: its name, unique within a run, its settings and its seed, and its place in its step."""

    name: str
    settings: SearchSettings
    seed: int
    place: int = 0


@dataclass(frozen=True, eq=False)
class Base:
    """What searches on chunks start from."""

    kernel: Float32  # (D, C), or (W, 1) of a deep target
    more_positives: LayerInputs | None = None  # rows beyond the chunk's that must not break

    @cached_property
    def key(self) -> str:
        """SHA-256 of both."""
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
    places: PatchPlaces

    def problems(self, jobs: Sequence[SearchJob]) -> list[Problem]:
        """What each job searches."""
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
        """Its searches that have begun, of those that are known."""
        return {job.name: known[job.name] for job in self.searches if job.name in known}

    @property
    def size(self) -> int:
        """Rows times searches."""
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
    """How far a search is: its state, the iterations run in this call and, when its task has ended, what it offers."""

    name: str
    objective: Objective
    state: SearchState
    iterations: tuple[Iteration, ...]
    offers: tuple[Offer, ...]


@dataclass(frozen=True, eq=False)
class TaskResult:
    """How far a task is."""

    searches: tuple[SearchResult, ...] = ()  # in the order of the task; none where there was nothing to search
    note: str = ""  # why there was nothing to search or why it failed
    failed: bool = False  # the chunk is damaged, or the model's outputs for one of its rows are not numbers
    data: str = ""  # fingerprint of rows and weights
    places: PatchPlaces | None = None  # the weights, with their values in the kernel that the searches start from
    seconds: float = 0.0  # of this call

    @property
    def ended(self) -> bool:
        """Nothing of the task is left to do: every search has stopped and says what it offers."""
        return all(search.offers for search in self.searches)


@dataclass(frozen=True, eq=False)
class _Group:
    """Searches on the same rows, with their evaluation."""

    searches: tuple[Search, ...]
    problems: tuple[Problem, ...]
    fitness: Fitness


class TaskRunner:
    """Runs tasks in this process."""

    def __init__(self) -> None:
        self._features: Cache[LayerInputs] = Cache(
            min(KEPT_FEATURES, backend.free_memory() // 8), lambda value: value.inputs.nbytes
        )
        self._cases: Cache[RepairCase | None] = Cache(KEPT_CASES)
        self._groups: Cache[list[_Group]] = Cache(KEPT_CASES)

    def run(
        self,
        model: ModelHandle | ReceivedModel,
        base: Base | None,
        task: RepairTask,
        states: Mapping[str, SearchState],
        seconds: float,
        beside: Float32 | ReadyCase | None = None,
    ) -> TaskResult:
        """Run the searches of a task that have not ended for about `seconds`.

        Args:
            model: under repair.
            base: what searches on chunks start from.
            task: what to do.
            states: by search, of those that have begun.
            seconds: come back after about so many.
            beside: its case, or the images (n, h, w, c) of a chunk whose file is not visible here.
        """
        begun = time.perf_counter()
        try:
            ready = self.ready(model, base, task, beside)
            if ready is None:
                return nothing_to_do(task, time.perf_counter() - begun)
            case = ready.case
            groups = self._groups.get(
                (model.key, case.data, task.base, task.searches),
                lambda: _groups(ready.problems(task.searches), case.rows, model.tail_of(ready.problem)),
            )
        except InputError as error:
            return TaskResult(note=str(error), failed=True, seconds=time.perf_counter() - begun)
        deadline = time.monotonic() + seconds
        results: dict[str, SearchResult] = {}
        for group in groups:
            left = max(0.0, deadline - time.monotonic()) if results else seconds
            results.update({result.name: result for result in _advance(group, states, left)})
        if all(result.state.stop is not None for result in results.values()):
            for group in groups:
                for search, problem in zip(group.searches, group.problems, strict=True):
                    found = results[problem.name]
                    best = offers(search, found.state, group.fitness.evaluate, task.offers)
                    results[problem.name] = replace(found, offers=tuple(best))
        ordered = [results[job.name] for job in task.searches]
        return task_result(ready, ordered, time.perf_counter() - begun)

    def ready(
        self,
        model: ModelHandle | ReceivedModel,
        base: Base | None,
        task: RepairTask,
        beside: Float32 | ReadyCase | None,
    ) -> ReadyCase | None:
        """The case of a task with its search; None where the model gets the whole label right.

        Raises:
            InputError: the chunk cannot be read, or its searches do not fit in memory.
        """
        if isinstance(beside, ReadyCase):
            return beside
        if isinstance(task.source, ReadyCase):
            return task.source
        if task.source is None or base is None:
            raise ValueError(f"task {task.name} has neither a case nor a chunk with its base")
        case = self.case(model, base, task, task.source, beside)
        runner = model.runner
        return None if case is None else ready_case(runner.target, runner.batch_rows, base.kernel, case, task)

    def case(
        self,
        model: ModelHandle | ReceivedModel,
        base: Base,
        task: RepairTask,
        source: ChunkLabel,
        images: Float32 | None = None,
    ) -> RepairCase | None:
        """Rows and weights of one label of a chunk; None where the model gets the whole label right.

        Raises:
            InputError: the chunk cannot be read, or the model's outputs for one of its rows are not numbers.
        """
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
    """Run the model up to the layer under repair on a whole image set, or on its `pixels` where they are given.

    Raises:
        InputError: the file is damaged or holds pixels that are not finite.
    """
    parts = []
    starts = range(0, images.rows, PASS_ROWS)
    if pixels is not None:
        parts = [_inputs(runner, pixels[start : start + PASS_ROWS]) for start in starts]
    else:
        with open_reader(images) as reader:
            parts = [_inputs(runner, reader.read(start, min(start + PASS_ROWS, images.rows))) for start in starts]
    inputs = np.concatenate([part[0] for part in parts])
    digests = np.concatenate([part[1] for part in parts])
    return LayerInputs(inputs, images.labels, digests, images.image_shape, images.classes)


def _inputs(runner: ModelRunner, block: Float32) -> tuple[Float32, Uint8]:
    return runner.inputs(block), row_digests(block)


def nothing_to_do(task: RepairTask, seconds: float) -> TaskResult:
    """The result where the model gets the whole label right."""
    return TaskResult(note=f"the model gets every row of label {task.label} right", seconds=seconds)


def task_result(ready: ReadyCase, searches: Sequence[SearchResult], seconds: float) -> TaskResult:
    """How far a task is whose searches are in its order."""
    return TaskResult(tuple(searches), data=ready.case.data, places=ready.places, seconds=seconds)


def ready_case(target: Target, batch_rows: int, kernel: Float32, case: RepairCase, task: RepairTask) -> ReadyCase:
    """The case of a task on a chunk, with its search.

    Raises:
        InputError: the swarms and rows do not fit in memory.
    """
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
    places = PatchPlaces.of(case.index, target.patch(case.index, case.weights.old, case.weights.old), target.shapes)
    return ReadyCase(case, problem, task.folder, places)


def _groups(problems: Sequence[Problem], rows: SearchRows, tail: Tail | None) -> list[_Group]:
    """Searches that sample their positives see rows of their own; all others share theirs."""
    together: dict[int | None, list[Problem]] = {}
    for problem in problems:
        alone = problem.settings.num_input_pos_sampled is not None
        together.setdefault(problem.source.seed if alone else None, []).append(problem)
    groups = []
    for members in together.values():
        first = members[0]
        seen = seen_by(first, rows)
        searches = [Search(problem.settings, problem.source, goal_of(problem, seen, rows)) for problem in members]
        groups.append(_Group(tuple(searches), tuple(members), build_fitness(first, seen, tail)))
    return groups


def _advance(group: _Group, states: Mapping[str, SearchState], seconds: float) -> Sequence[SearchResult]:
    before = [states[problem.name] if problem.name in states else problem.start() for problem in group.problems]
    after, done = advance_together(group.searches, before, group.fitness.evaluate, seconds, group.fitness.resident)
    return [
        SearchResult(problem.name, search.objective, state, tuple(iterations), ())
        for search, problem, state, iterations in zip(group.searches, group.problems, after, done, strict=True)
    ]
