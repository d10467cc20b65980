"""`optimize`, `batch` and `evaluate` with any method of the registry but Arachne, which has a pipeline of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.run_report.text import results
from cli.run_report.words import duration, plural
from cli.shared import method_options
from cli.shared.computing import computing, use_one_thread
from cli.shared.console import Console, created, echo
from cli.shared.labels import means_all, names_in, parse_labels
from cli.shared.method_options import CROSSFIT, PRIORITIES
from cli.shared.options import check_inputs, check_repairs, check_run_directory, check_seeds
from engine.core.errors import InputError

if TYPE_CHECKING:
    from cluster.batch.estimate import CrossFitExpectation
    from cluster.compute.compute import Compute, ComputeOptions
    from cluster.runs.repair import MethodRepair
    from cluster.runs.repair_rows import RepairRows
    from engine.data.image_set import ImageSet
    from engine.models.load import LoadedModel
    from engine.search.loop import SearchSettings


def optimize_by_method(
    *,
    compute_settings: ComputeOptions,
    verbose: int,
    method: str,
    run_dir: Path | None,
    directory: Path,
    **options: Any,
) -> int:
    """Repair one label on all rows that `target` divided, in `directory`; returns the exit code."""
    check_options(method, run_dir, **options)
    work = target_repair(method, **options)

    from cluster.runs.repair import check_memory, check_repair

    check_repair(work)
    with computing(compute_settings, verbose, model=work.model, explain=options["explain"], one_thread=True) as (
        console,
        compute,
    ):
        if work.promises:
            check_memory(work, compute)
        code = run_one(work, compute, console, directory, options)
    if verbose:
        tell_results(work, directory)
        echo(f"records: {directory}")
    return code


def batch_by_method(
    *,
    compute_settings: ComputeOptions,
    verbose: int,
    method: str,
    output_dir: Path,
    dry_run: bool,
    separate: bool,
    **options: Any,
) -> int:
    """Repair labels on the pooled rows of all chunks, together or each on its own; returns the exit code."""
    if method != CROSSFIT and dry_run:
        raise InputError(f"--dry-run is of Arachne and CrossFit and the method is {method}, expected it without")
    work = chunks_repair(method, output_dir=output_dir.absolute(), **options)

    from cluster.batch.estimate import expect_mixtures
    from cluster.records.store import holds_run
    from cluster.runs.repair import check_memory, check_repair, rows_of_repair
    from cluster.runs.shared_rows import refuse_one_file

    if not work.allow_shared_rows:
        refuse_one_file([images.path for images in work.held_out.values()], [images.path for images in work.rows])
    if separate and holds_run(work.output):
        raise InputError(f"{work.output}: a run is there already, expected a new name for one of each label")
    check_repair(work)
    with computing(
        compute_settings, verbose, model=None if dry_run else work.model, explain=options["explain"], one_thread=True
    ) as (console, compute):
        if dry_run:
            echo(expectation_text(work, expect_mixtures(work, compute, separate=separate), separate=separate))
            return 0
        if work.promises:
            check_memory(work, compute)
        else:  # whose results do not say so
            for folder, why in work.unreadable.items():
                console.warn(f"{folder} is left out: {why}")
        rows, repairs = None, [work]
        if separate:
            rows = rows_of_repair(work, compute, console.rows)
            labels = work.repaired or rows.failing
            repairs = [replace(work, repaired=(label,), output=work.output / f"label-{label}") for label in labels]
            for repair in repairs:  # all of them before the first begins
                check_run_directory(repair.output, resume=options["resume"], overwrite=options["overwrite"])
        codes = []
        for repair in repairs:
            codes.append(run_one(repair, compute, console, repair.output, options, rows))
            tell_results(repair, repair.output)
    if not codes:
        echo("the model gets every row right: there is no label to repair on its own")
    return max(codes, default=4 if rows is not None and rows.unreadable else 0)


def run_one(
    work: MethodRepair,
    compute: Compute,
    console: Console,
    directory: Path,
    options: Mapping[str, Any],
    rows: RepairRows | None = None,
) -> int:
    from cluster.runs.repair import Watching, run_repair

    iterations = console.iterations(len(work.seeds), work.settings.crossfit.search.num_iterations)
    told = Watching(console.rows, console.repairs, console.tunings, iterations)
    stated = {name: options[name] for name in ("resume", "overwrite", "part", "parts")}
    return run_repair(work, compute, directory, rows=rows, told=told, **stated)


def tell_results(work: MethodRepair, directory: Path) -> None:
    from cli.run_report.view import read_run
    from cluster.runs.outcomes import PATCH
    from engine.patches.save import repaired_path

    report = read_run(directory)
    echo(results(report))
    if not work.promises:
        for note in report.facts.get("notes") or ():
            echo(note)
    if work.promises and work.output == directory:
        created(directory)
        return
    patch = work.output / PATCH
    created(repaired_path(work.model, work.output), *([patch] if patch.is_file() else []))


def expectation_text(work: MethodRepair, found: CrossFitExpectation, *, separate: bool) -> str:
    from engine.targets.memory import too_large

    settings = work.settings.crossfit
    recipes, folds, search = len(settings.recipes), settings.folds, settings.search
    each = "at most " if separate and not work.repaired else ""
    repairs = f", in {each}{plural(found.repairs, 'repair', 'repairs')} of one label" if separate else ""
    if found.total is None:
        time = "nothing was measured: the rows and tunings that are timed took too long"
    else:
        seconds = (duration(part or 0.0) for part in (found.start, found.passes, found.tunings, found.search))
        time = "{}{} expected (start {}, rows {}, of each repair tunings {}, search {})".format(
            each, duration(found.total), *seconds
        )
    by = "" if search.optimiser == "PSO" else f", {search.optimiser}"
    lines = [
        f"rows: {found.rows} of {plural(len(work.rows), 'chunk', 'chunks')}",
        f"tunings: {recipes * folds} ({plural(recipes, 'recipe', 'recipes')} in {folds} folds){repairs}",
        f"search: {search.num_iterations} iterations of {search.swarm.num_particles} mixtures{by}",
        *found.plan.sentences(),
        f"computing: {found.resources}",
        f"time: {time}",
    ]
    if refused := too_large(found.plan):
        lines.append(f"without --dry-run this is refused: {refused}")
    return "\n".join(lines)


def target_repair(
    method: str,
    *,
    model_dir: Path,
    allow_custom_code: bool,
    target_data_dir: Sequence[Path],
    positive_inputs_dir: Sequence[Path],
    output_dir: Path | None,
    **options: Any,
) -> MethodRepair:
    """Open and check what `optimize` reads where it repairs one label on all rows that `target` divided."""
    if len(target_data_dir) > 1 or len(positive_inputs_dir) > 1:
        raise InputError(f"{method} repairs one --target-data-dir, expected one (`batch` pools chunks)")
    use_one_thread()

    from engine.models.load import load_model

    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    folder = target_data_dir[0].absolute()
    label, rows = rows_of_target(folder, positive_inputs_dir)
    output = folder if output_dir is None else output_dir.absolute()
    work = method_repair(method, model, rows, folder, output, model_dir=model_dir, **options)
    return replace(work, repaired=(label,), label_file=options["label_file"])


def chunks_repair(
    method: str,
    *,
    model_dir: Path,
    allow_custom_code: bool,
    chunks: Path,
    labels: str,
    positive_inputs_dir: Sequence[Path],
    output_dir: Path,
    **options: Any,
) -> MethodRepair:
    if positive_inputs_dir and method == CROSSFIT:
        raise InputError(
            "--positive-inputs-dir has rows that were picked as the model gets them right, from which CrossFit can "
            "promise nothing, expected further rows as a chunk more"
        )
    if positive_inputs_dir:
        raise InputError(
            f"--positive-inputs-dir is of Arachne and CrossFit and the method is {method}, expected it without"
        )
    check_options(method, output_dir, model_dir=model_dir, chunks=chunks, **options)
    use_one_thread()

    from cluster.batch.spec import open_chunks
    from engine.models.load import load_model

    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    files = open_chunks(chunks, model)
    rows = [chunk.images for chunk in files if chunk.images is not None]
    work = method_repair(method, model, rows, chunks.absolute(), output_dir, model_dir=model_dir, **options)
    names = work.label_names
    return replace(
        work,
        repaired=() if means_all(labels, names) else parse_labels(labels, model.classes, names),
        chunks=tuple(chunk.name for chunk in files),
        unreadable={chunk.folder: chunk.error for chunk in files if chunk.images is None},
    )


def check_options(method: str, directory: Path | None, *, seed: int, seeds: int, **options: Any) -> None:
    """Refuse what cannot be meant, before the model is loaded."""
    if method == CROSSFIT:
        return
    check_repairs("seeds", seeds)
    check_seeds(seed, seeds)
    if options["label_file"] is not None and method != PRIORITIES:
        raise InputError(f"--label-file is of {PRIORITIES} and the method is {method}, expected one without the other")
    check_inputs(options)

    from engine.methods.given import stated_of
    from engine.methods.registry import method_of

    method_options.refuse_unsearched(method, stated_of(method_of(method)))
    if directory is not None:
        check_run_directory(directory, resume=options["resume"], overwrite=options["overwrite"])


def method_repair(
    method: str,
    model: LoadedModel,
    rows: Sequence[ImageSet],
    folder: Path,
    output: Path,
    *,
    model_dir: Path,
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
    weights_dir: Path | None = None,
    last: tuple[int, int] = (2, 1),
    positive_weight: float | None = None,
    label_file: Path | None = None,
    positive_label_file: Path | None = None,
    **_: Any,
) -> MethodRepair:
    """Open and check what a repair reads, with what was given of its search; no labels are under repair yet."""
    check_seeds(seed, seeds)

    from cluster.runs.repair import MethodRepair
    from engine.data.image_set import open_image_set
    from engine.methods.base import MethodSettings
    from engine.targets.resolve import resolve_chain, resolve_tuned

    validation = open_image_set(val_data) if val_data else None
    test = open_image_set(test_data) if test_data else None
    required = method_options.read_promises(requirements, model.classes, names_in((*rows, validation, test)))
    if promise_rows is None:
        promise_rows = 1000 if test is None else max(1, test.rows // model.classes)
    mixtures = method_options.crossfit_settings(
        settings, required, recipes=recipes, folds=folds, step=step, promise_rows=promise_rows
    )
    chosen = MethodSettings(mixtures)
    if method != CROSSFIT:
        chosen = replace(
            method_options.method_settings(method, mixtures, settings, positive_weight),
            priorities=method_options.stated_priorities(label_file, positive_label_file, model.classes),
        )
    resolve = resolve_tuned if method == CROSSFIT else resolve_chain
    target, chain = resolve(model.model, model.loss, model.classes, model.path, target_layer)
    return MethodRepair(
        model=model,
        target=target,
        chain=chain,
        rows=tuple(rows),
        folder=folder,
        repaired=(),
        requirements=required.limits,
        stated=requirements is not None,
        method=method,
        settings=chosen,
        seeds=range(seed, seed + seeds),
        validation=validation,
        test=test,
        output=output,
        overwrite=overwrite,
        allow_shared_rows=allow_shared_rows,
        checkpoints=method_options.checkpoint_folder(weights_dir, model_dir, [method]),
        last=last,
    )


def rows_of_target(folder: Path, positive: Sequence[Path]) -> tuple[int, list[ImageSet]]:
    """The label of a folder like `negative/6`, and all rows that `target` divided: negative and positive ones."""
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
