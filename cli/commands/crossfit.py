"""`optimize --method CrossFit` and `batch --method CrossFit`: from options to the repair, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.run_report.text import results
from cli.run_report.words import duration, plural
from cli.shared.console import Console, created, echo
from cli.shared.labels import means_all, parse_labels
from cli.shared.method_options import CROSSFIT, crossfit_settings, read_promises
from cli.shared.options import check_seeds
from engine.core.errors import InputError

if TYPE_CHECKING:
    from cluster.batch.crossfit import CrossFitBatch
    from cluster.batch.crossfit_estimate import CrossFitExpectation
    from cluster.compute.compute import ComputeOptions
    from cluster.runs.crossfit import CrossFitRepair
    from cluster.runs.merging import Parts
    from cluster.runs.parts import Part
    from engine.data.image_set import ImageSet
    from engine.models.load import LoadedModel
    from engine.search.loop import SearchSettings


def optimize_crossfit(
    *,
    compute_settings: ComputeOptions,
    verbose: int,
    explain: bool,
    run_dir: Path | None,
    resume: bool,
    part: Part | None = None,
    parts: Parts | None = None,
    **options: Any,
) -> int:
    """Repair one label on all rows that `target` divided; returns the exit code."""
    repair = target_repair(CROSSFIT, resume=resume, run_dir=run_dir, **options)
    directory = run_dir or new_run_directory()
    code = run_crossfit(
        repair,
        compute_settings,
        directory,
        part=part,
        parts=parts,
        verbose=verbose,
        explain=explain,
        resume=resume,
        overwrite=options["overwrite"],
    )
    if verbose:
        echo(f"records: {directory}")
    return code


def target_repair(
    method: str,
    *,
    model_dir: Path,
    allow_custom_code: bool,
    target_data_dir: Sequence[Path],
    positive_inputs_dir: Sequence[Path],
    output_dir: Path | None,
    run_dir: Path | None,
    resume: bool,
    **options: Any,
) -> CrossFitRepair:
    """Open and check what `optimize` reads where it repairs one label on all rows that `target` divided.

    Raises:
        InputError: something is missing, damaged, or does not fit.
    """
    if len(target_data_dir) > 1 or len(positive_inputs_dir) > 1:
        raise InputError(f"{method} repairs one --target-data-dir, expected one (`batch` pools chunks)")
    if resume and run_dir is None:
        raise InputError("--resume goes on with a run, expected its --run-dir")
    use_one_thread()

    from engine.models.load import load_model

    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    folder = target_data_dir[0].absolute()
    label, rows = rows_of_target(folder, positive_inputs_dir)
    output = folder if output_dir is None else output_dir.absolute()
    return crossfit_repair(model, rows, (label,), folder, output, any_layer=method == CROSSFIT, **options)


def new_run_directory() -> Path:
    """Where `optimize` records a run that was given no place."""
    return Path("runs") / f"optimize-{datetime.now():%Y%m%d-%H%M%S-%f}"


def batch_crossfit(
    *,
    compute_settings: ComputeOptions,
    verbose: int,
    output_dir: Path,
    explain: bool,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    parts: Parts | None = None,
    **options: Any,
) -> int:
    """Repair labels on the rows of all chunks; returns the exit code."""
    work = make_crossfit_batch(output_dir=output_dir.absolute(), overwrite=overwrite, **options)

    from cli.run_report.view import read_run
    from cluster.batch.crossfit import check_crossfit_batch, read_chunks, repairs_of, run_recorded
    from cluster.batch.crossfit_estimate import expect
    from cluster.compute.compute import Compute
    from cluster.records.store import RunRecords, holds_run, read_facts
    from cluster.runs.crossfit import check_memory

    check_crossfit_batch(work)
    codes = []
    with (
        Console(verbose) as console,
        Compute(replace(compute_settings, threads=1), echo if explain else console.say, warn=console.warn) as compute,
    ):
        if dry_run:
            echo(expectation_text(work, expect(work, compute)))
            return 0
        tell_loss(work.repair, console)
        check_memory(work.repair, compute)
        if not work.separate and not (resume and holds_run(work.repair.output)):
            RunRecords.check_new(work.repair.output, overwrite=overwrite)
        pooled = read_chunks(work, compute, console.rows)
        repairs = repairs_of(work, pooled.rows)
        for repair in repairs:
            if not (resume and holds_run(repair.output)):
                RunRecords.check_new(repair.output, overwrite=overwrite)
        for repair in repairs:
            report = run_recorded(
                work,
                repair,
                pooled,
                compute,
                resume=resume,
                overwrite=overwrite,
                parts=parts,
                on_rows=console.rows,
                on_tunings=console.tunings,
                on_iterations=console.iterations(len(repair.seeds), repair.settings.search.num_iterations),
            )
            codes.append(int(read_facts(repair.output)["exit_code"]) if report is None else report.exit_code)
            echo(results(read_run(repair.output)))
            created(repair.output)
        if compute.redispatched:
            console.say(f"{compute.redispatched} calls ran again because a worker died")
    if not codes:
        echo("the model gets every row right: there is no label to repair on its own")
    return max(codes, default=4 if pooled.rows.unreadable else 0)


def make_crossfit_batch(
    *,
    model_dir: Path,
    allow_custom_code: bool,
    chunks: Path,
    labels: str,
    separate: bool,
    positive_inputs_dir: Sequence[Path],
    output_dir: Path,
    part: Part | None = None,
    **options: Any,
) -> CrossFitBatch:
    """Open and check what a batch reads.

    Raises:
        InputError: something is missing, damaged, or does not fit.
    """
    if positive_inputs_dir:
        raise InputError(
            "--positive-inputs-dir has rows that were picked as the model gets them right, from which CrossFit can "
            "promise nothing, expected further rows as a chunk more"
        )
    use_one_thread()

    from cluster.batch.crossfit import CrossFitBatch
    from cluster.batch.spec import open_chunks
    from engine.models.load import load_model

    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    files = open_chunks(chunks, model)
    rows = [chunk.images for chunk in files if chunk.images is not None]
    repair = crossfit_repair(model, rows, (), chunks.absolute(), output_dir, any_layer=True, **options)
    names = repair.label_names
    if not means_all(labels, names):
        repair = replace(repair, repaired=parse_labels(labels, model.classes, names))
    return CrossFitBatch(repair, files, separate, part)


def expectation_text(work: CrossFitBatch, found: CrossFitExpectation) -> str:
    """What `--dry-run` prints."""
    from engine.problem.crossfit_plan import too_large

    settings = work.repair.settings
    recipes, folds, search = len(settings.recipes), settings.folds, settings.search
    each = "at most " if work.separate and not work.repair.repaired else ""
    repairs = f", in {each}{plural(found.repairs, 'repair', 'repairs')} of one label" if work.separate else ""
    if found.total is None:
        time = "nothing was measured: the rows and tunings that are timed took too long"
    else:
        seconds = (duration(part or 0.0) for part in (found.start, found.passes, found.tunings, found.search))
        time = "{}{} expected (start {}, rows {}, of each repair tunings {}, search {})".format(
            each, duration(found.total), *seconds
        )
    by = "" if search.optimiser == "PSO" else f", {search.optimiser}"
    lines = [
        f"rows: {found.rows} of {plural(len(work.repair.rows), 'chunk', 'chunks')}",
        f"tunings: {recipes * folds} ({plural(recipes, 'recipe', 'recipes')} in {folds} folds){repairs}",
        f"search: {search.num_iterations} iterations of {search.swarm.num_particles} mixtures{by}",
        *found.plan.sentences(),
        f"computing: {found.resources}",
        f"time: {time}",
    ]
    if refused := too_large(found.plan):
        lines.append(f"without --dry-run this is refused: {refused}")
    return "\n".join(lines)


def use_one_thread() -> None:
    """Compute with one thread in this process, as workers do: sums of several differ in their last bits.

    To be called before a model is loaded. Where something was computed already it is too late, and harmless but for
    those bits.
    """
    from engine import backend

    try:
        backend.limit_threads(1)
    except RuntimeError:
        return


def rows_of_target(folder: Path, positive: Sequence[Path]) -> tuple[int, list[ImageSet]]:
    """The label of a folder like `negative/6`, and all rows that `target` divided: negative and positive ones.

    Raises:
        InputError: the folder is not one of one label below `negative`, or rows are missing or damaged.
    """
    import numpy as np

    from engine.data.outcomes import open_negatives, open_positives

    if not folder.parent.exists():
        raise InputError(f"{folder}: no such folder, expected negative inputs as `target` writes them")
    if folder.parent.name != "negative":
        raise InputError(
            f"{folder}: is not below a folder negative, expected one like negative/6 as `target` writes them"
        )
    mine = open_negatives(folder)
    if mine is not None:
        labels = np.unique(mine.labels)
        if len(labels) > 1:
            raise InputError(f"{folder}: has {len(labels)} labels, expected one (`batch` repairs several)")
        label = int(labels[0])
    elif folder.name.isdecimal():
        label = int(folder.name)
    else:
        raise InputError(f"{folder}: has no rows and no label in its name, expected a folder like negative/6")
    sets = [
        open_negatives(folder.parent),
        open_positives(positive[0].absolute() if positive else folder.parent.parent / "positive"),
    ]
    return label, [images for images in sets if images is not None]


def crossfit_repair(
    model: LoadedModel,
    rows: Sequence[ImageSet],
    repaired: tuple[int, ...],
    folder: Path,
    output: Path,
    *,
    any_layer: bool = False,
    settings: SearchSettings,
    requirements: Path | None,
    recipes: str | None,
    folds: int | None,
    step: float | None,
    promise_rows: int | None,
    seed: int,
    seeds: int,
    val_data: Path | None,
    test_data: Path | None,
    target_layer: tuple[str, ...],
    allow_shared_rows: bool,
    overwrite: bool,
    **_: Any,
) -> CrossFitRepair:
    """Open and check what a repair reads; not all methods take weights of `any_layer`.

    Raises:
        InputError: something is missing, damaged, or does not fit.
    """
    check_seeds(seed, seeds)

    from cluster.runs.crossfit import CrossFitRepair
    from engine.data.image_set import open_image_set
    from engine.targets.resolve import resolve_chain, resolve_tuned

    validation = open_image_set(val_data) if val_data else None
    test = open_image_set(test_data) if test_data else None
    sets = [*rows, *(images for images in (validation, test) if images is not None)]
    names = next((images.label_names for images in sets if images.label_names), None)
    required = read_promises(requirements, model.classes, names)
    many = promise_rows
    if many is None:
        many = 1000 if test is None else max(1, test.rows // model.classes)
    chosen = crossfit_settings(settings, required, recipes=recipes, folds=folds, step=step, promise_rows=many)
    resolve = resolve_tuned if any_layer else resolve_chain
    target, chain = resolve(model.model, model.loss, model.classes, model.path, target_layer)
    return CrossFitRepair(
        model=model,
        target=target,
        chain=chain,
        rows=tuple(rows),
        folder=folder,
        repaired=repaired,
        requirements=required.limits,
        stated=requirements is not None,
        settings=chosen,
        seeds=range(seed, seed + seeds),
        validation=validation,
        test=test,
        output=output,
        overwrite=overwrite,
        allow_shared_rows=allow_shared_rows,
    )


def run_crossfit(
    repair: CrossFitRepair,
    compute_settings: ComputeOptions,
    directory: Path,
    *,
    part: Part | None,
    parts: Parts | None,
    verbose: int,
    explain: bool,
    resume: bool,
    overwrite: bool,
) -> int:
    """Run a repair, or a part of one, in its run directory, and print what came of it; returns the exit code."""
    from cli.run_report.view import read_run
    from cluster.compute.compute import Compute
    from cluster.records.store import RunRecords, holds_run
    from cluster.runs.crossfit_run import repair_crossfit, repair_part
    from engine.core.lock import LOCK, locked

    def open_records(facts: Mapping[str, Any]) -> RunRecords:
        return RunRecords.start(directory, facts, resume=resume, overwrite=overwrite, lock=lock)

    with (
        Console(verbose) as console,
        Compute(replace(compute_settings, threads=1), echo if explain else console.say, warn=console.warn) as compute,
    ):
        tell_loss(repair, console)
        tick = console.iterations(len(repair.seeds), repair.settings.search.num_iterations)
        report = None
        if part is not None:
            code = repair_part(
                repair,
                part,
                compute,
                directory,
                resume=resume,
                overwrite=overwrite,
                on_rows=console.rows,
                on_tunings=console.tunings,
            )
        else:
            if not (resume and holds_run(directory)):
                RunRecords.check_new(directory, overwrite=overwrite)
            with locked(directory / LOCK, directory, say=console.say) as lock:
                report = repair_crossfit(
                    repair,
                    compute,
                    open_records,
                    parts=parts,
                    on_rows=console.rows,
                    on_tunings=console.tunings,
                    on_iterations=tick,
                )
            code = report.exit_code
        if compute.redispatched:
            console.say(f"{compute.redispatched} calls ran again because a worker died")
    if verbose:
        echo(results(read_run(directory)))
        if report is not None:
            created(report.model, *report.patch_files)
    return code


def tell_loss(repair: CrossFitRepair, console: Console) -> None:
    """Say it where the loss of a model is not known."""
    if not repair.model.loss.stated:
        console.say(f"{repair.model.path} stores no loss: {repair.model.loss.name} is assumed")
