"""The repair problems that are timed: rows, weights to change and candidates; and the slow formulas that check them.

A kind of target layer is one function in `PROBLEMS`, from a size to a `Job`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from common import shipped_images

from engine import backend
from engine.backend import ops
from engine.core.rng import RngKey
from engine.core.types import Float32, Float64, Int64
from engine.fitness.last_dense import TiledFitness
from engine.fitness.objective import Objective
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.tiling import Tiling
from engine.layers.head import Head
from engine.layers.weight_stats import WeightStats
from engine.localize.fronts import Localisation
from engine.models.load import LoadedModel
from engine.problem.problem import Problem, objective_of
from engine.search import loop as search
from engine.search.loop import SearchSettings
from engine.search.resident import WORTH_COMPILING
from engine.search.swarm import SwarmSettings
from engine.targets.last_dense import find_target
from engine.targets.model_runner import ModelRunner

PARTICLES = 100
REFERENCE_PARTICLES = 3
"""Particles that the slow reference is timed on; all cost the same."""

HEAD = Head("log_softmax", "linear")

NEAR = 1e-5
"""Where the two best scores of a row are closer, relative to the best, float32 may count it either way."""

LOSS_TOLERANCE = 1e-4
BLOCK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Size:
    """Rows n, localised weights K, classes C, touched units U (0: as many as the weights happen to have)."""

    rows: int
    weights: int
    classes: int
    units: int = 0
    particles: int = PARTICLES

    def __str__(self) -> str:
        units = f", {self.units}" if self.units else ""
        return f"({self.rows}, {self.weights}, {self.classes}{units})"


@dataclass(frozen=True, eq=False)
class Job:
    """One problem.

    Attributes:
        size: of the problem, with the units it has.
        rows: that candidates are judged on.
        weights: to change.
        candidates: (P, K) of one iteration.
        kernel: of the layer, (D, C).
        images: (n, h, w, c) of the rows where a model has them, else None.
    """

    size: Size
    rows: SearchRows
    weights: Weights
    candidates: Float32
    kernel: Float32
    images: Float32 | None = None

    @property
    def settings(self) -> SearchSettings:
        """A search that does not stop."""
        return SearchSettings(SwarmSettings(self.size.particles), num_iterations=1 << 30, min_iteration_range=1 << 30)

    @property
    def objective(self) -> Objective:
        """What turns sums into fitness."""
        return objective_of(self.settings, self.rows, self.rows)

    def fitness(self) -> TiledFitness:
        """This project's evaluation."""
        return TiledFitness(HEAD, self.rows, self.weights, self.size.particles, Tiling())


def last_dense(loaded: LoadedModel, size: Size) -> Job:
    """The weights that localisation blames first, in the model's last layer, for the rows that it gets wrong.

    With another number of classes than the model has, everything is drawn.
    """
    if size.classes != loaded.classes:
        return drawn(replace(size, units=min(size.classes, size.weights)))
    images, labels = shipped_images(size.rows)
    target = find_target(loaded.model, loaded.loss, loaded.classes, loaded.path)
    runner = ModelRunner(loaded.model, target)
    inputs, logits = runner.features(images)
    kernel = np.asarray(target.layer.kernel)
    wrong = logits.argmax(axis=1) != labels
    sums = runner.localisation_sums(images[wrong], labels[wrong])

    def blamed(fronts: int) -> Localisation:
        return target.localise(sums, None, kernel, num_grad=None, impact="mean", fronts=fronts)

    fronts = 1
    while len((found := blamed(fronts)).front) < size.weights:
        fronts += 1
    first = found.front[: size.weights]
    column, unit = found.row[first], found.unit[first]
    weights = Weights(column, unit, kernel[column, unit])
    rows = SearchRows(inputs, logits, labels, wrong)
    size = replace(size, units=len(np.unique(unit)))
    return Job(size, rows, weights, around(kernel, weights, size.particles), kernel, images)


PROBLEMS: dict[str, Callable[[LoadedModel, Size], Job]] = {"last Dense": last_dense}


def drawn(size: Size) -> Job:
    """Rows and weights of a given size with drawn values, 4 % of the rows negative; units take turns."""
    rng = np.random.default_rng(1)
    inputs = np.abs(rng.normal(size=(size.rows, size.weights))).astype(np.float32)
    logits = rng.normal(scale=3.0, size=(size.rows, size.classes)).astype(np.float32)
    units = rng.permutation(size.classes)[: size.units]
    kernel = rng.normal(scale=0.1, size=(size.weights, size.classes)).astype(np.float32)
    column = np.arange(size.weights)
    unit = units[column % size.units]
    weights = Weights(column, unit, kernel[column, unit])
    rows = SearchRows(inputs, logits, rng.integers(0, size.classes, size.rows), rng.random(size.rows) < 0.04)
    return Job(size, rows, weights, around(kernel, weights, size.particles), kernel)


