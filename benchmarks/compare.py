"""Comparisons of methods: how long six of them take from five draws, and whether two workers halve it.

python benchmarks/compare.py [--model MODEL] [--dataset-dir DIR] [--output FOLDER]
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import click
from common import Aim, dataset_option, images_of, machine, model_option, output_option, table, write_aims
from modes import write

from cli.commands.compare import make_comparison
from cluster.compute.compute import Compute, ComputeOptions
from cluster.runs.compare import Comparison, run_comparison
from engine.core.progress import Tick
from engine.datasets.fashion_mnist import DEFAULT_PREPROCESS

METHODS = "CrossFit,Arachne,Arachne-v2,DRWeightMerge,tail,offsets"
SECONDS, TWO = 180, 1.7
"""Aims: seconds on two workers after their start, and two against one."""


@click.command()
@model_option
@dataset_option
@click.option("--preprocess", default=DEFAULT_PREPROCESS, show_default=True, help="What the model was trained with.")
@click.option("--label", type=int, default=6, show_default=True, help="Label under repair.")
@click.option("--methods", default=METHODS, show_default=True, help="Compared.")
@click.option("--draws", type=int, default=5, show_default=True, help="Of repair rows.")
@click.option("--rows", type=int, default=1000, show_default=True, help="Of a draw.")
@click.option(
    "--pool", type=int, default=10_000, show_default=True, help="Rows to draw from: the last training images."
)
@click.option("--val-size", type=int, default=5000, show_default=True, help="Training images before them.")
@output_option
def main(
    model_path: Path,
    dataset_dir: Path,
    preprocess: str,
    label: int,
    methods: str,
    draws: int,
    rows: int,
    pool: int,
    val_size: int,
    output: Path | None,
) -> None:
    """Compare on two workers and on one, each of one thread."""
    line = machine()
    click.echo(line)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = images_of(dataset_dir, "train") - pool
        write(root / "val.h5", dataset_dir, "train", preprocess, first - val_size, val_size)
        write(root / "test.h5", dataset_dir, "t10k", preprocess, 0, images_of(dataset_dir, "t10k"))
        write(root / "chunks" / "0" / "repair.h5", dataset_dir, "train", preprocess, first, pool)
        work, _ = make_comparison(
            model_dir=model_path,
            allow_custom_code=False,
            chunks=root / "chunks",
            labels=str(label),
            val_data=root / "val.h5",
            test_data=root / "test.h5",
            allow_shared_rows=False,
            requirements=None,
            methods=methods,
            draws=draws,
            rows=rows,
            seed=0,
            optimiser=None,
            target_layer=(),
            weights_dir=None,
            last=(2, 1),
            label_file=None,
            positive_label_file=None,
            output_dir=root,
            promise_rows=None,
            recipes=None,
            folds=None,
            step=None,
        )
        whole, repairs = {}, {}
        for number, workers in enumerate((2, 1, 2, 1)):  # the first ones compile what the others find
            whole[workers], repairs[workers] = timed(work, root / f"run-{number}", workers)
    ratio = repairs[1] / repairs[2]
    header = ["workers", "all, s", "repairs, s", "one worker / this", "aim"]
    cells = [
        [2, f"{whole[2]:.1f}", f"{repairs[2]:.1f}", f"{ratio:.2f}", f"{SECONDS} s, {TWO}"],
        [1, f"{whole[1]:.1f}", f"{repairs[1]:.1f}", "1.00", "-"],
    ]
    told = (
        f"{len(work.methods)} methods x {draws} draws of {rows} rows; after the start of the workers; repairs: without"
    )
    click.echo(f"{told} reading rows, features and ending\n{table(header, cells)}")
    aims = [
        Aim("six methods, five draws, on two workers, seconds", whole[2], SECONDS),
        Aim("comparison: two workers / one", ratio, TWO, at_least=True),
    ]
    write_aims(output, "compare", aims, line)


def timed(work: Comparison, output: Path, workers: int) -> tuple[float, float]:
    """Seconds of a whole comparison on workers that have started, and of its repairs."""
    repairs = [0.0, 0.0]

    def on_repairs(count: int) -> Tick:
        del count
        repairs[0] = time.perf_counter()

        def tick(done: int) -> None:
            del done
            repairs[1] = time.perf_counter()

        return tick

    with Compute(ComputeOptions(num_workers=workers, threads=1), lambda line: None) as compute:
        compute.start()
        begun = time.perf_counter()
        run_comparison(replace(work, output=output), compute, on_repairs=on_repairs)
        whole = time.perf_counter() - begun
    return whole, repairs[1] - repairs[0]


if __name__ == "__main__":
    main()
