"""`test`: accuracy of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.console import Console, label_name, table
from cli.options import PATH, compute_options, model_options, open_data, option, verbose_option

if TYPE_CHECKING:
    from cluster.compute import ComputeOptions


@click.command(short_help="Print a model's accuracy.")
@model_options
@option("--data-dir", type=PATH, default=Path("outputs"), show_default=True, help="Folder with the image set.")
@option("--target-data", default="test.h5", show_default=True, help="Name of the image set.")
@option("--per-label", type=bool, help="Print every label as well.")
@compute_options
@verbose_option
def command(
    model_dir: Path,
    allow_custom_code: bool,
    data_dir: Path,
    target_data: str,
    per_label: bool,
    compute_settings: ComputeOptions,
    verbose: int,
) -> None:
    """Measure a model on an image set.

    Example: repair-dist test --model-dir model --data-dir data
    """
    images = open_data(data_dir, target_data)

    from cluster.compute import Compute
    from engine.imagesets import check_fits_model
    from engine.models import load_model
    from engine.results import label_results, wilson_interval

    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    check_fits_model(images, model.input_shape, model.classes, model.path)
    with Console(verbose) as console, Compute(compute_settings, console.say) as compute:
        predicted = compute.predict(compute.handle(model), images, console.rows("test", images.rows))
    results = label_results(images.labels, predicted, images.classes)
    click.echo(f"accuracy: {100 * results.accuracy:.2f}%")
    if per_label:
        rows = []
        for each in sorted(results.labels, key=lambda result: result.label):
            low, high = wilson_interval(each.success, each.total)
            interval = f"{100 * low:.1f} - {100 * high:.1f}"
            name = label_name(each.label, images.label_names)
            rows.append([name, each.success, each.failure, f"{each.score:.2f}", interval])
        click.echo(table(["label", "correct", "incorrect", "accuracy %", "95 % interval"], rows))
