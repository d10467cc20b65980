"""`localize`: the weights to blame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.console import Console
from cli.options import (
    PATH,
    compute_options,
    localize_options,
    method_option,
    model_options,
    option,
    target_layer_option,
    verbose_option,
)
from engine.errors import InputError

if TYPE_CHECKING:
    from cluster.compute import ComputeOptions


@click.command(short_help="Find the weights to blame for the negative inputs.")
@method_option
@model_options
@option(
    "--target-data-dir",
    type=PATH,
    required=True,
    help="Negative inputs, for instance negative/6; gets weights.csv.",
)
@localize_options(fronts=1)  # the published method
@target_layer_option
@compute_options
@verbose_option
def command(
    method: str,
    model_dir: Path,
    allow_custom_code: bool,
    target_data_dir: Path,
    num_grad: int | None,
    target_layer: int | None,
    forward_impact: str,
    fronts: int,
    compute_settings: ComputeOptions,
    verbose: int,
) -> None:
    """Write weights.csv and pareto_front.png beside the negative inputs.

    Example: repair-dist localize --model-dir model --target-data-dir data/repairsets/0/negative/6
    """
    for name, value in (("num_grad", num_grad), ("fronts", fronts)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}, expected at least 1")

    import numpy as np

    from cluster.compute import Compute
    from engine.head import find_target
    from engine.imagesets import check_fits_model
    from engine.localize import draw_pareto_front, localize
    from engine.models import load_model
    from engine.targets import open_negatives
    from engine.weights_file import write_weights

    negatives = open_negatives(target_data_dir)
    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    target = find_target(model.model, model.loss, model.classes, model.path, target_layer)
    if negatives is None:
        click.echo(f"{target_data_dir}: the label has no failures, there is nothing to localize")
        return
    check_fits_model(negatives, model.input_shape, model.classes, model.path)
    with Console(verbose) as console, Compute(compute_settings, console.say) as compute:
        if not model.loss.stated:
            console.say(f"{model.path} stores no loss: {model.loss.name} is assumed")
        tick = console.rows("localize", negatives.rows)
        sums = compute.localisation_sums(compute.handle(model, target), negatives, tick)
    kernel = np.asarray(target.layer.kernel, dtype=np.float32)
    found = localize(sums, kernel, num_grad=num_grad, impact=forward_impact, fronts=fronts)  # type: ignore[arg-type]
    index = np.stack([found.row[found.front], found.column[found.front]], axis=1)
    draw_pareto_front(target_data_dir / "pareto_front.png", found)
    write_weights(target_data_dir / "weights.csv", target.number, index, kernel[index[:, 0], index[:, 1]])
    click.echo(
        f"localized {len(index)} of {kernel.size} weights of {target.layer.name} for {sums.rows} negative inputs\n"
        f"created files:\n{target_data_dir / 'weights.csv'}\n{target_data_dir / 'pareto_front.png'}"
    )
