"""`optimize` and `batch` with any method of the registry but Arachne, which has a pipeline of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.run_report.text import results
from cli.run_report.words import duration, plural
from cli.shared.computing import computing
from cli.shared.console import Console, created, echo
from cli.shared.method_options import CROSSFIT
from cli.shared.method_repair import check_options, chunks_repair, target_repair
from cli.shared.options import check_run_directory
from engine.core.errors import InputError

if TYPE_CHECKING:
    from cluster.batch.estimate import CrossFitExpectation
    from cluster.compute.compute import Compute, ComputeOptions
    from cluster.runs.repair import MethodRepair
    from cluster.runs.repair_rows import RepairRows


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
        tell_left_out(work, console)
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
        tell_left_out(work, console)
        if work.promises:
            check_memory(work, compute)
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
    """Run a repair in its run directory; returns the exit code."""
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


def tell_left_out(work: MethodRepair, console: Console) -> None:
    """Say which chunks are left out, where results do not."""
    if not work.promises:
        for folder, why in work.unreadable.items():
            console.warn(f"{folder} is left out: {why}")
