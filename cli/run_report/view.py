"""What a run came to, from `run.json` and its tables: the text, the page and the JSON are made of this alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cli.run_report.comparison import ComparisonView, read_comparison
from cli.run_report.rows import Row, change_of, columns_of, judged_of, read_rows, read_whole
from cli.run_report.words import kind_of
from cli.shared.method_options import CROSSFIT
from engine.metrics.accuracy import LabelChange, total_change
from engine.metrics.requirements import Verdict
from engine.tuning.recipes import Recipe

if TYPE_CHECKING:
    from engine.metrics.promise import Promise

HELD_OUT = ("test", "validation")  # rows no search has seen, the better judge first


@dataclass(frozen=True, eq=False)
class OutcomeView:
    """A model against the base model on the same rows."""

    job: str  # `batch`, the search whose patch the model has, or the step that ended with it: `step3`
    changes: Mapping[str, tuple[LabelChange, ...]]  # by rows measured, a label with rows each, ascending

    @property
    def judged_by(self) -> str | None:
        return next((split for split in HELD_OUT if split in self.changes), None)

    @property
    def number(self) -> int:
        """Of a step; 0 is the base model."""
        return int(self.job.removeprefix("step"))


@dataclass(frozen=True, eq=False)
class CrossFitView:
    """What only runs of CrossFit have."""

    recipes: tuple[Row, ...]  # name, tunings by fold, coefficient `found`, times step `taken`, mean `change`
    folds: int
    layers: tuple[str, ...]  # whose weights are tuned
    weights: int | None  # tuned; None before the first tuning has ended
    offsets: tuple[Row, ...]  # of the labels' logits, `found` and `taken`
    frontier: tuple[Row, ...]  # by ascending step; empty before the end, and where there was nothing to repair
    promises: tuple[Promise, ...]  # of each requirement at the step taken
    judged: tuple[LabelChange, ...]  # out of fold at that step
    promised: bool  # the chance of all together reaches the confidence
    confidence: float  # that was asked for
    new_rows: int  # of each label, that chances are about
    asked_step: bool  # the step was asked for and not chosen
    stated: bool  # the user stated the requirements
    notes: tuple[str, ...]  # what else the run said

    @property
    def step(self) -> float:
        return next((point.step for point in self.frontier if point.taken), 0.0)

    @property
    def chance(self) -> float:
        """That new rows keep all requirements together."""
        return math.prod(promise.chance for promise in self.promises)

    @property
    def judges(self) -> bool:
        """Whether to speak of promises: of a model left as it is only where the user asked for something."""
        return bool(self.frontier or (self.promises and self.stated))

    @property
    def tuned(self) -> int:
        return sum(len(recipe.tunings) for recipe in self.recipes)

    @property
    def wanted(self) -> float:
        """The chance that each requirement alone has to reach, so that all together reach the confidence."""
        return math.pow(self.confidence, 1 / max(1, len(self.promises)))

    @property
    def lacking(self) -> tuple[Promise, ...]:
        return tuple(promise for promise in self.promises if promise.chance < self.wanted)

    @property
    def easiest(self) -> Row | None:
        """Of the steps above 0 that which could be promised from fewest rows."""
        known = [point for point in self.frontier if point.step > 0 and point.enough is not None]
        return min(known, key=lambda point: point.enough, default=None)

    @property
    def enough(self) -> int | None:
        """Rows of each label from which all requirements would be sure enough; None where no number would do."""
        counts = [promise.enough for promise in self.lacking]
        known = [count for count in counts if count is not None]
        return max(known, default=0) if len(known) == len(counts) else None


@dataclass(frozen=True, eq=False)
class RunView:
    """A run, finished or going on."""

    directory: Path
    facts: Mapping[str, Any]  # `run.json` as it is
    kind: str  # compare, CrossFit, independent, rounds, chain or optimize
    state: str  # running, done, failed or interrupted
    model: str  # path of the base model, as it was given
    label_names: tuple[str, ...] | None
    labels: tuple[int, ...]  # under repair, ascending; empty where a search was about several at once
    requirements: tuple[str, ...]  # in words; empty where none were stated
    started: str | None  # ISO time
    seconds: float | None  # of the whole run; None before its end
    exit_code: int | None  # None before the end
    held_out: Mapping[str, Path]  # image set of each held-out split
    outcomes: tuple[OutcomeView, ...]  # one of a batch, one per chunk of `optimize`; empty before the end
    verdicts: Mapping[str, tuple[Verdict, ...]]  # by split, in the order judged
    steps: tuple[OutcomeView, ...]  # what each round, or iteration of a chain, ended with, from 0
    jobs: tuple[Row, ...]  # all searches, by step and name: rows of `jobs` with `gain` and `overall`, see `_add_gains`
    curves: Mapping[str, Row]  # by job: `iteration` (n,) int64, ascending, and `best` (n,) float64, the best fitness
    predictions: Mapping[str, Row]  # by split, columns (n,) int64; empty of a comparison
    crossfit: CrossFitView | None
    comparison: ComparisonView | None

    @property
    def part(self) -> str:
        """As `1/2`; empty of a whole run."""
        part = self.facts.get("part")
        return f"{part.get('number')}/{part.get('of')}" if isinstance(part, dict) else ""

    @property
    def judged_by(self) -> str | None:
        found = {outcome.judged_by for outcome in (*self.outcomes, *self.steps)}
        return next((split for split in HELD_OUT if split in found), None)

    @property
    def saved_step(self) -> int | None:
        """The first step with the counts of the saved model on all splits."""
        if len(self.outcomes) != 1:
            return None
        saved = self.outcomes[0].changes
        splits = {split for step in self.steps for split in step.changes}
        alike = (step for step in self.steps if all(step.changes.get(split) == saved.get(split) for split in splits))
        return next((step.number for step in alike), None)

    def totals(self, changes: Sequence[LabelChange], number: int | None = None) -> Row:
        """Of a step (`number`) or a model: `mine`, over the labels `about` under repair if the rows have any, `all`."""
        about = self.labels if any(change.label in self.labels for change in changes) else ()
        return Row(number=number, about=about, mine=total_change(changes, about), all=total_change(changes))

    def steps_on(self, split: str | None) -> list[Row]:
        measured = [(step.number, step.changes.get(split or "")) for step in self.steps]
        return [self.totals(changes, number) for number, changes in measured if changes]

    @property
    def workers(self) -> tuple[Row, ...]:
        """By name: the jobs of each, and the seconds in their iterations, `busy`."""
        found: dict[str, list[Row]] = {}
        for job in self.jobs:
            if job.worker:
                found.setdefault(job.worker, []).append(job)
        return tuple(
            Row(name=name, jobs=jobs, busy=sum(job.seconds or 0.0 for job in jobs))
            for name, jobs in sorted(found.items())
        )


def read_run(directory: Path) -> RunView:
    from cluster.records.store import read_facts

    facts = read_facts(directory)
    kind = kind_of(facts)
    measured = read_rows(directory, "labels")
    verdicts = read_rows(directory, "verdicts")
    steps = [step for step in _outcomes(measured, "step", HELD_OUT) if re.fullmatch(r"step\d+", step.job)]
    steps.sort(key=lambda step: step.number)
    jobs = sorted(map(_job, read_rows(directory, "jobs")), key=lambda job: (job.step, job.job))
    labels = _labels_under_repair(facts, jobs)
    _add_gains(jobs, labels, _outcomes(measured, "candidate", ("validation",)), steps)
    predictions = _predictions(directory)
    comparison = read_comparison(directory, facts, predictions.get("test"))
    seconds, exit_code, names = facts.get("seconds"), facts.get("exit_code"), facts.get("label_names")
    return RunView(
        directory=directory,
        facts=facts,
        kind=kind,
        state=str(facts.get("state", "running")),
        model=str((facts.get("model") or {}).get("path", "model")),
        label_names=tuple(names) if names else None,
        labels=labels,
        requirements=tuple(map(str, facts.get("requirements") or ())),
        started=facts.get("started"),
        seconds=None if seconds is None else float(seconds),
        exit_code=None if exit_code is None else int(exit_code),
        held_out={split: Path(path) for split, path in (facts.get("held_out") or {}).items() if path},
        outcomes=_outcomes(measured, "repaired"),
        verdicts={
            split: tuple(judged_of(Verdict, row) for row in verdicts if row.split == split)
            for split in HELD_OUT
            if any(row.split == split for row in verdicts)
        },
        steps=tuple(steps),
        jobs=tuple(jobs),
        curves=_curves(directory),
        # Of a comparison they are those of the model as it is: what each repair predicts is among its outcomes.
        predictions={} if comparison is not None else predictions,
        crossfit=_crossfit(directory, facts, measured) if kind == CROSSFIT else None,
        comparison=comparison,
    )


def _labels_under_repair(facts: Mapping[str, Any], jobs: Sequence[Row]) -> tuple[int, ...]:
    stated = facts.get("labels")
    if stated:
        return tuple(sorted(int(label) for label in stated))
    found = {job.label for job in jobs}
    return () if -1 in found else tuple(sorted(found))


def _job(row: Row) -> Row:
    """A row of `jobs` without the nulls of a search that has not run, but for its numbers."""
    for name in ("chunk", "stop", "note", "where", "worker"):
        setattr(row, name, getattr(row, name) or "")
    row.step = 1 if row.step is None else row.step
    row.label = -1 if row.label is None else row.label
    row.state = row.state or ("done" if row.stop else "running")
    row.chosen = bool(row.chosen)
    row.gain = row.overall = None
    return row


def _outcomes(rows: Sequence[Row], stage: str, splits: Sequence[str] = ()) -> tuple[OutcomeView, ...]:
    """What was measured at a stage, by job; of these splits, or all."""
    changes: dict[str, dict[str, tuple[LabelChange, ...]]] = {}
    for row in rows:
        if row.stage == stage and (not splits or row.split in splits):
            mine = changes.setdefault(row.job, {})
            mine[row.split] = (*mine.get(row.split, ()), change_of(row))
    return tuple(OutcomeView(job, by_split) for job, by_split in changes.items())


def _add_gains(
    jobs: Sequence[Row], labels: tuple[int, ...], found: Sequence[OutcomeView], steps: Sequence[OutcomeView]
) -> None:
    """Let jobs know what their best patch gained over the model that the search started from."""
    ended = {step.number + 1: step.changes.get("validation", ()) for step in steps}
    candidates = {outcome.job: outcome.changes["validation"] for outcome in found}
    for job in jobs:
        changes = candidates.get(job.job, ())
        if changes:
            # Of what a search of a later step started from, the base model knows nothing.
            start = {change.label: change.correct_before for change in changes}
            start |= {change.label: change.correct_after for change in ended.get(job.step, ())}
            about = labels if job.label < 0 else (job.label,)
            job.gain = _gain([change for change in changes if not about or change.label in about], start)
            job.overall = _gain(changes, start)


def _gain(changes: Sequence[LabelChange], start: Mapping[int, int]) -> float:
    """A share of the rows of these labels; `start` has the number of right rows by label."""
    gained = sum(change.correct_after - start[change.label] for change in changes)
    return gained / max(sum(change.total for change in changes), 1)


def _curves(directory: Path) -> dict[str, Row]:
    table = read_whole(directory, "swarm")
    names = table["job"].to_pylist()
    iteration = np.asarray(table["iteration"], np.int64)
    best = np.asarray(table["best"], np.float64)
    # The table is sorted by job and iteration: a job is one stretch of rows.
    starts = [at for at, name in enumerate(names) if at == 0 or name != names[at - 1]]
    return {
        names[start]: Row(iteration=iteration[start:end], best=best[start:end])
        for start, end in pairwise([*starts, len(names)])
    }


def _predictions(directory: Path) -> dict[str, Row]:
    table = read_whole(directory, "predictions")
    split = np.array(table["split"].to_pylist(), dtype=str)
    return {
        name: columns_of(table.filter(split == name), "row", "label", "before", "after")
        for name in HELD_OUT
        if (split == name).any()
    }


def _crossfit(directory: Path, facts: Mapping[str, Any], measured: Sequence[Row]) -> CrossFitView:
    from engine.metrics.promise import Promise

    settings = facts["arguments"]["settings"]
    tunings, mixture = read_rows(directory, "tunings"), read_rows(directory, "mixture")
    frontier = read_rows(directory, "frontier")
    for point in frontier:
        point.gain = None if point.gain is None or math.isnan(point.gain) else point.gain  # NaN without rows
    return CrossFitView(
        recipes=tuple(_recipe(Recipe(**recipe).name, tunings, mixture) for recipe in settings["recipes"]),
        folds=int(settings["folds"]),
        layers=tuple(dict.fromkeys(path.rpartition("/")[0] for path in facts["target"])),
        weights=next((int(row.weights) for row in tunings), None),
        offsets=tuple(row for row in mixture if row.label >= 0),
        frontier=tuple(frontier),
        promises=tuple(judged_of(Promise, row) for row in read_rows(directory, "promises")),
        judged=tuple(change_of(row) for row in measured if (row.stage, row.split) == ("step", "out of fold")),
        promised=bool(facts.get("promised")),
        confidence=float(facts["confidence"]),
        new_rows=int(settings["promise_rows"]),
        asked_step=settings["step"] is not None,
        stated=bool(facts["stated"]),
        notes=tuple(map(str, facts.get("notes") or ())),
    )


def _recipe(name: str, tunings: Sequence[Row], mixture: Sequence[Row]) -> Row:
    mine = [row for row in tunings if row.recipe == name]
    found, taken = next(((row.found, row.taken) for row in mixture if row.name == name), (None, None))
    change = math.fsum(tuning.change for tuning in mine) / len(mine) if mine else None
    return Row(name=name, tunings=mine, found=found, taken=taken, change=change)
