from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.shared.commands import Positional
from cli.shared.console import Console, echo
from cli.shared.options import PATH, option, verbose_option, worker_options
from engine.core.names import suggestion


class _OrNone(click.Option):
    """`None` is no value, as in eAI-Repair-Toolkit: to those behind it there is no other way by place."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        return None if value == "None" else super().type_cast_value(ctx, value)


@click.command(
    cls=Positional,
    positions=(
        *("category_dir", "output_dir", "info_file", "num"),
        *("excluded_labels", "category_min", "random_state", "resize_to"),
    ),
    short_help="Choose images of every category, in proportion, into one folder.",
)
@option("--category-dir", type=PATH, required=True, help="Folder that create-category-dir made.")
@option("--output-dir", default=Path("outputs"), help="Folder for the images chosen.")
@option(
    "--info-file",
    cls=_OrNone,
    type=PATH,
    help="image_info.json of a subset: its settings are taken, and of those given here only the excluded labels and "
    "--like-toolkit.",
)
@option("--num", default=5000, help="Images of all categories together, about.")
@option(
    "--excluded-labels",
    cls=_OrNone,
    help="Categories to leave out, separated by commas; they count in the proportions.",
)
@option("--category-min", default=0, help="So many of each category that has as many.")
@option("--random-state", default=0, help="Seed of the choice.")
@option("--resize-to", cls=_OrNone, type=int, help="Height and width of the images chosen [default: files are copied].")
@option("--like-toolkit", type=bool, help="Draw what eAI-Repair-Toolkit draws by this seed from its image_info.json.")
@option("--overwrite", type=bool, help="Replace a folder that is no subset.")
@worker_options
@verbose_option
def command(
    category_dir: Path,
    output_dir: Path,
    info_file: Path | None,
    num: int,
    excluded_labels: str | None,
    category_min: int,
    random_state: int,
    resize_to: int | None,
    like_toolkit: bool,
    overwrite: bool,
    num_workers: int | None,
    address: str | None,
    verbose: int,
) -> None:
    """Choose images of every category, as many as its share in all categories, and write image_info.json beside them.

    A subset in the output folder is replaced. The same command goes on where it was interrupted.

    Example: repair-dist create-image-subset --category-dir categories --output-dir images --num 7000
    """
    from dataclasses import replace

    from cluster.compute.parallel_map import RayMap
    from engine.datasets.subset import SubsetSettings, create_image_subset, table

    if info_file is None:
        settings = SubsetSettings(num or 5000, category_min, random_state, resize_to)
    else:
        settings = SubsetSettings.of(info_file)
    if excluded_labels is not None:
        names = tuple(dict.fromkeys(name for name in excluded_labels.split(",") if name))
        settings = replace(settings, excluded_labels=names)
    if like_toolkit:
        settings = replace(settings, like_toolkit=True)
    with Console(verbose) as console, RayMap(num_workers, address, console.say) as workers:
        report = create_image_subset(
            category_dir, output_dir, settings, overwrite=overwrite, spread=workers, progress=console.rows
        )
        for label in report.unknown_labels:
            console.warn(f"no image has the excluded label {label!r}{suggestion(label, report.drawn)}")
    echo(table(report.drawn))
