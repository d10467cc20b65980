"""CrossFit repairs: tune on folds, search over mixtures, take a step that is promised, save, reload, measure, record.

Every step is a pure function of rows and seed, and what has ended is in the run directory: a run that was interrupted
goes on from there and comes to the same end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.compute.tunings import TuningEvent
from cluster.records import tunings as kept_tunings
from cluster.records.rows import change_rows, prediction_rows, verdict_rows
from cluster.records.store import RunRecords
from cluster.runs.crossfit_records import frontier_rows, mixture_rows, promise_rows, tuning_rows
from cluster.runs.identity import fingerprints, identity_of, run_facts
from cluster.runs.ledger import EndedSearch, Ledger, OnJobs
from cluster.runs.optimize import OnIterations, search
from cluster.runs.output import check_output, measuring, save_repaired
from cluster.runs.reports import Measured, label_rows
from cluster.runs.shared_rows import KnownRows, predict_held_out
from cluster.workers.model import ModelHandle
from cluster.workers.task import ReadyCase, SearchJob
from engine.core.files import remove
from engine.core.progress import Progress, Tick, ignore, unseen
from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet
from engine.layers.dense_chain import DenseChain
from engine.metrics.accuracy import LabelChange, paired_changes
from engine.metrics.comparison import Comparison, compare
from engine.metrics.promise import Frontier
from engine.metrics.requirements import Requirement, Verdict, check_requirements, check_rows
from engine.models.load import LoadedModel, check_fits, load_model
from engine.passes.batching import predicted_classes
from engine.passes.classes import rows_of
from engine.patches.arrow import write_patch
from engine.patches.patch import NO_CHANGE, Patch, tensors_patch
from engine.problem.case import LayerInputs
from engine.problem.crossfit import (
    CrossFit,
    CrossFitSettings,
    HeldOutRows,
    MixturePlaces,
    crossfit_of,
    joined_changes,
    mixed_values,
)
from engine.problem.crossfit_plan import check_plan, plan_of
from engine.targets.base import Target
from engine.tuning.train import Changes

PATCH = "patch.arrow"


@dataclass(frozen=True, eq=False)
class CrossFitRepair:
    """What to repair with what.

    Attributes:
        model: to repair.
        target: its weights under repair, whose features are cached.
        chain: the same as Dense layers.
        rows: image sets of the repair.
        folder: of those, for the records.
        repaired: labels under repair.
        requirements: of the result.
        stated: the user stated them.
        settings: of the repair.
        seeds: each is a search of its own; the best is kept. Folds and tunings are of the first.
        validation: rows that join in judging, or None.
        test: rows that only measure, or None.
        output: gets the patch and the repaired model.
        overwrite: replace an output folder that is not a repaired model.
        allow_shared_rows: as of `cluster.runs.optimize.Repairs`.
    """

    model: LoadedModel
    target: Target
    chain: DenseChain
    rows: tuple[ImageSet, ...]
    folder: Path
    repaired: tuple[int, ...]
    requirements: tuple[Requirement, ...]
    stated: bool
    settings: CrossFitSettings
    seeds: Sequence[int]
    validation: ImageSet | None
    test: ImageSet | None
    output: Path
    overwrite: bool = False
    allow_shared_rows: bool = False

    @property
    def held_out(self) -> dict[str, ImageSet]:
        """Sets that no tuning sees, by split."""
        sets = {"validation": self.validation, "test": self.test}
        return {split: images for split, images in sets.items() if images is not None}

    @property
    def label(self) -> int:
        """Under repair, -1 for several."""
        return self.repaired[0] if len(self.repaired) == 1 else -1


@dataclass(frozen=True, eq=False)
class CrossFitReport:
    """How a repair ended.

    Attributes:
        repair: what was asked.
        model: path of the repaired model.
        patch: what changed; empty where nothing did.
        frontier: all steps with their promises; None where there was nothing to repair.
        found: (R + C,) of the search, or None.
        judged: out of fold, per label, at the step taken.
        measured: the saved model, loaded again, on held-out rows.
        verdicts: on those, by split.
        notes: what else is to be said.
    """

    repair: CrossFitRepair
    model: Path
    patch: Patch
    frontier: Frontier | None
    found: Float32 | None
    judged: tuple[LabelChange, ...]
    measured: tuple[Measured, ...]
    verdicts: Mapping[str, tuple[Verdict, ...]]
    notes: tuple[str, ...]

    @property
    def promised(self) -> bool:
        """The requirements are promised; a label without failures needs no repair."""
        return self.frontier is None or self.frontier.promised


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known before the run is recorded."""

    fit: CrossFit
    sets: tuple[KnownRows, ...]
    before: Mapping[str, Int64]
    held_out: HeldOutRows | None


