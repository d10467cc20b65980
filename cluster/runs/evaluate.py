"""Many repairs of one model with different seeds, under one or several settings: their models, rates and tables.

Run k is the search that `optimize` makes with the seed of the run, from the weights that `localize` finds. Everything
is made in a hidden folder of the output folder, with records of the searches, and moves to its places at the end: a
command that fails or is interrupted leaves what was there as it was, and the hidden folder to go on from.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.records.schema import EvaluationRow
from cluster.records.store import enough_room, holds_run, read_evaluation, write_evaluation
from cluster.runs.chunk import Chunk, ChunkPaths, chunk_of
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
from cluster.runs.features import search_rows
from cluster.runs.identity import fingerprints, identity_of, run_facts
from cluster.runs.ledger import Ledger
from cluster.runs.localize import localisation_sums
from cluster.runs.optimize import OnIterations, chunk_jobs, patch_of, planned, ready_chunk, search
from cluster.runs.outcomes import PATCH
from cluster.runs.output import save_repaired
from cluster.runs.shared_rows import predict_held_out
from cluster.workers.harvest import EndedSearch
from cluster.workers.model import ModelHandle
from cluster.workers.task import ReadyCase, SearchJob
from engine.charts.pareto import draw_pareto_front
from engine.core.files import remove, remove_leftovers
from engine.core.lock import Lock, locked
from engine.core.progress import Progress, Tick, unseen
from engine.core.types import Int64
from engine.data.image_set import ImageSet
from engine.fitness.objective import Objective
from engine.fitness.rows import SearchRows, Weights
from engine.localize.fronts import GRADIENTS_PER_NEGATIVE, Impact, Localisation
from engine.localize.weights_file import ARROW, CSV, FRONT
from engine.metrics.repair_rates import Given, Rates, result_text
from engine.models.known_data import REPAIR_FACTS
from engine.models.load import LoadedModel, check_fits
from engine.passes.classes import predicted_classes
from engine.search.loop import SearchSettings
from engine.targets.base import Target
from engine.targets.memory import check_searches

WEIGHTS = (CSV, ARROW)

OPTIONAL = (*WEIGHTS, REPAIR_FACTS, PATCH)
"""Files of a run that its kind of target and model may not have; the last is of other methods."""


@dataclass(frozen=True)
class Setting:
    """How one row of the results localises and searches.

    Attributes:
        name: of its folder in the output folder; empty for the output folder itself.
        search: settings of the searches.
        num_grad: size of the pool of localisation, or None.
        impact: forward impact of localisation.
        fronts: Pareto fronts of localisation.
    """

    name: str
    search: SearchSettings
    num_grad: int | None
    impact: Impact
    fronts: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What to repair how often.

    Attributes:
        model: to repair.
        target: its weights under repair.
        paths: where negatives and positives lie, and the output folder.
        negatives: rows to repair.
        positives: rows to keep, or None.
        held_out: rows that no search sees, by split: validation, test.
        settings: with names that differ.
        seeds: one for each run.
        given: what `result.txt` repeats of the command.
        overwrite: replace folders that are not repaired models.
        allow_shared_rows: as of `cluster.runs.optimize.Repairs`.
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

    @property
    def sets(self) -> dict[str, ImageSet]:
        """All rows by what they are for."""
        return sets_of(self.negatives, self.positives, self.held_out)


@dataclass(frozen=True)
class EvaluationRun:
    """One repair: its number and seed, how its search ended, and its rates by split: search, validation, test."""

    number: int
    seed: int
    iterations: int
    fitness: float
    stop: str
    rates: Mapping[str, Rates]


@dataclass(frozen=True)
class Evaluated:
    """The runs of one setting.

    Attributes:
        setting: of these runs.
        num_grad: weights asked for in the pool of localisation.
        weights: localised weights.
        positive_weight: worth of all positives together, in negatives; None where requirements decide.
        runs: by number.
    """

    setting: Setting
    num_grad: int
    weights: int
    positive_weight: float | None
    runs: tuple[EvaluationRun, ...]


@dataclass(frozen=True, eq=False)
class _Found:
    """The weights that one way of localisation blames, and what a search of them needs."""

    localisation: Localisation
    chunk: Chunk
    ready: ReadyCase


@dataclass(frozen=True, eq=False)
class _SettingSearch:
    """A setting with its searches, one per seed."""

    setting: Setting
    found: _Found
    objective: Objective
    jobs: tuple[SearchJob, ...]


def check_evaluation(work: Evaluation) -> None:
    """Refuse what cannot work, before any work starts.

    Raises:
        InputError: more searches than memory holds, rows that do not fit the model, or something in the way of an
            output.
    """
    model, output = work.model, work.paths.output
    check_searches(
        len(work.seeds) * len(work.settings), max(setting.search.swarm.num_particles for setting in work.settings)
    )
    for images in work.sets.values():
        check_fits(images, model)
    check_pieces(output, _pieces(work), model, overwrite=work.overwrite)


def evaluate(
    work: Evaluation,
    compute: Compute,
    *,
    resume: bool = False,
    on_rows: Progress = unseen,
    on_iterations: OnIterations | None = None,
) -> list[Evaluated]:
    """Localise, repair, save, load again and measure; results in the order of the settings.

    Args:
        work: what to do, as checked by `check_evaluation`.
        compute: where.
        resume: go on with what an interrupted command left, or start; results that are there already stay.
        on_rows: progress of row passes.
        on_iterations: called with (search, new iterations).

    Raises:
        InputError: bad input, or what an interrupted command left is of something else; nothing has been written.
        WorkError: the disk is full or no worker is left; the evaluation can be resumed.
    """
    output = work.paths.output
    with enough_room(output), locked(output / ".evaluate.lock", output, say=compute.say) as lock:
        remove_leftovers(output, (Path(UNFINISHED).stem,))
        facts = _facts(work, compute)
        found = _ended(work, facts) if resume else None
        return _evaluate(work, compute, facts, lock, resume, on_rows, on_iterations) if found is None else found


def _evaluate(
    work: Evaluation,
    compute: Compute,
    facts: Mapping[str, Any],
    lock: Lock,
    resume: bool,
    on_rows: Progress,
    on_iterations: OnIterations | None,
) -> list[Evaluated]:
    handle = compute.handle(work.model, work.target)
    cases = _searches(work, compute, handle, on_rows)
    # Before the search, so that bad pixels are found while nothing has been computed for nothing.
    known = [cases[0].found.chunk.known]
    before = predict_held_out(compute, handle, work.held_out, known, on_rows, allow=work.allow_shared_rows)
    # The folder also before the search, as it may turn out that nothing can be written there.
    with staged(work.paths.output, _pieces(work), OPTIONAL, facts, lock, resume=resume) as records:
        ledger = Ledger(records, work.target)
        search(compute, handle, [(case.found.ready, case.jobs) for case in cases], ledger, on_iterations)
        runs = sum(len(case.jobs) for case in cases)
        tick = on_rows("measure", sum(images.rows for images in work.sets.values()) * runs)
        label = cases[0].found.chunk.label
        rated = RatedRows(work.negatives, work.positives, work.held_out, label, before)
        evaluated = [_measure_setting(work, compute, case, ledger, rated, tick) for case in cases]
        table = [row for result in evaluated for row in _table_rows(result, label)]
        write_evaluation(records.directory / TABLE, table, digest_of(facts))
    return evaluated


def _measure_setting(
    work: Evaluation,
    compute: Compute,
    case: _SettingSearch,
    ledger: Ledger,
    rated: RatedRows,
    tick: Tick,
) -> Evaluated:
    """Save what the searches of a setting found, load it again and measure it, where that is not done yet."""
    stage = ledger.records.directory
    place = stage / case.setting.name
    _write_localised(place, len(work.seeds), work.target, case.found)
    runs = []
    for number, (job, ended) in enumerate(zip(case.jobs, ledger.ended([job.name for job in case.jobs]), strict=True)):
        folder = place / f"repaired_model_{number}"
        known = stage / MEASURED / folder.relative_to(stage).with_suffix(".json")
        # A command that was killed while it moved its pieces may have taken some of them.
        whole = (folder / "repair").exists() and any((folder / name).exists() for name in WEIGHTS)
        rates = kept_rates(known) if whole else None
        if rates is None:
            ledger.records.check_ours()
            saved = _write_repaired(work, folder, case.found.ready, ended)
            rates = measured(work.model, saved, rated, compute, tick)
            keep_rates(known, rates)
        runs.append(EvaluationRun(number, job.seed, ended.iterations, ended.fitness, ended.stop, rates))
    evaluated = Evaluated(
        setting=case.setting,
        num_grad=case.setting.num_grad or GRADIENTS_PER_NEGATIVE * work.negatives.rows,
        weights=len(case.found.chunk.index),
        positive_weight=case.objective.positive_weight,
        runs=tuple(runs),
    )
    (place / RESULT).write_bytes(_result(work, evaluated).encode("utf-8", "surrogateescape"))
    return evaluated


def _facts(work: Evaluation, compute: Compute) -> dict[str, Any]:
    named = (*work.held_out.values(), work.negatives)
    identity = {
        "data": fingerprints({split: images.path for split, images in work.sets.items()}),
        "settings": {setting.name: asdict(setting) for setting in work.settings},
        "seeds": list(work.seeds),
    }
    return {
        **run_facts(work.model, compute, work.held_out, named),
        "identity": identity_of(work.model, work.target, compute, identity),
    }


def _ended(work: Evaluation, facts: Mapping[str, Any]) -> list[Evaluated] | None:
    """The results of the same evaluation, where it has come to its end."""
    output = work.paths.output
    pieces = [output / piece for piece in _pieces(work) if piece.name not in OPTIONAL]
    if holds_run(output / UNFINISHED) or not all(piece.exists() for piece in pieces):
        return None
    table = read_evaluation(output / TABLE, digest_of(facts))
    if table is None:
        return None
    found = []
    for setting in work.settings:
        rows = [row for row in table if row["setting"] == setting.name]
        runs = [
            EvaluationRun(
                row["run"],
                row["seed"],
                row["iterations"],
                row["fitness"],
                row["stop"],
                rates_of_row(row, work.held_out),
            )
            for row in rows
        ]
        first = rows[0]
        found.append(Evaluated(setting, first["num_grad"], first["weights"], first["positive_weight"], tuple(runs)))
    return found


def _searches(work: Evaluation, compute: Compute, handle: ModelHandle, on_rows: Progress) -> list[_SettingSearch]:
    """Localise once, and run the model once on the rows of all searches: settings differ in what they take of it."""
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
    _warn_of_others(work, rows, compute.warn)
    ready = {}
    for key, (found, chunk, features, weights) in blamed.items():
        mine = rows
        if together is not None and features is not None:
            mine = replace(rows, inputs=np.ascontiguousarray(rows.inputs[:, np.searchsorted(together, features)]))
        ready[key] = _Found(found, chunk, ready_chunk(chunk, mine, weights, work.target, work.settings[0].search))
    cases = []
    for setting in work.settings:
        located = ready[setting.num_grad, setting.impact, setting.fronts]
        prefix = f"{setting.name}/" if setting.name else ""
        objective, jobs = chunk_jobs(located.ready, setting.search, work.seeds, prefix)
        cases.append(_SettingSearch(setting, located, objective, jobs))
    return cases


def _warn_of_others(work: Evaluation, rows: SearchRows, warn: Callable[[str], None]) -> None:
    """Say where the rates mean little, because another model divided the rows into negatives and positives."""
    right = predicted_classes(work.target.head, rows.logits) == rows.labels
    warn_of_others(work.paths.negatives, work.model, right[rows.negative], "right", warn)
    warn_of_others(work.paths.positives, work.model, ~right[~rows.negative], "wrong", warn)


def _write_localised(folder: Path, runs: int, target: Target, found: _Found) -> None:
    """What `localize` writes, once for each run, as scripts written for the toolkit look for it."""
    for number in range(runs):
        remove(folder / f"localized_data_{number}")
    first = folder / "localized_data_0"
    first.mkdir(parents=True)
    target.write_localised(first, found.chunk.index, found.ready.case.weights.old)
    draw_pareto_front(first / FRONT, found.localisation)
    for number in range(1, runs):
        shutil.copytree(first, folder / f"localized_data_{number}")


def _write_repaired(work: Evaluation, folder: Path, ready: ReadyCase, ended: EndedSearch) -> Path:
    """What `optimize` writes; returns the path of the model."""
    patch = patch_of(work.target, ready, ended)
    saved = save_repaired(work.model, patch, folder, work.negatives)
    work.target.write_localised(folder, ready.case.index, patch.old, patch.new)
    return saved


def _result(work: Evaluation, ended: Evaluated) -> str:
    settings = ended.setting.search
    return result_text(
        replace(work.given, output_dir=work.given.output_dir / ended.setting.name),
        num_grad=ended.num_grad,
        num_particles=settings.swarm.num_particles,
        num_iterations=settings.num_iterations,
        runs=[run.rates["search"] for run in ended.runs],
    )


def _table_rows(ended: Evaluated, label: int) -> list[dict[str, Any]]:
    """Rows of the table of `evaluate`."""
    rows = []
    for run in ended.runs:
        row = EvaluationRow(
            setting=ended.setting.name,
            run=run.number,
            seed=run.seed,
            label=label,
            num_grad=ended.num_grad,
            weights=ended.weights,
            positive_weight=ended.positive_weight,
            iterations=run.iterations,
            fitness=run.fitness,
            stop=run.stop,
        )
        rows.append(row.cells | rate_cells(run.rates))
    return rows


def _pieces(work: Evaluation) -> list[Path]:
    """What comes out, in the output folder: first the files of every run, then the results.

    Of `WEIGHTS` there is one, as the target has it, and `REPAIR_FACTS` where the model is a folder.
    """
    folders = [Path(setting.name) for setting in work.settings]
    runs = [
        folder / f"{kind}_{number}" / name
        for folder in folders
        for number in range(len(work.seeds))
        for kind, names in (
            ("localized_data", (*WEIGHTS, FRONT)),
            ("repaired_model", (*WEIGHTS, PATCH, REPAIR_FACTS, "repair")),
        )
        for name in names
    ]
    return [*runs, *(folder / RESULT for folder in folders), Path(TABLE)]
