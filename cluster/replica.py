"""The actor: a process with models and search problems that it can build again from its arguments at any time.

Methods are stateless: what they need comes as an argument or as an object that the driver put. What a replica keeps is
a cache. So a call may run on any replica, twice, or again after its replica died.
"""

from __future__ import annotations

import os
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from engine import backend, search
from engine.fitness import SearchRows
from engine.head import TargetLayer, find_target
from engine.imagesets import ImageSet, read_images
from engine.models import ModelSpec, TrainingLoss, build_model
from engine.problem import Prepared, Problem, prepare
from engine.runner import ModelRunner
from engine.search import Iteration, SearchState

T = TypeVar("T")

Pass = Literal["predict", "features", "localise"]

NOT_VISIBLE = "the file is not visible here"
"""Answer to a block of rows whose file this node does not see; the driver sends the rows instead."""

KEPT_MODELS = 2
KEPT_PROBLEMS = 16


@dataclass(frozen=True, eq=False)
class ShippedModel:
    """A model as it travels: everything `ModelRunner` needs."""

    key: str
    spec: ModelSpec
    loss: TrainingLoss
    classes: int
    repairable: bool
    path: Path
    batch_rows: int
    allow_custom_code: bool


@dataclass(frozen=True, eq=False)
class ShippedRows:
    """An image set as it travels, with what tells whether a node sees the same file."""

    image_set: ImageSet
    size: int


class Replica:
    """Runs row blocks, segments of searches and tiles; see the module."""

    def __init__(self, threads: int) -> None:
        """Claim the device; models arrive with the calls."""
        backend.limit_threads(threads)
        self._models: OrderedDict[str, ModelRunner] = OrderedDict()
        self._problems: OrderedDict[str, Prepared] = OrderedDict()

    def describe(self) -> tuple[str, int, str]:
        """Host, process id and kind of hardware."""
        return socket.gethostname(), os.getpid(), backend.hardware_kind()

    def run_block(
        self,
        model: ShippedModel,
        rows: ShippedRows,
        what: Pass,
        start: int,
        stop: int,
        columns: npt.NDArray[np.int64] | None,
        images: npt.NDArray[np.float32] | None = None,
    ) -> Any:
        """Run one pass over rows start..stop; see `block_pass`. `images` are given where the file was not visible."""
        if images is None:
            path = rows.image_set.path
            if not path.is_file() or path.stat().st_size != rows.size:
                return NOT_VISIBLE
            images = read_images(rows.image_set, start, stop)
        runner = _cached(self._models, model.key, KEPT_MODELS, lambda: build_runner(model))
        return block_pass(runner, what, images, rows.image_set.labels[start:stop], columns)

    def advance(
        self, rows: SearchRows, problem: Problem, state: SearchState, seconds: float
    ) -> tuple[SearchState, list[Iteration]]:
        """Run a search for about `seconds`."""
        prepared = self._prepared(rows, problem)
        return search.advance(
            problem.settings, problem.source, prepared.judge, state, prepared.fitness.evaluate, seconds
        )

    def evaluate_tiles(
        self, rows: SearchRows, problem: Problem, tiles: Sequence[int], candidates: npt.NDArray[np.float32]
    ) -> list[npt.NDArray[np.float64]]:
        """Evaluate some tiles of one iteration, in order."""
        prepared = self._prepared(rows, problem)
        return [self.evaluate_tile(prepared, tile, candidates) for tile in tiles]

    def evaluate_tile(
        self, prepared: Prepared, tile: int, candidates: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """Evaluate one tile."""
        return prepared.fitness.evaluate_tile(tile, candidates)

    def _prepared(self, rows: SearchRows, problem: Problem) -> Prepared:
        return _cached(
            self._problems,
            repr((problem.name, problem.settings)),
            KEPT_PROBLEMS,
            lambda: prepare(problem, rows),
        )


def build_runner(model: ShippedModel) -> ModelRunner:
    """Build a shipped model in this process."""
    built = build_model(model.spec, allow_custom_code=model.allow_custom_code)
    target: TargetLayer | None = None
    if model.repairable:
        target = find_target(built, model.loss, model.classes, model.path)
    return ModelRunner(built, target, model.batch_rows)


def block_pass(
    runner: ModelRunner,
    what: Pass,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64] | None,
) -> Any:
    """One pass over a block of rows.

    Returns:
        `predict`: classes (m,); `features`: the layer's inputs at `columns` (m, I) and logits (m, C); `localise`:
        `LocalisationSums`.
    """
    if what == "predict":
        return runner.predict(images)
    if what == "localise":
        return runner.localisation_sums(images, labels)
    inputs, logits = runner.features(images)
    return (inputs if columns is None else np.ascontiguousarray(inputs[:, columns])), logits


def _cached(cache: OrderedDict[str, T], key: str, keep: int, make: Callable[[], T]) -> T:
    """The cached value, or a new one in place of the one used longest ago."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > keep:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]
