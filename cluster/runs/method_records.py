"""Repairs by methods as they are run, recorded, each a row of the table `outcomes` once it has ended, and saved."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.compute.methods import MethodEvent
from cluster.records import tunings as kept_values
from cluster.records.schema import OutcomeRow
from cluster.records.store import RunRecords, read_table
from cluster.runs.crossfit import PATCH
from cluster.runs.output import save_repaired
from cluster.workers.methods import MethodTask, missing_methods
from engine.core.files import remove
from engine.core.progress import Tick
from engine.core.types import Float32
from engine.data.image_set import ImageSet
from engine.methods.base import Subject
from engine.methods.outcome import CHOSEN, MethodOutcome, Reading
from engine.metrics import against
from engine.metrics.comparison import compare
from engine.metrics.requirements import check_requirements
from engine.models.load import LoadedModel
from engine.patches.arrow import write_patch
from engine.patches.patch import NO_CHANGE, Patch, tensors_patch

FAILED = against.FAILED
"""Reading of a repair that could not run."""


def run_repairs(
    subject: Subject,
    tasks: Sequence[MethodTask],
    compute: Compute,
    records: RunRecords,
    data: str,
    on_repairs: Callable[[int], Tick],
) -> float:
    """Run the repairs that have not ended, and record each as it ends; failed ones of an earlier command run again.

    Args:
        subject: what they share.
        tasks: all repairs of the run.
        compute: where.
        records: of the run.
        data: fingerprint of the pool.
        on_repairs: starts the progress of so many repairs.

    Returns:
        Seconds of the commands before this one.

    Raises:
        InputError: a worker lacks a method.
    """
    known = read_table(records.directory, "outcomes").select(["method", "draw", "reading", "ended"]).to_pylist()
    over = {(row["method"], row["draw"]) for row in known if row["reading"] != FAILED}
    earlier = max((row["ended"] for row in known), default=0.0)
    left = [
        task
        for task in tasks
        if (task.method, task.draw) not in over or (task.keep and kept_of(records, task, subject) is None)
    ]
    done, begun = len(tasks) - len(left), time.perf_counter()
    tick = on_repairs(len(tasks))
    tick(done)
    records.write_progress(_progress(done, len(tasks), earlier))
    for event in _events(subject, compute, left, data):
        elapsed = earlier + time.perf_counter() - begun
        if event.task.keep and not event.outcome.failed:
            kept_values.keep(records, event.task.name, {**subject.chain.values, **_values(event)})
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


def kept_of(records: RunRecords, task: MethodTask, subject: Subject) -> Mapping[str, Float32] | None:
    """Values by path of all weights of the chain, as a repair has chosen; None where none were kept, or are damaged."""
    return kept_values.kept(records, task.name, {path: value.shape for path, value in subject.chain.values.items()})


def changed_of(records: RunRecords, task: MethodTask, subject: Subject) -> dict[str, Float32] | None:
    """Weights by path that have other values than in the model as it is; None where the repair failed."""
    values, known = kept_of(records, task, subject), subject.chain.values
    if values is None:
        return None
    return {path: value for path, value in values.items() if value.tobytes() != known[path].tobytes()}


def ended_repairs(records: RunRecords) -> dict[int, dict[str, Any]]:
    """Rows of the table `outcomes` by draw, of a run of one method: what was chosen, or why it failed."""
    table = read_table(records.directory, "outcomes").to_pylist()
    return {row["draw"]: row for row in table if row["reading"] in (CHOSEN, FAILED)}


def save_values(
    model: LoadedModel,
    known: Mapping[str, Float32],
    new: Mapping[str, Float32],
    output: Path,
    rows: ImageSet,
    *copies: Path,
) -> tuple[Path, Patch]:
    """Save a model with new values of some weights, and the patch where there are some.

    Args:
        model: as it is.
        known: its weights by path.
        new: of these, other values.
        output: gets `repair` and the patch.
        rows: that it was repaired with.
        copies: folders that get the patch too.

    Returns:
        The path of the model, and the patch.
    """
    patch = tensors_patch({path: known[path] for path in new}, new) if new else NO_CHANGE
    saved = save_repaired(model, patch, output, rows)
    for folder in dict.fromkeys((output, *copies)):
        if len(patch):
            write_patch(folder / PATCH, patch, {path: value.shape for path, value in new.items()})
        else:
            remove(folder / PATCH)
    return saved, patch


def _values(event: MethodEvent) -> Mapping[str, Float32]:
    return event.outcome.readings[CHOSEN].offer.values


def outcome_rows(subject: Subject, event: MethodEvent, elapsed: float) -> list[dict[str, Any]]:
    """Rows of the table `outcomes`: one for each reading of a repair, or the one that says why it failed."""
    task, outcome = event.task, event.outcome
    rows = len(subject.pool.labels) if task.rows is None else task.rows
    row = functools.partial(
        OutcomeRow,
        method=task.method,
        draw=task.draw,
        seed=task.seed,
        rows=rows,
        own=outcome.own,
        best=outcome.best,
        where=event.where,
        worker=event.worker,
        seconds=outcome.seconds,
        cpu=outcome.cpu,
        ended=elapsed,
    )
    if outcome.failed:
        return [row(reading=FAILED, note=outcome.failed).cells]
    note = "; ".join(outcome.notes)
    return [
        row(reading=name, note=note, **_reading_cells(subject, reading)).cells
        for name, reading in outcome.readings.items()
    ]


def _reading_cells(subject: Subject, reading: Reading) -> dict[str, Any]:
    told = {
        "offer": reading.offer.name,
        "weights": reading.changed,
        "chance": reading.chance,
        "promised": reading.promised,
    }
    test = subject.test
    if test is None or reading.test is None:
        return told
    comparison = compare(test.labels, test.before, reading.test, subject.chain.classes)
    net, totals = comparison.fixed - comparison.broken, comparison.totals
    mine = list(subject.repaired)
    judged = int(totals[mine].sum())
    others = [label for label in np.flatnonzero(totals).tolist() if label not in subject.repaired]
    changes = {label: float(net[label] / totals[label]) for label in others}
    worst = min(changes, key=lambda label: changes[label], default=-1)
    verdicts = check_requirements(subject.requirements, comparison)
    return {
        **told,
        "gain": float(net[mine].sum() / judged) if judged else None,
        "all": float(net.sum() / totals.sum()),
        "worst": changes.get(worst),
        "worst_label": worst,
        "fixed": int(comparison.fixed.sum()),
        "broken": int(comparison.broken.sum()),
        "kept": all(verdict.met for verdict in verdicts),
        "after": reading.test.tolist(),
    }
