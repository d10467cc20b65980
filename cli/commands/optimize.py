from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.commands.by_method import optimize_by_method
from cli.run_report.text import changes_table
from cli.shared import method_options
from cli.shared import options as opts
from cli.shared.commands import Sectioned
from cli.shared.computing import computing
from cli.shared.console import echo
from cli.shared.labels import names_in
from cli.shared.method_options import ARACHNE, CROSSFIT, method_option
from cli.shared.options import DATA, PATH, SEARCH, data_option, option, was_given
from cli.shared.parts import part_option, stated_part
from cli.shared.weights import weights_text
from engine.core.errors import InputError

if TYPE_CHECKING:
    from cluster.compute.options import ComputeOptions
    from cluster.runs.chunk import ChunkPaths
    from cluster.runs.reports import ChunkReport
    from engine.search.loop import SearchSettings


@click.command(
    cls=Sectioned,
    positions=("method", "model_dir", "target_data_dir", "positive_inputs_dir", "output_dir", "verbose"),
    short_help="Search new values for the localized weights and save the repaired model.",
)
@method_option(None, "Arachne where weights.csv is, else CrossFit")
@opts.workflow_model_options
@option(
    "--target-data-dir",
    section=DATA,
    type=PATH,
    multiple=True,
    help="Negative inputs of a label, for Arachne with weights.csv; several are repaired each on its own.",
    default=[Path("outputs/negative/0")],
    show_default=True,
)
@option(
    "--positive-inputs-dir",
    section=DATA,
    rare=True,
    type=PATH,
    multiple=True,
    help="Positive inputs: one for all, or one for each --target-data-dir [default: positive beside negative].",
)
@option(
    "--output-dir",
    type=PATH,
    help="Folder for repair/ and weights.csv or patch.arrow [default: --target-data-dir]; of several chunks one each, "
    "from 0.",
)
@method_options.requirements_option
@method_options.crossfit_options
@method_options.checkpoint_options
@opts.positive_weight_option
@method_options.label_file_options("Arachne, label-priorities")
@opts.search_options
@opts.options_of("localize", "--num-grad")
@option("--seed", section=SEARCH, default=0, help="First seed.")
@option("--seeds", section=SEARCH, default=1, help="Searches with different seeds; the best is kept.")
@data_option("--val-data", "Image set that chooses between the seeds; CrossFit: further rows to judge promises by.")
@data_option("--test-data", "Image set that only measures the result.")
@opts.shared_rows_option
@opts.target_layer_option
@opts.explain_option(
    "Print how iterations are cut into tiles, the memory they need at most and what runs where and why."
)
@option("--run-dir", type=PATH, help="Folder for the records of the run [default: runs/optimize-<time>].")
@option("--resume", type=bool, help="Go on with the interrupted run in --run-dir, or start it.")
@option(
    "--overwrite",
    type=bool,
    help="Replace an earlier run directory, if it is not resumed, or an output folder that is not a repaired model.",
)
@part_option
@opts.compute_options
@opts.silent_option
def command(
    compute_settings: ComputeOptions, verbose: int, method: str | None, part: str | None, **options: Any
) -> Any:
    """Repair a model, save, reload and measure it.

    Exit code 3: CrossFit does not promise what --requirements states, or it is not met on --test-data; 4: some seeds of
    a method of `compare` failed.

    Example: repair-dist optimize --model-dir model --target-data-dir data/repairsets/0/negative/6 --seeds 8
    --num-workers 8
    """
    chosen = method or (ARACHNE if means_arachne(options["target_data_dir"]) else CROSSFIT)
    method_options.refuse_other_methods(chosen)
    if method is None and verbose:
        other = CROSSFIT if chosen == ARACHNE else ARACHNE
        why = "" if chosen == ARACHNE else ", as `localize` left no weights.csv"
        echo(f"method {chosen}{why} (--method {other} is the other)", err=True)
    if chosen != ARACHNE and not was_given("target_data_dir"):
        raise InputError("--target-data-dir is missing, expected negative inputs of the label to repair")
    if options["resume"] and options["run_dir"] is None:
        raise InputError("--resume goes on with a run, expected its --run-dir")
    directory = options["run_dir"] or Path("runs") / f"optimize-{datetime.now():%Y%m%d-%H%M%S-%f}"
    options |= {"compute_settings": compute_settings, "verbose": verbose, "directory": directory}
    if chosen != ARACHNE:
        options["part"] = stated_part(part, chosen)
        options["parts"] = click.get_current_context().obj  # of `merge-runs`, which runs this command
        return optimize_by_method(method=chosen, **options)
    if part is not None:
        raise InputError("--part is of CrossFit and the method is Arachne, expected one without the other")
    label_files = options["label_file"], options["positive_label_file"]
    method_options.check_objective([options["settings"]], options["requirements"], *label_files)
    opts.check_seeds(options["seed"], options["seeds"])
    chunks = chunk_paths(options["target_data_dir"], options["positive_inputs_dir"], options["output_dir"])
    for paths in chunks:
        if not paths.negatives.parent.exists():
            raise InputError(f"{paths.negatives}: no such folder, expected negative inputs as `target` writes them")

    from cluster.compute.early import started_early

    # A run that has ended needs no workers.
    with nullcontext() if options["resume"] else started_early(compute_settings):
        return optimize(chunks, **options)


