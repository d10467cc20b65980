"""Fitness of a swarm for weights of any layer, against setting the weights and evaluating the model, with the floor.

python benchmarks/layers.py [--model MODEL] [--target NAME ...] [--output FOLDER]

Ways, each for the identical candidates on the identical rows: `slow` sets the weights of one particle after the other
and calls `model.evaluate` on its negative and on its positive rows; `in place` puts the weights into a stateless call
of the tail, which every layer can have; `here` is what a search does, by touched units where there is that way.

The floor is the multiply-adds that exact values need, of the changed units up to the layer that mixes them and of
everything behind it, at the rate of a large matrix product; or the bytes that must move, where those take longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import keras
import numpy as np
import pyarrow as pa
from common import (
    Aim,
    column,
    machine,
    model_option,
    output_option,
    shipped_images,
    side_by_side,
    table,
    write_aims,
    write_results,
)
from costs import Peak, Work, measure_peak

from engine.core.types import Float32, Float64, Int64
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.tail import TailFitness, kept_bytes
from engine.fitness.tiling import Tiling
from engine.layers.tail import Tail
from engine.layers.touched import Route
from engine.models.graph import Step
from engine.models.load import load_model
from engine.models.loss import TrainingLoss
from engine.models.weight_paths import weight_variables
from engine.targets.base import Target
from engine.targets.model_runner import ModelRunner
from engine.targets.resolve import resolve_target

L = keras.layers

LOSS = TrainingLoss("categorical_crossentropy", from_logits=False, stated=True)
NEGATIVES = 0.15
"""Share of the rows of a model without training that are negative."""


@dataclass(frozen=True)
class Place:
    """A layer under repair.

    Attributes:
        network: a name of `NETWORKS`.
        layer: its name; None for the model's last Dense layer but one.
        rows, particles: how many are timed; deep networks are slow.
        aim: times faster than the slow way, where something was promised.
        most: times the floor at most, where something was promised.
    """

    network: str
    layer: str | None
    rows: int
    particles: int
    aim: float | None = None
    most: float | None = None


TARGETS = {
    "hidden Dense": Place("model", None, 1000, 100, 300),
    "VGG16, first convolution": Place("VGG16", "block1_conv1", 256, 8),
    "VGG16, convolution 7 of 13": Place("VGG16", "block3_conv3", 256, 16, 10, 1.3),
    "VGG16, convolution 9 of 13": Place("VGG16", "block4_conv2", 256, 16, 10),
    "VGG16, last convolution": Place("VGG16", "block5_conv3", 256, 32),
    "ResNet50, convolution": Place("ResNet50", "conv4_block2_2_conv", 256, 16),
    "MobileNetV2, depthwise": Place("MobileNetV2", "block_6_depthwise", 256, 16),
    "transformer, attention query": Place("transformer", "attention1/query", 256, 16),
    "transformer, EinsumDense": Place("transformer", "wide1", 256, 16),
    "Conv1D text": Place("text", "conv", 256, 32),
}

COLUMNS = (
    column("target", pa.string(), "layer under repair"),
    column("layer", pa.string(), "its name"),
    column("kind", pa.string(), "its class"),
    column("rows", pa.int64(), "rows a candidate is judged on", "rows"),
    column("weights", pa.int64(), "weights that a candidate changes", "weights"),
    column("way", pa.string(), "slow, in place or here"),
    column("route", pa.string(), "of `here`: touched units or weights in place"),
    column("seconds", pa.float64(), "median time of one candidate", "s"),
    column("times", pa.float64(), "time of the slow way / this", "1"),
    column("bytes", pa.int64(), "bytes that must move for all candidates", "B"),
    column("multiply_adds", pa.int64(), "multiply-adds of one candidate that must be done", "multiply-adds"),
    column("floor", pa.float64(), "time of those for one candidate at the rates measured", "s"),
)


def vgg16() -> Any:
    """As the toolkit has it: two Dense layers of 4,096 units behind the convolutions."""
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    x = L.Flatten()(base.output)
    for _ in range(2):
        x = L.Dense(4096, "relu")(x)
    return keras.Model(base.input, L.Dense(10, "softmax")(x))


def application(name: str, **settings: Any) -> Any:
    """A network of keras.applications behind which ten classes are told apart, by values of moderate size."""
    make = getattr(keras.applications, name)
    base = make(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg", **settings)
    return keras.Model(base.input, L.Dense(10, "softmax")(L.LayerNormalization()(base.output)))


def transformer() -> Any:
    """A small vision transformer: 16 patches of 8x8 pixels, four blocks of width 64."""
    start = keras.Input((32, 32, 3))
    x = L.Reshape((16, 64))(L.Conv2D(64, 8, 8)(start))
    for number in range(4):
        y = L.LayerNormalization()(x)
        x = x + L.MultiHeadAttention(4, 16, name=f"attention{number}")(y, y)
        y = L.LayerNormalization()(x)
        y = L.EinsumDense("abc,cd->abd", (16, 256), bias_axes="d", activation="gelu", name=f"wide{number}")(y)
        x = x + L.Dense(64)(y)
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(start, L.Dense(10, "softmax")(x))


def text() -> Any:
    """Rows of an image as words of a text, through two convolutions in time."""
    start = keras.Input((32, 32, 3))
    x = L.Conv1D(64, 5, padding="same", activation="relu", name="conv")(L.Reshape((96, 32))(start))
    x = L.Conv1D(64, 5, strides=2, activation="relu")(x)
    return keras.Model(start, L.Dense(10, "softmax")(L.Dense(64, "relu")(L.GlobalMaxPooling1D()(x))))


NETWORKS: dict[str, Callable[[], Any]] = {
    "VGG16": vgg16,
    "ResNet50": partial(application, "ResNet50"),
    "MobileNetV2": partial(application, "MobileNetV2", alpha=0.35),
    "transformer": transformer,
    "text": text,
}
"""Networks without training; values of their weights make no difference to any time."""


@dataclass(frozen=True, eq=False)
class Job:
    """A target layer with rows and candidates.

    Attributes:
        target: under repair.
        tail: of it.
        images: (n, 32, 32, 3).
        rows: of the search.
        places: (K,) of the weights.
        candidates: (P, K).
        model, loss: of it.
    """

    target: Target
    tail: Tail
    images: Float32
    rows: SearchRows
    places: Int64
    candidates: Float32
    model: Any
    loss: str

    def fitness(self) -> TailFitness:
        """This project's evaluation."""
        kernel = self.target.kernel
        weights = Weights(self.places, np.zeros_like(self.places), kernel[self.places, 0])
        return TailFitness(self.tail, kernel, self.rows, weights, len(self.candidates), Tiling())

    def in_place(self) -> TailFitness:
        """The same, with the weights put in place."""
        with patch("engine.fitness.tail.plan_short", lambda *_: None):
            return self.fitness()


