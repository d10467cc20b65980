"""What a run's report is made of: plain values, selected from `run.json` and the tables of the run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cli.run_report.comparison_data import ComparisonView, read_comparison
from cli.run_report.crossfit import CrossFitView, read_crossfit
from cli.run_report.rows import change_of, verdict_of
from cli.run_report.words import COMPARE
from cli.shared.method_options import CROSSFIT
from engine.core.errors import InputError, reason
from engine.core.types import Float64, Int64
from engine.metrics.accuracy import LabelChange
from engine.metrics.requirements import Verdict

HELD_OUT = ("test", "validation")
"""Rows no search has seen, the better judge first."""


@dataclass(frozen=True)
class JobView:
    """A row of the table `jobs`: one search. What a search that has not run lacks is None."""

    job: str
    step: int
    chunk: str
    label: int
    seed: int
    positive_weight: float | None
    weights: int | None
    negatives: int | None
    positives: int | None
    iterations: int | None
    fitness: float | None
    start_fitness: float | None
    patched: int | None
    intact: int | None
    stop: str
    state: str
    note: str
    chosen: bool
    where: str
    worker: str
    redispatched: int | None
    ended: float | None
    seconds: float | None


@dataclass(frozen=True)
class WorkerView:
    """A process and the searches that ended in it; `busy` is the time in their iterations, in seconds."""

    name: str
    jobs: tuple[JobView, ...]
    busy: float


@dataclass(frozen=True, eq=False)
class OutcomeView:
    """A saved model, loaded again, against the base model.

    Attributes:
        job: `batch`, or of a run of `optimize` the search whose patch the model has.
        changes: by rows measured (test, validation, negative or positive), one entry per label with rows, ascending.
    """

    job: str
    changes: Mapping[str, tuple[LabelChange, ...]]

    @property
    def judged_by(self) -> str | None:
        """The best judge among the rows measured, or None without held-out rows."""
        return next((split for split in HELD_OUT if split in self.changes), None)


@dataclass(frozen=True)
class StepView:
    """What a round, or an iteration of a chain, ended with; number 0 is the base model."""

    number: int
    changes: tuple[LabelChange, ...]


@dataclass(frozen=True, eq=False)
class CurveView:
    """Best fitness of a job: iteration (n,) int64, ascending, and best (n,) float64."""

    iteration: Int64
    best: Float64


@dataclass(frozen=True)
class CandidateView:
    """The best patch of a search on validation rows, against the model that the search started from.

    Attributes:
        job: the search.
        gain: change of the accuracy of the search's label, or of all labels under repair, as a share.
        overall: change of the accuracy of all rows, as a share.
    """

    job: JobView
    gain: float
    overall: float


@dataclass(frozen=True, eq=False)
class PredictionsView:
    """Classes of held-out rows, all (n,) int64, by ascending row of the image set."""

    row: Int64
    label: Int64
    before: Int64
    after: Int64


@dataclass(frozen=True, eq=False)
class ReportView:
    """A run, finished or going on.

    Attributes:
        directory: the run directory.
        state: running, done, failed or interrupted; part: one of several that `merge-runs` joins.
        mode: independent, rounds or chain; None for a run of `optimize`.
        model: path of the base model, as it was given.
        label_names: one per class, or None.
        labels: under repair, ascending; empty where a search was about several at once.
        requirements: in words; empty where none were stated.
        started: ISO time, or None.
        seconds: of the whole run, or None before its end.
        exit_code: of the run, or None before its end.
        held_out: image set of each held-out split.
        facts: `run.json` as it is.
        outcomes: one of a batch, one per chunk of a run of `optimize`; empty before the end.
        verdicts: by split, in the order judged; of labels judged together their requirement names none.
        steps: by split, ascending from 0; empty unless the run went in steps.
        jobs: all searches, by step and name.
        curves: by name of the job.
        candidates: what the searches found.
        predictions: by split.
        crossfit: of a run of CrossFit what only such runs have.
        comparison: of a comparison of methods what only such runs have.
    """

    directory: Path
    state: str
    mode: str | None
    model: str
    label_names: tuple[str, ...] | None
    labels: tuple[int, ...]
    requirements: tuple[str, ...]
    started: str | None
    seconds: float | None
    exit_code: int | None
    held_out: Mapping[str, Path]
    facts: Mapping[str, Any]
    outcomes: tuple[OutcomeView, ...]
    verdicts: Mapping[str, tuple[Verdict, ...]]
    steps: Mapping[str, tuple[StepView, ...]]
    jobs: tuple[JobView, ...]
    curves: Mapping[str, CurveView]
    candidates: tuple[CandidateView, ...]
    predictions: Mapping[str, PredictionsView]
    crossfit: CrossFitView | None
    comparison: ComparisonView | None

    @property
    def kind(self) -> str:
        """What kind of run it was, in a word."""
        if self.comparison is not None:
            return COMPARE
        return CROSSFIT if self.crossfit is not None else self.mode or "optimize"

    @property
    def part(self) -> str:
        """Which of how many parts, as `1/2`; empty of a whole run."""
        part = self.facts.get("part")
        return f"{part.get('number')}/{part.get('of')}" if isinstance(part, dict) else ""

    @property
    def judged_by(self) -> str | None:
        """The best judge of the run: test, validation, or None without held-out rows."""
        found = {outcome.judged_by for outcome in self.outcomes} | set(self.steps)
        return next((split for split in HELD_OUT if split in found), None)

    @property
    def saved_step(self) -> int | None:
        """The first step with the counts of the saved model, or None; validation chooses which step is saved."""
        if len(self.outcomes) != 1 or not self.steps:
            return None
        saved = self.outcomes[0].changes
        alike = [
            {step.number for step in steps if step.changes == saved.get(split)} for split, steps in self.steps.items()
        ]
        return min(set.intersection(*alike), default=None)

    def about(self, changes: Sequence[LabelChange]) -> tuple[int, ...]:
        """The labels under repair, or none, for all, where the rows measured have none of them."""
        return self.labels if any(change.label in self.labels for change in changes) else ()


def read_report(directory: Path) -> ReportView:
    """Read a run, finished or going on.

    Raises:
        InputError: the directory holds no run, or a damaged one.
    """
    from cluster.records.store import read_facts

    facts = read_facts(directory)
    jobs = tuple(_job(row) for row in _rows(directory, "jobs"))
    jobs = tuple(sorted(jobs, key=lambda job: (job.step, job.job)))
    label_rows = _rows(directory, "labels")
    steps = {split: _steps(label_rows, split) for split in HELD_OUT}
    labels = _labels_under_repair(facts, jobs)
    seconds, exit_code = facts.get("seconds"), facts.get("exit_code")
    mode, names = facts.get("mode"), facts.get("label_names")
    comparison = read_comparison(directory, facts, partial(_table, directory))
    return ReportView(
        directory=directory,
        state=str(facts.get("state", "running")),
        mode=None if mode is None else str(mode),
        model=str((facts.get("model") or {}).get("path", "model")),
        label_names=tuple(names) if names else None,
        labels=labels,
        requirements=tuple(map(str, facts.get("requirements") or ())),
        started=facts.get("started"),
        seconds=None if seconds is None else float(seconds),
        exit_code=None if exit_code is None else int(exit_code),
        held_out={split: Path(path) for split, path in (facts.get("held_out") or {}).items() if path},
        facts=facts,
        outcomes=_outcomes(label_rows),
        verdicts=_verdicts(_rows(directory, "verdicts")),
        steps={split: split_steps for split, split_steps in steps.items() if split_steps},
        jobs=jobs,
        curves=_curves(directory),
        candidates=_candidates(label_rows, jobs, labels, steps["validation"]),
        # Of a comparison they are those of the model as it is: what each repair predicts is among its outcomes.
        predictions={} if comparison is not None else _predictions(directory),
        crossfit=read_crossfit(facts, partial(_rows, directory)),
        comparison=comparison,
    )


def workers(jobs: Sequence[JobView]) -> tuple[WorkerView, ...]:
    """What each worker did, by name; searches that never ran are nobody's."""
    found: dict[str, list[JobView]] = {}
    for job in jobs:
        if job.worker:
            found.setdefault(job.worker, []).append(job)
    return tuple(
        WorkerView(name, tuple(mine), sum(job.seconds or 0.0 for job in mine)) for name, mine in sorted(found.items())
    )


