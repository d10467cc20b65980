"""Many repairs of one model by any method with different seeds, under one or several settings.

Run k is the repair that `optimize` makes by the method with the seed of the run. Where and how results come out, see
`cluster.runs.evaluate`, which is the same for Arachne's own pipeline. A run that fails says why beside the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cluster.compute.compute import Compute
from cluster.records.schema import EVALUATION_BY_METHOD, EvaluationRow, MethodEvaluationRow
from cluster.records.store import RunRecords, enough_room, holds_run, read_evaluation, write_evaluation
from cluster.runs.checkpoints import checkpoint_facts
from cluster.runs.evaluate_rates import (
    RatedRows,
    keep_rates,
    kept_rates,
    measured,
    rate_cells,
    rates_of_row,
    sets_of,
    warn_of_others,
)
from cluster.runs.evaluate_staging import MEASURED, RESULT, TABLE, UNFINISHED, check_pieces, digest_of, staged
from cluster.runs.identity import fingerprints, identity_of, run_facts
from cluster.runs.outcomes import FAILED, PATCH, changed_of, ended_repairs, run_cells, save_values
from cluster.runs.repair import MethodRepair, check_sets
from cluster.runs.repair_rows import read_rows, subject_of
from cluster.workers.model import ModelHandle
from cluster.workers.origins import foreign_origins
from engine.core.errors import InputError, WorkError
from engine.core.files import remove, remove_leftovers
from engine.core.lock import Lock, locked
from engine.core.progress import Progress, Tick, ignore, unseen
from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet
from engine.localize.weights_file import ARROW, CSV, FRONT
from engine.methods.base import MethodSettings, Subject, lacking
from engine.methods.given import search_of
from engine.methods.outcome import Cell
from engine.methods.registry import method_of
from engine.metrics.repair_rates import Given, Rates, result_text
from engine.models.known_data import REPAIR_FACTS
from engine.models.load import check_fits
from engine.passes.classes import NotNumbersError
from engine.patches.save import repaired_path

OPTIONAL = (CSV, ARROW, FRONT, PATCH, REPAIR_FACTS, "repair")
"""Files of a run that it may not have: Arachne's own, a change where there is none, and all where it failed."""

_ARACHNES = (CSV, ARROW, FRONT)

OnRepairs = Callable[[int], Tick]
"""Starts the progress of so many repairs."""


@dataclass(frozen=True)
class MethodSetting:
    """How one row of the results repairs: name of its folder in the output folder, empty for that itself; settings."""

    name: str
    settings: MethodSettings


@dataclass(frozen=True, eq=False)
class MethodEvaluation:
    """What to repair how often.

    Attributes:
        repair: what is repaired to which requirements, with one seed for each run; its settings are in `settings`.
        settings: with names that differ.
        folders: of negatives and of positives.
        negatives: rows that are to get right, of the label under repair.
        positives: rows to keep, or None.
        given: what `result.txt` repeats of the command.
    """

    repair: MethodRepair
    settings: tuple[MethodSetting, ...]
    folders: tuple[Path, Path]
    negatives: ImageSet
    positives: ImageSet | None
    given: Given

    @property
    def sets(self) -> dict[str, ImageSet]:
        """All rows that rate repairs, by what they are for."""
        return sets_of(self.negatives, self.positives, self.repair.held_out)

    @property
    def method(self) -> str:
        """Its name."""
        return self.repair.method

    def cells(self, number: int) -> list[Cell]:
        """The repairs under the setting of a number, of all rows; no two of an evaluation have the same draw."""
        name = self.settings[number].name
        prefix, first = f"{name}/" if name else "", number * len(self.repair.seeds)
        return [
            Cell(f"{prefix}{self.method}-s{seed}", self.method, first + run, seed, None, True)
            for run, seed in enumerate(self.repair.seeds)
        ]


