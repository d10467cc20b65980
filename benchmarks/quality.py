"""What repairs do to images that no search saw: the positive weight, the ways a swarm can move, other labels.

python benchmarks/quality.py --model MODEL [--dataset-dir FOLDER]

Each chunk of training images is searched with several seeds; every repaired model predicts the official test images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import numpy as np
from common import dataset_option, machine, model_option, table

from engine.backend import keras
from engine.core.rng import RngKey
from engine.core.types import Float32, Int64
from engine.data.image_set import READ_ROWS
from engine.data.preprocess import preprocess_images
from engine.datasets.fashion_mnist import DEFAULT_PREPROCESS, LABEL_NAMES, read_split
from engine.fitness.rows import SearchRows, Weights
from engine.layers.weight_stats import WeightStats
from engine.metrics.accuracy import LabelChange, paired_changes
from engine.models.load import LoadedModel, load_model
from engine.problem.problem import Problem, prepare
from engine.search import loop as search
from engine.search.loop import POSITIVE_WORTH, SearchSettings
from engine.search.swarm import SwarmSettings
from engine.targets.last_dense import TargetLayer, find_target
from engine.targets.model_runner import ModelRunner


@dataclass(frozen=True, eq=False)
class Images:
    """Images (n, h, w, c), their classes (n,), the layer's inputs (n, D), logits (n, C) and predictions (n,)."""

    pixels: Float32
    labels: Int64
    inputs: Float32
    logits: Float32
    predicted: Int64


@dataclass(frozen=True, eq=False)
class Case:
    """One chunk and label: the rows of its searches, and the weights, also as kernel positions (K, 2)."""

    chunk: int
    label: int
    rows: SearchRows
    weights: Weights
    index: Int64


@dataclass(frozen=True)
class Run:
    """One repair: what the search believed of its rows, and what became of the test images."""

    chunk: int
    weights: int
    positive_weight: float
    iterations: int
    fitness: float
    repaired: float
    kept: float
    changes: tuple[LabelChange, ...]

    def points(self, label: int | None) -> float:
        """Change of the accuracy of a label, or of all, in points."""
        chosen = [change for change in self.changes if label is None or change.label == label]
        gained = sum(change.correct_after - change.correct_before for change in chosen)
        return 100 * gained / sum(change.total for change in chosen)

    def count(self, what: str, label: int | None = None) -> int:
        """Test images `fixed` or `broken`, of one label or of all."""
        return sum(getattr(change, what) for change in self.changes if label is None or change.label == label)


class Subject:
    """A model whose last layer is repaired on cached inputs, and the images it is measured on."""

    def __init__(self, loaded: LoadedModel, test: tuple[Float32, Int64]) -> None:
        """Run the model on the test images."""
        self.loaded = loaded
        self.target: TargetLayer = find_target(loaded.model, loaded.loss, loaded.classes, loaded.path)
        self.runner = ModelRunner(loaded.model, self.target)
        self.kernel = np.asarray(self.target.layer.kernel).copy()
        self._tail: Any = keras.Model(self.target.layer.input, loaded.model.outputs)
        self.test = self.images(*test)

    def images(self, pixels: Float32, labels: Int64) -> Images:
        """Extract features and predict."""
        inputs, logits = self.runner.features(pixels)
        return Images(pixels, labels, inputs, logits, self.runner.predict(pixels))

    def case(self, number: int, chunk: Images, label: int, many: int | None = None) -> Case:
        """Localise on the failures of a label; `many` takes so many weights by gradient loss, without the front."""
        negative = (chunk.labels == label) & (chunk.predicted != label)
        if not negative.any():
            raise click.ClickException(f"chunk {number} has no failure of label {label}, expected some in each chunk")
        sums = self.runner.localisation_sums(chunk.pixels[negative], chunk.labels[negative])
        found = self.target.localise(sums, None, self.kernel, num_grad=many, impact="mean", fronts=1)
        chosen = found.front if many is None else np.arange(len(found.row))
        index = np.stack([found.row[chosen], found.unit[chosen]], axis=1)
        columns, column = np.unique(index[:, 0], return_inverse=True)
        order = np.concatenate([np.flatnonzero(negative), np.flatnonzero(chunk.predicted == chunk.labels)])
        rows = SearchRows(
            np.ascontiguousarray(chunk.inputs[order][:, columns]),
            chunk.logits[order],
            chunk.labels[order],
            negative[order],
        )
        weights = Weights(column.astype(np.int64), index[:, 1], self.kernel[index[:, 0], index[:, 1]])
        return Case(number, label, rows, weights, index)

    def repair(self, case: Case, seed: int, settings: SearchSettings) -> tuple[Run, Float32]:
        """Search, and predict the test images with the layer repaired; also returns the new weights (K,)."""
        source = RngKey(seed, f"chunk {case.chunk}", case.label)
        problem = Problem("quality", self.target.head, case.weights, WeightStats.of(self.kernel), source, settings)
        prepared = prepare(problem, case.rows)
        state, iterations = search.advance(
            settings, source, prepared.objective, problem.start(), prepared.fitness.evaluate
        )
        found = search.result(state)
        with self.repaired(case, found):
            after = np.asarray(self._tail(self.test.inputs, training=False)).argmax(axis=1)
        changes = paired_changes(self.test.labels, self.test.predicted, after, self.loaded.classes)
        last, objective = iterations[-1], prepared.objective
        run = Run(
            chunk=case.chunk,
            weights=len(case.index),
            positive_weight=objective.positive_weight or 0.0,
            iterations=len(iterations),
            fitness=last.best,
            repaired=last.patched / objective.negatives,
            kept=last.intact / objective.positives,
            changes=changes,
        )
        return run, found

    @contextmanager
    def repaired(self, case: Case, found: Float32) -> Iterator[None]:
        """The model with new weights."""
        kernel = self.kernel.copy()
        kernel[case.index[:, 0], case.index[:, 1]] = found
        self.target.layer.kernel.assign(kernel)
        try:
            yield
        finally:
            self.target.layer.kernel.assign(self.kernel)

    def check(self, case: Case, settings: SearchSettings) -> int:
        """Repair with seed 0 and count test images on which the whole model and the cached inputs disagree."""
        run, found = self.repair(case, 0, settings)
        with self.repaired(case, found):
            whole = self.runner.predict(self.test.pixels)
        changes = paired_changes(self.test.labels, self.test.predicted, whole, self.loaded.classes)
        return sum(abs(a.fixed - b.fixed) + abs(a.broken - b.broken) for a, b in zip(changes, run.changes, strict=True))


