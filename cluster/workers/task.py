"""Tasks of a batch: the searches of one label of one chunk, from the chunk's images to the patches they offer.

A task is a pure function of its arguments, so it may run anywhere, twice, or in segments. What a runner keeps between
tasks is a cache: features serve all labels, seeds, weights and rounds of a chunk, because a repair changes nothing
before the layer under repair.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster.workers.lru import Cache
from cluster.workers.passes import ShippedRows
from engine import backend
from engine.core.errors import InputError
from engine.core.rng import RngKey
from engine.core.types import Float32, Int64, Uint8
from engine.data.image_set import ImageSet, open_reader, row_digests
from engine.fitness.base import Fitness
from engine.fitness.rows import SearchRows
from engine.layers.tail import Tail
from engine.localize.last_dense import Impact
from engine.passes.batching import PASS_ROWS
from engine.problem.case import LayerInputs, RepairCase, find_case
from engine.problem.problem import Problem, build_fitness, objective_of, problem_of, sample_positives
from engine.search.loop import Iteration, Offer, Search, SearchSettings, SearchState, advance_together, offers
from engine.targets.base import Target
from engine.targets.memory import SearchSize, check_plan
from engine.targets.model_runner import ModelRunner

KEPT_FEATURES = 1 << 30
"""Bytes of features that a process keeps, if an eighth of its free memory is no less."""

KEPT_CASES = 16


@dataclass(frozen=True)
class SearchJob:
    """One search of a task: its name, unique within a run, its settings and its seed."""

    name: str
    settings: SearchSettings
    seed: int


@dataclass(frozen=True, eq=False)
class RepairTask:
    """Searches of one label of one chunk under one kernel.

    Attributes:
        name: unique within a run.
        step: of the batch.
        chunk: the repair rows.
        label: under repair.
        searches: at least one; swarms of one size.
        base: names the kernel the searches start from, and the further positives.
        num_grad: size of the pool of localisation, or None.
        impact: forward impact of localisation.
        fronts: Pareto fronts of localisation.
        offers: patches that each search offers at most.
    """

    name: str
    step: int
    chunk: ShippedRows
    label: int
    searches: tuple[SearchJob, ...]
    base: str
    num_grad: int | None
    impact: Impact
    fronts: int
    offers: int


@dataclass(frozen=True, eq=False)
class SearchResult:
    """How far a search is: its state, the iterations run in this call and, at its end, what it offers."""

    name: str
    positive_weight: float
    state: SearchState
    iterations: tuple[Iteration, ...]
    offers: tuple[Offer, ...]


@dataclass(frozen=True, eq=False)
class TaskResult:
    """How far a task is.

    Attributes:
        searches: in the order of the task; none where there was nothing to search.
        note: why there was nothing to search or why it failed, else empty.
        failed: the chunk is damaged.
        data: fingerprint of rows and weights.
        index: (K, 2) kernel positions.
        old: (K,) values in the kernel the searches start from.
        negatives, positives: rows.
        seconds: of this call.
    """

    searches: tuple[SearchResult, ...] = ()
    note: str = ""
    failed: bool = False
    data: str = ""
    index: Int64 | None = None
    old: Float32 | None = None
    negatives: int = 0
    positives: int = 0
    seconds: float = 0.0

    @property
    def ended(self) -> bool:
        """Nothing of the task is left to do."""
        return all(search.state.stop is not None for search in self.searches)


@dataclass(frozen=True, eq=False)
class TaskEvent:
    """A segment of a task, and where it ran; see `cluster.compute.searches.SearchOutcome` for the last four."""

    task: RepairTask
    result: TaskResult
    where: str
    worker: str
    host: str
    redispatched: int


@dataclass(frozen=True, eq=False)
class _Group:
    """Searches on the same rows, with their evaluation."""

    searches: tuple[Search, ...]
    problems: tuple[Problem, ...]
    fitness: Fitness


class TaskRunner:
    """Runs tasks in this process."""

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self._features: Cache[LayerInputs] = Cache(
            min(KEPT_FEATURES, backend.free_memory() // 8), lambda value: value.inputs.nbytes
        )
        self._cases: Cache[RepairCase | None] = Cache(KEPT_CASES)
        self._groups: Cache[list[_Group]] = Cache(KEPT_CASES)

    def run(
        self,
        runner: ModelRunner,
        model_key: str,
        kernel: Float32,
        more_positives: LayerInputs | None,
        task: RepairTask,
        states: Mapping[str, SearchState],
        seconds: float,
        images: Float32 | None = None,
    ) -> TaskResult:
        """Run the searches of a task that have not ended for about `seconds`.

        Args:
            runner: the model.
            model_key: names the model.
            kernel: (D, C), or (W, 1) of a deep target, the searches start from.
            more_positives: rows beyond the chunk's that must not break, or None.
            task: what to do.
            states: by search, of those that have begun.
            seconds: come back after about so many.
            images: (n, h, w, c) of the chunk, where its file is not visible here.
        """
        begun = time.perf_counter()
        try:
            case = self.case(runner, model_key, kernel, more_positives, task, images)
            if case is None:
                return nothing_to_do(task, time.perf_counter() - begun)
            groups = self._groups.get(
                (case.data, task.base, task.searches), lambda: self._prepared(runner, kernel, case, task)
            )
        except InputError as error:
            return TaskResult(note=str(error), failed=True, seconds=time.perf_counter() - begun)
        results: dict[str, SearchResult] = {}
        for group in groups:
            results.update({result.name: result for result in _advance(group, task, states, seconds)})
        ordered = [results[job.name] for job in task.searches]
        return task_result(case, ordered, time.perf_counter() - begun)

    def _prepared(self, runner: ModelRunner, kernel: Float32, case: RepairCase, task: RepairTask) -> list[_Group]:
        problems = problems_of(runner.target, runner.batch_rows, kernel, case, task)
        return _groups(problems, case.rows, runner.tail)

    def case(
        self,
        runner: ModelRunner,
        model_key: str,
        kernel: Float32,
        more_positives: LayerInputs | None,
        task: RepairTask,
        images: Float32 | None = None,
    ) -> RepairCase | None:
        """Rows and weights of a task; None where the model gets the whole label right.

        Raises:
            InputError: the chunk cannot be read.
        """
        chunk = task.chunk
        place = (model_key, chunk.image_set.path, chunk.size)

        def features() -> LayerInputs:
            return self._features.get(place, lambda: layer_inputs(runner, chunk.image_set, images))

        return self._cases.get(
            (*place, task.base, task.label, task.num_grad, task.impact, task.fronts),
            lambda: find_case(
                runner,
                kernel,
                features(),
                task.label,
                more_positives,
                num_grad=task.num_grad,
                impact=task.impact,
                fronts=task.fronts,
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


def task_result(case: RepairCase, searches: Sequence[SearchResult], seconds: float) -> TaskResult:
    """How far a task is whose searches are in its order."""
    negatives = int(case.rows.negative.sum())
    return TaskResult(
        searches=tuple(searches),
        data=case.data,
        index=case.index,
        old=case.weights.old,
        negatives=negatives,
        positives=len(case.rows.negative) - negatives,
        seconds=seconds,
    )


def problems_of(target: Target, batch_rows: int, kernel: Float32, case: RepairCase, task: RepairTask) -> list[Problem]:
    """What each search of a task searches.

    Raises:
        InputError: the swarms and rows do not fit in memory.
    """
    settings = task.searches[0].settings
    size = SearchSize(
        rows=len(case.rows.labels),
        row_values=math.prod(task.chunk.image_set.image_shape),
        classes=case.rows.logits.shape[1],
        particles=settings.swarm.num_particles,
        tiling=settings.tiling,
        batch_rows=batch_rows,
        searches=len(task.searches),
    )
    check_plan(target.memory_plan(case.weights, size))
    first, *others = task.searches
    source = RngKey(first.seed, case.data, case.label)
    problem = problem_of(
        target, kernel, case.index, case.weights, name=first.name, source=source, settings=first.settings
    )
    return [problem] + [
        replace(problem, name=job.name, source=replace(source, seed=job.seed), settings=job.settings) for job in others
    ]


def _groups(problems: Sequence[Problem], rows: SearchRows, tail: Tail | None) -> list[_Group]:
    """Searches that sample their positives see rows of their own; all others share theirs."""
    together: dict[int | None, list[Problem]] = {}
    for problem in problems:
        alone = problem.settings.num_input_pos_sampled is not None
        together.setdefault(problem.source.seed if alone else None, []).append(problem)
    groups = []
    for members in together.values():
        first = members[0]
        seen = sample_positives(rows, first.source, first.settings.num_input_pos_sampled)
        searches = [
            Search(problem.settings, problem.source, objective_of(problem.settings, seen, rows)) for problem in members
        ]
        groups.append(_Group(tuple(searches), tuple(members), build_fitness(first, seen, tail)))
    return groups


def _advance(
    group: _Group, task: RepairTask, states: Mapping[str, SearchState], seconds: float
) -> Sequence[SearchResult]:
    before = [states[problem.name] if problem.name in states else problem.start() for problem in group.problems]
    after, done = advance_together(group.searches, before, group.fitness.evaluate, seconds)
    results = []
    for search, problem, state, iterations in zip(group.searches, group.problems, after, done, strict=True):
        offered = offers(search, state, group.fitness.evaluate, task.offers) if state.stop is not None else []
        results.append(
            SearchResult(problem.name, search.objective.positive_weight, state, tuple(iterations), tuple(offered))
        )
    return results
