"""What the modes of `batch` reach: verdicts on the rows that chose and on the official test images, over several seeds.

python benchmarks/modes.py [--model MODEL] [--dataset-dir DIR]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import mean

import click
import numpy as np
from common import dataset_option, images_of, machine, model_option, prepared_split, spread, table

from cli.commands.batch import make_batch
from cluster.batch.modes import BatchReport, run_batch
from cluster.batch.spec import MergeKind, Mode
from cluster.compute.compute import Compute, ComputeOptions
from cluster.records.store import RunRecords
from engine.data.writer import write_image_set
from engine.datasets.fashion_mnist import DEFAULT_PREPROCESS, LABEL_NAMES
from engine.metrics.accuracy import Comparison
from engine.search.loop import SearchSettings

REQUIREMENTS = """
[[require]]
label = {label}
min_accuracy = 0.75
[[require]]
max_drop = 0.01
[[require]]
label = "*"
max_drop = 0.03
"""
WAYS: tuple[tuple[Mode, MergeKind], ...] = (
    ("chain", "greedy"),
    ("chain", "search"),
    ("independent", "greedy"),
    ("rounds", "greedy"),
    ("rounds", "search"),
)
"""Modes, and how patches are merged; `independent` merges none."""
HEADER = (
    "mode",
    "merge",
    "fronts",
    "split",
    "runs met",
    "met of 12",
    "label",
    "all",
    "worst other",
    "fixed",
    "broken",
    "weights",
    "s",
)


@click.command()
@model_option
@dataset_option
@click.option("--preprocess", default=DEFAULT_PREPROCESS, show_default=True, help="What the model was trained with.")
@click.option("--label", type=int, default=6, show_default=True, help="Label under repair.")
@click.option("--chunks", type=int, default=10, show_default=True, help="Chunks: the last training images.")
@click.option("--chunk-size", type=int, default=1000, show_default=True, help="Images of a chunk.")
@click.option(
    "--val-size", type=int, default=5000, show_default=True, help="Training images before them, to choose by."
)
@click.option("--seeds", type=int, default=5, show_default=True, help="Runs of each mode.")
@click.option("--fronts", default="1,5", show_default=True, help="Pareto fronts of localisation, compared.")
@click.option("--positive-weights", default="0.15x,0.3x,0.6x", show_default=True, help="Searches of each chunk.")
def main(
    model_path: Path,
    dataset_dir: Path,
    preprocess: str,
    label: int,
    chunks: int,
    chunk_size: int,
    val_size: int,
    seeds: int,
    fronts: str,
    positive_weights: str,
) -> None:
    """Repair a label with every mode and judge by requirements."""
    click.echo(machine())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = images_of(dataset_dir, "train") - chunks * chunk_size
        write(root / "val.h5", dataset_dir, "train", preprocess, first - val_size, val_size)
        write(root / "test.h5", dataset_dir, "t10k", preprocess, 0, images_of(dataset_dir, "t10k"))
        for number in range(chunks):
            start = first + number * chunk_size
            write(root / "chunks" / str(number) / "repair.h5", dataset_dir, "train", preprocess, start, chunk_size)
        (root / "requirements.toml").write_text(REQUIREMENTS.format(label=label), encoding="utf-8")
        rows = []
        with Compute(ComputeOptions(num_workers=0), lambda line: None) as compute:
            for many in (int(word) for word in fronts.split(",")):
                for mode, merge in WAYS:
                    runs = []
                    for seed in range(seeds):
                        begun = time.perf_counter()
                        batch = make_batch(
                            output_dir=root / f"{mode}-{merge}-{many}-{seed}",
                            model_dir=model_path,
                            allow_custom_code=False,
                            chunks=root / "chunks",
                            labels=str(label),
                            val_data=root / "val.h5",
                            test_data=root / "test.h5",
                            requirements=root / "requirements.toml",
                            mode=mode,
                            max_rounds=None,
                            positive_weights=positive_weights,
                            seeds=1,
                            seed=seed,
                            offers=3,
                            positive_inputs_dir=(),
                            num_grad=None,
                            forward_impact="mean",
                            fronts=many,
                            settings=SearchSettings(),
                            target_layer=(),
                            allow_shared_rows=False,
                            merge=merge,
                        )

                        def open_records(directory: Path = batch.output) -> RunRecords:
                            return RunRecords.create(directory, {}, overwrite=False)

                        runs.append((run_batch(batch, compute, open_records), time.perf_counter() - begun))
                    rows += lines([mode, "" if mode == "independent" else merge, str(many)], label, runs)
        base = runs[0][0].comparisons
        click.echo(
            f"{model_path.name}, label {label} ({LABEL_NAMES[label]}), {chunks} chunks of {chunk_size} x {seeds} "
            f"seeds, positive weights {positive_weights}\nrequirements: label {label} at least 75 %, all down at most "
            "1 point, no label down more than 3 points\nbefore: "
            + "; ".join(
                f"{split} label {100 * comparison.before[label, label] / comparison.totals[label]:.2f} %, "
                f"all {100 * np.diagonal(comparison.before).sum() / comparison.totals.sum():.2f} %"
                for split, comparison in base.items()
            )
            + "\nruns met: runs that meet all; label, all, worst other: change in points, mean ± standard deviation"
        )
        click.echo(table(HEADER, rows))


def lines(way: list[str], label: int, runs: list[tuple[BatchReport, float]]) -> list[list[str]]:
    """One line for each split of a way: mode, merge and fronts."""
    found = []
    for split in ("validation", "test"):
        reports = [report for report, _ in runs]
        verdicts = [report.verdicts[split] for report in reports]
        comparisons = [report.comparisons[split] for report in reports]
        found.append(
            [
                *way,
                split,
                f"{sum(all(verdict.met for verdict in every) for every in verdicts)} of {len(runs)}",
                f"{mean(sum(verdict.met for verdict in every) for every in verdicts):.1f}",
                spread([points(comparison)[label] for comparison in comparisons]),
                spread([total_points(comparison) for comparison in comparisons], digits=2),
                spread([min(np.delete(points(comparison), label)) for comparison in comparisons]),
                f"{mean(int(comparison.fixed.sum()) for comparison in comparisons):.0f}",
                f"{mean(int(comparison.broken.sum()) for comparison in comparisons):.0f}",
                f"{mean(len(report.patch) for report in reports):.0f}",
                f"{mean(seconds for _, seconds in runs):.0f}",
            ]
        )
    return found


def points(comparison: Comparison) -> np.ndarray:
    """Change of the accuracy of every label, in points."""
    gained = np.diagonal(comparison.after) - np.diagonal(comparison.before)
    return 100 * gained / np.maximum(comparison.totals, 1)


def total_points(comparison: Comparison) -> float:
    """Change of the accuracy of all rows, in points."""
    gained = np.diagonal(comparison.after).sum() - np.diagonal(comparison.before).sum()
    return float(100 * gained / comparison.totals.sum())


def write(path: Path, dataset: Path, split: str, preprocess: str, start: int, count: int) -> None:
    """Write images of an official split as an image set."""
    images, labels = prepared_split(dataset, split, preprocess, start, count)
    with write_image_set(
        path, rows=count, image_shape=images.shape[1:], classes=10, label_names=LABEL_NAMES, preprocess=preprocess
    ) as writer:
        writer.append(images, np.eye(10, dtype=np.uint8)[labels])


if __name__ == "__main__":
    main()