@click.command()
@model_option
@click.option("--target", "names", type=click.Choice(list(TARGETS)), multiple=True, help="Layers [default: all].")
@click.option("--weights", type=int, default=16, show_default=True, help="Weights, drawn from the whole kernel.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Rounds of the medians.")
@output_option
def main(model_path: Path, names: tuple[str, ...], weights: int, rounds: int, output: Path | None) -> None:
    """Time the three ways, after they have given the same sums."""
    line = machine()
    click.echo(line)
    peak = measure_peak()
    click.echo(
        f"measured here: {peak.bytes / 1e9:.1f} GB/s copied, {peak.multiply_adds / 1e9:.0f} G multiply-adds/s; medians "
        f"of {rounds} rounds; milliseconds per candidate; {weights} weights drawn from the kernel\n"
    )
    rows: list[dict[str, Any]] = []
    cells, aims = [], []
    for name in names or TARGETS:
        found = measure(name, TARGETS[name], model_path, weights, rounds, peak)
        rows += found
        seconds = {row["way"]: row["seconds"] for row in found}
        slow, in_place, here = seconds["slow"], seconds["in place"], seconds["here"]
        floor = found[2]["floor"]
        aim, most = TARGETS[name].aim, TARGETS[name].most
        if aim is not None:
            aims.append(Aim(f"{name}: times as fast as setting the weights", slow / here, aim, at_least=True))
        if most is not None:
            aims.append(Aim(f"{name}: times the floor", here / floor, most))
        cells.append(
            [
                name,
                found[0]["kind"],
                f"{found[0]['rows']:,}",
                f"{1e3 * slow:,.1f}",
                f"{1e3 * in_place:,.3f}",
                f"{1e3 * here:,.3f}",
                found[2]["route"],
                f"{slow / here:,.1f}",
                f"{in_place / here:.1f}",
                f"{1e3 * floor:.3f}",
                f"{slow / floor:,.0f}",
                f"{here / floor:,.1f}",
                "-" if aim is None else f"{aim:g}: {'met' if slow / here >= aim else 'NOT met'}",
            ]
        )
        click.echo(f"{name}: {slow / here:,.1f} times the slow way")
    header = ["target", "layer", "rows", "slow", "in place", "here", "route", "slow / here", "in place / here"]
    click.echo("\n" + table([*header, "floor", "slow / floor", "here / floor", "aim: slow / here"], cells))
    write_results(output, "layers", COLUMNS, rows, line)
    write_aims(output, "layers", aims, line)


