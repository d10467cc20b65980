"""What repairs of any layer do to images that no search saw, and what each part of the localisation adds.

python benchmarks/deep.py [--model MODEL] [--dataset-dir FOLDER] [--output FOLDER]

Each chunk of training images is searched with several seeds, in each target and with each way to choose its weights;
every repaired model predicts the official test images. All ways choose as many weights from a target: those with the
best ranks in the fronts of the full localisation are compared with as many of the others.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np
import pyarrow as pa
from common import (
    column,
    dataset_option,
    machine,
    model_option,
    output_option,
    prepared_split,
    spread,
    table,
    write_results,
)

from engine.core.rng import RngKey, generator
from engine.core.types import Float32, Int64
from engine.datasets.fashion_mnist import DEFAULT_PREPROCESS
from engine.fitness.rows import SearchRows
from engine.localize.fronts import Localisation, Sums, localize_pooled
from engine.localize.impact import ImpactPasses
from engine.metrics.accuracy import paired_changes
from engine.models.load import LoadedModel, load_model
from engine.problem.case import LayerInputs
from engine.problem.problem import prepare, problem_of
from engine.search import loop as search
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from engine.targets.base import Target
from engine.targets.model_runner import ModelRunner
from engine.targets.resolve import resolve_target

LAST = "last"
TARGETS = (LAST, "dense", "conv2d_2")
"""Of the quickstart's model; `last` is the default, its last Dense layer."""

COLUMNS = (
    column("target", pa.string(), "layers under repair"),
    column("way", pa.string(), "how their weights were chosen"),
    column("chunk", pa.int64(), "of training images"),
    column("seed", pa.int64(), "of the search"),
    column("weights", pa.int64(), "searched", "weights"),
    column("repaired", pa.float64(), "share of the search's negatives", "1"),
    column("kept", pa.float64(), "share of the search's positives", "1"),
    column("own", pa.float64(), "change of the accuracy of the label under repair on test images", "points"),
    column("everything", pa.float64(), "change of the accuracy of all test images", "points"),
    column("fixed", pa.int64(), "test images", "images"),
    column("broken", pa.int64(), "test images", "images"),
)


class Subject:
    """A target of a model, with its features of the test images."""

    def __init__(self, loaded: LoadedModel, name: str, test: tuple[Float32, Int64], batch_rows: int = 256) -> None:
        """Run the model on the test images."""
        names = [] if name == LAST else name.split("+")
        self.target: Target = resolve_target(loaded.model, loaded.loss, loaded.classes, loaded.path, names)
        self.classes = loaded.classes
        self.runner = ModelRunner(loaded.model, self.target, batch_rows)
        self.kernel = self.target.kernel
        self.test, self.test_labels = self.runner.features(test[0]), test[1]
        self.before = self.runner.layer.predicted(self.test[1])
        self._plain: ImpactPasses | None = None

    def sums(self, inputs: Float32, logits: Float32, labels: Int64, *, normalised: bool) -> Any:
        """Sums of localisation over some rows."""
        layer, tail = self.runner.layer, self.target.tail
        if normalised or tail is None:
            return layer.localisation_sums(inputs, logits, labels, self.kernel)
        if self._plain is None:
            self._plain = ImpactPasses(tail, 256, normalised=False)
        return Sums(*self._plain.sums(inputs, layer.predicted(logits), labels, self.kernel), rows=len(labels))


def front(found: Localisation) -> Int64:
    """Places (K, 2) of the first Pareto fronts."""
    return found.index


def choose(subject: Subject, way: str, rows: LayerInputs, logits: Float32, negative: Any, fronts: int) -> Int64:
    """The places (K, 2) that a way blames."""

    def sums(kind: Any, *, normalised: bool = True) -> Any:
        return subject.sums(rows.inputs[kind], logits[kind], rows.labels[kind], normalised=normalised)

    target = subject.target
    others = sums(~negative) if target.pooled else None
    full = front(target.localise(sums(negative), others, subject.kernel, num_grad=None, impact="mean", fronts=fronts))
    if way == "pooled":
        return full
    count = len(full)
    if way == "negatives only":
        return front(localize_pooled(sums(negative), None, fronts=fronts))[:count]
    if way == "impact not normalised":
        plain = sums(negative, normalised=False), sums(~negative, normalised=False)
        return front(localize_pooled(*plain, fronts=fronts))[:count]
    if way == "gradient alone":
        found = localize_pooled(sums(negative), sums(~negative), num_grad=count)
        return np.stack([found.row, found.unit], axis=1)
    drawn = generator(0, "drawn", 0, "weights").choice(len(subject.kernel), count, replace=False)
    return np.stack([np.sort(drawn), np.zeros(count, np.int64)], axis=1)


WAYS = ("pooled", "negatives only", "impact not normalised", "gradient alone", "drawn")


