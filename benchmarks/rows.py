"""Passes over 92,159 images of 32x32x3: features with one and with two actors, and the memory of whole commands.

python benchmarks/rows.py [--model MODEL] [--work-dir FOLDER]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
from common import COMMAND, MemoryWatch, machine, model_option, shipped_images, side_by_side, table, write_images

from cluster.compute.compute import Compute, ComputeOptions
from engine.data.image_set import open_image_set
from engine.models.load import load_model
from engine.targets.last_dense import find_target

ROWS_AIM = 1.7
MEMORY_AIM = 2.5
COMMANDS = (
    "target",
    "localize",
    "optimize",
    "target, 2 workers",
    "localize, 2 workers",
    "optimize, 2 workers",
)
"""Watched in this order: `optimize` needs the weights that `localize` wrote."""

COLUMNS = np.arange(0, 96, 8)
"""Inputs of the last layer that are asked for: about as many as a localisation has."""


@click.command()
@model_option
@click.option("--rows", type=int, default=92_159, show_default=True, help="Images of the set.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Rounds of the medians.")
@click.option(
    "--command", "names", type=click.Choice(COMMANDS), multiple=True, help="Commands to watch [default: all]."
)
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path),
    help="Folder for the image set and its targets, 2.3 GB in a folder of its own [default: that for temporary files].",
)
def main(model_path: Path, rows: int, rounds: int, names: tuple[str, ...], work_dir: Path | None) -> None:
    """Time feature passes on one and two one-thread actors, then watch the memory of whole commands."""
    click.echo(machine())
    with tempfile.TemporaryDirectory(prefix="repair-dist-", dir=work_dir) as folder:
        directory = Path(folder)
        images, labels = shipped_images(5000)
        write_images(directory / "repair.h5", [(images, labels)], rows)
        size = (directory / "repair.h5").stat().st_size / 2**30
        click.echo(f"{rows} images of 32x32x3, {size:.2f} GiB; model {model_path.name}\n")
        time_features(model_path, directory, rounds)
        click.echo("")
        watch_commands(model_path.absolute(), directory, [name for name in COMMANDS if name in (names or COMMANDS)])


def time_features(model_path: Path, directory: Path, rounds: int) -> None:
    """Features on one actor and on two, one thread each, in turn."""
    import ray

    from cluster.ray_cluster.connect import runtime_environment

    loaded = load_model(model_path)
    target = find_target(loaded.model, loaded.loss, loaded.classes, loaded.path)
    images = open_image_set(directory / "repair.h5")
    empty = directory / "empty"
    empty.mkdir()
    # Workers of a cluster that was joined compute with one thread each; here it is this script's own cluster.
    ray.init(
        address="local",  # never somebody else's cluster on this machine
        num_cpus=3,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env=runtime_environment(empty, ship_code=False),
    )
    lines: list[str] = []

    def options(workers: int) -> ComputeOptions:
        return ComputeOptions(num_workers=workers, address="auto", spread_rows=True)

    with Compute(options(1), lines.append) as one, Compute(options(2), lines.append) as two:
        calls = {
            "1 actor": partial(one.features, one.handle(loaded, target), images, COLUMNS),
            "2 actors": partial(two.features, two.handle(loaded, target), images, COLUMNS),
        }
        results = [call() for call in calls.values()]
        same = all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
        times = side_by_side(calls, rounds)
    ray.shutdown()
    threads = [line.partition("(")[2].rstrip(")") for line in lines if line.startswith("workers:")]
    click.echo(f"features of all rows on actors with {' / '.join(threads)}; medians of {rounds} rounds, warm")
    first = times["1 actor"]
    cells = [
        [name, f"{seconds:.2f}", f"{images.rows / seconds:,.0f}", f"{first / seconds:.2f}", aim]
        for (name, seconds), aim in zip(times.items(), ("-", f"{ROWS_AIM:g}"), strict=True)
    ]
    click.echo(table(["", "seconds", "rows/s", "times 1 actor", "aim"], cells))
    click.echo(f"results of 1 and 2 actors are {'equal bit for bit' if same else 'DIFFERENT'}")


def watch_commands(model: Path, directory: Path, names: Sequence[str]) -> None:
    """Run the commands on the whole set and print the peak private memory of their processes."""
    common = ["--model-dir", model, "--verbose", 0]
    watched(["target", "--data-dir", directory, *common], directory)
    label = int(np.bincount(open_image_set(directory / "negative" / "repair.h5").labels).argmax())
    negatives = directory / "negative" / str(label)
    spread = ["--num-workers", 2, "--spread-rows"]
    commands: dict[str, list[object]] = {
        "target": ["target", "--data-dir", directory, *common],
        "localize": ["localize", "--target-data-dir", negatives, *common],
        "optimize": ["optimize", "--target-data-dir", negatives, *common],
        "target, 2 workers": ["target", "--data-dir", directory, *common, *spread],
        "localize, 2 workers": ["localize", "--target-data-dir", negatives, *common, *spread],
        "optimize, 2 workers": ["optimize", "--target-data-dir", negatives, *common, *spread, "--seeds", 2],
    }
    cells = []
    for name in names:
        seconds, command, others = watched(commands[name], directory)
        most = max([command, *others])
        cells.append(
            [
                name,
                f"{seconds:.1f}",
                f"{command / 1e9:.2f}",
                f"{max(others) / 1e9:.2f}" if others else "-",
                str(len(others)) if others else "-",
                f"{MEMORY_AIM:g}",
                "yes" if most < MEMORY_AIM * 1e9 else "NO",
            ]
        )
    click.echo("peak private memory of whole commands on all rows, GB per process (polled every 50 ms)")
    header = ["command", "seconds", "the command", "largest other", "others", "aim: below", "met"]
    click.echo(table(header, cells))
    click.echo("others: processes that the command started, Ray's own and the workers")


def watched(words: list[object], directory: Path) -> tuple[float, int, list[int]]:
    """Run a command; seconds, peak private bytes of its process, and those of each process it started."""
    begun = time.perf_counter()
    with (directory / "output.txt").open("w+", encoding="utf-8") as output:
        command = [sys.executable, "-c", COMMAND, *map(str, words)]
        process = subprocess.Popen(command, cwd=directory, stdout=output, stderr=subprocess.STDOUT)
        watch = MemoryWatch(process.pid)
        code = process.wait()
        watch.stop()
        if code:
            output.seek(0)
            raise click.ClickException(f"{words} ended with {code}:\n{output.read()}")
    own = watch.peaks.pop(process.pid, 0)
    return time.perf_counter() - begun, own, list(watch.peaks.values())


if __name__ == "__main__":
    main()