@dataclass(frozen=True)
class MethodRun:
    """One repair.

    Attributes:
        number: from 0.
        seed: of everything random in it.
        failed: it could not run.
        note: why it failed, or what else is to be said.
        rates: by split; none where it failed.
        offer: which of what the method offers was taken.
        changed: weights whose values are others.
        fitness: of what was found, by the objective of the method, where it has one.
        chance: that new rows keep all requirements, where rows could judge.
        promised: the chance reaches the confidence.
    """

    number: int
    seed: int
    failed: bool
    note: str
    rates: Mapping[str, Rates] = field(default_factory=dict)
    offer: str | None = None
    changed: int | None = None
    fitness: float | None = None
    chance: float | None = None
    promised: bool | None = None


@dataclass(frozen=True)
class MethodEvaluated:
    """The runs of one setting, by number."""

    setting: MethodSetting
    runs: tuple[MethodRun, ...]

    @property
    def ended(self) -> tuple[MethodRun, ...]:
        """Those that did not fail."""
        return tuple(run for run in self.runs if not run.failed)


def check_method_evaluation(work: MethodEvaluation) -> None:
    """Refuse what cannot work, before any work starts.

    Raises:
        InputError: rows that do not fit the model or cannot judge a requirement, or something in the way of an output.
    """
    repair = work.repair
    check_sets(repair)
    check_fits(work.negatives, repair.model)
    check_pieces(repair.output, _pieces(work), repair.model, overwrite=repair.overwrite)


def evaluate_method(
    work: MethodEvaluation,
    compute: Compute,
    *,
    resume: bool = False,
    on_rows: Progress = unseen,
    on_repairs: OnRepairs = lambda count: ignore,
) -> list[MethodEvaluated]:
    """Repair, save, load again and measure; results in the order of the settings.

    Args:
        work: what to do, as checked by `check_method_evaluation`.
        compute: where; one thread in every process keeps the bits the same everywhere.
        resume: go on with what an interrupted command left, or start; results that are there already stay.
        on_rows: progress of row passes.
        on_repairs: starts the progress of the repairs of a setting.

    Raises:
        InputError: bad input, or what an interrupted command left is of something else; nothing has been written. Or a
            worker lacks the method.
        WorkError: every run failed, the disk is full or no worker is left; in the last two cases the evaluation can be
            resumed.
    """
    output = work.repair.output
    with enough_room(output), locked(output / ".evaluate.lock", output, say=compute.say) as lock:
        remove_leftovers(output, (Path(UNFINISHED).stem,))
        facts = _facts(work, compute)
        found = _ended(work, facts) if resume else None
        return _evaluate(work, compute, facts, lock, resume, on_rows, on_repairs) if found is None else found


def _evaluate(
    work: MethodEvaluation,
    compute: Compute,
    facts: Mapping[str, Any],
    lock: Lock,
    resume: bool,
    on_rows: Progress,
    on_repairs: OnRepairs,
) -> list[MethodEvaluated]:
    # Before the repairs, so that bad pixels are found while nothing has been computed for nothing.
    subject, before = _subject(work, compute, on_rows)
    held_out = work.repair.held_out
    rated = RatedRows(work.negatives, work.positives, held_out, work.repair.repaired[0], before)
    with staged(work.repair.output, _pieces(work), OPTIONAL, facts, lock, resume=resume) as records:
        subjects = [
            (replace(subject, settings=setting.settings), work.cells(number))
            for number, setting in enumerate(work.settings)
        ]
        run_cells(subjects, compute, compute.handle(work.repair.model, work.repair.target), records, on_repairs)
        told = ended_repairs(records)
        runs = len(work.settings) * len(work.repair.seeds)
        tick = on_rows("measure", sum(images.rows for images in work.sets.values()) * runs)
        evaluated = [
            _measure_setting(work, compute, number, subject, told, records, rated, tick)
            for number in range(len(work.settings))
        ]
        if not any(result.ended for result in evaluated):
            remove(records.directory / "outcomes")  # there is nothing to go on from
            raise WorkError(f"{work.method} cannot repair this model: {evaluated[0].runs[0].note}")
        rows = [row for result in evaluated for row in _table_rows(work, result)]
        write_evaluation(records.directory / TABLE, rows, digest_of(facts), EVALUATION_BY_METHOD)
    return evaluated


