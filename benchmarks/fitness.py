"""One swarm iteration of 100 particles against the dense formula, NumPy, and setting weights in the model.

python benchmarks/fitness.py [--model MODEL]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from common import machine, model_option, shipped_images, side_by_side

from cli.console import table
from engine import backend, search
from engine.backend import ops
from engine.fitness import SearchRows, TiledFitness, Tiling, Weights
from engine.head import Head, find_target
from engine.models import LoadedModel, load_model
from engine.problem import Prepared, Problem, judge_of
from engine.runner import ModelRunner
from engine.swarm import Spread, Stream, SwarmSettings

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

PARTICLES = 100
REFERENCE_PARTICLES = 3
"""Particles that the slow reference is timed on; all cost the same."""

COMPARED = ("dense", "numpy", "evaluate")


@dataclass(frozen=True)
class Size:
    """Rows, localised weights, classes, touched units; and how many times faster than what we aim to be."""

    rows: int
    weights: int
    classes: int
    units: int
    dense_aim: float | None
    evaluate_aim: float | None

    def __str__(self) -> str:
        return f"({self.rows}, {self.weights}, {self.classes}, {self.units})"


SIZES = (
    Size(916, 3, 10, 3, 4, 5000),
    Size(916, 200, 10, 8, None, 5000),
    Size(27668, 4, 10, 3, None, None),
    Size(2000, 64, 1000, 8, 150, None),
    Size(2000, 64, 1000, 60, 10, None),
)


@dataclass(frozen=True, eq=False)
class Job:
    """Rows, weights and the candidates of one iteration, (P, K)."""

    rows: SearchRows
    weights: Weights
    candidates: Float32
    kernel: Float32


@click.command()
@model_option
@click.option("--rounds", type=int, default=9, show_default=True, help="Rounds of the medians.")
def main(model_path: Path, rounds: int) -> None:
    """Time one iteration of 100 particles at several sizes, everything side by side."""
    click.echo(machine())
    click.echo(
        f"{PARTICLES} particles; medians of {rounds} rounds, milliseconds per iteration of the whole swarm\n"
        "fitness: TiledFitness.evaluate; iteration: with the moves of the swarm; dense: all C logits, compiled alike;\n"
        f"numpy: one matrix product; evaluate: set the weights and model.evaluate on negatives and on positives,\n"
        f"{REFERENCE_PARTICLES} particles timed, with {model_path.name}\n"
    )
    loaded = load_model(model_path)
    cells = []
    for size in SIZES:
        real = size.evaluate_aim is not None
        if real:
            images, labels = shipped_images(size.rows)
            job = model_job(loaded, images, labels, size)
        else:
            job = random_job(size)
        fitness = TiledFitness(Head("log_softmax", "linear"), job.rows, job.weights, PARTICLES, Tiling())
        calls: dict[str, Callable[[], object]] = {
            "fitness": partial(fitness.evaluate, job.candidates),
            "iteration": one_iteration(job, fitness),
            "dense": dense(job),
            "numpy": partial(by_numpy, job),
        }
        compare(size, fitness.evaluate(job.candidates), calls)
        times = side_by_side(calls, rounds, 0.1)
        if real:
            reference = by_model(loaded, job, images, labels)
            check_reference(reference, fitness.evaluate(job.candidates))
            calls = {"fitness": calls["fitness"], "reference": reference}
            slow = side_by_side(calls, 3, 0.1)
            times["evaluate"] = slow["reference"] / REFERENCE_PARTICLES * PARTICLES
        cells.append(row(size, times))
    header = ["(n, K, C, U)", "fitness", "iteration", "dense", "numpy", "evaluate"]
    header += ["dense / fitness", "aim", "numpy / fitness", "evaluate / fitness", "aim"]
    click.echo(table(header, cells))


def row(size: Size, times: dict[str, float]) -> list[str]:
    """One line of the table."""
    ours = times["fitness"]
    milliseconds = [
        f"{1e3 * times[name]:,.2f}" if name in times else "-"
        for name in ("fitness", "iteration", "dense", "numpy", "evaluate")
    ]
    times_faster = {name: f"{times[name] / ours:,.1f}" if name in times else "-" for name in COMPARED}
    aims = [f"{aim:,g}" if aim else "-" for aim in (size.dense_aim, size.evaluate_aim)]
    dense, by_numpy, evaluate = (times_faster[name] for name in COMPARED)
    return [str(size), *milliseconds, dense, aims[0], by_numpy, evaluate, aims[1]]


def random_job(size: Size) -> Job:
    """Rows and weights of a given size with drawn values, 4 % of the rows negative."""
    rng = np.random.default_rng(1)
    inputs = np.abs(rng.normal(size=(size.rows, size.weights))).astype(np.float32)
    logits = rng.normal(scale=3.0, size=(size.rows, size.classes)).astype(np.float32)
    units = rng.permutation(size.classes)[: size.units]
    kernel = rng.normal(scale=0.1, size=(size.weights, size.classes)).astype(np.float32)
    column = np.arange(size.weights)
    unit = units[column % size.units]
    weights = Weights(column, unit, kernel[column, unit])
    rows = SearchRows(inputs, logits, rng.integers(0, size.classes, size.rows), rng.random(size.rows) < 0.04)
    return Job(rows, weights, around(kernel, weights), kernel)


def model_job(loaded: LoadedModel, images: Float32, labels: npt.NDArray[np.int64], size: Size) -> Job:
    """Weights of the model's last layer, drawn among `size.units` of its units, on real rows."""
    target = find_target(loaded.model, loaded.loss, loaded.classes, loaded.path)
    inputs, logits = ModelRunner(loaded.model, target).features(images)
    kernel = np.asarray(target.layer.kernel)
    rng = np.random.default_rng(1)
    units = rng.permutation(size.classes)[: size.units]
    # The units take turns, each with inputs of its own choice.
    turn = np.arange(size.weights) % size.units
    column = np.stack([rng.permutation(len(kernel)) for _ in units])[turn, np.arange(size.weights) // size.units]
    unit = units[turn]
    negative = logits.argmax(axis=1) != labels
    weights = Weights(column, unit, kernel[column, unit])
    rows = SearchRows(inputs, logits, labels, negative)
    return Job(rows, weights, around(kernel, weights), kernel)


def around(kernel: Float32, weights: Weights) -> Float32:
    """Candidates (P, K) as the swarm starts: the model as it is, and draws from the layer's distribution."""
    rng = np.random.default_rng(2)
    drawn = rng.normal(kernel.mean(), kernel.std(), size=(PARTICLES - 1, len(weights.old)))
    return np.vstack([weights.old, drawn]).astype(np.float32)


def one_iteration(job: Job, fitness: TiledFitness) -> Callable[[], object]:
    """A whole iteration of the search: candidates, their fitness, the move of the swarm."""
    settings = search.SearchSettings(
        SwarmSettings(PARTICLES), num_iterations=1 << 30, min_iteration_range=1 << 30, positive_weight=200.0
    )
    head, spread, source = Head("log_softmax", "linear"), Spread.of(job.kernel), Stream(0, "benchmark", 0)
    problem = Problem("benchmark", head, job.weights, spread, source, settings)
    prepared = Prepared(judge_of(settings, job.rows), fitness)
    state = problem.start()

    def step() -> None:
        nonlocal state
        state, _ = search.advance(settings, source, prepared.judge, state, fitness.evaluate, seconds=0.0)

    return step


def dense(job: Job) -> Callable[[], Float64]:
    """The formula with all P x n x C logits, compiled like ours and with its constants on the device."""
    classes = job.rows.logits.shape[1]
    one_hot = np.zeros((len(job.weights.unit), classes), np.float32)
    one_hot[np.arange(len(job.weights.unit)), job.weights.unit] = 1.0
    kinds = np.stack([job.rows.negative, ~job.rows.negative], axis=1).astype(np.float32)
    constants = [
        backend.on_device(each)
        for each in (
            np.ascontiguousarray(job.rows.inputs[:, job.weights.column]),
            one_hot,
            job.rows.logits,
            job.rows.labels.astype(np.int32),
            kinds,
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
    particles, count = job.candidates.shape
    rows, classes = job.rows.logits.shape
    spread = np.zeros((count, particles, classes), np.float32)
    spread[np.arange(count), :, job.weights.unit] = (job.candidates - job.weights.old).T
    inputs = job.rows.inputs[:, job.weights.column]
    logits = (inputs @ spread.reshape(count, -1)).reshape(rows, particles, classes)
    logits += job.rows.logits[:, None, :]
    correct = (logits.argmax(axis=-1) == job.rows.labels[:, None]).T
    top = logits.max(axis=-1)
    true = np.take_along_axis(logits, job.rows.labels[:, None, None], axis=-1)[..., 0]
    logits -= top[..., None]
    np.exp(logits, out=logits)
    loss = (top + np.log(logits.sum(axis=-1)) - true).T
    kinds = np.stack([job.rows.negative, ~job.rows.negative], axis=1).astype(np.float32)
    return np.concatenate([loss @ kinds, correct.astype(np.float32) @ kinds], axis=1).astype(np.float64)


def by_model(
    loaded: LoadedModel, job: Job, images: Float32, labels: npt.NDArray[np.int64]
) -> Callable[[], list[list[float]]]:
    """Set the weights of a few particles one after the other and evaluate the model; rows as `TiledFitness` has."""
    model = loaded.model
    layer = find_target(model, loaded.loss, loaded.classes, loaded.path).layer
    model.compile(loss=loaded.loss.name, metrics=["accuracy"])
    one_hot = np.eye(loaded.classes, dtype=np.float32)[labels]
    sets = [(images[part], one_hot[part]) for part in (job.rows.negative, ~job.rows.negative)]
    old = np.asarray(layer.kernel).copy()

    def evaluate() -> list[list[float]]:
        found = []
        for candidate in job.candidates[:REFERENCE_PARTICLES]:
            new = old.copy()
            new[job.weights.column, job.weights.unit] = candidate
            layer.kernel.assign(new)
            each = [model.evaluate(inputs, true, verbose=0) for inputs, true in sets]
            counts = [len(inputs) for inputs, _ in sets]
            found.append([each[k][what] * counts[k] for what in (0, 1) for k in (0, 1)])
        layer.kernel.assign(old)
        return found

    return evaluate


def check_reference(reference: Callable[[], list[list[float]]], ours: Float64) -> None:
    """Stop when the model itself says something else."""
    theirs = np.array(reference())
    if not np.allclose(ours[: len(theirs)], theirs, rtol=1e-3, atol=0.5):
        raise click.ClickException(f"fitness {ours[: len(theirs)]} and model {theirs} differ")


def compare(size: Size, ours: Float64, calls: dict[str, Callable[[], Any]]) -> None:
    """Stop when the formulas disagree by more than the rounding of their float32 sums."""
    for name in ("dense", "numpy"):
        theirs = calls[name]()
        close = np.allclose(ours[:, :2], theirs[:, :2], rtol=1e-4) and np.abs(ours[:, 2:] - theirs[:, 2:]).max() <= 1
        if not close:
            raise click.ClickException(f"{size}: fitness and {name} differ")


if __name__ == "__main__":
    main()
