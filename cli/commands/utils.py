from __future__ import annotations

from pathlib import Path

import click

from cli.commands.utils_charts import (
    draw_bubble_chart,
    draw_radar_chart,
    draw_radar_chart_with_subset,
    draw_repaired_result,
    overlay_bubble_chart,
    overlay_radar_charts,
)
from cli.commands.utils_risk import risk_calculation_tool
from cli.shared.commands import Commands
from cli.shared.console import Console, created, echo
from cli.shared.options import PATH, open_data, option
from engine.core.errors import InputError

_overwrite_option = option("--overwrite", type=bool, help="Replace a folder with other things in it.")


@click.group(cls=Commands, short_help="Charts of results; merge and extract image sets.")
def command() -> None:
    """Charts of a model's results, and image sets merged, taken apart and labelled anew.

    Example: repair-dist utils draw_radar_chart --model-dir model --data-dir data
    """


for chart in (
    *(draw_radar_chart, overlay_radar_charts, draw_radar_chart_with_subset),
    *(draw_bubble_chart, overlay_bubble_chart, draw_repaired_result),
):
    command.add_command(chart)


@command.command("merge_repair_data", short_help="Join two repair.h5 into one.")
@option("--input-dir1", type=PATH, required=True, help="Folder with the first repair.h5.")
@option("--input-dir2", type=PATH, required=True, help="Folder with the second repair.h5.")
@option("--output-dir", type=PATH, required=True, help="Folder for the repair.h5 with the rows of both.")
@_overwrite_option
def merge_repair_data(input_dir1: Path, input_dir2: Path, output_dir: Path, overwrite: bool) -> None:
    """Join two repair.h5 into one: the rows of the first, then those of the second, as float32.

    Example: repair-dist utils merge_repair_data --input-dir1 negative/2 --input-dir2 negative/6 --output-dir merged
    """
    from engine.data.derived import NAME, merge_image_sets

    first = input_dir1 if input_dir1.is_file() else input_dir1 / NAME
    second = input_dir2 if input_dir2.is_file() else input_dir2 / NAME
    with Console(1) as console:
        tick = console.rows("merge", None)
        rows = merge_image_sets(first, second, output_dir, overwrite=overwrite, progress=tick)
    echo(f"{rows} rows")
    created(output_dir / NAME)


@command.command("extract_images", short_help="Images of an image set as picture files.")
@option("--input-dir", type=PATH, required=True, help="Folder with the image set.")
@option("--target-data", default="repair.h5", help="Name of the image set.")
@option("--output-dir", type=PATH, help="Folder for the folder images [default: --input-dir].")
@option("--format", type=click.Choice(["ppm", "png"]), default="ppm", help="Format of the pictures.")
@_overwrite_option
def extract_images(input_dir: Path, target_data: str, output_dir: Path | None, format: str, overwrite: bool) -> None:
    """Write the images of an image set as images/00000000.ppm and so on, in order.

    Example: repair-dist utils extract_images --input-dir data/negative/6 --format png
    """
    from engine.data.derived import extract_images as extract

    images = open_data(input_dir, target_data)
    with Console(1) as console:
        tick = console.rows("extract", images.rows)
        output = output_dir or images.path.parent
        folder = extract(images, output, kind=format, overwrite=overwrite, progress=tick)
    echo(f"{images.rows} pictures in {folder}")


@command.command("create_vit_class", short_help="train.h5 with class numbers as labels.")
@option("--data-dir", type=PATH, required=True, help="Folder with train.h5.")
def create_vit_class(data_dir: Path) -> None:
    """Write vision_transformer/train.h5, whose labels are class numbers, as a vision transformer is trained on.

    Example: repair-dist utils create_vit_class --data-dir data
    """
    from engine.data.derived import write_with_labels

    images = open_data(data_dir, "train.h5")
    path = images.path.parent / "vision_transformer" / "train.h5"
    with Console(1) as console:
        write_with_labels(images, images.labels, path, progress=console.rows("train", images.rows))
    created(path)


@command.command("create_gate_class", short_help="Image sets with groups of classes as labels.")
@option("--hydra-setting-file", type=PATH, required=True, help="JSON list of lists of class numbers: the groups.")
@option("--data-dir", type=PATH, required=True, help="Folder with train.h5, test.h5 and repair.h5, or some of them.")
def create_gate_class(hydra_setting_file: Path, data_dir: Path) -> None:
    """Write gate/train.h5, test.h5 and repair.h5, whose labels are groups of classes, as a hydra's gate is trained on.

    Example: repair-dist utils create_gate_class --hydra-setting-file groups.json --data-dir data
    """
    from engine.data.derived import group_labels, read_groups, write_with_labels

    groups = read_groups(hydra_setting_file)
    names = [name for name in ("train.h5", "test.h5", "repair.h5") if (data_dir / name).exists()]
    if not names:
        raise InputError(f"{data_dir} has no image set, expected train.h5, test.h5 or repair.h5")
    sets = [open_data(data_dir, name) for name in names]
    labels = [group_labels(images, groups, hydra_setting_file) for images in sets]
    paths = [data_dir / "gate" / name for name in names]
    with Console(1) as console:
        for images, one_hot, path in zip(sets, labels, paths, strict=True):
            write_with_labels(images, one_hot, path, progress=console.rows(path.stem, images.rows))
    created(*paths)


command.add_command(risk_calculation_tool)