def _subject(work: MethodEvaluation, compute: Compute, on_rows: Progress) -> tuple[Subject, Mapping[str, Int64]]:
    """Read all rows and run the baseline model over them: what all repairs share but for their settings, and classes
    (n,) of held-out rows by split.
    """
    repair = work.repair
    handle = compute.handle(repair.model, repair.target)
    rows = read_rows(
        compute,
        handle,
        repair.chain.head,
        repair.rows,
        repair.held_out,
        on_rows,
        allow_shared=repair.allow_shared_rows,
        leave_out=False,
    )
    subject = subject_of(rows, compute, repair, work.settings[0].settings, on_rows)
    if why := lacking(method_of(work.method), subject):
        raise InputError(why)
    _warn(work, compute, handle, on_rows)
    return subject, rows.before


def _warn(work: MethodEvaluation, compute: Compute, handle: ModelHandle, on_rows: Progress) -> None:
    """Say where another model divided the rows into negatives and positives."""
    model = work.repair.model
    sets = {"negative": work.negatives, **({} if work.positives is None else {"positive": work.positives})}
    right = {
        name: compute.predict(handle, images, on_rows(name, images.rows)) == images.labels
        for name, images in sets.items()
    }
    negatives, positives = work.folders
    warn_of_others(negatives, model, right["negative"], "right", compute.warn)
    if "positive" in right:
        warn_of_others(positives, model, ~right["positive"], "wrong", compute.warn)


def _measure_setting(
    work: MethodEvaluation,
    compute: Compute,
    number: int,
    subject: Subject,
    told: Mapping[int, Mapping[str, Any]],
    records: RunRecords,
    rated: RatedRows,
    tick: Tick,
) -> MethodEvaluated:
    """Save what the repairs of a setting came to, load it again and measure it, where that is not done yet."""
    setting, stage = work.settings[number], records.directory
    place = stage / setting.name
    runs = []
    for run, task in enumerate(work.cells(number)):
        row = told[task.draw]
        new = changed_of(records, task, subject)
        if row["reading"] == FAILED or new is None:
            runs.append(MethodRun(run, task.seed, True, row["note"]))
            continue
        folder = place / f"repaired_model_{run}"
        try:
            rates = _measured_run(work, compute, folder, subject, new, records, rated, tick)
        except WorkError as error:
            if not isinstance(error.__cause__, NotNumbersError):
                raise
            remove(folder)
            runs.append(MethodRun(run, task.seed, True, str(error)))
            continue
        columns = {"changed": "weights", "fitness": "best", **{name: name for name in ("offer", "chance", "promised")}}
        cells = {name: row[column] for name, column in columns.items()}
        runs.append(MethodRun(run, task.seed, False, row["note"], rates, **cells))
    place.mkdir(parents=True, exist_ok=True)
    (place / RESULT).write_bytes(_result(work, setting, runs).encode("utf-8", "surrogateescape"))
    return MethodEvaluated(setting, tuple(runs))


def _measured_run(
    work: MethodEvaluation,
    compute: Compute,
    folder: Path,
    subject: Subject,
    new: Mapping[str, Float32],
    records: RunRecords,
    rated: RatedRows,
    tick: Tick,
) -> dict[str, Rates]:
    """Rates of a repair, whose model and patch come into a folder."""
    model, stage = work.repair.model, records.directory
    known = stage / MEASURED / folder.relative_to(stage).with_suffix(".json")
    # A command that was killed while it moved its pieces may have taken some of them.
    whole = (folder / "repair").exists() and (folder / PATCH).exists() == bool(new)
    rates = kept_rates(known) if whole else None
    if rates is None:
        records.check_ours()
        saved, _ = save_values(model, subject.chain.values, new, folder, work.repair.rows[0])
        rates = measured(model, saved, rated, compute, tick)
        keep_rates(known, rates)
    return rates


