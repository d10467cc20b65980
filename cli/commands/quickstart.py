"""`quickstart`: the whole workflow on shipped images, as the commands a person would type."""

from __future__ import annotations

import shlex
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click

from cli.shared.console import echo
from cli.shared.options import PATH, option
from engine.core.errors import InputError
from engine.core.names import escaped


@click.command(short_help="Repair a shipped model on shipped images, from raw data to the table.")
@option(
    "--output-dir",
    type=PATH,
    default=Path("outputs/quickstart"),
    show_default=True,
    help="Folder for all files.",
)
@option("--num-workers", type=int, default=2, show_default=True, help="Ray workers of the search.")
@option("--seeds", type=int, default=4, show_default=True, help="Searches with different seeds.")
def command(output_dir: Path, num_workers: int, seeds: int) -> None:
    """Find what a small Fashion-MNIST classifier gets wrong, repair it and measure it on unseen images.

    Every step is printed as the command that does it.

    Example: repair-dist quickstart --output-dir outputs/quickstart
    """
    with as_file(files("cli") / "quickstart_data") as shipped:
        _workflow(shipped, output_dir, num_workers, seeds)


def _workflow(shipped: Path, output: Path, workers: int, seeds: int) -> None:
    model, data = shipped / "model.keras", output / "data"
    if output.exists() and any(output.iterdir()) and not (data / "repair.h5").exists():
        raise InputError(f"{output}: holds other files, expected an empty folder or an earlier quickstart")
    _step(
        "prepare",
        "fashion-mnist",
        "--input-dir",
        shipped,
        "--output-dir",
        data,
        "--data-ratio",
        "0,0.1,0.5,0.4",
    )
    _step("test", "--model-dir", model, "--data-dir", data, "--per-label")
    _step("target", "--model-dir", model, "--data-dir", data)
    label = _weakest(data)
    negatives = data / "negative" / str(label)
    _step("localize", "--model-dir", model, "--target-data-dir", negatives)
    arguments = ["optimize", "--model-dir", model, "--target-data-dir", negatives, "--output-dir", output]
    arguments += ["--val-data", data / "val.h5", "--test-data", data / "test.h5"]
    arguments += ["--seeds", seeds, "--num-workers", workers]
    (report,) = _step(*arguments)
    test = next(measured for measured in report.measured if measured.split == "test")
    echo(f"\n{_verdict(test, label)}")


def _step(*arguments: object) -> Any:
    """Print a command line and run it; returns what the command returns."""
    repair_dist: Any = click.get_current_context().find_root().command
    words = [str(argument) for argument in arguments]
    click.secho(f"\n$ repair-dist {escaped(shlex.join(words))}", bold=True)
    return repair_dist.main(words, prog_name="repair-dist", standalone_mode=False)


def _weakest(data: Path) -> int:
    """The label with the most negative rows."""
    import numpy as np

    from engine.data.image_set import open_image_set

    return int(np.bincount(open_image_set(data / "negative" / "repair.h5").labels).argmax())


def _verdict(test: Any, label: int) -> str:
    from cli.shared.console import label_name
    from engine.metrics.accuracy import wilson_interval

    mine = next(change for change in test.changes if change.label == label)
    total = sum(change.total for change in test.changes)
    before = sum(change.correct_before for change in test.changes)
    after = sum(change.correct_after for change in test.changes)
    low, high = wilson_interval(mine.correct_before, mine.total)
    return (
        f"{label_name(label, test.label_names)}: {100 * mine.correct_before / mine.total:.1f} % "
        f"(95 % interval {100 * low:.1f} - {100 * high:.1f}) before, "
        f"{100 * mine.correct_after / mine.total:.1f} % after; "
        f"all labels: {100 * before / total:.2f} % before, {100 * after / total:.2f} % after, on {total} unseen images"
    )
