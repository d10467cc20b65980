"""The actor. All it keeps is a cache of what it builds from its arguments, so a call may run on any replica, twice, or
again after its replica died.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from cluster.records.checkpoint import Begun
from cluster.workers.harvest import Harvest, Reaper
from cluster.workers.judge import Judge
from cluster.workers.lru import Cache
from cluster.workers.model import ReceivedModel, ShippedModel
from cluster.workers.origins import other_methods
from cluster.workers.passes import NOT_VISIBLE, Block, Pass, SetRows, ShippedRows, block_pass, set_rows
from cluster.workers.task import Base, ChunkLabel, ReadyCase, RepairTask, TaskResult, TaskRunner
from cluster.workers.work import SentWork, size_of, travelling
from engine import backend
from engine.core.errors import InputError, is_interruption
from engine.core.plans import Work, value_of
from engine.core.types import Float32, Float64, Int64
from engine.fitness.rows import SearchRows
from engine.fitness.tiling import one_ahead
from engine.passes.runners import LayerPasses
from engine.problem.case import RepairCase
from engine.problem.problem import Prepared, Problem, prepare
from engine.targets.model_runner import ModelRunner

KEPT_MODELS = 2
KEPT_PROBLEMS = 16
KEPT_SHARED = 4


@dataclass(frozen=True, eq=False)
class SentTask:
    """A task as it travels, with its searches that have begun; `beside` numbers what travels beside it, or is None."""

    task: RepairTask
    begun: Mapping[str, Begun]
    beside: int | None


class Replica:
    """Runs row blocks, segments of tasks, tiles and pieces of work."""

    def __init__(self, threads: int) -> None:
        backend.limit_threads(threads)
        self._models: Cache[ModelRunner] = Cache(KEPT_MODELS)
        self._problems: Cache[Prepared] = Cache(KEPT_PROBLEMS)
        self._tasks = TaskRunner()
        self._shared: Cache[Any] = Cache(KEPT_SHARED)
        self._checked: set[tuple[str, str]] = set()  # methods with their origins: telling one reads all its files

    def describe(self) -> tuple[str, int, str]:
        """Host, process id and kind of hardware."""
        return socket.gethostname(), os.getpid(), backend.hardware_kind()

    def warm_up(self, model: ShippedModel, image_shape: tuple[int, ...]) -> None:
        """Build a model and compile its passes for such images, so that no task need do it; what fails, fails there."""
        with contextlib.suppress(Exception):
            self._model(model).runner.localisation_sums(np.zeros((1, *image_shape), np.float32), np.zeros(1, np.int64))

    def run_block(
        self,
        model: ShippedModel,
        rows: ShippedRows,
        what: Pass,
        start: int,
        stop: int,
        features: Int64 | None,
        images: Float32 | None = None,
    ) -> Block | InputError | str:
        """See `block_pass`; bad input is returned: the driver tells of the first bad row, wherever that is."""
        if images is None and not rows.visible:
            return NOT_VISIBLE
        try:
            return block_pass(self._model(model).runner, what, rows.image_set, start, stop, features, images)
        except InputError as error:
            return error

    def run_sets(self, sets: Sequence[ShippedRows]) -> list[SetRows | str | None]:
        return [set_rows(rows.image_set) if rows.visible else NOT_VISIBLE for rows in sets]

    def evaluate_tiles(
        self,
        key: str,
        rows: SearchRows,
        problem: Problem,
        tiles: Sequence[int],
        candidates: Float32,
        model: ShippedModel | None,
    ) -> list[Float64]:
        """Evaluate some tiles of one iteration, in order; no other search has its `key`."""
        prepared = self._problems.get(key, lambda: prepare(problem, rows, self._model(model).tail_of(problem)))
        return list(one_ahead(functools.partial(self.start_tile, prepared, tile, candidates) for tile in tiles))

    def start_tile(self, prepared: Prepared, tile: int, candidates: Float32) -> Callable[[], Float64]:
        """Start the evaluation of one tile, what is returned ends it; tests have workers die here."""
        return prepared.fitness.start_tile(tile, candidates)

    def run_task(
        self,
        model: ShippedModel | None,
        base: Base | None,
        task: RepairTask,
        begun: Mapping[str, Begun],
        seconds: float,
        beside: Float32 | ReadyCase | None = None,
    ) -> TaskResult | str:
        if beside is None and not _visible(task):
            return NOT_VISIBLE
        return self._tasks.run(self._model(model), base, task, begun, seconds, beside)

    def run_tasks(
        self,
        model: ShippedModel | None,
        base: Base | None,
        judge: Judge | None,
        tasks: bytes,
        segment: float,
        seconds: float,
        *beside: Float32 | ReadyCase,
    ) -> Harvest:
        """Run tasks, pickled `SentTask`s, each for about `segment` seconds; after `seconds` none is begun any more."""
        begun = time.perf_counter()
        reaper = Reaper(judge)
        some: Sequence[SentTask] = pickle.loads(tasks)
        for number, sent in enumerate(some):
            if number and time.perf_counter() - begun >= seconds:
                reaper.skip(None)
                continue
            extra = None if sent.beside is None else beside[sent.beside]
            result = self.run_task(model, base, sent.task, sent.begun, segment, extra)
            if isinstance(result, str):
                reaper.skip(result)
            else:
                judging = judge is not None and result.searches
                reaper.add(sent.task, sent.begun, result, self.layer(model) if judging else None)
        return reaper.harvest(time.perf_counter() - begun)

    def layer(self, model: ShippedModel | None) -> LayerPasses:
        return self._model(model).runner.layer

    def other_methods(self, origins: Mapping[str, str]) -> str:
        return other_methods(origins)

    def run_works(self, works: Sequence[SentWork], model: ShippedModel | None) -> list[tuple[Any, Any, float, int]]:
        """Run pieces of work: of each its result or the error that it raised, seconds, and bytes of the result."""
        return [self.run_work(work, model) for work in works]

    def run_work(self, sent: SentWork, model: ShippedModel | None) -> tuple[Any, Any, float, int]:
        self._check(sent.origins)
        begun = time.perf_counter()
        args = tuple(self._received(value) for value in sent.args)
        tail = self._model(model).runner.tail if sent.model else None
        value, error = None, None
        try:
            value = value_of(Work("", sent.call, args, model=sent.model), tail)
        except (Exception, SystemExit) as found:
            if is_interruption(found) or isinstance(found, MemoryError):
                raise
            error = travelling(found)
        return value, error, time.perf_counter() - begun, size_of(value)

    def _check(self, origins: Mapping[str, str]) -> None:
        left = {name: origin for name, origin in origins.items() if (name, origin) not in self._checked}
        if left and (why := other_methods(left)):
            raise InputError(why)
        self._checked.update(left.items())

    def _received(self, value: Any) -> Any:
        """An argument; what several pieces of work share stays one object, by which they find what is kept of it."""
        return self._shared.get(value.hex(), lambda: ray.get(value)) if isinstance(value, ray.ObjectRef) else value

    def task_case(
        self, model: ShippedModel, base: Base, task: RepairTask, images: Float32 | None = None
    ) -> RepairCase | str | None:
        if images is None and not _visible(task):
            return NOT_VISIBLE
        assert isinstance(task.source, ChunkLabel)
        return self._tasks.case(self._model(model), base, task, task.source, images)

    def _model(self, shipped: ShippedModel | None) -> ReceivedModel:
        return ReceivedModel(shipped, self._models)


def _visible(task: RepairTask) -> bool:
    return not isinstance(task.source, ChunkLabel) or task.source.chunk.visible
