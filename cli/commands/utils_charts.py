"""Charts of `utils`: radar charts, bubble charts, and what became of negative or positive inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.shared.chart_options import (
    Predict,
    filename_option,
    image_set_options,
    legend_options,
    limit_options,
    predict_options,
)
from cli.shared.console import created, echo, label_name, table
from cli.shared.labels import names_in
from cli.shared.options import PATH, model_options, open_data, option
from engine.core.errors import InputError
from engine.core.names import in_words, label_of

if TYPE_CHECKING:
    from engine.charts.repair_outcomes import Fates
    from engine.data.image_set import ImageSet
    from engine.metrics.accuracy import Results

_output_option = option("--output-dir", default=Path("outputs"), help="Folder for the chart.")


@click.command("draw_radar_chart", short_help="Accuracy of every label: results.json and a radar chart.")
@model_options
@image_set_options
@option("--output-dir", type=PATH, help="Folder for results.json and the chart [default: that of the image set].")
@filename_option("radar.png")
@limit_options
@predict_options
def draw_radar_chart(
    model_dir: Path,
    images: ImageSet,
    output_dir: Path | None,
    filename: str,
    min_lim: float,
    max_lim: float,
    predict: Predict,
) -> None:
    """Write results.json and a radar chart of the accuracy of every label.

    Example: repair-dist utils draw_radar_chart --model-dir model --data-dir data --output-dir charts
    """
    from engine.charts.radar import check_limits
    from engine.charts.radar import overlay_radar_charts as draw
    from engine.charts.style import chart_path
    from engine.metrics.accuracy import label_results, write_results_json

    check_limits(min_lim, max_lim)
    output = output_dir or images.path.parent
    path = chart_path(output, filename)
    [[predicted]] = predict([model_dir], [images])
    results = label_results(images.labels, predicted, images.classes)
    draw(path, [("", results)], min_lim=min_lim, max_lim=max_lim, label_names=images.label_names)
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
    from engine.charts.radar import check_limits
    from engine.charts.radar import overlay_radar_charts as draw
    from engine.charts.style import chart_path

    check_limits(min_lim, max_lim)
    path = chart_path(output_dir or _folder(input_dir), filename)
    inputs = [directory for directory in (input_dir, input_dir_overlay, input_dir_overlay2) if directory is not None]
    series = [(text, _results(directory)) for text, directory in zip(legends, inputs, strict=False)]
    highest = max(result.label for _, results in series for result in results.labels)
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
@predict_options
def draw_radar_chart_with_subset(
    model_dir: Path,
    input_dir: Path,
    output_dir: Path | None,
    filename: str,
    min_lim: float,
    max_lim: float,
    predict: Predict,
) -> None:
    """Draw the accuracy of the rows in every label folder that labels.json names, and add it there as score.

    Example: repair-dist utils draw_radar_chart_with_subset --model-dir repaired --input-dir data/negative
    """
    from engine.charts.radar import check_limits
    from engine.charts.radar import overlay_radar_charts as draw
    from engine.charts.style import chart_path
    from engine.data.label_file import read_label_file, write_label_file
    from engine.metrics.accuracy import LabelResult, Results

    check_limits(min_lim, max_lim)
    output = output_dir or input_dir
    path = chart_path(output, filename)
    entries = read_label_file(input_dir / "labels.json")
    sets = [open_data(input_dir / str(label), "repair.h5") for label in entries]
    [predicted] = predict([model_dir], sets)
    results = []
    for label, images, classes in zip(entries, sets, predicted, strict=True):
        success = int((images.labels == classes).sum())
        results.append(LabelResult(label, success, images.rows - success))
        entries[label]["score"] = results[-1].score
    names = names_in(sets)
    draw(path, [("", Results(tuple(results)))], min_lim=min_lim, max_lim=max_lim, label_names=names)
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


@click.command("draw_bubble_chart", short_help="Which labels a model confuses.")
@model_options
@image_set_options
@_output_option
@filename_option("bubble.png")
@predict_options
def draw_bubble_chart(model_dir: Path, images: ImageSet, output_dir: Path, filename: str, predict: Predict) -> None:
    """Draw which labels a model confuses: bubbles whose area is a share of the images of the true label.

    Example: repair-dist utils draw_bubble_chart --model-dir model --test-dir data --output-dir charts
    """
    from engine.charts.confusion import confusion_figure
    from engine.charts.style import chart_path, draw
    from engine.metrics.accuracy import confusion

    path = chart_path(output_dir, filename)
    [[predicted]] = predict([model_dir], [images])
    counts = confusion(images.labels, predicted, images.classes)
    draw(path, confusion_figure, counts, images.label_names)
    created(path)


@click.command("overlay_bubble_chart", short_help="Which labels two or three models confuse.")
@model_options
@option("--model-dir-overlay", type=PATH, required=True, help="The model to compare it with.")
@option("--model-dir-overlay2", type=PATH, help="A third model.")
@image_set_options
@option(
    "--target-label",
    default="None",
    help="True labels to draw, by number or name, with commas between them; None draws all.",
)
@_output_option
@filename_option("bubble.png")
@legend_options
@predict_options
def overlay_bubble_chart(
    model_dir: Path,
    model_dir_overlay: Path,
    model_dir_overlay2: Path | None,
    images: ImageSet,
    target_label: str,
    output_dir: Path,
    filename: str,
    legends: tuple[str, str, str],
    predict: Predict,
) -> None:
    """Draw which labels two or three models confuse, side by side, such as before and after a repair.

    Example: repair-dist utils overlay_bubble_chart --model-dir model --model-dir-overlay repaired --test-dir data
    """
    from engine.charts.confusion import OVERLAY_DPI, overlay_figure
    from engine.charts.style import chart_path, draw
    from engine.metrics.accuracy import confusion

    path = chart_path(output_dir, filename)
    labels = labels_of(target_label, images)
    paths = [model_path for model_path in (model_dir, model_dir_overlay, model_dir_overlay2) if model_path is not None]
    predicted = predict(paths, [images])
    confusions = [
        (text, confusion(images.labels, classes, images.classes))
        for text, [classes] in zip(legends, predicted, strict=False)
    ]
    draw(path, overlay_figure, confusions, labels, images.label_names, dpi=OVERLAY_DPI)
    created(path)


@click.command("draw_repaired_result", short_help="What became of negative or positive inputs.")
@model_options
@option("--target-dir", type=PATH, required=True, help="negative/, negative/<label> or positive/, as target made it.")
@option("--target-data", default="repair.h5", help="Name of the image sets in them.")
@option("--output-dir", type=PATH, help="Folder for the chart [default: --target-dir].")
@filename_option("repaired.png")
@predict_options
def draw_repaired_result(
    model_dir: Path, target_dir: Path, target_data: str, output_dir: Path | None, filename: str, predict: Predict
) -> None:
    """Draw and print what became of the images that target sorted into folders: fixed or still wrong, and how.

    Of positive/, it shows what a repair broke.

    Example: repair-dist utils draw_repaired_result --model-dir repaired --target-dir data/negative
    """
    from engine.charts.repair_outcomes import fates_of, open_leaves, repaired_figure
    from engine.charts.style import chart_path, draw

    path = chart_path(output_dir or target_dir, filename)
    leaves = open_leaves(target_dir, target_data if target_data.endswith(".h5") else f"{target_data}.h5")
    sets = [leaf.images for leaf in leaves]
    [predicted] = predict([model_dir], sets)
    fates = fates_of(leaves, predicted, target_dir)
    names = names_in(sets)
    draw(path, repaired_figure, fates, names)
    echo(_fates_table(fates, names))
    created(path)


def _fates_table(fates: Fates, names: Sequence[str] | None) -> str:
    import numpy as np

    header = ["label" if fates.true else "taken for", "rows", "right now"]
    header += ["same mistake", "another mistake"] if fates.before_known else ["wrong now"]
    counts = [fates.right, fates.same, fates.other] if fates.before_known else [fates.right, fates.same + fates.other]
    columns = np.stack([fates.totals, *(counted.sum(axis=1) for counted in counts)], axis=1)
    rows = [
        [label_name(label, names), *column]
        for label, column in zip(fates.folders.tolist(), columns.tolist(), strict=True)
    ]
    if len(rows) > 1:
        rows.append(["all", *columns.sum(axis=0).tolist()])
    return table(header, rows)


def labels_of(text: str, images: ImageSet) -> list[int] | None:
    """The labels of `--target-label`, of which there must be rows: `3`, `Stop`, `3,`, `[1, 2]`; None for all."""
    if text.strip() in ("", "None", "none", "all"):
        return None
    words = [text]
    if text not in (images.label_names or ()):
        inner = text.strip()
        if inner[:1] + inner[-1:] in ("[]", "()"):
            inner = inner[1:-1]
        words = [word.strip().strip("'\"").strip() for word in inner.split(",")]
    labels = []
    for word in filter(None, words):
        labels.append(
            label_of(word, images.classes, images.label_names, f"target_label is {in_words(word)}", ", or None")
        )
        if not (images.labels == labels[-1]).any():
            raise InputError(f"{images.path} has no rows of target_label {word}, expected at least one")
    if not labels:
        raise InputError(f"target_label is {text}, expected labels with commas between them, or None")
    return labels