def repair_crossfit(
    repair: CrossFitRepair,
    compute: Compute,
    open_records: Callable[[Mapping[str, Any]], RunRecords],
    *,
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
        on_rows: progress of row passes.
        on_tunings: starts the progress of so many tunings.
        on_iterations: called with (job, new iterations).
        on_jobs: called with the content of `progress.json` as it changes.

    Raises:
        InputError: bad input; nothing has been written. Or the weights of a tuning did not stay finite.
        WorkError: the disk is full or no worker is left; the run can be resumed.
    """
    begun = time.perf_counter()
    handle = compute.handle(repair.model, repair.target)
    check_output(repair.output, repair.model, overwrite=repair.overwrite)
    for images in (*repair.rows, *repair.held_out.values()):
        check_fits(images, repair.model)
    validation = 0 if repair.validation is None else repair.validation.rows
    plan = plan_of(repair.chain, sum(images.rows for images in repair.rows), validation, repair.settings)
    for sentence in plan.sentences():
        compute.say(sentence)
    check_plan(plan)
    known = _known(repair, compute, handle, on_rows)
    facts = {**_facts(repair, compute, known), "plan": plan.facts()}
    records = open_records(facts)
    with ExitStack() as ends:
        ends.enter_context(records.telling_end(facts))
        ledger = Ledger(records, MixturePlaces(known.fit.settings, repair.chain), on_jobs)
        if _nothing_to_do(known.fit):
            report = _unchanged(repair, compute, known, on_rows)
        else:
            changes = _tune(known.fit, compute, ledger, on_tunings)
            best = _search(repair, known.fit, changes, compute, handle, ledger, on_iterations)
            report = _finish(repair, compute, known, changes, best, on_rows, records)
            ledger.choose([best.job])
        _record(records, report, known)
        seconds = ledger.earlier + time.perf_counter() - begun
        done = {"hardware": compute.hardware_kind(), "placement": compute.decisions, "seconds": seconds}
        records.compact({**facts, **done, **_outcome(report)})
    return report


def _known(repair: CrossFitRepair, compute: Compute, handle: ModelHandle, on_rows: Progress) -> _Known:
    """Features of all rows, what the model says of them, and what it says of held-out rows."""
    parts = [compute.layer_inputs(handle, images, on_rows("features", images.rows)) for images in repair.rows]
    rows = LayerInputs.joined(parts)
    layer, kernel = handle.runner.layer, repair.target.kernel
    logits = []
    for images, part in zip(repair.rows, parts, strict=True):
        logits.append(layer.logits(part.inputs, kernel))
        with rows_of(images.path, 0, repair.model.path):
            predicted_classes(repair.chain.head, logits[-1])
    check_rows(repair.requirements, np.bincount(rows.labels, minlength=repair.chain.classes), repair.folder)
    known = (KnownRows({images.path: part.digests for images, part in zip(repair.rows, parts, strict=True)}),)
    before = predict_held_out(compute, handle, repair.held_out, known, on_rows, allow=repair.allow_shared_rows)
    held_out = None
    if repair.validation is not None:
        judged = compute.layer_inputs(handle, repair.validation, on_rows("validation", repair.validation.rows))
        theirs = layer.logits(judged.inputs, kernel)
        classes = predicted_classes(repair.chain.head, theirs)
        held_out = HeldOutRows(judged.inputs, judged.labels, theirs, classes)
    fit = crossfit_of(
        repair.chain,
        rows,
        np.concatenate(logits),
        repair.repaired,
        repair.requirements,
        repair.settings,
        repair.seeds[0],
    )
    return _Known(fit, known, before, held_out)


def _nothing_to_do(fit: CrossFit) -> bool:
    """The model gets all rows of the labels under repair right."""
    mine = np.isin(fit.rows.labels, fit.repaired)
    return bool((fit.before[mine] == fit.rows.labels[mine]).all())


def _tune(fit: CrossFit, compute: Compute, ledger: Ledger, on_tunings: Callable[[int], Tick]) -> tuple[Changes, ...]:
    """Run the tunings that have not ended, and keep each as it ends."""
    records, tasks = ledger.records, fit.tasks
    recipes = fit.settings.recipes
    found: dict[str, Changes] = {}
    for task in tasks:
        shapes = {path: (len(task.recipes), *fit.chain.values[path].shape) for path in fit.chain.tuned}
        changes = kept_tunings.kept(records, task.name, shapes)
        if changes is not None:
            found[task.name] = changes
            event = TuningEvent(task, changes, 0.0, "checkpoint", "")
            records.replace("tunings", task.name, tuning_rows(fit, event))
    total = len(recipes) * fit.rows.folds
    tick = on_tunings(total)
    done = sum(len(task.recipes) for task in tasks if task.name in found)
    tick(done)
    ledger.tunings(done, total)
    for event in compute.run_tunings(fit, [task for task in tasks if task.name not in found]):
        kept_tunings.keep(records, event.task.name, event.changes)
        records.replace("tunings", event.task.name, tuning_rows(fit, event))
        found[event.task.name] = event.changes
        done += len(event.task.recipes)
        tick(len(event.task.recipes))
        ledger.tunings(done, total)
    return joined_changes(fit, found)


def _search(
    repair: CrossFitRepair,
    fit: CrossFit,
    changes: Sequence[Changes],
    compute: Compute,
    handle: ModelHandle,
    ledger: Ledger,
    on_iterations: OnIterations | None,
) -> EndedSearch:
    """The best mixture of all seeds, by what steers the search."""
    settings = repair.settings.search
    case, problem = fit.case(changes, settings)
    ready = ReadyCase(case, problem, repair.folder)
    name = f"crossfit-{fit.data[:12]}-{'+'.join(map(str, fit.repaired))}"
    jobs = tuple(SearchJob(f"{name}-s{seed}", settings, seed) for seed in repair.seeds)
    search(compute, handle, [(ready, jobs)], ledger, on_iterations)
    return max(ledger.ended([job.name for job in jobs]), key=lambda ended: ended.fitness)


def _finish(
    repair: CrossFitRepair,
    compute: Compute,
    known: _Known,
    changes: Sequence[Changes],
    best: EndedSearch,
    on_rows: Progress,
    records: RunRecords,
) -> CrossFitReport:
    """Take the step, save the model of it, load it again and measure that."""
    fit, found = known.fit, best.values[0]
    frontier, judged = fit.frontier(changes, found, known.held_out)
    notes = []
    patch = NO_CHANGE
    step = frontier.point.step
    if step > 0:
        new = mixed_values(repair.chain, changes, found, step)
        patch = tensors_patch({path: repair.chain.values[path] for path in new}, new)
    if repair.chain.offsets is None:
        notes.append(f"{repair.chain.layers[-1].name} has no bias to fold offsets of labels into: none were searched")
    missing = sorted(set(range(repair.chain.classes)) - set(fit.rows.labels.tolist()))
    if missing:
        notes.append(f"no repair row has label {', '.join(map(str, missing))}: nothing is promised of that")
    records.check_ours()
    saved, measured, comparisons, after = _save_and_measure(repair, compute, patch, known.before, on_rows)
    verdicts = {
        split: check_requirements(_with_rows(repair.requirements, comparison), comparison)
        for split, comparison in comparisons.items()
    }
    _write_predictions(records, repair, known.before, after)
    return CrossFitReport(repair, saved, patch, frontier, found, judged, measured, verdicts, tuple(notes))


def _unchanged(repair: CrossFitRepair, compute: Compute, known: _Known, on_rows: Progress) -> CrossFitReport:
    """The report where there is nothing to repair: the model is copied as it is."""
    saved, measured, *_ = _save_and_measure(repair, compute, NO_CHANGE, known.before, on_rows)
    names = ", ".join(map(str, repair.repaired))
    note = f"the model gets every row of label {names} right, it is copied unchanged"
    return CrossFitReport(repair, saved, NO_CHANGE, None, None, (), measured, {}, (note,))


def _save_and_measure(
    repair: CrossFitRepair, compute: Compute, patch: Patch, before: Mapping[str, Int64], on_rows: Progress
) -> tuple[Path, tuple[Measured, ...], dict[str, Comparison], dict[str, Int64]]:
    saved = save_repaired(repair.model, patch, repair.output)
    if len(patch):
        shapes = {path: value.shape for path, value in repair.chain.values.items()}
        write_patch(repair.output / PATCH, patch, shapes)
    else:
        remove(repair.output / PATCH)
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


def _with_rows(requirements: Sequence[Requirement], comparison: Comparison) -> list[Requirement]:
    """The requirements that a set has rows to judge."""
    return [
        requirement
        for requirement in requirements
        if (comparison.totals if requirement.labels is None else comparison.totals[list(requirement.labels)]).any()
    ]


def _write_predictions(
    records: RunRecords, repair: CrossFitRepair, before: Mapping[str, Int64], after: Mapping[str, Int64]
) -> None:
    for split, images in repair.held_out.items():
        rows = prediction_rows(split, images.labels, before[split], after[split])
        records.replace("predictions", split, rows)


def _record(records: RunRecords, report: CrossFitReport, known: _Known) -> None:
    """What the run came to, as rows of the tables."""
    repair, name = report.repair, "crossfit"
    rows = label_rows(name, report.measured)
    for change in report.judged:
        as_it_was = replace(change, correct_after=change.correct_before, fixed=0, broken=0)
        rows += change_rows(name, "base", "out of fold", [as_it_was])
        rows += change_rows(name, "step", "out of fold", [change])
    records.replace("labels", name, rows)
    for split, verdicts in report.verdicts.items():
        records.replace("verdicts", split, verdict_rows(split, verdicts))
    if report.frontier is not None and report.found is not None:
        records.replace("mixture", name, mixture_rows(known.fit, report.found, report.frontier.point.step))
        records.replace("frontier", name, frontier_rows(report.frontier, repair.repaired))
        records.replace("promises", name, promise_rows(report.frontier))


def _outcome(report: CrossFitReport) -> dict[str, Any]:
    """For `run.json`: what was promised, and what else is to be said."""
    frontier = report.frontier
    told: dict[str, Any] = {"notes": list(report.notes), "promised": report.promised}
    if frontier is not None:
        told |= {"step": frontier.point.step, "chance": frontier.point.chance, "enough": frontier.enough}
    return told


def _facts(repair: CrossFitRepair, compute: Compute, known: _Known) -> dict[str, Any]:
    settings = asdict(repair.settings)
    identity = {
        "method": "CrossFit",
        "data": known.fit.data,
        "held-out data": fingerprints({split: images.path for split, images in repair.held_out.items()}),
        "labels": list(repair.repaired),
        "settings": settings,
        "requirements": [requirement.text for requirement in repair.requirements],
        "seeds": list(repair.seeds),
    }
    return {
        **run_facts(repair.model, compute, dict(repair.held_out), [*repair.held_out.values(), *repair.rows]),
        "identity": identity_of(repair.model, repair.target, compute, identity),
        "method": "CrossFit",
        "arguments": {
            "settings": settings,
            "seeds": list(repair.seeds),
            "rows": [str(images.path) for images in repair.rows],
            "compute": asdict(compute.options),
        },
        "target": {path: list(repair.chain.values[path].shape) for path in repair.chain.tuned},
        "data": known.fit.data,
        "labels": list(repair.repaired),
        "requirements": [requirement.text for requirement in repair.requirements],
        "stated": repair.stated,
        "confidence": repair.settings.confidence,
    }