@click.command()
@model_option
@dataset_option
@click.option("--preprocess", default=DEFAULT_PREPROCESS, show_default=True, help="What the model was trained with.")
@click.option("--label", type=int, default=6, show_default=True, help="Label under repair.")
@click.option("--offset", type=int, default=50_000, show_default=True, help="First training image of the chunks.")
@click.option("--chunks", type=int, default=3, show_default=True, help="Number of chunks.")
@click.option("--chunk-size", type=int, default=1000, show_default=True, help="Images of a chunk.")
@click.option("--seeds", type=int, default=2, show_default=True, help="Searches of each chunk.")
@click.option("--particles", type=int, default=50, show_default=True, help="Particles of a swarm.")
@click.option("--iterations", type=int, default=40, show_default=True, help="Iterations at most.")
@click.option("--positives", type=int, help="Positive inputs of a search [default: all].")
@click.option("--fronts", type=int, default=5, show_default=True, help="Pareto fronts.")
@click.option("--target", "targets", multiple=True, help="Layers, several joined by + [default: all of TARGETS].")
@click.option("--way", "ways", multiple=True, type=click.Choice(WAYS), help="Ways [default: all].")
@output_option
def main(
    model_path: Path,
    dataset_dir: Path,
    preprocess: str,
    label: int,
    offset: int,
    chunks: int,
    chunk_size: int,
    seeds: int,
    particles: int,
    iterations: int,
    positives: int | None,
    fronts: int,
    targets: tuple[str, ...],
    ways: tuple[str, ...],
    output: Path | None,
) -> None:
    """Repair a label in every target and measure on the official test images."""
    line = machine()
    click.echo(line)
    loaded = load_model(model_path)
    test = prepared_split(dataset_dir, "t10k", preprocess, 0, None)
    pixels, labels = prepared_split(dataset_dir, "train", preprocess, offset, chunks * chunk_size)
    settings = SearchSettings(SwarmSettings(particles), num_iterations=iterations, num_input_pos_sampled=positives)
    click.echo(
        f"{model_path.name}: label {label}; {chunks} chunks of {chunk_size} training images from {offset} x {seeds} "
        f"seeds; {particles} particles, {iterations} iterations at most, {positives or 'all'} positive inputs, "
        f"{fronts} Pareto fronts; {LAST} has the front of its own localisation\n"
        "measured on the official test images; mean ± standard deviation over the runs, in points\n"
    )
    rows: list[dict[str, Any]] = []
    for name in targets or TARGETS:
        subject = Subject(loaded, name, test)
        for way in (ways or WAYS) if subject.target.pooled else WAYS[:1]:
            for chunk in range(chunks):
                part = slice(chunk * chunk_size, (chunk + 1) * chunk_size)
                rows += runs(subject, name, way, chunk, (pixels[part], labels[part]), label, seeds, settings, fronts)
            click.echo("  ".join(cells([row for row in rows if (row["target"], row["way"]) == (name, way)])))
    pairs = dict.fromkeys((row["target"], row["way"]) for row in rows)
    lines = [cells([row for row in rows if (row["target"], row["way"]) == pair]) for pair in pairs]
    header = ["target", "weights chosen by", "K", "label", "all", "repaired %", "kept %", "fixed", "broken"]
    click.echo("\n" + table(header, lines))
    write_results(output, "deep", COLUMNS, rows, line)


def runs(
    subject: Subject,
    name: str,
    way: str,
    chunk: int,
    images: tuple[Float32, Int64],
    label: int,
    seeds: int,
    settings: SearchSettings,
    fronts: int,
) -> list[dict[str, Any]]:
    """Search one chunk with every seed."""
    features, logits = subject.runner.features(images[0])
    predicted, labels = subject.runner.layer.predicted(logits), images[1]
    order = np.concatenate(
        [np.flatnonzero((labels == label) & (predicted != labels)), np.flatnonzero(predicted == labels)]
    )
    negative = predicted[order] != labels[order]
    none = np.zeros((len(order), 16), np.uint8)
    chosen = LayerInputs(features[order], labels[order], none, images[0].shape[1:], subject.classes)
    index = choose(subject, way, chosen, logits[order], negative, fronts)
    columns, weights = subject.target.search_weights(subject.kernel, index)
    inputs = chosen.inputs if columns is None else np.ascontiguousarray(chosen.inputs[:, columns])
    searched = SearchRows(inputs, logits[order], chosen.labels, negative)
    found = []
    for seed in range(seeds):
        source = RngKey(seed, f"chunk {chunk}", label)
        problem = problem_of(
            subject.target, subject.kernel, index, weights, name="deep", source=source, settings=settings
        )
        prepared = prepare(problem, searched, subject.runner.tail)
        state, iterations = search.advance(
            settings, source, prepared.objective, problem.start(), prepared.fitness.evaluate
        )
        repaired = subject.kernel.copy()
        repaired[index[:, 0], index[:, 1]] = search.result(state)
        after = subject.runner.layer.predicted(subject.runner.layer.logits(subject.test[0], repaired))
        changes = paired_changes(subject.test_labels, subject.before, after, subject.classes)
        last = iterations[-1]
        own = [change for change in changes if change.label == label]
        found.append(
            {
                "target": name,
                "way": way,
                "chunk": chunk,
                "seed": seed,
                "weights": len(index),
                "repaired": last.patched / prepared.objective.negatives,
                "kept": last.intact / prepared.objective.positives,
                "own": points(own),
                "everything": points(changes),
                "fixed": sum(change.fixed for change in changes),
                "broken": sum(change.broken for change in changes),
            }
        )
    return found


def points(changes: Any) -> float:
    """Change of the accuracy over some labels."""
    gained = sum(change.correct_after - change.correct_before for change in changes)
    return float(100 * gained / sum(change.total for change in changes))


def cells(rows: list[dict[str, Any]]) -> list[str]:
    """A line of the table."""

    def values(name: str) -> list[float]:
        return [row[name] for row in rows]

    return [
        rows[0]["target"],
        rows[0]["way"],
        f"{mean(values('weights')):.0f}",
        spread(values("own")),
        spread(values("everything"), digits=2),
        f"{100 * mean(values('repaired')):.0f}",
        f"{100 * mean(values('kept')):.1f}",
        *(f"{mean(values(what)):.0f}" for what in ("fixed", "broken")),
    ]


if __name__ == "__main__":
    main()
