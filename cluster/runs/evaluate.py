"""Many repairs of one model with different seeds, under one or several settings: models, rates, tables and records.

A command that fails or is interrupted leaves what was there as it was, see `cluster.runs.evaluate_staging`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.records import values
from cluster.records.schema import EVALUATION, EVALUATION_BY_METHOD, EvaluationRow, MethodEvaluationRow
from cluster.records.store import (
    EVALUATE_UNFINISHED,
    RunRecords,
    enough_room,
    holds_run,
    read_evaluation,
    write_evaluation,
)
from cluster.runs.evaluate_staging import FILES, RESULT, TABLE, check_pieces, digest_of, move, settle, staged
from cluster.runs.evaluation import (
    Evaluated,
    Evaluation,
    EvaluationRun,
    MethodRepairs,
    OnRepairs,
    Repaired,
    Searches,
    method_identity,
    search_told,
)
from cluster.runs.identity import fingerprints, run_facts
from cluster.runs.optimize import OnIterations
from cluster.runs.outcomes import PATCH
from cluster.runs.output import measuring
from cluster.runs.repair import check_sets
from cluster.runs.reports import Measured, compared, label_rows
from engine.core.errors import WorkError
from engine.core.files import remove, remove_leftovers, replace_file
from engine.core.lock import locked
from engine.core.progress import Progress, Tick, ignore, unseen
from engine.core.types import Int64
from engine.localize.weights_file import ARROW, CSV, FRONT
from engine.metrics.repair_rates import Rates, held_out_rates, result_text, search_rates
from engine.models.known_data import REPAIR_FACTS
from engine.models.load import check_fits, load_model
from engine.passes.classes import NotNumbersError
from engine.patches.save import repaired_path
from engine.targets.memory import check_searches

Source = Searches | MethodRepairs
"""Where repairs come from, once all rows have been read."""

_OF_SETTING = ("num_grad", "weights", "positive_weight")
_COUNTS = ("wrong", "repaired", "right", "broken")


def check_evaluation(work: Evaluation) -> None:
    """Refuse what cannot work, before any work starts.

    Raises:
        InputError: more searches than memory holds, rows that do not fit the model or cannot judge a requirement, or
            something in the way of an output.
    """
    if work.repair is None:
        most = max(setting.search.swarm.num_particles for setting in work.settings)
        check_searches(len(work.seeds) * len(work.settings), most)
    else:
        check_sets(work.repair)
    for images in work.sets.values():
        check_fits(images, work.model)
    check_pieces(work.paths.output, _pieces(work), work.model, overwrite=work.overwrite)


def evaluate(
    work: Evaluation,
    compute: Compute,
    *,
    resume: bool = False,
    on_rows: Progress = unseen,
    on_iterations: OnIterations | None = None,
    on_repairs: OnRepairs = lambda count: ignore,
) -> list[Evaluated]:
    """Repair, save, load again and measure; results in the order of the settings.

    Args:
        work: what to do, as checked by `check_evaluation`.
        compute: where; of other methods than Arachne, one thread in every process keeps the bits the same everywhere.
        resume: go on with what an interrupted command left, or start; results that are there already stay.
        on_rows: progress of row passes.
        on_iterations: called with (search, new iterations) of Arachne.
        on_repairs: starts the progress of so many repairs by another method.

    Raises:
        InputError: bad input, or what an interrupted command left is of something else; nothing has been written. Or a
            worker lacks the method.
        WorkError: every run failed, the disk is full or no worker is left; in the last two cases the evaluation can be
            resumed.
    """
    output = work.paths.output
    with enough_room(output), locked(output / ".evaluate.lock", output, say=compute.say) as lock:
        begun = time.perf_counter()
        remove_leftovers(output, (Path(EVALUATE_UNFINISHED).stem,))
        facts = _facts(work, compute)
        if resume:
            settle(output)
            if (found := _ended(work, facts)) is not None:
                return found
        # All rows are read before anything is written, so that bad pixels are found while nothing has been computed.
        source = (
            Searches(work, compute, on_rows, on_iterations)
            if work.repair is None
            else MethodRepairs(work, work.repair, compute, on_rows, on_repairs)
        )
        _warn_of_others(work, source, compute)
        facts["labels"] = [source.label] if source.label >= 0 else []
        # The folder also before the repairs, as it may turn out that nothing can be written there.
        with staged(output, facts, lock, resume=resume) as records:
            earlier = source.run(records)
            tick = on_rows("measure", sum(images.rows for images in work.sets.values()) * len(_runs(work)))
            evaluated = _saved_and_measured(work, compute, source, records, tick)
            rows = [row for result in evaluated for row in _table_rows(work, result, source.label)]
            schema = EVALUATION if work.repair is None else EVALUATION_BY_METHOD
            with replace_file(records.directory / FILES / TABLE) as path:
                write_evaluation(path, rows, digest_of(facts), schema)
            move(records, output, _pieces(work))
            seconds = earlier + time.perf_counter() - begun
            code = 4 if any(run.failed for result in evaluated for run in result.runs) else 0
            records.compact({**facts, "placement": compute.decisions, "seconds": seconds, "exit_code": code})
    return evaluated


def _saved_and_measured(
    work: Evaluation, compute: Compute, source: Source, records: RunRecords, tick: Tick
) -> list[Evaluated]:
    """Save what repairs came to, load it again and measure it, where that is not done yet."""
    evaluated, failed = [], {}
    for number, setting in enumerate(work.settings):
        place = records.directory / FILES / setting.name
        place.mkdir(parents=True, exist_ok=True)
        runs = []
        for run, (seed, repaired) in enumerate(zip(work.seeds, source.repaired(number, place), strict=True)):
            found = _measured(work, compute, repaired, place / f"repaired_model_{run}", records, tick)
            if isinstance(found, str):
                failed[repaired.job] = found
                runs.append(EvaluationRun(run, seed, failed=True, note=found))
                continue
            rows, rates = _rated(work, source, found)
            records.replace("labels", repaired.job, label_rows(repaired.job, rows))
            runs.append(EvaluationRun(run, seed, rates=rates, **repaired.told))
        result = Evaluated(setting=setting, runs=tuple(runs), **source.told(number))
        (place / RESULT).write_bytes(_result(work, result).encode("utf-8", "surrogateescape"))
        evaluated.append(result)
    if not any(result.ended for result in evaluated):
        remove(records.directory / "outcomes")  # there is nothing to go on from
        raise WorkError(f"{work.given.method} cannot repair this model: {evaluated[0].runs[0].note}")
    source.close(failed)
    return evaluated


def _measured(
    work: Evaluation, compute: Compute, repaired: Repaired, folder: Path, records: RunRecords, tick: Tick
) -> Mapping[str, Int64] | str:
    """Classes (n,) that a saved model predicts for each set of rows, loaded again; or why there is no model."""
    if repaired.save is None:
        return str(repaired.told["note"])
    known = folder.with_name(f"{folder.name}.npz")  # no piece: it stays behind
    done, after = values.unpack(known)
    if done:
        found: Mapping[str, Int64] = after
        return found
    records.check_ours()
    saved = repaired.save(folder)
    reloaded = compute.handle(load_model(saved, allow_custom_code=work.model.allow_custom_code))
    try:
        with _without_words(compute), measuring(saved):
            after = {split: compute.predict(reloaded, images, tick) for split, images in work.sets.items()}
    except WorkError as error:
        if work.repair is None or not isinstance(error.__cause__, NotNumbersError):
            raise
        remove(folder)
        return str(error)
    with replace_file(known) as temporary:
        temporary.write_bytes(values.pack(repaired.job, after))
    return after


def _rated(work: Evaluation, source: Source, after: Mapping[str, Int64]) -> tuple[list[Measured], dict[str, Rates]]:
    before = source.before
    measured = {split: compared(split, images, before[split], after[split]) for split, images in work.sets.items()}
    nothing = np.empty(0, np.int64)
    positives = nothing if work.positives is None else work.positives.labels
    search = search_rates(work.negatives.labels, after["negative"], positives, after.get("positive", nothing))
    rates = {split: held_out_rates(measured[split].changes, source.label) for split in work.held_out}
    return list(measured.values()), {"search": search, **rates}


@contextmanager
def _without_words(compute: Compute) -> Iterator[None]:
    """Each of many models is run on the same few sets: where, has been said."""
    say, compute.say = compute.say, lambda _: None
    try:
        yield
    finally:
        compute.say = say


def _warn_of_others(work: Evaluation, source: Source, compute: Compute) -> None:
    """Say where the rates mean little, because another model divided the rows into negatives and positives."""
    for split, folder in ("negative", work.paths.negatives), ("positive", work.paths.positives):
        if split not in work.sets:
            continue
        right = source.before[split] == work.sets[split].labels
        word, others = ("right", right) if split == "negative" else ("wrong", ~right)
        if others.any():
            compute.warn(
                f"{folder}: {work.model.path} gets {others.sum()} of {len(others)} rows {word} as it is; they count "
                "all the same, but `target` with this model would not have put them there"
            )


def _facts(work: Evaluation, compute: Compute) -> dict[str, Any]:
    repair = work.repair
    sets = () if repair is None else repair.rows
    data = {f"repair {number}": images.path for number, images in enumerate(sets)}
    settings = {setting.name: asdict(setting) for setting in work.settings}
    identity = {
        "kind": "evaluate",
        "data": fingerprints({**data, **{split: images.path for split, images in work.sets.items()}}),
        "settings": settings,
        "seeds": list(work.seeds),
        **({} if repair is None else method_identity(repair)),
    }
    named = (*work.held_out.values(), work.negatives, *sets)
    facts = run_facts(work.model, work.target, compute, work.held_out, named, identity)
    return {
        **facts,
        "kind": "evaluate",
        "method": work.given.method,
        "arguments": {**facts["arguments"], "settings": settings, "seeds": list(work.seeds)},
        "target": {path: list(shape) for path, shape in work.target.shapes.items()},
    }


def _ended(work: Evaluation, facts: Mapping[str, Any]) -> list[Evaluated] | None:
    output = work.paths.output
    table = None if holds_run(output / EVALUATE_UNFINISHED) else read_evaluation(output / TABLE, digest_of(facts))
    if table is None:
        return None
    evaluated = []
    for setting in work.settings:
        rows = [row for row in table if row["setting"] == setting.name]
        told = {name: rows[0][name] for name in _OF_SETTING}
        evaluated.append(Evaluated(setting, runs=tuple(_run_of(row, work.held_out) for row in rows), **told))
    return evaluated if all(file.exists() for result in evaluated for file in _files(work, result)) else None


def _files(work: Evaluation, result: Evaluated) -> Iterator[Path]:
    """Of the pieces of a setting those that are there once it has ended."""
    place = work.paths.output / result.setting.name
    yield place / RESULT
    for run in result.ended:
        yield repaired_path(work.model, place / f"repaired_model_{run.number}")
        if work.repair is None:
            yield place / f"localized_data_{run.number}" / FRONT


def _run_of(row: Mapping[str, Any], held_out: Collection[str]) -> EvaluationRun:
    told = {each.name: row[each.name] for each in fields(EvaluationRun) if each.name in row}
    counts = {split: {name: row[f"{split}_{name}"] for name in _COUNTS} for split in ("search", *held_out)}
    rates = {split: Rates(**mine) for split, mine in counts.items() if mine["wrong"] is not None}
    return EvaluationRun(number=row["run"], rates=rates, **told)


def _table_rows(work: Evaluation, result: Evaluated, label: int) -> list[dict[str, Any]]:
    """Rows of the table of `evaluate`; what is not a number is null."""
    kinds = (EvaluationRow,) if work.repair is None else (EvaluationRow, MethodEvaluationRow)
    columns = [each.name for kind in kinds for each in fields(kind)]
    common = {"setting": result.setting.name, "label": label, "method": work.given.method}
    common |= {name: getattr(result, name) for name in _OF_SETTING}
    found = []
    for run in result.runs:
        told = {**vars(run), **common, "run": run.number}
        row = {name: told[name] for name in columns}
        for split, rates in run.rates.items():
            for name in (*_COUNTS, "rr", "br"):
                value = getattr(rates, name)
                row[f"{split}_{name}"] = None if math.isnan(value) else value
        found.append(row)
    return found


def _result(work: Evaluation, result: Evaluated) -> str:
    search = search_told(work, result.setting)
    return result_text(
        replace(work.given, output_dir=work.given.output_dir / result.setting.name),
        num_grad=result.num_grad,
        num_particles=None if search is None else search.swarm.num_particles,
        num_iterations=None if search is None else search.num_iterations,
        runs=[run.note if run.failed else run.rates["search"] for run in result.runs],
    )


def _pieces(work: Evaluation) -> list[Path]:
    """What may come out, in the output folder: first the files of every run, then the results.

    A run has not all of them: that depends on its target, its model and its method; one that failed has none.
    """
    kinds = (("localized_data", (CSV, ARROW, FRONT)), ("repaired_model", (CSV, ARROW, PATCH, REPAIR_FACTS, "repair")))
    runs = [
        folder / f"{kind}_{number}" / name for folder, number in _runs(work) for kind, names in kinds for name in names
    ]
    return [*runs, *(Path(setting.name, RESULT) for setting in work.settings), Path(TABLE)]


def _runs(work: Evaluation) -> list[tuple[Path, int]]:
    return [(Path(setting.name), number) for setting in work.settings for number in range(len(work.seeds))]
