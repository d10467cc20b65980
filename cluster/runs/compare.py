"""Repairs by several methods from several draws of rows, judged alike on rows that chose nothing.

Every repair is a pure function of its method, draw and seed, and has a row of its own in the table `outcomes`: a run
that was interrupted goes on with those that are missing. A method that fails is a row that says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.compute.methods import MethodEvent
from cluster.records.rows import prediction_rows
from cluster.records.store import RunRecords, enough_room, holds_run, read_table
from cluster.runs.identity import fingerprints, identity_of, run_facts
from cluster.runs.method_rows import MethodRows, read_method_rows
from cluster.runs.parts import ended_before
from cluster.workers.methods import MethodTask, missing_methods
from engine.core.errors import InputError
from engine.core.lock import LOCK, locked
from engine.core.progress import Progress, Tick, ignore, unseen
from engine.data.image_set import ImageSet
from engine.layers.dense_chain import DenseChain
from engine.methods.base import MethodSettings, Subject
from engine.methods.outcome import MethodOutcome, Reading
from engine.methods.registry import METHODS, REFERENCE
from engine.metrics.comparison import compare
from engine.metrics.requirements import Requirement, check_requirements, check_rows
from engine.models.load import LoadedModel, check_fits
from engine.targets.base import Target

FAILED = "failed"
"""Reading of a repair that could not run."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What to compare.

    Attributes:
        model: to repair.
        target: its weights under repair, whose features are cached.
        chain: the same as Dense layers.
        sets: repair rows, which are pooled.
        names: of the chunks that those are of.
        repaired: labels under repair; none for all that have failures.
        requirements: of the result.
        stated: the user stated them.
        settings: of all methods.
        methods: names, each once.
        draws: of repair rows, from the first seed on.
        rows: of a draw; None for all.
        seed: of the first draw.
        validation: rows that choose within a method.
        test: rows that judge.
        checkpoints: folder with checkpoints of the training, or None.
        last: which of them are compared, from the end.
        output: the run directory.
        allow_shared_rows: as of `cluster.runs.optimize.Repairs`.
    """

    model: LoadedModel
    target: Target
    chain: DenseChain
    sets: tuple[ImageSet, ...]
    names: tuple[str, ...]
    repaired: tuple[int, ...]
    requirements: tuple[Requirement, ...]
    stated: bool
    settings: MethodSettings
    methods: tuple[str, ...]
    draws: int
    rows: int | None
    seed: int
    validation: ImageSet
    test: ImageSet
    checkpoints: Path | None
    last: tuple[int, int]
    output: Path
    allow_shared_rows: bool = False

    @property
    def held_out(self) -> dict[str, ImageSet]:
        """Sets that no repair is made from, by split."""
        return {"validation": self.validation, "test": self.test}


def check_comparison(work: Comparison) -> None:
    """Refuse what cannot work, before any row is read.

    Raises:
        InputError: sets do not fit the model, have no rows to judge a requirement by, or a draw wants more rows than
            there are.
    """
    for images in (*work.sets, *work.held_out.values()):
        check_fits(images, work.model)
    for images in work.held_out.values():
        check_rows(work.requirements, np.bincount(images.labels, minlength=work.model.classes), images.path)
    pool = sum(images.rows for images in work.sets)
    if work.rows is not None and not 2 <= work.rows <= pool:
        raise InputError(f"rows is {work.rows} and there are {pool} to draw from, expected 2 to {pool}")
    if work.draws < 1:
        raise InputError(f"draws is {work.draws}, expected at least 1")


def run_comparison(
    work: Comparison,
    compute: Compute,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_rows: Progress = unseen,
    on_repairs: Callable[[int], Tick] = lambda count: ignore,
) -> None:
    """Run all repairs that have not ended and record them in `work.output`; nobody else works there meanwhile.

    Args:
        work: what to do, as checked by `check_comparison`.
        compute: where; one thread in every process keeps the bits the same everywhere.
        resume: go on with the run in the directory, or start it; one that had come to its end stays as it is.
        overwrite: replace an earlier run.
        on_rows: progress of row passes.
        on_repairs: starts the progress of so many repairs.

    Raises:
        InputError: bad input, or the directory is in use or holds a run of something else; nothing has been written.
            Or a worker lacks a method.
        WorkError: the disk is full or no worker is left, and the run can be resumed; or somebody else goes on with it.
    """
    directory = work.output
    if not (resume and holds_run(directory)):
        RunRecords.check_new(directory, overwrite=overwrite)
    with locked(directory / LOCK, directory, say=compute.say) as lock, enough_room(directory):
        begun = time.perf_counter()
        handle = compute.handle(work.model, work.target)
        rows = read_method_rows(
            compute,
            handle,
            work.chain,
            work.sets,
            work.validation,
            work.test,
            on_rows,
            allow_shared=work.allow_shared_rows,
        )
        subject = subject_of(work, rows, compute, on_rows)
        data = subject.pool.rows.fingerprint
        facts = _facts(work, subject, rows, compute, data)
        if ended_before(directory, facts, resume=resume) is not None:
            return
        if resume and holds_run(directory):
            records = RunRecords.resume(directory, facts, lock=lock)
        else:
            records = RunRecords.create(directory, facts, overwrite=overwrite, lock=lock)
        with records.telling_end(facts):
            earlier = _record(work, subject, compute, records, data, on_repairs)
            assert subject.test is not None
            told = prediction_rows("test", subject.test.labels, subject.test.before, subject.test.before)
            records.replace("predictions", "test", told)
            how = {"hardware": compute.hardware_kind(), "placement": compute.decisions}
            seconds = earlier + time.perf_counter() - begun
            records.compact({**facts, **how, "seconds": seconds, "redispatched": compute.redispatched})


def subject_of(work: Comparison, rows: MethodRows, compute: Compute, on_rows: Progress) -> Subject:
    """What all repairs share.

    Raises:
        InputError: a label under repair has no rows, or no label has failures, or checkpoints cannot be read.
    """
    pool = rows.pool
    failing = np.unique(pool.labels[pool.before != pool.labels]).tolist()
    repaired = work.repaired or tuple(failing)
    if not repaired:
        raise InputError("the model gets every repair row right, expected failures to repair")
    if missing := sorted(set(repaired) - set(pool.labels.tolist())):
        raise InputError(f"no repair row has label {missing[0]}, which is to be repaired, expected some")
    known = ()
    if work.checkpoints is not None:
        from cluster.runs.checkpoints import checkpoints_of

        known = checkpoints_of(compute, work.model, work.chain, work.checkpoints, rows.sets, work.last, on_rows)
    return Subject(
        chain=work.chain,
        pool=pool,
        validation=rows.validation,
        test=rows.test,
        repaired=tuple(repaired),
        requirements=work.requirements,
        settings=work.settings,
        checkpoints=known,
    )


def tasks_of(work: Comparison) -> list[MethodTask]:
    """All repairs, method by method: what was compiled for one draw serves the next."""
    return [
        MethodTask(f"{method}-draw{draw}", method, draw, work.seed + draw, work.rows)
        for method in work.methods
        for draw in range(work.draws)
    ]


def _record(
    work: Comparison,
    subject: Subject,
    compute: Compute,
    records: RunRecords,
    data: str,
    on_repairs: Callable[[int], Tick],
) -> float:
    """Run what has not ended and record it; returns the seconds of the commands before this one."""
    known = read_table(records.directory, "outcomes").select(["method", "draw", "reading", "ended"]).to_pylist()
    over = {(row["method"], row["draw"]) for row in known if row["reading"] != FAILED}
    earlier = max((row["ended"] for row in known), default=0.0)
    tasks = tasks_of(work)
    left = [task for task in tasks if (task.method, task.draw) not in over]
    done, begun = len(tasks) - len(left), time.perf_counter()
    tick = on_repairs(len(tasks))
    tick(done)
    records.write_progress(_progress(done, len(tasks), earlier))
    for event in _events(subject, compute, left, data):
        elapsed = earlier + time.perf_counter() - begun
        records.replace("outcomes", event.task.name, outcome_rows(subject, event, elapsed))
        done += 1
        tick(1)
        records.write_progress(_progress(done, len(tasks), elapsed))
    return earlier


def _events(subject: Subject, compute: Compute, tasks: Sequence[MethodTask], data: str) -> Iterator[MethodEvent]:
    """Run repairs; those by a method that cannot be imported here have failed."""
    unknown = {name: missing_methods((name,)) for name in dict.fromkeys(task.method for task in tasks)}
    for task in tasks:
        if why := unknown[task.method]:
            yield MethodEvent(task, MethodOutcome({}, failed=why), "process", "")
    yield from compute.run_methods(subject, [task for task in tasks if not unknown[task.method]], data)


def _progress(done: int, jobs: int, elapsed: float) -> dict[str, Any]:
    """The content of `progress.json`."""
    left = elapsed / done * (jobs - done) if done else None
    return {"step": 1, "steps": 1, "jobs_done": done, "jobs": jobs, "elapsed": elapsed, "left": left}


def outcome_rows(subject: Subject, event: MethodEvent, elapsed: float) -> list[dict[str, Any]]:
    """Rows of the table `outcomes`: one for each reading of a repair, or the one that says why it failed."""
    task, outcome = event.task, event.outcome
    rows = len(subject.pool.labels) if task.rows is None else task.rows
    common = {
        "method": task.method,
        "draw": task.draw,
        "seed": task.seed,
        "rows": rows,
        "own": outcome.own,
        "best": outcome.best,
        "where": event.where,
        "worker": event.worker,
        "seconds": outcome.seconds,
        "ended": elapsed,
    }
    if outcome.failed:
        return [{**common, "reading": FAILED, "note": outcome.failed}]
    note = "; ".join(outcome.notes)
    return [
        {**common, "reading": name, "note": note, **_reading_cells(subject, reading)}
        for name, reading in outcome.readings.items()
    ]


def _reading_cells(subject: Subject, reading: Reading) -> dict[str, Any]:
    test = subject.test
    assert test is not None and reading.test is not None
    comparison = compare(test.labels, test.before, reading.test, subject.chain.classes)
    net, totals = comparison.fixed - comparison.broken, comparison.totals
    mine = list(subject.repaired)
    others = [label for label in np.flatnonzero(totals).tolist() if label not in subject.repaired]
    changes = {label: float(net[label] / totals[label]) for label in others}
    worst = min(changes, key=lambda label: changes[label], default=-1)
    verdicts = check_requirements(subject.requirements, comparison)
    return {
        "offer": reading.offer.name,
        "weights": reading.changed,
        "gain": float(net[mine].sum() / max(1, totals[mine].sum())),
        "all": float(net.sum() / totals.sum()),
        "worst": changes.get(worst),
        "worst_label": worst,
        "fixed": int(comparison.fixed.sum()),
        "broken": int(comparison.broken.sum()),
        "chance": reading.chance,
        "promised": reading.promised,
        "kept": all(verdict.met for verdict in verdicts),
        "after": reading.test.tolist(),
    }


def _facts(work: Comparison, subject: Subject, rows: MethodRows, compute: Compute, data: str) -> dict[str, Any]:
    settings = asdict(work.settings)
    identity = {
        "kind": "compare",
        "methods": list(work.methods),
        "draws": work.draws,
        "rows": work.rows,
        "seed": work.seed,
        "labels": list(subject.repaired),
        "settings": settings,
        "requirements": [requirement.text for requirement in work.requirements],
        "data": data,
        "chunks": list(work.names),
        "checkpoints": [one.name for one in subject.checkpoints],
        "held-out data": fingerprints({split: images.path for split, images in work.held_out.items()}),
    }
    return {
        **run_facts(work.model, compute, work.held_out, [*work.held_out.values(), *work.sets]),
        "identity": identity_of(work.model, work.target, compute, identity),
        "kind": "compare",
        "reference": REFERENCE if REFERENCE in work.methods else None,
        "methods": list(work.methods),
        "foreign": [name for name in work.methods if name not in METHODS],
        "draws": work.draws,
        "rows": work.rows,
        "pool": len(subject.pool.labels),
        "labels": list(subject.repaired),
        "requirements": [requirement.text for requirement in work.requirements],
        "stated": work.stated,
        "confidence": work.settings.crossfit.confidence,
        "arguments": {
            "settings": settings,
            "sets": [str(images.path) for images in work.sets],
            "compute": asdict(compute.options),
        },
        "left out": {str(path): why for path, why in rows.unreadable.items()},
        "target": {path: list(value.shape) for path, value in work.chain.values.items()},
    }
