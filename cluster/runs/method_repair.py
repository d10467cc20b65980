"""A repair by any method of the registry, with several seeds: the best is saved, loaded again and measured.

Arachne and CrossFit have pipelines of their own, which divide a single repair over the workers and tell of its inside
(`cluster.runs.optimize`, `cluster.runs.crossfit_run`, `cluster.batch`). Here a repair is one piece of work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluster.compute.compute import Compute
from cluster.records.rows import prediction_rows, verdict_rows
from cluster.records.schema import JobRow
from cluster.records.store import RunRecords, enough_room, holds_run
from cluster.runs.checkpoints import checkpoint_facts
from cluster.runs.crossfit import CrossFitRepair, check_repair
from cluster.runs.identity import fingerprints, identity_of, run_facts
from cluster.runs.method_records import FAILED, changed_of, ended_repairs, run_repairs, save_values
from cluster.runs.method_rows import MethodRows, read_method_rows, refuse_lacking, subject_of
from cluster.runs.output import mark_missing, measuring, missed, tell_label_file
from cluster.runs.parts import ended_before
from cluster.runs.reports import Measured, label_rows
from cluster.workers.methods import MethodTask, foreign_origins
from engine.core.errors import WorkError
from engine.core.lock import LOCK, locked
from engine.core.progress import Progress, Tick, ignore, unseen
from engine.core.types import Float32
from engine.layers.tail_chain import dense_of
from engine.methods.base import MethodSettings, Offer, Repair, Subject
from engine.methods.outcome import chosen
from engine.metrics.accuracy import paired_changes
from engine.metrics.comparison import compare
from engine.metrics.requirements import check_requirements, with_rows
from engine.models.load import load_model
from engine.patches.patch import patch_between
from engine.targets.resolve import resolve_target


@dataclass(frozen=True, eq=False)
class MethodRepair:
    """What to repair with what.

    Attributes:
        repair: as of CrossFit; its settings are part of `settings`.
        method: its name.
        settings: of the method.
        checkpoints: folder with checkpoints of the training, or None.
        last: which of them are compared, from the end.
        unreadable: chunks that could not be opened, and why.
        label_file: `labels.json` that gets the weights of its labels and their new values, or None.
    """

    repair: CrossFitRepair
    method: str
    settings: MethodSettings
    checkpoints: Path | None
    last: tuple[int, int]
    unreadable: Mapping[Path, str]
    label_file: Path | None = None

    @property
    def tasks(self) -> list[MethodTask]:
        """One repair for each seed, of all rows."""
        seeds = enumerate(self.repair.seeds)
        return [MethodTask(f"{self.method}-s{seed}", self.method, number, seed, None, True) for number, seed in seeds]


def repair_by_method(
    work: MethodRepair,
    compute: Compute,
    directory: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_rows: Progress = unseen,
    on_repairs: Callable[[int], Tick] = lambda count: ignore,
) -> int:
    """Repair a model and record the run in a directory, where nobody else works meanwhile.

    Args:
        work: what to do.
        compute: where; one thread in every process keeps the bits the same everywhere.
        directory: of the run.
        resume: go on with the run in the directory, or start it; one that had come to its end stays as it is.
        overwrite: replace an earlier run.
        on_rows: progress of row passes.
        on_repairs: starts the progress of so many repairs.

    Returns:
        The exit code: 3 where what the user requires is not met on test rows, or on those of validation without them; 4
        where chunks could not be read or some seeds failed.

    Raises:
        InputError: bad input; nothing has been written. Or a worker lacks the method.
        WorkError: the method failed for every seed, the disk is full or no worker is left.
    """
    repair = work.repair
    check_repair(repair)
    if not (resume and holds_run(directory)):
        RunRecords.check_new(directory, overwrite=overwrite)
    with locked(directory / LOCK, directory, say=compute.say) as lock, enough_room(directory):
        begun = time.perf_counter()
        rows = read_method_rows(
            compute,
            compute.handle(repair.model, repair.target),
            dense_of(repair.chain),
            repair.rows,
            repair.validation,
            repair.test,
            on_rows,
            allow_shared=repair.allow_shared_rows,
        )
        subject = subject_of(
            rows,
            compute,
            repair,
            work.settings,
            work.checkpoints,
            work.last,
            on_rows,
        )
        refuse_lacking(work.method, subject)
        facts = _facts(work, subject, rows, compute)
        if (before := ended_before(directory, facts, resume=resume)) is not None:
            return int(before["exit_code"])
        records = RunRecords.start(directory, facts, resume=resume, overwrite=overwrite, lock=lock)
        with records.telling_end(facts):
            data = subject.pool.rows.fingerprint
            earlier = run_repairs(subject, work.tasks, compute, records, data, on_repairs)
            code, notes = _finish(work, subject, compute, records, on_rows)
            if rows.unreadable or work.unreadable:
                code = 4
            seconds = earlier + time.perf_counter() - begun
            how = {"hardware": compute.hardware_kind(), "placement": compute.decisions, "seconds": seconds}
            records.compact({**facts, **how, "notes": notes, "exit_code": code})
    return code


def _finish(
    work: MethodRepair, subject: Subject, compute: Compute, records: RunRecords, on_rows: Progress
) -> tuple[int, list[str]]:
    """Choose a seed, save the model of it, load it again and measure that; the exit code, and what is to be said."""
    repair = work.repair
    told = ended_repairs(records)
    offers: dict[int, Offer] = {}
    for task in work.tasks:
        values = changed_of(records, task, subject)
        if values is not None:
            offers[task.draw] = Offer(task.name, values, told[task.draw]["best"] or 0.0)
    if not offers:
        raise WorkError(f"{work.method} cannot repair this model: {told[0]['note']}")
    best = _best(subject, offers)
    records.replace("jobs", work.method, [_job_row(work, task, told[task.draw], best) for task in work.tasks])
    new = {} if best is None else offers[best].values
    records.check_ours()
    saved, patch = save_values(
        repair.model, subject.chain.values, new, repair.output, repair.rows[0], records.directory
    )
    _tell_label_file(work, subject, new, compute.say)
    verdicts = {}
    measured = []
    reloaded = compute.handle(load_model(saved, allow_custom_code=repair.model.allow_custom_code))
    known = {"validation": subject.validation, "test": subject.test}
    for split, images in repair.held_out.items():
        seen = known[split]
        assert seen is not None
        with measuring(saved):
            after = compute.predict(reloaded, images, on_rows(split, images.rows))
        measured.append(
            Measured(split, paired_changes(images.labels, seen.before, after, images.classes), images.label_names)
        )
        comparison = compare(images.labels, seen.before, after, images.classes)
        verdicts[split] = check_requirements(with_rows(repair.requirements, comparison), comparison)
        records.replace("verdicts", split, verdict_rows(split, verdicts[split]))
        records.replace("predictions", split, prediction_rows(split, images.labels, seen.before, after))
    records.replace("labels", work.method, label_rows("" if best is None else work.tasks[best].name, measured))
    mark_missing(repair.output, missed(verdicts))
    judge = verdicts.get("test", verdicts.get("validation", ()))
    notes = sorted({row["note"] for row in told.values() if row["note"]})
    if not len(patch):
        why = "" if subject.validation is None else ", which keeps more on rows of validation than what it offers"
        notes.append(f"{work.method} leaves the model as it is{why}: it is copied unchanged")
    if len(offers) < len(work.tasks):
        return 4, notes
    return (3 if repair.stated and not all(verdict.met for verdict in judge) else 0), notes


def _best(subject: Subject, offers: Mapping[int, Offer]) -> int | None:
    """The number of the seed that is kept, by rows of validation or else by fitness; None for the model as it is."""
    if subject.validation is None:
        return max(offers, key=lambda number: offers[number].fitness)
    taken = chosen(subject, Repair(list(offers.values())))
    return next((number for number, offer in offers.items() if offer is taken), None)


def _tell_label_file(
    work: MethodRepair, subject: Subject, new: Mapping[str, Float32], say: Callable[[str], None]
) -> None:
    """Write what was found into the `labels.json` that priorities come from, as searches of Arachne do."""
    path, model, priorities = work.label_file, work.repair.model, work.settings.priorities
    if path is None or priorities is None:
        return
    if not new:
        say(f"{path} stays as it is: no weight has changed")
        return
    (name,) = new  # priorities steer searches of the last layer alone
    patch = patch_between(name, subject.chain.values[name], new[name])
    target = resolve_target(model.model, model.loss, model.classes, model.path, (name,))
    with TemporaryDirectory() as folder:
        target.write_localised(Path(folder), target.index_of(patch, str(path)), patch.old, patch.new)
        tell_label_file(path, Path(folder), priorities.repaired(subject.repaired), say)


def _job_row(work: MethodRepair, task: MethodTask, told: Mapping[str, Any], best: int | None) -> Mapping[str, Any]:
    return JobRow(
        job=task.name,
        step=1,
        chunk=str(work.repair.folder),
        label=work.repair.label,
        seed=task.seed,
        weights=told["weights"] or 0,
        fitness=told["best"],
        start_fitness=told["own"],
        state="failed" if told["reading"] == FAILED else "done",
        note=told["note"] or "",
        chosen=task.draw == best,
        where=told["where"],
        worker=told["worker"],
        ended=told["ended"],
        seconds=told["seconds"],
    ).cells


def _facts(work: MethodRepair, subject: Subject, rows: MethodRows, compute: Compute) -> dict[str, Any]:
    repair, settings = work.repair, asdict(work.settings)
    identity = {
        "method": work.method,
        "labels": list(subject.repaired),
        "settings": settings,
        "seeds": list(repair.seeds),
        "requirements": [requirement.text for requirement in repair.requirements],
        "data": subject.pool.rows.fingerprint,
        "checkpoints": checkpoint_facts(work.checkpoints, work.last),
        "foreign methods": foreign_origins([work.method]),
        "held-out data": fingerprints({split: images.path for split, images in repair.held_out.items()}),
    }
    unreadable = {**work.unreadable, **rows.unreadable}
    return {
        **run_facts(repair.model, compute, dict(repair.held_out), [*repair.held_out.values(), *repair.rows]),
        "identity": identity_of(repair.model, repair.target, compute, identity),
        "method": work.method,
        "arguments": {
            "settings": settings,
            "seeds": list(repair.seeds),
            "rows": [str(images.path) for images in repair.rows],
            "compute": asdict(compute.options),
        },
        "target": {path: list(value.shape) for path, value in repair.chain.values.items()},
        "labels": list(subject.repaired),
        "requirements": [requirement.text for requirement in repair.requirements],
        "stated": repair.stated,
        "confidence": work.settings.crossfit.confidence,
        "left out": {str(path): why for path, why in unreadable.items()},
    }
