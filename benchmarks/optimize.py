"""The whole `optimize` command on 1,000 images: in process and with two workers, and where its time goes.

python benchmarks/optimize.py [--model MODEL]
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click
from common import COMMAND, machine, model_option, run_command, shipped_images, write_images

from cli.console import table

ROWS = 1000
AIM = 2.5
"""The command in process against importing TensorFlow and loading the model."""

LOADING = "import sys; from pathlib import Path; from engine.models import load_model; load_model(Path(sys.argv[1]))"

STAGES = ("start", "imports", "model", "Ray", "workers", "features", "compile", "search", "save", "verify", "rest")

WRAPPED = (
    ("model", "engine.models", "load_model"),
    ("features", "cluster.compute", "Compute.features"),
    ("Ray", "cluster.compute", "Compute._connect"),
    ("workers", "cluster.pool", "WorkerPool.__init__"),
    ("search and compile", "cluster.compute", "Compute.search"),
    ("save", "cluster.repair", "save_patched"),
    ("verify", "cluster.repair", "_measure"),
)
"""Stage, and the function whose time it is."""


@click.command()
@model_option
@click.option("--rounds", type=int, default=5, show_default=True, help="Rounds of the medians.")
@click.option("--stages", type=click.Path(path_type=Path), hidden=True, help="Run one command here, print its stages.")
@click.argument("arguments", nargs=-1)
def main(model_path: Path, rounds: int, stages: Path | None, arguments: tuple[str, ...]) -> None:
    """Time the command at 100 particles and 100 iterations on 1,000 images."""
    if stages is not None:
        click.echo(json.dumps(one_command(stages, list(arguments))))
        return
    click.echo(machine())
    with tempfile.TemporaryDirectory(prefix="repair-dist-") as folder:
        directory, model = Path(folder), model_path.absolute()
        negatives = prepare(directory, model)
        command = ["optimize", "--model-dir", model, "--target-data-dir", negatives, "--verbose", "0"]
        # No early stop: all 100 iterations are run.
        command += ["--min-iteration-range", 1000, "--overwrite"]
        kinds = {
            "in process": [*command, "--num-workers", 0],
            "2 workers, 2 seeds": [*command, "--num-workers", 2, "--seeds", 2],
        }
        whole: dict[str, list[float]] = defaultdict(list)
        parts: dict[str, list[dict[str, float]]] = defaultdict(list)
        for _ in range(rounds):
            whole["load"].append(run_command([sys.executable, "-c", LOADING, model], directory))
            for kind, words in kinds.items():
                whole[kind].append(run_command([sys.executable, "-c", COMMAND, *words], directory))
                parts[kind].append(staged(words, directory))
    report(whole, parts)


def prepare(directory: Path, model: Path) -> Path:
    """An image set, its targets and the weights of the label with most failures; returns that label's folder."""
    images, labels = shipped_images(ROWS)
    write_images(directory / "repair.h5", [(images, labels)], ROWS)
    run_command([sys.executable, "-c", COMMAND, "target", "--model-dir", model, "--data-dir", directory], directory)
    folders = [each for each in (directory / "negative").iterdir() if each.is_dir()]
    negatives = max(folders, key=lambda each: (each / "repair.h5").stat().st_size)
    words = ["localize", "--model-dir", model, "--target-data-dir", negatives]
    run_command([sys.executable, "-c", COMMAND, *words], directory)
    return negatives


def report(whole: dict[str, list[float]], parts: dict[str, list[dict[str, float]]]) -> None:
    """Print both tables."""
    load = median(whole["load"])
    click.echo(
        f"optimize, 100 particles x 100 iterations, {ROWS} images of the quickstart; medians of {len(whole['load'])} "
        f"rounds, seconds\nloading: a process that imports TensorFlow and loads the model\n"
    )
    rows = [["loading", f"{load:.2f}", "1.00", "-"]]
    for kind in parts:
        seconds = median(whole[kind])
        aim = f"{AIM:g}" if kind == "in process" else "-"
        rows.append([kind, f"{seconds:.2f}", f"{seconds / load:.2f}", aim])
    click.echo(table(["command", "seconds", "/ loading", "aim"], rows))
    click.echo("\nstages of the same command, in the order they run; search: all iterations (aim: below 1 s)\n")
    medians = {kind: {stage: median(each.get(stage, 0.0) for each in runs) for stage in STAGES} for kind, runs in parts.items()}
    lines = [[stage, *(f"{medians[kind][stage]:.2f}" for kind in medians)] for stage in STAGES]
    click.echo(table(["stage", *medians], lines))
    workers = medians["2 workers, 2 seeds"]
    from cluster.placement import JOIN_SECONDS, START_SECONDS

    click.echo(
        f"\nstarting Ray {workers['Ray']:.1f} s and its workers {workers['workers']:.1f} s, together "
        f"{workers['Ray'] + workers['workers']:.1f} s; cluster/placement.py assumes {START_SECONDS:g} s for both "
        f"and {JOIN_SECONDS:g} s for the workers"
    )


def staged(words: list[Any], directory: Path) -> dict[str, float]:
    """Run a command in a process of its own and return the seconds of its stages."""
    output = directory / "stages.json"
    begun = time.time()
    run_command([sys.executable, Path(__file__).absolute(), "--stages", output, "--", begun, *words], directory)
    stages: dict[str, float] = json.loads(output.read_text(encoding="utf-8"))
    return stages


def one_command(output: Path, words: list[str]) -> None:
    """Run a command here with its functions timed, and write the seconds of each stage."""
    begun, *arguments = words
    spent: dict[str, float] = defaultdict(float)
    spent["start"] = time.time() - float(begun)
    with timed(spent, "imports"):
        for module in ("cluster.compute", "cluster.repair", "cluster.records", "engine.models"):
            importlib.import_module(module)
    whole = time.perf_counter()
    for stage, module, name in WRAPPED:
        wrap(spent, stage, module, name)
    return None


if __name__ == "__main__":
    main()
