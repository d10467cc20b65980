"""`localize`: the weights to blame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from cli.shared.console import Console, created, echo
from cli.shared.help import Sectioned
from cli.shared.options import (
    PATH,
    SEARCH_OPTIONS_OF_TOOLKIT,
    compute_options,
    localize_options,
    method_option,
    option,
    options_of,
    silent_option,
    target_data_option,
    target_layer_option,
    workflow_model_options,
)
from cli.shared.weights import weights_text
from engine.core.errors import InputError

if TYPE_CHECKING:
    from cluster.compute.compute import ComputeOptions
    from engine.localize.last_dense import Impact


@click.command(
    cls=Sectioned,
    positions=("method", "model_dir", "target_data_dir", "verbose"),
    short_help="Find the weights to blame for the negative inputs.",
)
@method_option
@workflow_model_options
@target_data_option("Negative inputs, for instance negative/6; gets weights.csv, or weights.arrow.")
@option(
    "--positive-inputs-dir",
    type=PATH,
    help="Positive inputs, which other layers than the last Dense one are judged by too [default: positive beside "
    "negative].",
)
@localize_options(fronts=1)  # the published method
@target_layer_option
@options_of("optimize", *SEARCH_OPTIONS_OF_TOOLKIT)
@compute_options
@silent_option
def command(
    method: str,
    model_dir: Path,
    allow_custom_code: bool,
    target_data_dir: Path,
    positive_inputs_dir: Path | None,
    num_grad: int | None,
    target_layer: tuple[str, ...],
    forward_impact: str,
    fronts: int,
    compute_settings: ComputeOptions,
    verbose: int,
) -> None:
    """Write the weights to blame, and pareto_front.png, beside the negative inputs.

    Those of the last Dense layer become weights.csv, those of any other layers weights.arrow.

    Example: repair-dist localize --model-dir model --target-data-dir data/repairsets/0/negative/6
    """
    for name, value in (("num_grad", num_grad), ("fronts", fronts)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}, expected at least 1")

    from cli.commands.optimize import chunk_paths
    from cluster.compute.compute import Compute
    from cluster.runs.localize import localise
    from engine.charts.pareto import draw_pareto_front
    from engine.data.outcomes import open_negatives, open_positives
    from engine.localize.weights_file import ARROW, CSV
    from engine.models.load import check_fits, load_model
    from engine.targets.resolve import resolve_target

    negatives = open_negatives(target_data_dir)
    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    target = resolve_target(model.model, model.loss, model.classes, model.path, target_layer)
    positives = None
    if target.pooled:
        if forward_impact != "mean":
            raise InputError(f"forward_impact is {forward_impact}, expected mean for {target.title}")
        given = [] if positive_inputs_dir is None else [positive_inputs_dir]
        positives = open_positives(chunk_paths([target_data_dir], given, None)[0].positives)
    if negatives is None:
        if verbose:
            echo(f"{target_data_dir}: the label has no failures, there is nothing to localize")
        return
    for images in (negatives, positives):
        if images is not None:
            check_fits(images, model)
    with Console(verbose) as console, Compute(compute_settings, console.say, warn=console.warn) as compute:
        if not model.loss.stated:
            console.say(f"{model.path} stores no loss: {model.loss.name} is assumed")
        handle = compute.handle(model, target)
        found = localise(
            compute,
            handle,
            negatives,
            positives,
            num_grad=num_grad,
            impact=cast("Impact", forward_impact),
            fronts=fronts,
            on_rows=console.rows,
        )
    kernel, index = target.kernel, found.index
    draw_pareto_front(target_data_dir / "pareto_front.png", found)
    target.write_localised(target_data_dir, index, kernel[index[:, 0], index[:, 1]])
    if not verbose:
        return
    where, rows = target.title, f"{negatives.rows} negative"
    if target.pooled:
        where += f" ({', '.join(f'{path} {count}' for path, count in target.counts(index).items())})"
        rows += f" and {positives.rows if positives else 0} positive"
    echo(f"localized {len(index)} of {kernel.size} weights of {where} for {rows} inputs")
    created(*(path for name in (CSV, ARROW, "pareto_front.png") if (path := target_data_dir / name).exists()))
    if verbose > 1:
        echo(weights_text(target_data_dir))