def _facts(work: MethodEvaluation, compute: Compute) -> dict[str, Any]:
    repair = work.repair
    named = [*repair.held_out.values(), work.negatives, *repair.rows]
    data = {f"repair {number}": images.path for number, images in enumerate(repair.rows)}
    identity = {
        "kind": "evaluate",
        "method": work.method,
        "labels": list(repair.repaired),
        "data": fingerprints({**data, **{split: images.path for split, images in work.sets.items()}}),
        "requirements": [requirement.text for requirement in repair.requirements],
        "settings": {setting.name: asdict(setting.settings) for setting in work.settings},
        "seeds": list(repair.seeds),
        "checkpoints": checkpoint_facts(repair.checkpoints, repair.last),
        "foreign methods": foreign_origins([work.method]),
    }
    return {
        **run_facts(repair.model, compute, repair.held_out, named),
        "identity": identity_of(repair.model, repair.target, compute, identity),
        "method": work.method,
    }


def _ended(work: MethodEvaluation, facts: Mapping[str, Any]) -> list[MethodEvaluated] | None:
    """The results of the same evaluation, where it has come to its end."""
    output = work.repair.output
    if holds_run(output / UNFINISHED):
        return None
    table = read_evaluation(output / TABLE, digest_of(facts))
    if table is None:
        return None
    found = [
        MethodEvaluated(setting, tuple(_run_of(row, work) for row in table if row["setting"] == setting.name))
        for setting in work.settings
    ]
    places = [output / result.setting.name for result in found]
    files = [place / RESULT for place in places]
    for result, place in zip(found, places, strict=True):
        files += [repaired_path(work.repair.model, place / f"repaired_model_{run.number}") for run in result.ended]
    return found if all(file.exists() for file in files) else None


def _run_of(row: Mapping[str, Any], work: MethodEvaluation) -> MethodRun:
    if row["failed"]:
        return MethodRun(row["run"], row["seed"], True, row["note"])
    cells = {name: row[name] for name in ("offer", "changed", "fitness", "chance", "promised")}
    rates = rates_of_row(row, work.repair.held_out)
    return MethodRun(row["run"], row["seed"], False, row["note"], rates, **cells)


def _result(work: MethodEvaluation, setting: MethodSetting, runs: list[MethodRun]) -> str:
    search = search_of(method_of(work.method), setting.settings)
    return result_text(
        replace(work.given, output_dir=work.given.output_dir / setting.name),
        num_grad=None,
        num_particles=None if search is None else search.swarm.num_particles,
        num_iterations=None if search is None else search.num_iterations,
        runs=[run.note if run.failed else run.rates["search"] for run in runs],
    )


def _table_rows(work: MethodEvaluation, result: MethodEvaluated) -> list[dict[str, Any]]:
    """Rows of the table of `evaluate`."""
    columns = [each.name for each in fields(MethodEvaluationRow) if each.name != "method"]
    return [
        {
            **EvaluationRow(
                setting=result.setting.name,
                run=run.number,
                seed=run.seed,
                label=work.repair.repaired[0],
                fitness=run.fitness,
            ).cells,
            **rate_cells(run.rates),
            **MethodEvaluationRow(method=work.method, **{name: getattr(run, name) for name in columns}).cells,
        }
        for run in result.runs
    ]


def _pieces(work: MethodEvaluation) -> list[Path]:
    """What comes out, in the output folder: first the files of every run, then the results.

    What an evaluation of Arachne left in the places of the runs goes.
    """
    folders = [Path(setting.name) for setting in work.settings]
    runs = [
        folder / f"{kind}_{number}" / name
        for folder in folders
        for number in range(len(work.repair.seeds))
        for kind, names in (
            ("localized_data", _ARACHNES),
            ("repaired_model", (CSV, ARROW, PATCH, REPAIR_FACTS, "repair")),
        )
        for name in names
    ]
    return [*runs, *(folder / RESULT for folder in folders), Path(TABLE)]