def optimize(
    chunks: Sequence[ChunkPaths],
    *,
    compute_settings: ComputeOptions,
    directory: Path,
    verbose: int,
    model_dir: Path,
    allow_custom_code: bool,
    settings: SearchSettings,
    positive_weight: float | None,
    requirements: Path | None,
    label_file: Path | None,
    positive_label_file: Path | None,
    seed: int,
    seeds: int,
    val_data: Path | None,
    test_data: Path | None,
    allow_shared_rows: bool,
    target_layer: tuple[str, ...],
    explain: bool,
    resume: bool,
    overwrite: bool,
    **_: Any,
) -> list[ChunkReport]:
    """The command with Arachne: repair all chunks in a run directory, and print what was measured."""
    from cluster.runs.chunk import target_of
    from cluster.runs.optimize import Repairs, repair
    from cluster.runs.recording import claimed
    from engine.data.image_set import open_image_set
    from engine.models.load import load_model

    settings = replace(settings, positive_weight=positive_weight)  # refused before the model is read
    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    names = names_of(chunks) if requirements else None
    files = {"requirements": requirements, "label_file": label_file, "positive_label_file": positive_label_file}
    settings = method_options.objective_settings(settings, model.classes, names, **files)
    repairs = Repairs(
        model=model,
        target=target_of(model, target_layer, [paths.negatives for paths in chunks]),
        chunks=chunks,
        seeds=range(seed, seed + seeds),
        settings=settings,
        validation=open_image_set(val_data) if val_data else None,
        test=open_image_set(test_data) if test_data else None,
        overwrite=overwrite,
        allow_shared_rows=allow_shared_rows,
        label_file=label_file,
    )

    with computing(compute_settings, verbose, model=model, explain=explain) as (console, compute):
        tick = console.iterations(seeds * len(chunks), settings.num_iterations)
        with claimed(directory, compute, resume=resume, overwrite=overwrite) as claim:
            reports = repair(repairs, compute, claim.start, on_rows=console.rows, on_iterations=tick)
    if verbose:
        for report in reports:
            echo(describe(report))
            if verbose > 1 and any(measured.split == "negative" for measured in report.measured):
                echo(weights_text(report.paths.output))
        echo(f"records: {directory}")
    return reports


def means_arachne(targets: Sequence[Path]) -> bool:
    """Whether a command line without a method is one of Arachne's, of which `localize` may have found no failures."""
    from engine.data.outcomes import open_negatives
    from engine.localize.weights_file import ARROW, CSV

    if len(targets) > 1 or any(was_given(name) for name in method_options.options_of_method(ARACHNE)):
        return True
    (folder,) = targets
    found = any((folder / name).is_file() for name in (CSV, ARROW))
    return found or (folder.parent.exists() and open_negatives(folder) is None)


def names_of(chunks: Sequence[ChunkPaths]) -> Sequence[str] | None:
    """Class names, where the rows of a chunk have some."""
    from engine.data.outcomes import open_negatives, open_positives

    opened = ((open_negatives(paths.negatives), open_positives(paths.positives)) for paths in chunks)
    return names_in(images for both in opened for images in both)


def chunk_paths(targets: Sequence[Path], positives: Sequence[Path], output_dir: Path | None) -> list[ChunkPaths]:
    from cluster.runs.chunk import ChunkPaths

    if len(positives) not in (0, 1, len(targets)):
        raise InputError(
            f"{len(positives)} positive folders for {len(targets)} negative ones, expected one for all or one for each"
        )
    chunks = []
    for number, target in enumerate(folder.absolute() for folder in targets):
        if not positives:
            root = next((folder for folder in [target, *target.parents] if folder.name == "negative"), None)
            if root is None:
                raise InputError(f"{target}: is not below a folder negative, expected --positive-inputs-dir")
            positive = root.parent / "positive"
        else:
            positive = positives[number if len(positives) > 1 else 0].absolute()
        output = target if output_dir is None else output_dir.absolute()
        if output_dir is not None and len(targets) > 1:
            output /= str(number)
        chunks.append(ChunkPaths(target, positive, output))
    return chunks


def describe(report: ChunkReport) -> str:
    """What a chunk's repair did, in text: numbers are those of the saved model, loaded again."""
    from engine.localize.weights_file import ARROW, CSV

    lines = []
    if report.note:
        lines.append(report.note)
    if report.job and report.objective and report.believed:
        objective = report.objective
        weight = objective.positive_weight
        told = "" if weight is None else f", positive weight {weight:g}"
        lines.append(
            f"{report.job}: {len(report.patch)} weights changed{told}; "
            f"the search repaired {report.believed[0]} of {objective.negatives} and kept {report.believed[1]} of "
            f"{objective.positives}"
        )
    for measured in report.measured:
        if measured.split in ("negative", "positive"):
            correct = sum(change.correct_after for change in measured.changes)
            total = sum(change.total for change in measured.changes)
            word = "repaired" if measured.split == "negative" else "kept"
            lines.append(f"saved model: {word} {correct} of {total} {measured.split} inputs")
        else:
            lines += [
                "",
                f"{measured.split}, before and after (model loaded again):",
                changes_table(measured.changes, measured.label_names),
            ]
    created = [report.model]
    if any(measured.split == "negative" for measured in report.measured):
        created += [path for name in (CSV, ARROW) if (path := report.paths.output / name).is_file()]
    lines += ["created files:", *map(str, created)]
    return "\n".join(lines)
