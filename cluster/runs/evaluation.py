"""What `evaluate` repairs how often, and its two sources of repairs: Arachne's searches, and any other method."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.records.store import RunRecords
from cluster.runs.chunk import Chunk, ChunkPaths, chunk_of, search_rows
from cluster.runs.ledger import Ledger
from cluster.runs.localize import checkpoint_facts, localisation_sums
from cluster.runs.optimize import OnIterations, chunk_jobs, patch_of, planned, ready_chunk, search
from cluster.runs.outcomes import changed_of, ended_repairs, job_row, run_cells, save_values
from cluster.runs.output import save_repaired
from cluster.runs.repair import MethodRepair
from cluster.runs.repair_rows import read_rows, subject_of
from cluster.runs.shared_rows import predict_held_out
from cluster.workers.harvest import EndedSearch
from cluster.workers.origins import foreign_origins
from cluster.workers.task import ReadyCase, SearchJob
from engine.charts.pareto import draw_pareto_front
from engine.core.errors import InputError
from engine.core.files import remove
from engine.core.progress import Progress, Tick
from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet
from engine.fitness.objective import Objective
from engine.fitness.rows import Weights
from engine.localize.fronts import GRADIENTS_PER_NEGATIVE, Impact, Localisation
from engine.localize.weights_file import FRONT
from engine.methods.base import MethodSettings, lacking
from engine.methods.given import search_of
from engine.methods.outcome import Cell
from engine.methods.registry import method_of
from engine.metrics.against import FAILED
from engine.metrics.repair_rates import Given, Rates
from engine.models.load import LoadedModel
from engine.passes.classes import predicted_classes
from engine.search.loop import SearchSettings
from engine.targets.base import Target

OnRepairs = Callable[[int], Tick]
"""Starts the progress of so many repairs."""


@dataclass(frozen=True)
class Setting:
    """How one row of the results repairs.

    Attributes:
        name: of its folder in the output folder; empty for the output folder itself.
        search: settings of Arachne's searches.
        num_grad: size of the pool of localisation, or None.
        impact: forward impact of localisation.
        fronts: Pareto fronts of localisation.
        method: settings of another method than Arachne, of which all but the name is without effect.
    """

    name: str
    search: SearchSettings
    num_grad: int | None
    impact: Impact
    fronts: int
    method: MethodSettings | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What to repair how often.

    Attributes:
        model: to repair.
        target: its weights under repair.
        paths: where negatives and positives lie, and the output folder.
        negatives: rows to repair.
        positives: rows to keep, or None.
        held_out: rows that no repair sees, by split: validation, test.
        settings: with names that differ.
        seeds: one for each run.
        given: what `result.txt` repeats of the command.
        overwrite: replace folders that are not repaired models.
        allow_shared_rows: as of `cluster.runs.optimize.Repairs`.
        repair: of a method other than Arachne, to which requirements; its seeds, held-out sets and output are those
            above, and its settings those of each setting.
    """

    model: LoadedModel
    target: Target
    paths: ChunkPaths
    negatives: ImageSet
    positives: ImageSet | None
    held_out: Mapping[str, ImageSet]
    settings: tuple[Setting, ...]
    seeds: Sequence[int]
    given: Given
    overwrite: bool = False
    allow_shared_rows: bool = False
    repair: MethodRepair | None = None

    @property
    def sets(self) -> dict[str, ImageSet]:
        """All rows by what they are for."""
        positives = {} if self.positives is None else {"positive": self.positives}
        return {"negative": self.negatives, **self.held_out, **positives}


@dataclass(frozen=True)
class EvaluationRun:
    """One repair, as `EvaluationRow` and `MethodEvaluationRow` tell of it; None is what its method does not have.

    It has rates by split (search, validation, test), or has failed and none.
    """

    number: int
    seed: int
    iterations: int | None = None
    fitness: float | None = None
    stop: str | None = None
    rates: Mapping[str, Rates] = field(default_factory=dict)
    failed: bool = False
    note: str = ""
    offer: str | None = None
    changed: int | None = None
    chance: float | None = None
    promised: bool | None = None