@click.command()
@model_option
@dataset_option
@click.option("--preprocess", default=DEFAULT_PREPROCESS, show_default=True, help="What the model was trained with.")
@click.option("--label", type=int, default=6, show_default=True, help="Label under repair.")
@click.option("--offset", type=int, default=50_000, show_default=True, help="First training image of the chunks.")
@click.option("--chunks", type=int, default=5, show_default=True, help="Number of chunks.")
@click.option("--chunk-size", type=int, default=1000, show_default=True, help="Images of a chunk.")
@click.option("--seeds", type=int, default=5, show_default=True, help="Searches of each chunk.")
@click.option("--positive-weights", default="100,200,400,800", show_default=True, help="Beside the default.")
@click.option("--many", type=int, default=100, show_default=True, help="Weights in the comparison at many weights.")
@click.option("--other-labels", default="0,2,3,4", show_default=True, help="Labels repaired with the default as well.")
def main(
    model_path: Path,
    dataset_dir: Path,
    preprocess: str,
    label: int,
    offset: int,
    chunks: int,
    chunk_size: int,
    seeds: int,
    positive_weights: str,
    many: int,
    other_labels: str,
) -> None:
    """Repair a label on several chunks and measure on the official test images."""
    click.echo(machine())
    subject = Subject(load_model(model_path), prepared_split(dataset_dir, "t10k", preprocess, 0, None))
    pixels, labels = prepared_split(dataset_dir, "train", preprocess, offset, chunks * chunk_size)
    parts = [slice(start, start + chunk_size) for start in range(0, chunks * chunk_size, chunk_size)]
    data = [subject.images(pixels[part], labels[part]) for part in parts]
    cases = [subject.case(number, chunk, label) for number, chunk in enumerate(data)]
    default = SearchSettings()
    tested = subject.test
    disagreeing = sum(subject.check(case, default) for case in cases)
    right, mine = tested.predicted == tested.labels, tested.labels == label
    click.echo(
        f"{model_path.name}: label {label} {100 * right[mine].mean():.2f} %, all {100 * right.mean():.2f} % of "
        f"{len(right)} test images before\n{chunks} chunks of {chunk_size} training images from {offset} x {seeds} "
        f"seeds, measured on the test images; mean ± standard deviation over the {chunks * seeds} runs, in points\n"
        f"K: weights; repaired, kept: of the search's own rows; fixed, broken: test images per run, own: of the label\n"
        f"under repair; worst other: the other label that loses most, mean in points\n"
        f"predictions with cached features and with the whole model differ on {disagreeing} of {chunks * len(right)}"
    )

    def runs(cases: Sequence[Case], settings: SearchSettings) -> list[Run]:
        return [subject.repair(case, seed, settings)[0] for case in cases for seed in range(seeds)]

    given = sorted(float(word) for word in positive_weights.split(","))
    by_weight = {weight: runs(cases, replace(default, positive_weight=weight)) for weight in given}
    by_default = runs(cases, default)
    click.echo(f"\npositive weight (default: {POSITIVE_WORTH:g} for each positive), label {label}")
    chosen = mean(run.positive_weight for run in by_default)
    lines = [(f"{weight:g}", weight, found) for weight, found in by_weight.items()]
    lines.append((f"default ({chosen:.0f})", chosen, by_default))
    lines.sort(key=lambda line: line[1])
    click.echo(table(["positive weight", *SUMMARY], [[name, *summary(found, label)] for name, _, found in lines]))

    click.echo(f"\nby label, default positive weight, label {label} repaired")
    click.echo(table(["label", "images", "before %", "after %", "change", "fixed", "broken"], label_lines(by_default)))

    click.echo("\nby chunk, default positive weight")
    by_chunk = [[run for run in by_default if run.chunk == number] for number in range(chunks)]
    click.echo(table(["chunk", *SUMMARY], [[str(k), *summary(found, label)] for k, found in enumerate(by_chunk)]))

    click.echo(f"\nhow the swarm moves, default positive weight, label {label}")
    lots = [subject.case(number, chunk, label, many) for number, chunk in enumerate(data)]
    rows = []
    for (name, group), split, floor in product((("front", cases), ("gradient", lots)), (True, False), (False, True)):
        swarm = SwarmSettings(phi_split=split, velocity_floor=floor)
        found = runs(group, replace(default, swarm=swarm))
        fitness = mean(run.fitness for run in found)
        iterations = mean(run.iterations for run in found)
        rows.append([name, split, floor, *summary(found, label), f"{fitness:.2f}", f"{iterations:.0f}"])
    header = ["weights", "phi_split", "velocity_floor", *SUMMARY, "fitness", "iterations"]
    click.echo(table(header, rows))

    click.echo("\nother labels, default settings")
    rows = []
    for other in (int(word) for word in other_labels.split(",") if word):
        group = [subject.case(number, chunk, other) for number, chunk in enumerate(data)]
        accuracy = 100 * right[tested.labels == other].mean()
        negatives = mean(int(case.rows.negative.sum()) for case in group)
        rows.append([LABEL_NAMES[other], f"{accuracy:.1f}", f"{negatives:.0f}", *summary(runs(group, default), other)])
    click.echo(table(["label", "before %", "negatives", *SUMMARY], rows))