def _table(directory: Path, name: str) -> Any:
    import pyarrow as pa

    from cluster.records.schema import SCHEMAS
    from cluster.records.store import read_table

    try:
        table = read_table(directory, name)
    except pa.ArrowException as error:
        raise InputError(f"{directory}: the table {name} is damaged ({reason(error)}), expected a whole one") from error
    for column in SCHEMAS[name].names:
        if column not in table.column_names:
            raise InputError(f"{directory}: the table {name} has no column {column}, expected a run of this version")
    return table


def _rows(directory: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _table(directory, name).to_pylist()
    return rows


def _labels_under_repair(facts: Mapping[str, Any], jobs: Sequence[JobView]) -> tuple[int, ...]:
    stated = facts.get("labels")
    if stated:
        return tuple(sorted(int(label) for label in stated))
    found = {job.label for job in jobs}
    return () if -1 in found else tuple(sorted(found))


def _job(row: Mapping[str, Any]) -> JobView:
    values = {field.name: row[field.name] for field in fields(JobView)}
    for name in ("chunk", "stop", "note", "where", "worker"):
        values[name] = values[name] or ""
    values["step"] = 1 if values["step"] is None else values["step"]
    values["label"] = -1 if values["label"] is None else values["label"]
    values["state"] = values["state"] or ("done" if values["stop"] else "running")
    return JobView(**values | {"chosen": bool(values["chosen"])})


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Verdict, ...]]:
    found = {split: tuple(verdict_of(row) for row in rows if row["split"] == split) for split in HELD_OUT}
    return {split: verdicts for split, verdicts in found.items() if verdicts}


