"""`prepare`: image sets from the files people download."""

from __future__ import annotations

from pathlib import Path

import click

from cli.console import Console
from cli.options import PATH, option
from engine.errors import InputError


def _ratio(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, float, float, float]:
    try:
        train, val, test, repair = (float(each) for each in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not four numbers: train,val,test,repair") from None
    return train, val, test, repair


@click.group(short_help="Make train.h5, val.h5, test.h5 and repair.h5 from downloaded data.")
def command() -> None:
    """Make train.h5, val.h5, test.h5 and repair.h5 from downloaded data.

    Example: repair-dist prepare fashion-mnist --input-dir fashion-mnist --output-dir data
    """


@command.command("fashion-mnist")
@option("--input-dir", type=PATH, required=True, help="Folder with the four IDX files, gzipped or not.")
@option("--output-dir", type=PATH, default=Path("outputs"), show_default=True, help="Folder for the .h5 files.")
@option(
    "--data-ratio",
    callback=_ratio,
    default="0.5,0.1,0.2,0.2",
    show_default=True,
    help="train,val,test,repair; they sum to 1. The official training images are divided in the proportion "
    "train : val : repair; test, unless 0, is always the whole official test set, in its order.",
)
@option("--random-state", type=int, help="Seed that shuffles the training images [default: their order is kept].")
@option(
    "--preprocess",
    type=click.Choice(["toolkit", "pad", "resize"]),
    default="pad",
    show_default=True,
    help="From 28x28 to 32x32x3: pad with zeros; resize; or resize and equalise, as eAI-Repair-Toolkit does.",
)
@option("--overwrite", type=bool, help="Replace .h5 files that `prepare` did not make.")
def fashion_mnist(
    input_dir: Path,
    output_dir: Path,
    data_ratio: tuple[float, float, float, float],
    random_state: int | None,
    preprocess: str,
    overwrite: bool,
) -> None:
    """Prepare Fashion-MNIST.

    Example: repair-dist prepare fashion-mnist --input-dir fashion-mnist --output-dir data --data-ratio 0.3,0.1,0.1,0.5
    """
    from engine.fashion_mnist import LABEL_NAMES, prepare_fashion_mnist

    if not input_dir.is_dir():
        raise InputError(f"{input_dir}: no such folder, expected one with the IDX files of Fashion-MNIST")
    with Console(1) as console:
        written = prepare_fashion_mnist(
            input_dir,
            output_dir,
            data_ratio=data_ratio,
            random_state=random_state,
            preprocess=preprocess,
            overwrite=overwrite,
            progress=console.rows("prepare", None),
        )
    for part, rows in written.items():
        click.echo(f"{part}_images: ({rows}, 32, 32, 3)\n{part}_labels: ({rows}, {len(LABEL_NAMES)})")