def spread_over_units(loaded: LoadedModel, size: Size) -> Job:
    """Weights of the model's last layer, drawn among `size.units` of its units, on real rows."""
    images, labels = shipped_images(size.rows)
    target = find_target(loaded.model, loaded.loss, loaded.classes, loaded.path)
    inputs, logits = ModelRunner(loaded.model, target).features(images)
    kernel = np.asarray(target.layer.kernel)
    rng = np.random.default_rng(1)
    units = rng.permutation(size.classes)[: size.units]
    # The units take turns, each with inputs of its own choice.
    turn = np.arange(size.weights) % size.units
    column = np.stack([rng.permutation(len(kernel)) for _ in units])[turn, np.arange(size.weights) // size.units]
    unit = units[turn]
    weights = Weights(column, unit, kernel[column, unit])
    rows = SearchRows(inputs, logits, labels, logits.argmax(axis=1) != labels)
    return Job(size, rows, weights, around(kernel, weights, size.particles), kernel, images)


def around(kernel: Float32, weights: Weights, particles: int) -> Float32:
    """Candidates (P, K) as the swarm starts: the model as it is, and draws from the layer's distribution."""
    rng = np.random.default_rng(2)
    others = rng.normal(kernel.mean(), kernel.std(), size=(particles - 1, len(weights.old)))
    return np.vstack([weights.old, others]).astype(np.float32)


def iterations(job: Job, fitness: TiledFitness, steps: int = 1, *, long: bool = False) -> Callable[[], object]:
    """Whole iterations of the search, `steps` in a call: candidates, their fitness, the move of the swarm.

    Those of a `long` search are the ones behind which a swarm stays on the device.
    """
    source = RngKey(0, "benchmark", 0)
    problem = Problem("benchmark", HEAD, job.weights, WeightStats.of(job.kernel), source, job.settings)
    objective, state, resident = job.objective, problem.start(), fitness.resident if long else None

    def call() -> None:
        nonlocal state
        until = replace(job.settings, num_iterations=state.swarm.iteration + steps)
        state = replace(state, stop=None)
        state, _ = search.advance(until, source, objective, state, fitness.evaluate, resident=resident)

    while long and state.swarm.iteration <= WORTH_COMPILING:
        call()
    return call


def dense(job: Job) -> Callable[[], Float64]:
    """The formula with all P x n x C logits, compiled like ours and with its constants on the device."""
    classes = job.rows.logits.shape[1]
    one_hot = np.zeros((len(job.weights.unit), classes), np.float32)
    one_hot[np.arange(len(job.weights.unit)), job.weights.unit] = 1.0
    constants = [
        backend.on_device(array)
        for array in (
            np.ascontiguousarray(job.rows.inputs[:, job.weights.feature]),
            one_hot,
            job.rows.logits,
            job.rows.labels.astype(np.int32),
            kinds(job.rows),
        )
    ]

    def formula(change: Any, inputs: Any, one_hot: Any, base: Any, labels: Any, kinds: Any) -> Any:
        particles, weights = change.shape
        rows, classes = base.shape
        spread = ops.transpose(change[:, :, None] * one_hot[None], (1, 0, 2))
        moved = ops.matmul(inputs, ops.reshape(spread, (weights, particles * classes)))
        logits = ops.reshape(moved, (rows, particles, classes)) + base[:, None, :]
        true = ops.take_along_axis(logits, labels[:, None, None], axis=-1)[..., 0]
        loss = ops.transpose(ops.logsumexp(logits, axis=-1) - true)
        correct = ops.transpose(ops.equal(ops.argmax(logits, axis=-1), labels[:, None]))
        return ops.concatenate([ops.matmul(loss, kinds), ops.matmul(ops.cast(correct, "float32"), kinds)], axis=-1)

    def moved() -> Any:
        change = (job.candidates.astype(np.float64) - job.weights.old).astype(np.float32)
        return backend.on_device(change)

    program = backend.for_shapes(backend.compiled(formula), (moved(), *constants))

    def evaluate() -> Float64:
        return np.asarray(program(moved(), *constants)).astype(np.float64)

    return evaluate


def by_numpy(job: Job) -> Float64:
    """The formula with all logits in NumPy, one matrix product for the whole swarm."""
    return by_numpy_of(job, job.candidates)


def by_numpy_of(job: Job, candidates: npt.NDArray[Any]) -> Float64:
    """As `by_numpy`, of other candidates (P, K)."""
    particles, count = candidates.shape
    rows, classes = job.rows.logits.shape
    spread = np.zeros((count, particles, classes), np.float32)
    spread[np.arange(count), :, job.weights.unit] = (candidates - job.weights.old).T
    inputs = job.rows.inputs[:, job.weights.feature]
    logits = (inputs @ spread.reshape(count, -1)).reshape(rows, particles, classes)
    logits += job.rows.logits[:, None, :]
    correct = (logits.argmax(axis=-1) == job.rows.labels[:, None]).T
    top = logits.max(axis=-1)
    true = np.take_along_axis(logits, job.rows.labels[:, None, None], axis=-1)[..., 0]
    logits -= top[..., None]
    np.exp(logits, out=logits)
    loss = (top + np.log(logits.sum(axis=-1)) - true).T
    return np.concatenate([loss @ kinds(job.rows), correct.astype(np.float32) @ kinds(job.rows)], axis=1).astype(
        np.float64
    )


def by_model(loaded: LoadedModel, job: Job) -> Callable[[], Float64]:
    """Set the weights of a few particles one after the other and evaluate the model; rows as `TiledFitness` has."""
    assert job.images is not None
    model, labels = loaded.model, job.rows.labels
    layer = find_target(model, loaded.loss, loaded.classes, loaded.path).layer
    model.compile(loss=loaded.loss.name, metrics=["accuracy"])
    one_hot = np.eye(loaded.classes, dtype=np.float32)[labels]
    sets = [(job.images[part], one_hot[part]) for part in (job.rows.negative, ~job.rows.negative)]
    old = np.asarray(layer.kernel).copy()

    def evaluate() -> Float64:
        found = []
        for candidate in job.candidates[:REFERENCE_PARTICLES]:
            new = old.copy()
            new[job.weights.feature, job.weights.unit] = candidate
            layer.kernel.assign(new)
            results = [model.evaluate(inputs, true, verbose=0) for inputs, true in sets]
            counts = [len(inputs) for inputs, _ in sets]
            losses = [loss * count for (loss, _), count in zip(results, counts, strict=True)]
            correct = [round(share * count) for (_, share), count in zip(results, counts, strict=True)]
            found.append([*losses, *correct])
        layer.kernel.assign(old)
        return np.array(found)

    return evaluate


def kinds(rows: SearchRows) -> Float32:
    """(n, 2): one where a row is negative, one where it is positive."""
    return np.stack([rows.negative, ~rows.negative], axis=1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Exact:
    """What is right: sums (P, 4) in float64, and how many rows of each kind (P, 2) are too near a tie to be counted."""

    sums: Float64
    near: Int64


def exact(job: Job) -> Exact:
    """The dense formula in float64."""
    sums, near = [], []
    step = max(1, BLOCK_ELEMENTS // job.rows.logits.size)
    inputs = job.rows.inputs[:, job.weights.feature].astype(np.float64)
    rows, parts = np.arange(len(inputs)), kinds(job.rows).astype(np.float64)
    for start in range(0, len(job.candidates), step):
        change = job.candidates[start : start + step].astype(np.float64) - job.weights.old
        logits = np.repeat(job.rows.logits[None].astype(np.float64), len(change), axis=0)
        for unit in np.unique(job.weights.unit):
            of_unit = job.weights.unit == unit
            logits[:, :, unit] += change[:, of_unit] @ inputs[:, of_unit].T
        true = logits[:, rows, job.rows.labels]
        correct = logits.argmax(axis=-1) == job.rows.labels
        second, top = np.moveaxis(np.partition(logits, -2, axis=-1)[..., -2:], -1, 0)
        loss = top + np.log(np.exp(logits - top[..., None]).sum(axis=-1)) - true
        sums.append(np.concatenate([loss @ parts, correct @ parts], axis=1))
        near.append(((top - second) <= NEAR * np.maximum(np.abs(top), 1.0)) @ parts)
    return Exact(np.concatenate(sums), np.concatenate(near).astype(np.int64))


def check(name: str, sums: npt.NDArray[Any], right: Exact) -> None:
    """Stop when sums (up to P, 4) are not what they should be: counts equal, losses within 1e-4."""
    there = right.sums[: len(sums)]
    loss = np.abs(sums[:, :2] - there[:, :2]) / np.maximum(np.abs(there[:, :2]), 1e-30)
    if not loss.max() <= LOSS_TOLERANCE:
        raise click.ClickException(f"{name}: losses differ by {loss.max():.1e} relative from the float64 formula")
    count = np.abs(sums[:, 2:] - there[:, 2:])
    if not (count <= right.near[: len(sums)]).all():
        raise click.ClickException(f"{name}: counts differ by {count.max():g} rows from the float64 formula")
