"""Radar charts of `utils`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.shared.chart_options import (
    filename_option,
    image_set_options,
    legend_options,
    limit_options,
    load_fitting,
    predict_all,
)
from cli.shared.console import created
from cli.shared.labels import names_in
from cli.shared.options import PATH, compute_options, model_options, open_data, option, verbose_option
from engine.core.errors import InputError

if TYPE_CHECKING:
    from cluster.compute.compute import ComputeOptions
    from engine.data.image_set import ImageSet
    from engine.metrics.accuracy import Results


@click.command("draw_radar_chart", short_help="Accuracy of every label: results.json and a radar chart.")
@model_options
@image_set_options
@option("--output-dir", type=PATH, help="Folder for results.json and the chart [default: that of the image set].")
@filename_option("radar.png")
@limit_options
@compute_options
@verbose_option
def draw_radar_chart(
    model_dir: Path,
    allow_custom_code: bool,
    images: ImageSet,
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
    from engine.charts.radar import check_limits
    from engine.charts.radar import draw_radar_chart as draw
    from engine.charts.style import chart_path
    from engine.metrics.accuracy import label_results, write_results_json

    check_limits(min_lim, max_lim)
    output = output_dir or images.path.parent
    path = chart_path(output, filename)
    models = load_fitting([model_dir], [images], allow_custom_code=allow_custom_code)
    [[predicted]] = predict_all(models, [images], compute_settings, verbose)
    results = label_results(images.labels, predicted, images.classes)
    draw(path, results, min_lim=min_lim, max_lim=max_lim, label_names=images.label_names)
    write_results_json(output / "results.json", results)
    created(output / "results.json", path)


@click.command("overlay_radar_charts", short_help="Radar charts of two or three models over each other.")
@option("--input-dir", type=PATH, required=True, help="Folder with the results.json of draw_radar_chart.")
@option("--input-dir-overlay", type=PATH, required=True, help="Folder with the results.json to lay over it.")
@option("--input-dir-overlay2", type=PATH, help="Folder with a third results.json.")
@option("--output-dir", type=PATH, help="Folder for the chart [default: --input-dir].")
@filename_option("radar.png")
@legend_options
@option(
    "--data-dir",
    type=PATH,
    help="Image set that names the labels [default: test.h5 or repair.h5 of --input-dir, where they are there].",
)
@limit_options
def overlay_radar_charts(
    input_dir: Path,
    input_dir_overlay: Path,
    input_dir_overlay2: Path | None,
    output_dir: Path | None,
    filename: str,
    legends: tuple[str, str, str],
    data_dir: Path | None,
    min_lim: float,
    max_lim: float,
) -> None:
    """Lay the radar charts of two or three models over each other, such as before and after a repair.

    Example: repair-dist utils overlay_radar_charts --input-dir before --input-dir-overlay after --output-dir charts
    """
    from engine.charts.radar import RadarSeries, check_limits
    from engine.charts.radar import overlay_radar_charts as draw
    from engine.charts.style import chart_path

    check_limits(min_lim, max_lim)
    path = chart_path(output_dir or _folder(input_dir), filename)
    inputs = [directory for directory in (input_dir, input_dir_overlay, input_dir_overlay2) if directory is not None]
    series = [RadarSeries(text, _results(directory)) for text, directory in zip(legends, inputs, strict=False)]
    highest = max(result.label for one in series for result in one.results.labels)
    names = _label_names(_folder(input_dir), data_dir, highest)
    draw(path, series, min_lim=min_lim, max_lim=max_lim, label_names=names)
    created(path)


@click.command(
    "draw_radar_chart_with_subset", short_help="Radar chart of label folders, with their scores in labels.json."
)
@model_options
@option("--input-dir", type=PATH, required=True, help="Folder with labels.json, such as negative/ or positive/.")
@option("--output-dir", type=PATH, help="Folder for labels.json with scores and the chart [default: --input-dir].")
@filename_option("radar.png")
@limit_options
@compute_options
@verbose_option
def draw_radar_chart_with_subset(
    model_dir: Path,
    allow_custom_code: bool,
    input_dir: Path,
    output_dir: Path | None,
    filename: str,
    min_lim: float,
    max_lim: float,
    compute_settings: ComputeOptions,
    verbose: int,
) -> None:
    """Draw the accuracy of the rows in every label folder that labels.json names, and add it there as score.

    Example: repair-dist utils draw_radar_chart_with_subset --model-dir repaired --input-dir data/negative
    """
    from engine.charts.radar import check_limits
    from engine.charts.radar import draw_radar_chart as draw
    from engine.charts.style import chart_path
    from engine.data.label_file import read_label_file, write_label_file
    from engine.metrics.accuracy import LabelResult, Results

    check_limits(min_lim, max_lim)
    output = output_dir or input_dir
    path = chart_path(output, filename)
    entries = read_label_file(input_dir / "labels.json")
    sets = [open_data(input_dir / str(label), "repair.h5") for label in entries]
    models = load_fitting([model_dir], sets, allow_custom_code=allow_custom_code)
    [predicted] = predict_all(models, sets, compute_settings, verbose)
    results = []
    for label, images, classes in zip(entries, sets, predicted, strict=True):
        success = int((images.labels == classes).sum())
        results.append(LabelResult(label, success, images.rows - success))
        entries[label]["score"] = results[-1].score
    names = names_in(sets)
    draw(path, Results(tuple(results)), min_lim=min_lim, max_lim=max_lim, label_names=names)
    write_label_file(output / "labels.json", entries)
    created(output / "labels.json", path)


def _folder(path: Path) -> Path:
    """The folder of a results.json that is given itself."""
    return path.parent if path.is_file() else path


def _results(directory: Path) -> Results:
    from engine.metrics.accuracy import read_results_json

    path = directory if directory.is_file() else directory / "results.json"
    results = read_results_json(path)
    labels = [result.label for result in results.labels]
    if not labels:
        raise InputError(f"{path} has 0 labels, expected results of at least one")
    for label in labels:
        if label < 0 or labels.count(label) > 1:
            found = "negative" if label < 0 else "there twice"
            raise InputError(f"{path} has label {label}, which is {found}, expected every class number from 0 once")
    return results


def _label_names(directory: Path, data_dir: Path | None, highest: int) -> tuple[str, ...] | None:
    """What the labels up to `highest` are called, if an image set says so."""
    if data_dir is not None:
        images = open_data(data_dir, "test.h5")
        if images.classes <= highest:
            raise InputError(f"{images.path} has {images.classes} labels, expected one that names label {highest}")
        return images.label_names
    for name in ("test.h5", "repair.h5"):
        if (directory / name).is_file():
            with contextlib.suppress(InputError):  # nobody asked for this file
                images = open_data(directory, name)
                if images.label_names and images.classes > highest:
                    return images.label_names
    return None
