"""Bubble charts of `utils`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.shared.chart_options import filename_option, image_set_options, legend_options, load_fitting, predict_all
from cli.shared.console import created, echo, label_name, table
from cli.shared.labels import names_in
from cli.shared.options import PATH, compute_options, model_options, option, verbose_option
from engine.core.errors import InputError
from engine.core.names import in_words, label_of

if TYPE_CHECKING:
    from cluster.compute.compute import ComputeOptions
    from engine.charts.repair_outcomes import Fates
    from engine.data.image_set import ImageSet

_output_option = option("--output-dir", default=Path("outputs"), help="Folder for the chart.")


@click.command("draw_bubble_chart", short_help="Which labels a model confuses.")
@model_options
@image_set_options
@_output_option
@filename_option("bubble.png")
@compute_options
@verbose_option
def draw_bubble_chart(
    model_dir: Path,
    allow_custom_code: bool,
    images: ImageSet,
    output_dir: Path,
    filename: str,
    compute_settings: ComputeOptions,
    verbose: int,
) -> None:
    """Draw which labels a model confuses: bubbles whose area is a share of the images of the true label.

    Example: repair-dist utils draw_bubble_chart --model-dir model --test-dir data --output-dir charts
    """
    from engine.charts.confusion import draw_bubble_chart as draw
    from engine.charts.style import chart_path
    from engine.metrics.accuracy import confusion

    path = chart_path(output_dir, filename)
    models = load_fitting([model_dir], [images], allow_custom_code=allow_custom_code)
    [[predicted]] = predict_all(models, [images], compute_settings, verbose)
    draw(path, confusion(images.labels, predicted, images.classes), images.label_names)
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
@compute_options
@verbose_option
def overlay_bubble_chart(
    model_dir: Path,
    allow_custom_code: bool,
    model_dir_overlay: Path,
    model_dir_overlay2: Path | None,
    images: ImageSet,
    target_label: str,
    output_dir: Path,
    filename: str,
    legends: tuple[str, str, str],
    compute_settings: ComputeOptions,
    verbose: int,
) -> None:
    """Draw which labels two or three models confuse, side by side, such as before and after a repair.

    Example: repair-dist utils overlay_bubble_chart --model-dir model --model-dir-overlay repaired --test-dir data
    """
    from engine.charts.confusion import Confusion
    from engine.charts.confusion import overlay_bubble_chart as draw
    from engine.charts.style import chart_path
    from engine.metrics.accuracy import confusion

    path = chart_path(output_dir, filename)
    labels = _labels(target_label, images)
    paths = [model_path for model_path in (model_dir, model_dir_overlay, model_dir_overlay2) if model_path is not None]
    models = load_fitting(paths, [images], allow_custom_code=allow_custom_code)
    predicted = predict_all(models, [images], compute_settings, verbose)
    confusions = [
        Confusion(text, confusion(images.labels, classes, images.classes))
        for text, [classes] in zip(legends, predicted, strict=False)
    ]
    draw(path, confusions, labels, images.label_names)
    created(path)


@click.command("draw_repaired_result", short_help="What became of negative or positive inputs.")
@model_options
@option("--target-dir", type=PATH, required=True, help="negative/, negative/<label> or positive/, as target made it.")
@option("--target-data", default="repair.h5", help="Name of the image sets in them.")
@option("--output-dir", type=PATH, help="Folder for the chart [default: --target-dir].")
@filename_option("repaired.png")
@compute_options
@verbose_option
def draw_repaired_result(
    model_dir: Path,
    allow_custom_code: bool,
    target_dir: Path,
    target_data: str,
    output_dir: Path | None,
    filename: str,
    compute_settings: ComputeOptions,
    verbose: int,
) -> None:
    """Draw and print what became of the images that target sorted into folders: fixed or still wrong, and how.

    Of positive/, it shows what a repair broke.

    Example: repair-dist utils draw_repaired_result --model-dir repaired --target-dir data/negative
    """
    from engine.charts.repair_outcomes import draw_repaired_result as draw
    from engine.charts.repair_outcomes import fates_of, open_leaves
    from engine.charts.style import chart_path

    path = chart_path(output_dir or target_dir, filename)
    leaves = open_leaves(target_dir, target_data if target_data.endswith(".h5") else f"{target_data}.h5")
    sets = [leaf.images for leaf in leaves]
    models = load_fitting([model_dir], sets, allow_custom_code=allow_custom_code)
    [predicted] = predict_all(models, sets, compute_settings, verbose)
    fates = fates_of(leaves, predicted, target_dir)
    names = names_in(sets)
    draw(path, fates, names)
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


def _labels(text: str, images: ImageSet) -> list[int] | None:
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