def measure(name: str, place: Place, model_path: Path, weights: int, rounds: int, peak: Peak) -> list[dict[str, Any]]:
    """Check and time one target."""
    job = make_job(place, model_path, weights)
    here, in_place = job.fitness(), job.in_place()
    slow = by_model(job)
    expected, first, second = slow(), here.evaluate(job.candidates), in_place.evaluate(job.candidates)
    check(f"{name}: here", first[: len(expected)], expected)
    check(f"{name}: in place", second, first)
    times = side_by_side(
        {
            "slow": slow,
            "in place": partial(in_place.evaluate, job.candidates),
            "here": partial(here.evaluate, job.candidates),
        },
        rounds,
    )
    counts = {"slow": len(expected), "in place": len(job.candidates), "here": len(job.candidates)}
    seconds = {way: times[way] / counts[way] for way in times}
    holder = job.tail.cut.tail[0]
    found = []
    for way, took in seconds.items():
        route = here._route if way == "here" else None
        work = needed(job, here if way == "here" else in_place, route)
        found.append(
            {
                "target": name,
                "layer": job.target.title,
                "kind": type(holder.operation).__name__,
                "rows": len(job.images),
                "weights": len(job.places),
                "way": way,
                "route": "touched units" if route else "weights in place",
                "seconds": took,
                "times": seconds["slow"] / took,
                "bytes": work.bytes,
                "multiply_adds": work.multiply_adds,
                "floor": max(work.bytes / len(job.candidates) / peak.bytes, work.multiply_adds / peak.multiply_adds),
            }
        )
    return found


def make_job(place: Place, model_path: Path, weights: int) -> Job:
    """A target with drawn weights, on real rows."""
    images, labels = shipped_images(place.rows)
    if place.network == "model":
        loaded = load_model(model_path)
        model, loss, path = loaded.model, loaded.loss, loaded.path
        # The last layer but one that is a Dense of the model's own.
        name = [layer.name for layer in model.layers if isinstance(layer, L.Dense)][-2]
    else:
        keras.utils.clear_session()
        assert place.layer is not None
        model, loss, path, name = NETWORKS[place.network](), LOSS, Path(place.network), place.layer
        draw_weights(model)
    target = resolve_target(model, loss, 10, path, [name])
    assert target.tail is not None
    runner = ModelRunner(model, target)
    features, logits = runner.features(images)
    rng = np.random.default_rng(0)
    wrong = logits.argmax(axis=1) != labels
    if place.network != "model":
        wrong = rng.random(len(labels)) < NEGATIVES
        labels = np.where(wrong, (logits.argmax(axis=1) + 1) % 10, logits.argmax(axis=1))
    kernel = target.kernel
    places = np.sort(rng.choice(len(kernel), weights, replace=False))
    old = kernel[places, 0]
    moves = rng.normal(0, kernel.std(), (place.particles, weights))
    moves[0] = 0
    rows = SearchRows(features, logits, labels, wrong)
    return Job(target, target.tail, images, rows, places, (old + moves).astype(np.float32), model, loss.name)


