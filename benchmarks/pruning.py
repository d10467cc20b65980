"""What an exact pruning of candidates could save: the share of candidates and rows that would still be evaluated.

python benchmarks/pruning.py [--model MODEL] [--dataset-dir DIR] [--layer NAME ...]

A search needs a candidate's fitness only where it beats the candidate's personal best. With some rows evaluated, those
left can all be right at most, and add no loss; a candidate that cannot reach its personal best even so could be stopped
without another position in the whole search. Nothing is stopped here: the searches run as always, their sums are kept
for every few rows, and what could have been left out is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import click
import numpy as np
from common import dataset_option, images_of, machine, model_option, prepared_split, table

from engine.core.rng import RngKey
from engine.core.types import Bool, Float32, Float64, Int64
from engine.data.row_digests import row_digests
from engine.datasets.fashion_mnist import DEFAULT_PREPROCESS
from engine.fitness.base import Fitness
from engine.fitness.objective import Objective
from engine.fitness.tiling import Tiling, combine
from engine.models.load import LoadedModel, load_model
from engine.problem.case import LayerInputs, RepairCase, find_case
from engine.problem.problem import Problem, prepare, problem_of
from engine.search.loop import SearchSettings, advance
from engine.search.population import counted
from engine.search.swarm import SwarmSettings
from engine.targets.model_runner import ModelRunner
from engine.targets.resolve import resolve_target

ORDERS: dict[str, Callable[[Int64, Int64], Int64]] = {
    "negatives first": lambda negatives, rows: np.argsort(-negatives / rows, kind="stable"),
    "positives first": lambda negatives, rows: np.argsort(negatives / rows, kind="stable"),
}
"""Order of ranges of rows, given their negatives (r,) and rows (r,)."""


@click.command()
@model_option
@dataset_option
@click.option("--preprocess", default=DEFAULT_PREPROCESS, show_default=True, help="What the model was trained with.")
@click.option("--layer", "layers", multiple=True, help="Under repair [default: the last three that can be].")
@click.option("--label", type=int, default=6, show_default=True, help="Under repair.")
@click.option("--rows", type=int, default=1000, show_default=True, help="Repair rows: the last training images.")
@click.option("--iterations", type=int, default=100, show_default=True, help="At most.")
@click.option("--particles", type=int, default=100, show_default=True, help="Of the swarm.")
@click.option("--range-rows", type=int, default=32, show_default=True, help="Rows after which a candidate may stop.")
def main(
    model_path: Path,
    dataset_dir: Path,
    preprocess: str,
    layers: tuple[str, ...],
    label: int,
    rows: int,
    iterations: int,
    particles: int,
    range_rows: int,
) -> None:
    """Search, and count what could have been left out."""
    click.echo(machine())
    loaded = load_model(model_path)
    images, labels = prepared_split(dataset_dir, "train", preprocess, images_of(dataset_dir, "train") - rows, rows)
    settings = SearchSettings(
        SwarmSettings(num_particles=particles), num_iterations=iterations, tiling=Tiling(rows=range_rows)
    )
    cells: list[list[object]] = []
    for layer in layers or last_layers(loaded):
        cells += searched(loaded, layer, images, labels, label, settings)
    click.echo(
        f"{model_path.name}: label {label} of {rows} rows; what would be evaluated of candidates x rows if each "
        f"stopped as soon as it cannot reach its personal best, looked at after every {range_rows} rows"
    )
    click.echo(table(["layer", "order of rows", "iterations", "share", "last quarter"], cells))


def last_layers(loaded: LoadedModel) -> list[str]:
    """Names of the last three layers with a kernel, the last one first."""
    return [layer.name for layer in loaded.model.layers if hasattr(layer, "kernel")][:-4:-1]


def searched(
    loaded: LoadedModel, layer: str, images: Float32, labels: Int64, label: int, settings: SearchSettings
) -> list[list[object]]:
    """A search of the weights of a layer; a row of the table for each order."""
    target = resolve_target(loaded.model, loaded.loss, loaded.classes, loaded.path, [layer])
    runner = ModelRunner(loaded.model, target)
    inputs = LayerInputs(runner.inputs(images), labels, row_digests(images), tuple(images.shape[1:]), loaded.classes)
    case = find_case(runner, target.kernel, inputs, label, fronts=5)
    if case is None:
        raise click.ClickException(f"the model gets every row of label {label} right, expected another --label")
    problem = problem_of(
        target,
        target.kernel,
        case.index,
        case.weights,
        name="pruning",
        source=RngKey(0, case.data, label),
        settings=settings,
    )
    kept, goal, negatives, sizes = run(problem, case, runner)
    rows: list[list[object]] = []
    for order, of in ORDERS.items():
        shares = evaluated(kept, goal, negatives, sizes, of(negatives, sizes))
        last = shares[-max(1, len(shares) // 4) :]
        rows.append([layer, order, len(kept), f"{fmean(shares):.3f}", f"{fmean(last):.3f}"])
    return rows


def run(problem: Problem, case: RepairCase, runner: ModelRunner) -> tuple[list[Float64], Objective, Int64, Int64]:
    """Run a search; returns the sums (r, P, 4) of every iteration, what they are worth, and the negatives (r,) and
    rows (r,) of each of r ranges."""
    prepared = prepare(problem, case.rows, runner.tail if problem.needs_tail else None)
    fitness: Fitness = prepared.fitness
    ranges = sorted({tile.rows for tile in fitness.tiles})
    kept: list[Float64] = []

    def evaluate(candidates: Float32) -> Float64:
        parts = [fitness.start_tile(tile, candidates)() for tile in range(len(fitness.tiles))]
        by_range = np.zeros((len(ranges), len(candidates), 4))
        for tile, part in zip(fitness.tiles, parts, strict=True):
            by_range[ranges.index(tile.rows), slice(*tile.particles)] += part
        kept.append(by_range)
        return combine(fitness.tiles, parts)

    advance(problem.settings, problem.source, prepared.objective, problem.start(), evaluate)
    negative: Bool = case.rows.negative
    negatives = np.array([int(negative[slice(*rows)].sum()) for rows in ranges])
    return kept, prepared.objective, negatives, np.array([stop - start for start, stop in ranges])


def evaluated(kept: list[Float64], goal: Objective, negatives: Int64, sizes: Int64, order: Int64) -> list[float]:
    """Share of candidates times rows that every iteration would have had to evaluate."""
    negatives, sizes = negatives[order], sizes[order]
    left = [np.cumsum(counts[::-1])[::-1] - counts for counts in (negatives, sizes - negatives)]
    best = np.full(kept[0].shape[1], -np.inf)
    shares = []
    for sums in kept:
        so_far = np.cumsum(sums[order], axis=0)
        going, done = np.ones(len(best), dtype=bool), 0
        for number, some in enumerate(so_far):
            done += int(going.sum()) * int(sizes[number])
            most = some.copy()
            most[:, 2] += left[0][number]
            most[:, 3] += left[1][number]
            going &= counted(goal.fitness(most)) > best
        best = np.maximum(best, counted(goal.fitness(so_far[-1])))
        shares.append(done / (len(best) * int(sizes.sum())))
    return shares


if __name__ == "__main__":
    main()