@dataclass(frozen=True)
class Evaluated:
    """The runs of one setting.

    Attributes:
        setting: of these runs.
        num_grad: weights asked for in the pool of localisation; None of other methods than Arachne.
        weights: localised weights; None of other methods.
        positive_weight: worth of all positives together, in negatives; None where requirements decide.
        runs: by number.
    """

    setting: Setting
    num_grad: int | None
    weights: int | None
    positive_weight: float | None
    runs: tuple[EvaluationRun, ...]

    @property
    def ended(self) -> tuple[EvaluationRun, ...]:
        """Those that did not fail."""
        return tuple(run for run in self.runs if not run.failed)


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repair before it is saved: its name in the records, what `EvaluationRun` has of it, and how to save it.

    `save` writes the model and what lies beside into a folder, and returns the path of the model; None where it failed.
    """

    job: str
    told: Mapping[str, Any]
    save: Callable[[Path], Path] | None


@dataclass(frozen=True, eq=False)
class _SettingSearch:
    """A setting with its searches, one per seed, and the weights that localisation found for it."""

    setting: Setting
    localisation: Localisation
    chunk: Chunk
    ready: ReadyCase
    objective: Objective
    jobs: tuple[SearchJob, ...]


class Searches:
    """Searches of Arachne: run k is that of `optimize` with the seed of the run, from weights that `localize` finds.

    `label` is -1 for several; `before` has the classes (n,) that the baseline model predicts for each set of rows.
    """

    def __init__(
        self, work: Evaluation, compute: Compute, on_rows: Progress, on_iterations: OnIterations | None
    ) -> None:
        self._work, self._compute, self._on_iterations = work, compute, on_iterations
        self._handle = compute.handle(work.model, work.target)
        self._cases = self._localised(on_rows)
        chunk, rows = self._cases[0].chunk, self._cases[0].ready.case.rows
        self.label = chunk.label
        self.before = predict_held_out(
            compute, self._handle, work.held_out, [chunk.known], on_rows, allow=work.allow_shared_rows
        )
        self.before |= chunk.in_files(predicted_classes(work.target.head, rows.logits))

    def run(self, records: RunRecords) -> float:
        self._ledger = Ledger(records, self._work.target)
        cases = [(case.ready, case.jobs) for case in self._cases]
        search(self._compute, self._handle, cases, self._ledger, self._on_iterations)
        return self._ledger.earlier

    def told(self, number: int) -> Mapping[str, Any]:
        case, work = self._cases[number], self._work
        return {
            "num_grad": case.setting.num_grad or GRADIENTS_PER_NEGATIVE * work.negatives.rows,
            "weights": len(case.chunk.index),
            "positive_weight": case.objective.positive_weight,
        }

    def repaired(self, number: int, place: Path) -> Iterator[Repaired]:
        """What was found under a setting, by run; `place` gets what `localize` writes, where the toolkit has it."""
        case, target = self._cases[number], self._work.target
        for run in range(len(case.jobs)):
            remove(place / f"localized_data_{run}")
        first = place / "localized_data_0"
        first.mkdir(parents=True)
        target.write_localised(first, case.chunk.index, case.ready.case.weights.old)
        draw_pareto_front(first / FRONT, case.localisation)
        for run in range(1, len(case.jobs)):
            shutil.copytree(first, place / f"localized_data_{run}")
        for ended in self._ledger.ended([job.name for job in case.jobs]):
            told = {name: getattr(ended, name) for name in ("iterations", "fitness", "stop")}
            yield Repaired(ended.job, told, partial(self._save, case.ready, ended))

    def close(self, failed: Mapping[str, str]) -> None:
        """Record the searches as chosen: their results are in models, as none of them fails."""
        self._ledger.choose([job.name for case in self._cases for job in case.jobs])

    def _save(self, ready: ReadyCase, ended: EndedSearch, folder: Path) -> Path:
        target = self._work.target
        patch = patch_of(target, ready, ended)
        saved = save_repaired(self._work.model, patch, folder, self._work.negatives)
        target.write_localised(folder, ready.case.index, patch.old, patch.new)
        return saved

    def _localised(self, on_rows: Progress) -> list[_SettingSearch]:
        """Localise once, and run the model once on the rows of all searches: settings differ in what they take."""
        work, handle, compute = self._work, self._handle, self._compute
        negative, positive = localisation_sums(compute, handle, work.negatives, work.positives, on_rows)
        kernel = work.target.kernel
        count = sum(images.rows for images in (work.negatives, work.positives) if images is not None)
        searches = len(work.seeds) * len(work.settings)
        blamed: dict[tuple[int | None, Impact, int], tuple[Localisation, Chunk, Int64 | None, Weights]] = {}
        for setting in work.settings:
            key = setting.num_grad, setting.impact, setting.fronts
            if key not in blamed:
                found = work.target.localise(
                    negative, positive, kernel, num_grad=setting.num_grad, impact=setting.impact, fronts=setting.fronts
                )
                chunk = chunk_of(work.paths, work.negatives, work.positives, found.index)
                blamed[key] = found, chunk, *work.target.search_weights(kernel, chunk.index)
            *_, weights = blamed[key]
            planned(handle, compute, weights, count, setting.search, searches=searches, name=setting.name)
        chosen = [features for *_, features, _ in blamed.values() if features is not None]
        together = np.unique(np.concatenate(chosen)) if chosen else None
        _, any_chunk, *_ = next(iter(blamed.values()))  # they have the same rows
        rows = search_rows(any_chunk, together, handle, compute, on_rows)
        ready = {}
        for key, (found, chunk, features, weights) in blamed.items():
            mine = rows
            if together is not None and features is not None:
                mine = replace(rows, inputs=np.ascontiguousarray(rows.inputs[:, np.searchsorted(together, features)]))
            ready[key] = found, chunk, ready_chunk(chunk, mine, weights, work.target, work.settings[0].search)
        cases = []
        for setting in work.settings:
            located = ready[setting.num_grad, setting.impact, setting.fronts]
            cases.append(
                _SettingSearch(setting, *located, *chunk_jobs(located[2], setting.search, work.seeds, _prefix(setting)))
            )
        return cases


class MethodRepairs:
    """Repairs by a method of the registry: run k is that of `optimize` with the seed of the run. As `Searches`."""

    def __init__(
        self, work: Evaluation, repair: MethodRepair, compute: Compute, on_rows: Progress, on_repairs: OnRepairs
    ) -> None:
        self._work, self._repair, self._compute, self._on_repairs = work, repair, compute, on_repairs
        (self.label,) = repair.repaired
        self._settings = [setting.method for setting in work.settings if setting.method is not None]
        self._handle = compute.handle(work.model, work.target)
        rows = read_rows(repair, compute, self._handle, on_rows, leave_out=False)
        self._subject = subject_of(rows, compute, replace(repair, settings=self._settings[0]), on_rows)
        if why := lacking(method_of(repair.method), self._subject):
            raise InputError(why)
        mine = {split: images for split, images in work.sets.items() if split not in work.held_out}
        predicted = {
            split: compute.predict(self._handle, images, on_rows(split, images.rows)) for split, images in mine.items()
        }
        self.before = {**rows.before, **predicted}

    def _cells(self, number: int) -> list[Cell]:
        """The repairs under the setting of a number, of all rows; no two of an evaluation have the same draw."""
        first, method = number * len(self._work.seeds), self._repair.method
        return [
            Cell(f"{_prefix(self._work.settings[number])}{method}-s{seed}", method, first + run, seed, None, True)
            for run, seed in enumerate(self._work.seeds)
        ]

    def run(self, records: RunRecords) -> float:
        self._records = records
        subjects = [
            (replace(self._subject, settings=settings), self._cells(number))
            for number, settings in enumerate(self._settings)
        ]
        earlier = run_cells(subjects, self._compute, self._handle, records, self._on_repairs)
        self._rows = ended_repairs(records)
        return earlier

    def told(self, number: int) -> Mapping[str, Any]:
        return dict.fromkeys(("num_grad", "weights", "positive_weight"))

    def repaired(self, number: int, place: Path) -> Iterator[Repaired]:
        """What was found under a setting, by run, or why there is nothing."""
        for cell in self._cells(number):
            row, new = self._rows[cell.draw], changed_of(self._records, cell, self._subject)
            if row["reading"] == FAILED or new is None:
                yield Repaired(cell.name, {"note": row["note"]}, None)
                continue
            told = {"changed": row["weights"], "fitness": row["best"]}
            told |= {name: row[name] for name in ("note", "offer", "chance", "promised")}
            yield Repaired(cell.name, told, partial(self._save, new))

    def _save(self, new: Mapping[str, Float32], folder: Path) -> Path:
        saved, _ = save_values(self._work.model, self._subject.chain.values, new, folder, self._repair.rows[0])
        return saved

    def close(self, failed: Mapping[str, str]) -> None:
        """Record all repairs, of which those that failed while they were measured are in no model, with the reason."""
        for number in range(len(self._work.settings)):
            for cell in self._cells(number):
                row, note = self._rows[cell.draw], failed.get(cell.name)
                told = row if note is None else {**row, "reading": FAILED, "note": note}
                job = job_row(cell, told, self._work.paths.negatives, self.label, chosen=note is None)
                self._records.replace("jobs", cell.name, [job])


def _prefix(setting: Setting) -> str:
    return f"{setting.name}/" if setting.name else ""


def search_told(work: Evaluation, setting: Setting) -> SearchSettings | None:
    """The search of which `result.txt` tells; None where the method has none."""
    if work.repair is None or setting.method is None:
        return setting.search
    return search_of(method_of(work.repair.method), setting.method)


def method_identity(repair: MethodRepair) -> dict[str, Any]:
    """What an evaluation of another method than Arachne is of besides its rows, settings and seeds."""
    return {
        "method": repair.method,
        "labels": list(repair.repaired),
        "requirements": [requirement.text for requirement in repair.requirements],
        "checkpoints": checkpoint_facts(repair.checkpoints, repair.last),
        "foreign methods": foreign_origins([repair.method]),
    }