def draw_weights(model: Any) -> None:
    """Weights that neither fade values out nor blow them up."""
    rng = np.random.default_rng(0)
    for variable in weight_variables(model).values():
        shape = tuple(variable.shape)
        if len(shape) > 1:
            scale = math.sqrt(2 / math.prod(shape[:-1] if shape[-1] > 2 else shape[:-2]))
            variable.assign(scale * rng.standard_normal(shape, np.float32))


def by_model(job: Job) -> Callable[[], Float64]:
    """Set the weights of two particles one after the other and evaluate the model; rows as `TailFitness` has them."""
    model = job.model
    model.compile(loss=job.loss, metrics=["accuracy"])
    one_hot = np.eye(10, dtype=np.float32)[job.rows.labels]
    sets = [(job.images[part], one_hot[part]) for part in (job.rows.negative, ~job.rows.negative)]
    variable = job.tail.variables[0]
    position = [id(weight) for weight in model.weights].index(id(variable))

    def evaluate() -> Float64:
        found = []
        old = model.get_weights()
        for candidate in job.candidates[:2]:
            new = [values.copy() for values in old]
            new[position].flat[job.places] = candidate
            model.set_weights(new)
            results = [model.evaluate(inputs, true, verbose=0) for inputs, true in sets]
            counts = [len(inputs) for inputs, _ in sets]
            losses = [loss * count for (loss, _), count in zip(results, counts, strict=True)]
            correct = [round(share * count) for (_, share), count in zip(results, counts, strict=True)]
            found.append([*losses, *correct])
        model.set_weights(old)
        return np.array(found)

    return evaluate


def check(name: str, sums: Float64, right: Float64) -> None:
    """Stop when losses differ by 1e-4 or counts by more than a row near a tie."""
    loss = np.abs(sums[:, :2] / right[:, :2] - 1).max()
    if not loss <= 1e-4:
        raise click.ClickException(f"{name}: losses differ by {loss:.1e} relative")
    count = np.abs(sums[:, 2:] - right[:, 2:]).max()
    if count > 1:
        raise click.ClickException(f"{name}: counts differ by {count:g} rows")


def needed(job: Job, fitness: TailFitness, route: Route | None) -> Work:
    """Multiply-adds of one candidate; bytes of all: what is kept and the weights of the tail, read once."""
    rows, cut = len(job.rows.labels), job.tail.cut
    steps: Sequence[Step] = cut.tail if route is None else route.rest
    adds = sum(multiply_adds(step, job.tail) for step in steps)
    if route is not None:
        assert fitness._groups is not None
        adds += len(job.places) * math.prod(size or 1 for size in route.first.shapes[0][1:-1])
        if route.joint is not None:
            units = route.first.shapes[0][-1]
            assert units is not None  # only rows are of no known number
            share = len(fitness._groups.units) / units
            adds += round(share * multiply_adds(route.joint, job.tail))
    held = sum(4 * math.prod(variable.shape) for step in steps for variable in step.variables)
    return Work(rows * kept_bytes(cut, route, fitness._groups) + held, rows * adds, 0)


def multiply_adds(step: Step, tail: Tail) -> int:
    """Of one row; layers without matrix products count nothing."""
    layer, shape = step.operation, step.shapes[0]
    if few := tail._places.get(id(step)):  # one product with the unfolded kernel
        return math.prod(few) * int(layer.kernel.shape[-2]) * math.prod(size or 1 for size in shape[1:])
    places = math.prod(size or 1 for size in shape[1:-1])
    if isinstance(layer, L.MultiHeadAttention):
        width = int(layer._num_heads * layer._key_dim)
        return places * (matrix_values(layer) + 2 * places * width)
    if isinstance(layer, (L.Dense, L.EinsumDense)) or hasattr(layer, "kernel_size"):
        return places * matrix_values(layer)
    return 0


def matrix_values(layer: Any) -> int:
    """Numbers in the matrices of a layer, without its biases and scales."""
    shapes = [tuple(variable.shape) for variable in layer.trainable_variables]
    return sum(math.prod(shape) for shape in shapes if len(shape) > 1)


if __name__ == "__main__":
    main()
