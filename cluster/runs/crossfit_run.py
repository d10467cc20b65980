"""CrossFit repairs: tune on folds, search over mixtures, take a step that is promised, save, reload, measure, record.

Every step is a pure function of rows and seed, and what has ended is in the run directory: a run that was interrupted
goes on from there and comes to the same end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.compute.tunings import TuningEvent
from cluster.records import tunings as kept_tunings
from cluster.records.batches import PatchPlaces
from cluster.records.rows import prediction_rows
from cluster.records.store import RunRecords, enough_room, holds_run
from cluster.runs.crossfit import (
    PATCH,
    CrossFitRepair,
    CrossFitReport,
    ReadyRepair,
    check_memory,
    check_repair,
    ready_repair,
)
from cluster.runs.crossfit_records import missing_of, outcome_of, record_outcome, tuning_rows
from cluster.runs.crossfit_rows import read_rows
from cluster.runs.ledger import Ledger, OnJobs
from cluster.runs.merging import Parts
from cluster.runs.optimize import OnIterations, search
from cluster.runs.output import NOT_MET_FILE, mark_missing, measuring, save_repaired
from cluster.runs.parts import Part, end_part, ended_before
from cluster.runs.reports import Measured
from cluster.workers.harvest import EndedSearch
from cluster.workers.model import ModelHandle
from cluster.workers.task import ReadyCase, SearchJob
from engine.core.files import remove
from engine.core.lock import LOCK, locked
from engine.core.progress import Progress, Tick, ignore, unseen
from engine.core.types import Float32, Int64
from engine.localize.weights_file import ARROW, CSV
from engine.metrics.accuracy import LabelChange, paired_changes
from engine.metrics.comparison import Comparison, compare
from engine.metrics.promise import Frontier
from engine.metrics.requirements import check_requirements, with_rows
from engine.models.load import load_model
from engine.patches.arrow import write_patch
from engine.patches.patch import NO_CHANGE, Patch, tensors_patch
from engine.problem.crossfit import CrossFit, TuningTask, joined_changes
from engine.problem.mixed import mixed_values, mixture_space
from engine.tuning.train import Changes


def repair_crossfit(
    repair: CrossFitRepair,
    compute: Compute,
    open_records: Callable[[Mapping[str, Any]], RunRecords],
    *,
    parts: Parts | None = None,
    on_rows: Progress = unseen,
    on_tunings: Callable[[int], Tick] = lambda count: ignore,
    on_iterations: OnIterations | None = None,
    on_jobs: OnJobs | None = None,
) -> CrossFitReport:
    """Repair a model and record the run.

    Args:
        repair: what to do.
        compute: where; one thread in every process keeps the bits the same everywhere.
        open_records: starts the run directory from its facts, or goes on with the run there, once the input is known
            to be good.
        parts: of the same repair, which have tuned.
        on_rows: progress of row passes.
        on_tunings: starts the progress of so many tunings.
        on_iterations: called with (job, how many iterations more, best fitness so far).
        on_jobs: called with the content of `progress.json` as it changes.

    Raises:
        InputError: bad input; nothing has been written. Or the weights of a tuning did not stay finite.
        WorkError: the disk is full or no worker is left; the run can be resumed.
    """
    begun = time.perf_counter()
    ready = _read(repair, compute, on_rows)
    if parts is not None:
        ready = replace(ready, facts=parts.facts(ready.facts))
    records = open_records(ready.facts)
    if parts is not None:
        with records.telling_end(ready.facts):
            parts.join(records)
    return carry_out(
        ready,
        compute,
        records,
        begun=begun,
        on_rows=on_rows,
        on_tunings=on_tunings,
        on_iterations=on_iterations,
        on_jobs=on_jobs,
    )


def repair_part(
    repair: CrossFitRepair,
    part: Part,
    compute: Compute,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_rows: Progress = unseen,
    on_tunings: Callable[[int], Tick] = lambda count: ignore,
) -> int:
    """Run the tunings of a part of a repair in a run directory, where nobody else works meanwhile.

    Args:
        repair: all of it.
        part: which part.
        compute: as of `repair_crossfit`.
        directory: of the run, for `cluster.runs.merging.read_parts`.
        resume: go on with the run there, or start it; a part that has ended stays as it is.
        overwrite: replace an earlier run.
        on_rows, on_tunings: as of `repair_crossfit`.

    Returns:
        The exit code, as of `tune_part`.

    Raises:
        InputError: bad input, or the directory is in use, or holds a run of something else; nothing has been written
            then. Or the weights of a tuning did not stay finite.
        WorkError: the disk is full or no worker is left, and the run can be resumed; or somebody else goes on with it.
    """
    if not (resume and holds_run(directory)):
        RunRecords.check_new(directory, overwrite=overwrite)
    with locked(directory / LOCK, directory, say=compute.say) as lock, enough_room(directory):
        ready = _read(repair, compute, on_rows)
        ready = replace(ready, facts=part.facts(ready.facts))
        if (before := ended_before(directory, ready.facts, resume=resume)) is not None:
            return int(before["exit_code"])
        records = RunRecords.start(directory, ready.facts, resume=resume, overwrite=overwrite, lock=lock)
        return tune_part(ready, part, compute, records, on_tunings=on_tunings)


def _read(repair: CrossFitRepair, compute: Compute, on_rows: Progress) -> ReadyRepair:
    check_repair(repair)
    check_memory(repair, compute)
    handle = compute.handle(repair.model, repair.target)
    allow = repair.allow_shared_rows
    rows = read_rows(compute, handle, repair.chain.head, repair.rows, repair.held_out, on_rows, allow_shared=allow)
    return ready_repair(repair, rows, compute, handle)


def carry_out(
    ready: ReadyRepair,
    compute: Compute,
    records: RunRecords,
    *,
    begun: float | None = None,
    on_rows: Progress = unseen,
    on_tunings: Callable[[int], Tick] = lambda count: ignore,
    on_iterations: OnIterations | None = None,
    on_jobs: OnJobs | None = None,
) -> CrossFitReport:
    """Tune, search, take the step, save and measure; everything is recorded.

    Args:
        ready: what to do.
        compute: as of `repair_crossfit`.
        records: of the run.
        begun: moment from which its seconds count; None is now.
        on_rows, on_tunings, on_iterations, on_jobs: as of `repair_crossfit`.

    Raises:
        InputError: the weights of a tuning did not stay finite.
        WorkError: the disk is full or no worker is left; the run can be resumed.
    """
    begun = time.perf_counter() if begun is None else begun
    fit, facts = ready.fit, ready.facts
    with records.telling_end(facts):
        ledger = _opened(ready, records, on_jobs)
        if _nothing_to_do(fit):
            report = _unchanged(ready, compute, on_rows, records)
        else:
            changes = joined_changes(fit, _tune(ready.handle, fit, fit.tasks, compute, ledger, on_tunings))
            best = _search(ready, changes, compute, ledger, on_iterations)
            report = _finish(ready, compute, changes, best, on_rows, records)
            ledger.choose([best.job])
        record_outcome(records, report, fit)
        records.compact({**facts, **_how(compute, ledger, begun), **outcome_of(report)})
    return report


def tune_part(
    ready: ReadyRepair,
    part: Part,
    compute: Compute,
    records: RunRecords,
    *,
    on_tunings: Callable[[int], Tick] = lambda count: ignore,
    on_jobs: OnJobs | None = None,
) -> int:
    """Run the tunings of a part of a repair and keep them; returns the exit code, 4 where chunks could not be read.

    Args:
        ready: all of the repair, but for its facts, which are those of the part.
        part: which part.
        compute, records, on_tunings, on_jobs: as of `carry_out`.

    Raises:
        InputError, WorkError: as `carry_out` does.
    """
    begun = time.perf_counter()
    with records.telling_end(ready.facts):
        ledger = _opened(ready, records, on_jobs)
        names = frozenset[str]() if _nothing_to_do(ready.fit) else part.mine(task.name for task in ready.fit.tasks)
        tasks = [task for task in ready.fit.tasks if task.name in names]
        compute.say(f"part {part}: {len(tasks)} of {len(ready.fit.tasks)} tasks of tunings")
        _tune(ready.handle, ready.fit, tasks, compute, ledger, on_tunings)
        code = 4 if ready.rows.unreadable else 0
        end_part(records, {**ready.facts, **_how(compute, ledger, begun), "exit_code": code})
    return code


def _opened(ready: ReadyRepair, records: RunRecords, on_jobs: OnJobs | None) -> Ledger:
    """The books of a repair, with the chunks that could not be read."""
    repair = ready.repair
    ledger = Ledger(records, mixture_space(len(ready.fit.settings.recipes), repair.chain), on_jobs)
    for folder, note in ready.rows.unreadable.items():
        job = SearchJob(f"chunk{folder.name}", repair.settings.search, repair.seeds[0])
        ledger.fail(1, folder, repair.label, [job], note)
    return ledger


def _how(compute: Compute, ledger: Ledger, begun: float) -> dict[str, Any]:
    """What `run.json` says of how it was computed."""
    seconds = ledger.earlier + time.perf_counter() - begun
    return {"hardware": compute.hardware_kind(), "placement": compute.decisions, "seconds": seconds}


def _nothing_to_do(fit: CrossFit) -> bool:
    """The model gets all rows of the labels under repair right."""
    mine = np.isin(fit.rows.labels, fit.repaired)
    return bool((fit.before[mine] == fit.rows.labels[mine]).all())


def _tune(
    handle: ModelHandle,
    fit: CrossFit,
    tasks: Sequence[TuningTask],
    compute: Compute,
    ledger: Ledger,
    on_tunings: Callable[[int], Tick],
) -> dict[str, Changes]:
    """Run those of these tasks that have not ended, and keep each as it ends; what they change, by task."""
    records = ledger.records
    found: dict[str, Changes] = {}
    for task in tasks:
        shapes = {path: (len(task.recipes), *fit.chain.values[path].shape) for path in fit.chain.tuned}
        changes = kept_tunings.kept(records, task.name, shapes)
        if changes is not None:
            found[task.name] = changes
            event = TuningEvent(task, changes, 0.0, "checkpoint", "")
            records.replace("tunings", task.name, tuning_rows(fit, event))
    total = sum(len(task.recipes) for task in tasks)
    tick = on_tunings(total)
    done = sum(len(task.recipes) for task in tasks if task.name in found)
    tick(done)
    ledger.tunings(done, total)
    for event in compute.run_tunings(handle, fit, [task for task in tasks if task.name not in found]):
        kept_tunings.keep(records, event.task.name, event.changes)
        records.replace("tunings", event.task.name, tuning_rows(fit, event))
        found[event.task.name] = event.changes
        done += len(event.task.recipes)
        tick(len(event.task.recipes))
        ledger.tunings(done, total)
    return found


def _search(
    ready: ReadyRepair,
    changes: Sequence[Changes],
    compute: Compute,
    ledger: Ledger,
    on_iterations: OnIterations | None,
) -> EndedSearch:
    """The best mixture of all seeds, by what steers the search."""
    repair, fit = ready.repair, ready.fit
    settings = repair.settings.search
    validation = ready.rows.validation
    case, problem = fit.case(changes, settings, 0 if validation is None else len(validation.labels))
    naming = mixture_space(len(fit.settings.recipes), repair.chain)
    places = PatchPlaces.of(case.index, naming.patch(case.index, case.weights.old, case.weights.old), naming.shapes)
    mixed = ReadyCase(case, problem, repair.folder, places)
    name = f"crossfit-{fit.data[:12]}-{'+'.join(map(str, fit.repaired))}"
    jobs = tuple(SearchJob(f"{name}-s{seed}", settings, seed) for seed in repair.seeds)
    search(compute, ready.handle, [(mixed, jobs)], ledger, on_iterations)
    return max(ledger.ended([job.name for job in jobs]), key=lambda ended: ended.fitness)


def _finish(
    ready: ReadyRepair,
    compute: Compute,
    changes: Sequence[Changes],
    best: EndedSearch,
    on_rows: Progress,
    records: RunRecords,
) -> CrossFitReport:
    """Take the step, save the model of it, load it again and measure that."""
    repair, fit, found = ready.repair, ready.fit, best.values[0]
    frontier, judged = fit.frontier(changes, found, ready.rows.validation)
    notes = []
    patch = NO_CHANGE
    step = frontier.point.step
    if step > 0:
        new = mixed_values(repair.chain, changes, found, step)
        patch = tensors_patch({path: repair.chain.values[path] for path in new}, new)
    if repair.chain.offsets is None:
        notes.append("the last layer has no bias to fold offsets of labels into: none were searched")
    missing = sorted(set(range(repair.chain.classes)) - set(np.flatnonzero(ready.rows.judged).tolist()))
    if missing:
        notes.append(f"no row has label {', '.join(map(str, missing))}: nothing is promised of that")
    copies = len(ready.rows.pooled.labels) - len(fit.rows.labels)
    if copies:
        notes.append(f"{copies} repair rows are copies of others: each row counts once")
    return _report(ready, compute, patch, frontier, found, judged, notes, on_rows, records)


def _unchanged(ready: ReadyRepair, compute: Compute, on_rows: Progress, records: RunRecords) -> CrossFitReport:
    """The report where there is nothing to repair: the model is copied as it is, and judged like that."""
    repair, fit, held_out = ready.repair, ready.fit, ready.rows.validation
    _, before = fit.judging(held_out)
    frontier = fit.judged(before[None], (0.0,), held_out)
    frontier = replace(frontier, promised=frontier.point.chance >= frontier.confidence)
    which = f" of label {', '.join(map(str, repair.repaired))}" if repair.repaired else ""
    notes = [f"the model gets every row{which} right, it is copied unchanged"]
    return _report(ready, compute, NO_CHANGE, frontier, None, (), notes, on_rows, records)


def _report(
    ready: ReadyRepair,
    compute: Compute,
    patch: Patch,
    frontier: Frontier,
    found: Float32 | None,
    judged: tuple[LabelChange, ...],
    notes: Sequence[str],
    on_rows: Progress,
    records: RunRecords,
) -> CrossFitReport:
    """Save the patched model, load it again, measure it on held-out rows and judge it."""
    repair, rows = ready.repair, ready.rows
    records.check_ours()
    saved, measured, comparisons, after = _save_and_measure(repair, compute, patch, rows.before, on_rows)
    _write_patch(repair, patch, records.directory)
    verdicts = {
        split: check_requirements(with_rows(repair.requirements, comparison), comparison)
        for split, comparison in comparisons.items()
    }
    _write_predictions(records, repair, rows.before, after)
    left_out = [f"left out: {note}" for note in rows.unreadable.values()]
    report = CrossFitReport(
        repair, saved, patch, frontier, found, judged, measured, verdicts, rows.unreadable, (*left_out, *notes)
    )
    mark_missing(repair.output, missing_of(report))
    return report


def _save_and_measure(
    repair: CrossFitRepair, compute: Compute, patch: Patch, before: Mapping[str, Int64], on_rows: Progress
) -> tuple[Path, tuple[Measured, ...], dict[str, Comparison], dict[str, Int64]]:
    for name in (PATCH, NOT_MET_FILE):  # of an earlier model
        remove(repair.output / name)
    if repair.output != repair.folder:
        for name in (CSV, ARROW):
            remove(repair.output / name)
    saved = save_repaired(repair.model, patch, repair.output, repair.rows[0])
    reloaded = compute.handle(load_model(saved, allow_custom_code=repair.model.allow_custom_code))
    measured, comparisons, predicted = [], {}, {}
    for split, images in repair.held_out.items():
        with measuring(saved):
            after = predicted[split] = compute.predict(reloaded, images, on_rows(split, images.rows))
        measured.append(
            Measured(split, paired_changes(images.labels, before[split], after, images.classes), images.label_names)
        )
        comparisons[split] = compare(images.labels, before[split], after, images.classes)
    return saved, tuple(measured), comparisons, predicted


def _write_patch(repair: CrossFitRepair, patch: Patch, run: Path) -> None:
    """Beside the model, and in the run directory, which may go elsewhere or see its model replaced."""
    shapes = {path: value.shape for path, value in repair.chain.values.items()}
    for folder in dict.fromkeys((repair.output, run)):
        if len(patch):
            write_patch(folder / PATCH, patch, shapes)
        else:
            remove(folder / PATCH)


def _write_predictions(
    records: RunRecords, repair: CrossFitRepair, before: Mapping[str, Int64], after: Mapping[str, Int64]
) -> None:
    for split, images in repair.held_out.items():
        rows = prediction_rows(split, images.labels, before[split], after[split])
        records.replace("predictions", split, rows)