def _outcomes(rows: Sequence[Mapping[str, Any]]) -> tuple[OutcomeView, ...]:
    changes: dict[str, dict[str, list[LabelChange]]] = {}
    for row in rows:
        if row["stage"] == "repaired":
            changes.setdefault(row["job"], {}).setdefault(row["split"], []).append(change_of(row))
    return tuple(
        OutcomeView(job, {split: tuple(found) for split, found in by_split.items()})
        for job, by_split in changes.items()
    )


def _steps(rows: Sequence[Mapping[str, Any]], split: str) -> tuple[StepView, ...]:
    found: dict[int, list[LabelChange]] = {}
    for row in rows:
        name = re.fullmatch(r"step(\d+)", row["job"])
        if name and row["stage"] == "step" and row["split"] == split:
            found.setdefault(int(name[1]), []).append(change_of(row))
    return tuple(StepView(number, tuple(changes)) for number, changes in sorted(found.items()))


def _candidates(
    rows: Sequence[Mapping[str, Any]], jobs: Sequence[JobView], labels: tuple[int, ...], steps: Sequence[StepView]
) -> tuple[CandidateView, ...]:
    starts = {step.number + 1: step.changes for step in steps}
    found: dict[str, list[LabelChange]] = {}
    for row in rows:
        if row["stage"] == "candidate" and row["split"] == "validation":
            found.setdefault(row["job"], []).append(change_of(row))
    candidates = []
    for job in jobs:
        changes = found.get(job.job)
        if changes is None:
            continue
        # Of what a search of a later step started from, the base model knows nothing.
        start = {change.label: change.correct_before for change in changes}
        start |= {change.label: change.correct_after for change in starts.get(job.step, ())}
        about = labels if job.label < 0 else (job.label,)
        own = _gain([change for change in changes if not about or change.label in about], start)
        overall = _gain(changes, start)
        candidates.append(CandidateView(job, own, overall))
    return tuple(candidates)


def _gain(changes: Sequence[LabelChange], start: Mapping[int, int]) -> float:
    """Change of the accuracy over these labels from `start`, right rows by label, as a share."""
    gained = sum(change.correct_after - start[change.label] for change in changes)
    return gained / max(sum(change.total for change in changes), 1)


def _curves(directory: Path) -> dict[str, CurveView]:
    table = _table(directory, "swarm")
    names = table["job"].to_pylist()
    iteration = np.asarray(table["iteration"], np.int64)
    best = np.asarray(table["best"], np.float64)
    # The table is sorted by job and iteration: a job is one stretch of rows.
    starts = [at for at, name in enumerate(names) if at == 0 or name != names[at - 1]]
    return {
        names[start]: CurveView(iteration[start:end], best[start:end]) for start, end in pairwise([*starts, len(names)])
    }


def _predictions(directory: Path) -> dict[str, PredictionsView]:
    table = _table(directory, "predictions")
    split = np.array(table["split"].to_pylist(), dtype=str)
    columns = {name: np.asarray(table[name], np.int64) for name in ("row", "label", "before", "after")}
    return {
        held_out: PredictionsView(**{name: column[split == held_out] for name, column in columns.items()})
        for held_out in HELD_OUT
        if (split == held_out).any()
    }
