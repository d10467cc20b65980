from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.shared.commands import Positional
from cli.shared.computing import computing, load_fitting
from cli.shared.console import echo, label_name, table
from cli.shared.options import compute_options, open_data, option, verbose_option, workflow_model_options

if TYPE_CHECKING:
    from cluster.compute.compute import ComputeOptions


@click.command(
    cls=Positional,
    positions=("batch_size", "model_dir", "data_dir"),
    short_help="Divide a repair set into negative and positive inputs.",
)
@workflow_model_options
@option(
    "--data-dir",
    "--target-data",
    default=Path("outputs"),
    help="Folder with repair.h5; negative/ and positive/ are made in it.",
)
@option("--overwrite", type=bool, help="Put the targets into folders positive/ and negative/ of another layout.")
@compute_options
@verbose_option
def command(
    model_dir: Path,
    allow_custom_code: bool,
    data_dir: Path,
    overwrite: bool,
    compute_settings: ComputeOptions,
    verbose: int,
) -> None:
    """Divide repair.h5 into negative inputs (the model is wrong) and positive ones (it is right).

    Repaired models inside an older negative/ are kept.

    Example: repair-dist target --model-dir model --data-dir data/repairsets/0
    """
    images = open_data(data_dir, "repair.h5")

    from engine.data.outcomes import write_targets

    [model] = load_fitting([model_dir], [images], allow_custom_code=allow_custom_code)
    with computing(compute_settings, verbose) as (console, compute):
        predicted = compute.predict(compute.handle(model), images, console.rows("target", images.rows))
        summary = write_targets(images, predicted, images.path.parent, overwrite=overwrite)
    echo(f"positive: {summary.correct} of {summary.rows} rows, negative: {summary.rows - summary.correct}")
    if verbose:
        rows = [[label_name(counts.label, images.label_names), counts.total, counts.wrong] for counts in summary.labels]
        echo(table(["label", "rows", "negative"], rows))