SUMMARY = ("K", "label", "all", "repaired %", "kept %", "fixed", "broken", "own fixed", "own broken", "worst other")
"""K: weights; label, all: change in points; repaired, kept: shares of the search's own negatives and positives; own: of
the label under repair; worst other: the other label that loses most, in points."""


def summary(runs: Sequence[Run], label: int) -> list[str]:
    """Cells of `SUMMARY`."""
    others = {
        change.label: mean(run.points(change.label) for run in runs)
        for change in runs[0].changes
        if change.label != label
    }
    worst = min(others, key=lambda other: others[other])
    return [
        f"{mean(run.weights for run in runs):.0f}",
        spread([run.points(label) for run in runs]),
        spread([run.points(None) for run in runs], digits=2),
        f"{100 * mean(run.repaired for run in runs):.0f}",
        f"{100 * mean(run.kept for run in runs):.1f}",
        *(f"{mean(run.count(what) for run in runs):.0f}" for what in ("fixed", "broken")),
        *(f"{mean(run.count(what, label) for run in runs):.0f}" for what in ("fixed", "broken")),
        f"{worst}: {others[worst]:+.1f}",
    ]


def label_lines(runs: Sequence[Run]) -> list[list[str]]:
    """One line per label, and one for all."""
    lines = []
    for label in [*(change.label for change in runs[0].changes), None]:
        chosen = [change for change in runs[0].changes if label is None or change.label == label]
        total = sum(change.total for change in chosen)
        before = 100 * sum(change.correct_before for change in chosen) / total
        points = [run.points(label) for run in runs]
        lines.append(
            [
                "all" if label is None else f"{label} {LABEL_NAMES[label]}",
                str(total),
                f"{before:.2f}",
                f"{before + mean(points):.2f}",
                spread(points, digits=2),
                *(f"{mean(run.count(what, label) for run in runs):.1f}" for what in ("fixed", "broken")),
            ]
        )
    return lines


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):+.{digits}f} ± {deviation:.{digits}f}"


def images_of(folder: Path, split: str) -> int:
    """How many images an official split has."""
    return len(read_split(folder, split)[1])


def prepared_split(folder: Path, split: str, preprocess: str, start: int, count: int | None) -> tuple[Float32, Int64]:
    """Images of an official split as the model takes them, and their classes."""
    images, labels = read_split(folder, split)
    part = slice(start, None if count is None else start + count)
    images, labels = images[part], labels[part]
    if count is not None and len(images) < count:
        raise click.ClickException(f"{folder} has {len(images)} training images from {start}, expected {count}")
    blocks = [images[first : first + READ_ROWS] for first in range(0, len(images), READ_ROWS)]
    return np.concatenate([preprocess_images(block, preprocess) for block in blocks]), labels.astype(np.int64)


if __name__ == "__main__":
    main()
