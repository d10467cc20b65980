"""`patch merge --method weighted`: what it reads and what it prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.shared.computing import computing
from cli.shared.console import echo, label_name, table
from cli.shared.options import check_seeds
from engine.core.errors import InputError

if TYPE_CHECKING:
    from cluster.runs.weighted import WeightedReport
    from engine.metrics.dist_rep import MergeScore
    from engine.models.load import LoadedModel
    from engine.patches.arrow import PlacedPatch


def merge_of_files(
    model: LoadedModel,
    patches: Mapping[str, PlacedPatch],
    *,
    settings: Path,
    val_data: Path,
    positive_inputs_dir: Sequence[Path],
    num_particles: int,
    num_iterations: int,
    optimiser: str,
    seed: int,
    apart: bool,
) -> PlacedPatch:
    """Search the coefficients of patches by the settings of DistrRep, and print what the merge does."""
    from cluster.compute.options import ComputeOptions
    from cluster.runs.weighted import WeightedMerge, merge_weighted
    from engine.data.image_set import open_image_set
    from engine.data.outcomes import open_positives
    from engine.metrics.dist_rep import read_merge_settings
    from engine.models.load import shapes_of
    from engine.patches.arrow import place
    from engine.search.loop import SearchSettings
    from engine.search.optimisers import OPTIMISERS

    check_seeds(seed, 1)
    swarm = OPTIMISERS[optimiser].settings(num_particles=num_particles)
    search = SearchSettings(swarm=swarm, num_iterations=num_iterations)
    images = open_image_set(val_data)
    names = images.label_names
    score = read_merge_settings(settings, images.classes, names)
    positives = [found for folder in positive_inputs_dir if (found := open_positives(folder)) is not None]
    work = WeightedMerge(model, patches, score, (images, *positives), search, seed, apart)
    with computing(ComputeOptions(num_workers=0), 1, one_thread=True, placed=False) as (console, compute):
        report = merge_weighted(work, compute, console.rows)
    rows = [["the baseline model", "", f"{report.own:.6f}"]]
    for name, share, alone in zip(patches, report.coefficients, report.alone, strict=True):
        rows.append([name, f"{share:.4f}", f"{alone:.6f}"])
    echo(table(["patch", "coefficient", "S alone"], [*rows, ["merged", "", f"{report.score:.6f}"]]))
    echo(errors_table(report, score, names))
    echo(f"{len(report.patch)} weights, {report.shared} of them are changed by several patches")
    return place(report.patch, shapes_of(model), str(model.path))


def errors_table(report: WeightedReport, score: MergeScore, names: Sequence[str] | None) -> str:
    lines = []
    for label in score.general:
        mine = report.labels == label
        wrong = [int((mine & (classes != label)).sum()) for classes in (report.before, report.after)]
        lines.append([label_name(label, names), int(mine.sum()), *wrong])
    for true, other in score.targets:
        mine = report.labels == true
        wrong = [int((mine & (classes == other)).sum()) for classes in (report.before, report.after)]
        lines.append([f"{label_name(true, names)} as {label_name(other, names)}", int(mine.sum()), *wrong])
    return table(["wrong rows", "rows", "before", "after"], lines)


def check_options(method: str, given: Mapping[str, object]) -> None:
    """Refuse options of the other method, and a weighted merge without what it needs."""
    if method != "weighted":
        for name, value in given.items():
            if value is not None and value is not False and value != ():
                raise InputError(f"{name} is of --method weighted, expected a union without it")
        return
    for name in ("--model-dir", "--settings", "--val-data"):
        if not given[name]:
            raise InputError(f"{name} is missing and the method is weighted, expected it with it")
