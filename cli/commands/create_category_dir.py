from __future__ import annotations

from pathlib import Path

import click

from cli.shared.commands import Positional
from cli.shared.console import Console, echo, table
from cli.shared.options import PATH, option, verbose_option, worker_options


@click.command(
    cls=Positional,
    positions=("label_file", "image_dir", "output_dir"),
    short_help="Cut labelled objects out of scenes, one folder per category.",
)
@option("--label-file", type=PATH, required=True, help="JSON array of frames with labels, as BDD100K's det_train.json.")
@option("--image-dir", "--input-dir", type=PATH, required=True, help="Folder with the images of the frames.")
@option("--output-dir", default=Path("categories"), help="Folder for a folder per category.")
@option("--min-area", default=0, help="Set crops of fewer pixels aside as removed.")
@option("--remove-truncated", type=bool, help="Set objects aside that are labelled as truncated.")
@option("--remove-occluded", type=bool, help="Set objects aside that are labelled as occluded.")
@option(
    "--clamp-crops",
    type=bool,
    help="Crops larger than the image get all of it; by default a strip of it, as in eAI-Repair-Toolkit.",
)
@option("--overwrite", type=bool, help="Replace a folder that was not made from this label file.")
@worker_options
@verbose_option
def command(
    label_file: Path,
    image_dir: Path,
    output_dir: Path,
    min_area: int,
    remove_truncated: bool,
    remove_occluded: bool,
    clamp_crops: bool,
    overwrite: bool,
    num_workers: int | None,
    address: str | None,
    verbose: int,
) -> None:
    """Cut every labelled object out of its scene as a square.

    Writes one folder per category, and image_info.json, extract_results.json and skipped.json, which lists boxes
    without a crop. The same command goes on where it was interrupted.

    Example: repair-dist create-category-dir --label-file det_val.json --image-dir images/val --output-dir categories
    """
    from cluster.compute.parallel_map import RayMap
    from engine.datasets.category_dir import CropSettings, create_category_dir

    settings = CropSettings(min_area, remove_occluded, remove_truncated, clamp_crops)
    with Console(verbose) as console, RayMap(num_workers, address, console.say) as workers:
        report = create_category_dir(
            label_file,
            image_dir,
            output_dir,
            settings=settings,
            overwrite=overwrite,
            spread=workers,
            progress=console.rows,
        )
    rows = [[category, report.extracted[category], report.removed[category]] for category in report.extracted]
    rows.append(["all", sum(report.extracted.values()), sum(report.removed.values())])
    echo(table(["category", "extracted", "removed"], rows))
    for reason, count in report.skipped.items():
        echo(f"skipped boxes: {count} ({reason})")
    if report.without_image:
        echo(f"frames without image: {report.without_image} of {report.frames}")
    if report.without_labels:
        echo(f"frames without labels: {report.without_labels} of {report.frames}")
