"""Many repairs of one model with different seeds, under one or several settings: their models, rates and tables.

Run k is the search that `optimize` makes with the seed of the run, from the weights that `localize` finds. Everything
is made in a hidden folder of the output folder, with records of the searches, and moves to its places at the end: a
command that fails or is interrupted leaves what was there as it was, and the hidden folder to go on from.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.records.store import RunRecords, enough_room, holds_run, read_evaluation, write_evaluation
from cluster.runs.chunk import Chunk, ChunkPaths, chunk_of
from cluster.runs.features import search_rows
from cluster.runs.identity import fingerprints, identity_of, run_facts
from cluster.runs.ledger import Ledger
from cluster.runs.localize import localisation_sums
from cluster.runs.optimize import OnIterations, chunk_jobs, patch_of, planned, ready_chunk, search
from cluster.runs.output import check_output, measuring, save_repaired
from cluster.runs.shared_rows import predict_held_out
from cluster.workers.harvest import EndedSearch
from cluster.workers.model import ModelHandle
from cluster.workers.task import ReadyCase, SearchJob
from engine.charts.pareto import draw_pareto_front
from engine.core.errors import InputError
from engine.core.files import remove, remove_at_once, remove_leftovers, replace_directory, replace_file
from engine.core.lock import Lock, locked
from engine.core.progress import Progress, Tick, unseen
from engine.core.types import Int64
from engine.data.image_set import ImageSet
from engine.fitness.base import Goal
from engine.fitness.rows import SearchRows, Weights
from engine.localize.last_dense import Impact
from engine.localize.pareto import GRADIENTS_PER_NEGATIVE, Localisation
from engine.localize.weights_file import ARROW, CSV
from engine.metrics.accuracy import paired_changes
from engine.metrics.repair_rates import Given, Rates, held_out_rates, result_text, search_rates
from engine.models.known_data import REPAIR_FACTS
from engine.models.load import LoadedModel, check_fits, load_model
from engine.passes.batching import predicted_classes
from engine.search.loop import SearchSettings
from engine.targets.base import Target
from engine.targets.memory import check_searches

RESULT = "result.txt"
TABLE = "evaluate.arrow"
WEIGHTS = (CSV, ARROW)
UNFINISHED = ".evaluate.unfinished"
"""In the output folder, while an evaluation goes on or when it was interrupted."""

OPTIONAL = (*WEIGHTS, REPAIR_FACTS)
"""Files of a run that its kind of target and model may not have."""

_MEASURED = "measured"


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
        found = {"negative": self.negatives, **self.held_out}
        return found if self.positives is None else {**found, "positive": self.positives}


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
    objective: Goal
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
    for piece in _pieces(work):
        place = output / piece
        if piece.name == "repair":
            check_output(place.parent, model, overwrite=work.overwrite)
            continue
        found = next(path for path in (place, *place.parents) if path.exists())
        if found != place and not found.is_dir():
            raise InputError(f"{found} is a file, expected a folder, or none, for {place}")
        if found == place and place.is_dir():
            raise InputError(f"{place} is a folder, expected a file, or none")


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
    with _staged(work, facts, lock, resume) as records:
        ledger = Ledger(records, work.target)
        search(compute, handle, [(case.found.ready, case.jobs) for case in cases], ledger, on_iterations)
        runs = sum(len(case.jobs) for case in cases)
        tick = on_rows("measure", sum(images.rows for images in work.sets.values()) * runs)
        evaluated = [_measure_setting(work, compute, case, ledger, before, tick) for case in cases]
        table = [row for result in evaluated for row in _table_rows(result, cases[0].found.chunk.label)]
        write_evaluation(records.directory / TABLE, table, _digest(facts))
    return evaluated


def _measure_setting(
    work: Evaluation,
    compute: Compute,
    case: _SettingSearch,
    ledger: Ledger,
    before: Mapping[str, Int64],
    tick: Tick,
) -> Evaluated:
    """Save what the searches of a setting found, load it again and measure it, where that is not done yet."""
    stage = ledger.records.directory
    place = stage / case.setting.name
    _write_localised(place, len(work.seeds), work.target, case.found)
    runs = []
    for number, (job, ended) in enumerate(zip(case.jobs, ledger.ended([job.name for job in case.jobs]), strict=True)):
        folder = place / f"repaired_model_{number}"
        known = stage / _MEASURED / folder.relative_to(stage).with_suffix(".json")
        # A command that was killed while it moved its pieces may have taken some of them.
        whole = (folder / "repair").exists() and any((folder / name).exists() for name in WEIGHTS)
        rates = _read_rates(known) if whole else None
        if rates is None:
            ledger.records.check_ours()
            saved = _write_repaired(work, folder, case.found.ready, ended)
            rates = _measured(work, compute, case.found.chunk.label, before, saved, tick)
            with replace_file(known) as temporary:
                temporary.write_text(json.dumps({split: asdict(found) for split, found in rates.items()}))
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


def _read_rates(path: Path) -> dict[str, Rates] | None:
    """The rates of a run that was measured before; None where it was not."""
    if not path.is_file():
        return None
    return {split: Rates(**found) for split, found in json.loads(path.read_text()).items()}


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


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts["identity"], sort_keys=True).encode()).hexdigest()


def _ended(work: Evaluation, facts: Mapping[str, Any]) -> list[Evaluated] | None:
    """The results of the same evaluation, where it has come to its end."""
    output = work.paths.output
    pieces = [output / piece for piece in _pieces(work) if piece.name not in OPTIONAL]
    if holds_run(output / UNFINISHED) or not all(piece.exists() for piece in pieces):
        return None
    table = read_evaluation(output / TABLE, _digest(facts))
    if table is None:
        return None
    found = []
    for setting in work.settings:
        rows = [row for row in table if row["setting"] == setting.name]
        runs = [
            EvaluationRun(
                row["run"], row["seed"], row["iterations"], row["fitness"], row["stop"], _rates_of_row(row, work)
            )
            for row in rows
        ]
        first = rows[0]
        found.append(Evaluated(setting, first["num_grad"], first["weights"], first["positive_weight"], tuple(runs)))
    return found


def _rates_of_row(row: Mapping[str, Any], work: Evaluation) -> dict[str, Rates]:
    return {
        split: Rates(**{name: row[f"{split}_{name}"] for name in ("wrong", "repaired", "right", "broken")})
        for split in ("search", *work.held_out)
    }


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
    kinds = (
        (work.paths.negatives, rows.negative, right, "right"),
        (work.paths.positives, ~rows.negative, ~right, "wrong"),
    )
    for folder, kind, other, word in kinds:
        if (kind & other).any():
            warn(
                f"{folder}: {work.model.path} gets {(kind & other).sum()} of {kind.sum()} rows {word} as it is; "
                "they count all the same, but `target` with this model would not have put them there"
            )


def _write_localised(folder: Path, runs: int, target: Target, found: _Found) -> None:
    """What `localize` writes, once for each run, as scripts written for the toolkit look for it."""
    for number in range(runs):
        remove(folder / f"localized_data_{number}")
    first = folder / "localized_data_0"
    first.mkdir(parents=True)
    target.write_localised(first, found.chunk.index, found.ready.case.weights.old)
    draw_pareto_front(first / "pareto_front.png", found.localisation)
    for number in range(1, runs):
        shutil.copytree(first, folder / f"localized_data_{number}")


def _write_repaired(work: Evaluation, folder: Path, ready: ReadyCase, ended: EndedSearch) -> Path:
    """What `optimize` writes; returns the path of the model."""
    patch = patch_of(work.target, ready, ended)
    saved = save_repaired(work.model, patch, folder, work.negatives)
    work.target.write_localised(folder, ready.case.index, patch.old, patch.new)
    return saved


def _measured(
    work: Evaluation,
    compute: Compute,
    label: int,
    before: Mapping[str, Int64],
    saved: Path,
    tick: Tick,
) -> dict[str, Rates]:
    """Rates of a saved model, loaded again, by split."""
    reloaded = compute.handle(load_model(saved, allow_custom_code=work.model.allow_custom_code))
    with _without_words(compute), measuring(saved):
        after = {name: compute.predict(reloaded, images, tick) for name, images in work.sets.items()}
    nothing = np.empty(0, np.int64)
    found = {
        "search": search_rates(
            work.negatives.labels,
            after["negative"],
            nothing if work.positives is None else work.positives.labels,
            after.get("positive", nothing),
        )
    }
    for split, images in work.held_out.items():
        found[split] = held_out_rates(paired_changes(images.labels, before[split], after[split], images.classes), label)
    return found


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
        row: dict[str, Any] = {
            "setting": ended.setting.name,
            "run": run.number,
            "seed": run.seed,
            "label": label,
            "num_grad": ended.num_grad,
            "weights": ended.weights,
            "positive_weight": ended.positive_weight,
            "iterations": run.iterations,
            "fitness": run.fitness,
            "stop": run.stop,
        }
        for split, rates in run.rates.items():
            for name in ("wrong", "repaired", "right", "broken", "rr", "br"):
                value = getattr(rates, name)
                row[f"{split}_{name}"] = None if math.isnan(value) else value
        rows.append(row)
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
            ("localized_data", (*WEIGHTS, "pareto_front.png")),
            ("repaired_model", (*WEIGHTS, REPAIR_FACTS, "repair")),
        )
        for name in names
    ]
    return [*runs, *(folder / RESULT for folder in folders), Path(TABLE)]


@contextmanager
def _staged(work: Evaluation, facts: Mapping[str, Any], lock: Lock, resume: bool) -> Iterator[RunRecords]:
    """Yield the records of a hidden folder of the output; what comes out moves to its places when the body succeeds.

    On any exception, Ctrl-C included, the output is as before, but for the hidden folder if a search had begun.
    """
    output = work.paths.output
    folder = output / UNFINISHED
    if resume and holds_run(folder):
        records = RunRecords.resume(folder, facts, lock=lock)
    else:
        if folder.exists():
            remove_at_once(folder)
        records = RunRecords.create(folder, facts, overwrite=False, lock=lock)
    try:
        with records.telling_end(facts):
            yield records
            records.check_ours()
            _move(folder, output, _pieces(work))
    except BaseException:
        if not lock.lost and not (folder / "jobs").exists():
            remove(folder)
        raise
    remove_at_once(folder)


def _move(folder: Path, output: Path, pieces: Sequence[Path]) -> None:
    """Put every piece in its place. Results go first and come last: where there are some, they are of these models."""
    for piece in pieces:
        if piece.name in (RESULT, TABLE):
            remove(output / piece)
    for piece in pieces:
        place = output / piece
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(place.parent, (place.stem,))  # of a command that was killed while it moved
        if piece.name in OPTIONAL and not (folder / piece).exists():
            remove(place)  # an earlier evaluation had these
        elif (folder / piece).is_dir():
            with replace_directory(place) as new:
                (folder / piece).replace(new)
        else:
            (folder / piece).replace(place)


@contextmanager
def _without_words(compute: Compute) -> Iterator[None]:
    """Each of many models is run on the same few sets: where, has been said."""
    say, compute.say = compute.say, lambda _: None
    try:
        yield
    finally:
        compute.say = say
