"""`utils`: charts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.console import Console
from cli.options import PATH, compute_options, model_options, open_data, option, verbose_option
from engine.errors import InputError

if TYPE_CHECKING:
    from cluster.compute import ComputeOptions


class _Underscores(click.Group):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name.replace("-", "_"))


@click.group(cls=_Underscores, short_help="Charts: draw_radar_chart.")
def command() -> None:
    """Charts of a model's results.

    Example: repair-dist utils draw_radar_chart --model-dir model --data-dir data
    """


@command.command("draw_radar_chart")
@model_options
@option("--data-dir", type=PATH, help="Folder with the image set, by default its test.h5.")
@option("--input-dir", type=PATH, help="The same, by default its repair.h5.")
@option("--target-data", help="Name of the image set.")
@option("--output-dir", type=PATH, help="Folder for results.json and the chart [default: that of the image set].")
@option("--filename", default="radar.png", show_default=True, help="Name of the chart.")
@option("--min-lim", type=float, default=0.0, show_default=True, help="Percent at the centre.")
@option("--max-lim", type=float, default=100.0, show_default=True, help="Percent at the rim.")
@compute_options
@verbose_option
def draw_radar_chart_command(
    model_dir: Path,
    allow_custom_code: bool,
    data_dir: Path | None,
    input_dir: Path | None,
    target_data: str | None,
    output_dir: Path | None,
    filename: str,
    min_lim: float,
    max_lim: float,
    compute_settings: ComputeOptions,
    verbose: int,
) -> None:
    """Write results.json and a radar chart of the accuracy of every label.

    Example: repair-dist utils draw_radar_chart --model-dir model --data-dir data --output-dir charts
    """
    directory = data_dir or input_dir
    if directory is None:
        raise click.UsageError("Missing option '--data-dir' or '--input-dir'.")
    if data_dir and input_dir:
        raise click.UsageError("'--data-dir' and '--input-dir' exclude each other.")
    if not min_lim < max_lim:
        raise InputError(f"radial limits {min_lim:g} and {max_lim:g}, expected the first below the second")
    images = open_data(directory, target_data or ("test.h5" if data_dir else "repair.h5"))

    from cluster.compute import Compute
    from engine.imagesets import check_fits_model
    from engine.models import load_model
    from engine.results import draw_radar_chart, label_results, write_results_json

    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    check_fits_model(images, model.input_shape, model.classes, model.path)
    with Console(verbose) as console, Compute(compute_settings, console.say) as compute:
        predicted = compute.predict(compute.handle(model), images, console.rows("test", images.rows))
    results = label_results(images.labels, predicted, images.classes)
    output = output_dir or images.path.parent
    draw_radar_chart(output / filename, results, min_lim=min_lim, max_lim=max_lim, label_names=images.label_names)
    write_results_json(output / "results.json", results)
    click.echo(f"created files:\n{output / 'results.json'}\n{output / filename}")
