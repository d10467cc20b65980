"""`optimize` and `batch` with any method but Arachne and CrossFit, which have pipelines of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.commands.crossfit import crossfit_repair, new_run_directory, target_repair, tell_loss, use_one_thread
from cli.run_report.text import results
from cli.shared.console import Console, created, echo
from cli.shared.labels import means_all, parse_labels
from cli.shared.method_options import checkpoint_folder, method_settings, refuse_unsearched
from cli.shared.objective_options import PRIORITIES, stated_priorities
from cli.shared.options import check_inputs, check_repairs, check_run_directory, check_seeds
from engine.core.errors import InputError

if TYPE_CHECKING:
    from cluster.compute.options import ComputeOptions
    from cluster.runs.method_repair import MethodRepair
    from engine.search.loop import SearchSettings


def optimize_by_method(
    *,
    compute_settings: ComputeOptions,
    verbose: int,
    method: str,
    run_dir: Path | None,
    **options: Any,
) -> int:
    """Repair one label on all rows that `target` divided; returns the exit code."""
    check_options(method, **options)
    if run_dir is not None:
        check_run_directory(run_dir, resume=options["resume"], overwrite=options["overwrite"])
    repair = target_repair(method, run_dir=run_dir, **options)
    work = replace(method_repair(method, repair, {}, **options), label_file=options["label_file"])
    directory = run_dir or new_run_directory()
    code = run_method_repair(work, compute_settings, directory, verbose=verbose, quiet=not verbose, **options)
    if verbose:
        echo(f"records: {directory}")
    return code


def batch_by_method(
    *,
    compute_settings: ComputeOptions,
    verbose: int,
    method: str,
    model_dir: Path,
    allow_custom_code: bool,
    chunks: Path,
    labels: str,
    positive_inputs_dir: Sequence[Path],
    output_dir: Path,
    dry_run: bool,
    **options: Any,
) -> int:
    """Repair labels on the pooled rows of all chunks, in one repair; returns the exit code."""
    for name, value in (("positive_inputs_dir", positive_inputs_dir), ("dry_run", dry_run)):
        if value:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag} is of Arachne and CrossFit and the method is {method}, expected it without")
    check_options(method, model_dir=model_dir, chunks=chunks, **options)
    check_run_directory(output_dir, resume=options["resume"], overwrite=options["overwrite"])
    use_one_thread()

    from cluster.batch.spec import open_chunks
    from engine.models.load import load_model

    model = load_model(model_dir, allow_custom_code=allow_custom_code)
    files = open_chunks(chunks, model)
    rows = [chunk.images for chunk in files if chunk.images is not None]
    output = output_dir.absolute()
    repair = crossfit_repair(model, rows, (), chunks.absolute(), output, **options)
    if not means_all(labels, repair.label_names):
        repair = replace(repair, repaired=parse_labels(labels, model.classes, repair.label_names))
    unreadable = {chunk.folder: chunk.error for chunk in files if chunk.images is None}
    work = method_repair(method, repair, unreadable, model_dir=model_dir, **options)
    return run_method_repair(work, compute_settings, output, verbose=verbose, quiet=False, **options)


def check_options(method: str, *, seed: int, seeds: int, **options: Any) -> None:
    """Refuse what cannot be meant, before the model is loaded.

    Raises:
        InputError: numbers that no run can have, priorities for a method that has none, paths that lead nowhere, or an
            option of a search that means nothing to the method.
    """
    check_repairs("seeds", seeds)
    check_seeds(seed, seeds)
    if options["label_file"] is not None and method != PRIORITIES:
        raise InputError(f"--label-file is of {PRIORITIES} and the method is {method}, expected one without the other")
    check_inputs(options)

    from engine.methods.registry import method_of
    from engine.methods.searches import stated_of

    refuse_unsearched(method, stated_of(method_of(method)))


def method_repair(
    method: str,
    repair: Any,
    unreadable: Mapping[Path, str],
    *,
    model_dir: Path,
    settings: SearchSettings,
    weights_dir: Path | None,
    last: tuple[int, int],
    positive_weight: float | None = None,
    label_file: Path | None,
    positive_label_file: Path | None,
    **_: Any,
) -> MethodRepair:
    """A repair by a method, with what was given of its search.

    Raises:
        InputError: priorities cannot be read, or an option is of another optimiser than that of the method.
    """
    from cluster.runs.method_repair import MethodRepair

    mine = replace(
        method_settings(method, repair.settings, settings, positive_weight),
        priorities=stated_priorities(label_file, positive_label_file, repair.model.classes),
    )
    folder = checkpoint_folder(weights_dir, model_dir, [method])
    return MethodRepair(repair, method, mine, folder, last, unreadable)


def run_method_repair(
    work: MethodRepair,
    compute_settings: ComputeOptions,
    directory: Path,
    *,
    verbose: int,
    quiet: bool,
    explain: bool,
    resume: bool,
    overwrite: bool,
    **_: Any,
) -> int:
    """Run a repair in its run directory, and print what came of it but where `quiet`; returns the exit code."""
    from cli.run_report.view import read_run
    from cluster.compute.compute import Compute
    from cluster.runs.crossfit import PATCH
    from cluster.runs.method_repair import repair_by_method
    from engine.patches.save import repaired_path

    with (
        Console(verbose) as console,
        Compute(replace(compute_settings, threads=1), echo if explain else console.say, warn=console.warn) as compute,
    ):
        tell_loss(work.repair, console)
        for folder, why in work.unreadable.items():
            console.warn(f"{folder} is left out: {why}")
        code = repair_by_method(
            work,
            compute,
            directory,
            resume=resume,
            overwrite=overwrite,
            on_rows=console.rows,
            on_repairs=console.repairs,
        )
        if compute.redispatched:
            console.say(f"{compute.redispatched} calls ran again because a worker died")
    if not quiet:
        report = read_run(directory)
        echo(results(report))
        for note in report.facts.get("notes") or ():
            echo(note)
        output = work.repair.output
        patch = output / PATCH
        created(repaired_path(work.repair.model, output), *([patch] if patch.is_file() else []))
    return code
