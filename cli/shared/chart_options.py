from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.shared.computing import computing, load_fitting
from cli.shared.console import Console
from cli.shared.options import PATH, F, compute_options, open_data, option, together, verbose_option

if TYPE_CHECKING:
    from cluster.compute.compute import Compute, ComputeOptions
    from engine.core.types import Int64
    from engine.data.image_set import ImageSet
    from engine.models.load import LoadedModel


def image_set_options(function: F) -> F:
    """`--data-dir`, `--input-dir` and `--target-data`; the command gets the open image set as `images`."""

    @functools.wraps(function)
    def command(*args: Any, data_dir: Path | None, input_dir: Path | None, target_data: str | None, **rest: Any) -> Any:
        directory = data_dir or input_dir
        if directory is None:
            raise click.UsageError("Missing option '--data-dir', '--test-dir' or '--input-dir'.")
        if data_dir and input_dir:
            raise click.UsageError("'--data-dir' or '--test-dir' and '--input-dir' exclude each other.")
        images = open_data(directory, target_data or ("test.h5" if data_dir else "repair.h5"))
        return function(*args, images=images, **rest)

    return together(
        option("--data-dir", "--test-dir", type=PATH, help="Folder with the image set, by default its test.h5."),
        option("--input-dir", type=PATH, help="The same, by default its repair.h5."),
        option("--target-data", "--test-data", help="Name of the image set."),
    )(command)  # type: ignore[return-value]


def filename_option(default: str) -> Callable[[F], F]:
    return option("--filename", default=default, help="Name of the chart, .png or .svg.")


limit_options = together(
    option("--min-lim", default=0.0, help="Percent at the centre."),
    option("--max-lim", default=100.0, help="Percent at the rim."),
)


def legend_options(function: F) -> F:
    """`--legend`, `--legend-overlay` and `--legend-overlay2`; the command gets the three as `legends`."""

    @functools.wraps(function)
    def command(*args: Any, legend: str, legend_overlay: str, legend_overlay2: str, **rest: Any) -> Any:
        return function(*args, legends=(legend, legend_overlay, legend_overlay2), **rest)

    for name, kind in (("--legend-overlay2", "overlay2"), ("--legend-overlay", "overlay"), ("--legend", "base")):
        text = f"What the legend calls {'it' if kind == 'base' else 'the ' + kind}."
        command = option(name, default=f"Inputs ({kind})", help=text)(command)
    return command  # type: ignore[return-value]


Predict = Callable[..., list[list["Int64"]]]
"""Of paths of models and image sets: classes (n,) that each model predicts for each set. Models that do not fit these
sets, or those of `fitting` where it is given, are refused."""


def predict_options(function: F) -> F:
    """Where to compute, and `--verbose`; the command, which has `--allow-custom-code` too, gets a `Predict`."""

    @functools.wraps(function)
    def command(allow_custom_code: bool, compute_settings: ComputeOptions, verbose: int, **rest: Any) -> Any:
        def predict(
            paths: list[Path], images: list[ImageSet], fitting: list[ImageSet] | None = None
        ) -> list[list[Int64]]:
            models = load_fitting(paths, fitting or images, allow_custom_code=allow_custom_code)
            # Of many small sets nobody wants to read where each was computed.
            with computing(compute_settings, verbose, placed=len(images) == 1) as (console, compute):
                return [_predict(compute, model, images, console) for model in models]

        return function(predict=predict, **rest)

    return compute_options(verbose_option(command))  # type: ignore[return-value]


def _predict(compute: Compute, model: LoadedModel, images: list[ImageSet], console: Console) -> list[Int64]:
    handle = compute.handle(model)
    tick = console.rows("predict", sum(image_set.rows for image_set in images))
    return [compute.predict(handle, image_set, tick) for image_set in images]
