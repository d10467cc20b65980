"""Many repairs of one model with different seeds, under one or several settings: their models, rates and tables.

Run k is the search that `optimize` makes with the seed of the run, from the weights that `localize` finds. Everything
is made in a hidden folder of the output folder and moves to its places at the end: a command that fails or is
interrupted leaves the output folder as it was.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from cluster.compute.compute import Compute
from cluster.compute.searches import SearchOutcome, SearchTask
from cluster.records.store import enough_room, write_evaluation
from cluster.runs.chunk import Chunk, ChunkPaths, chunk_of
from cluster.runs.features import search_rows
from cluster.runs.localize import localisation_sums
from cluster.runs.optimize import chunk_problems, patch_of, planned
from cluster.runs.output import check_output, save_repaired
from cluster.workers.model import ModelHandle
from engine.charts.pareto import draw_pareto_front
from engine.core.errors import InputError
from engine.core.files import remove, replace_directory
from engine.core.progress import Progress, Tick, unseen
from engine.core.types import Int64
from engine.data.image_set import ImageSet
from engine.fitness.objective import Objective
from engine.fitness.rows import SearchRows, Weights
from engine.localize.last_dense import Impact
from engine.localize.pareto import GRADIENTS_PER_NEGATIVE, Localisation
from engine.metrics.accuracy import paired_changes
from engine.metrics.repair_rates import Given, Rates, held_out_rates, result_text, search_rates
from engine.models.load import LoadedModel, check_fits, load_model
from engine.passes.batching import predicted_classes
from engine.problem.problem import Problem
from engine.search.loop import Iteration, SearchSettings
from engine.targets.base import Target

RESULT = "result.txt"
TABLE = "evaluate.arrow"


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
        positive_weight: worth of all positives together, in negatives.
        runs: by number.
    """

    setting: Setting
    num_grad: int
    weights: int
    positive_weight: float
    runs: tuple[EvaluationRun, ...]


@dataclass(frozen=True, eq=False)
class _Found:
    """The weights that one way of localisation blames, and what a search of them needs."""

    localisation: Localisation
    chunk: Chunk
    weights: Weights
    rows: SearchRows


@dataclass(frozen=True, eq=False)
class _SettingSearch:
    """A setting with its searches, one per seed."""

    setting: Setting
    found: _Found
    objective: Objective
    problems: tuple[Problem, ...]


def check_evaluation(work: Evaluation) -> None:
    """Refuse what cannot work, before any work starts.

    Raises:
        InputError: rows that do not fit the model, or something in the way of an output.
    """
    model, output = work.model, work.paths.output
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
    on_rows: Progress = unseen,
    on_iterations: Callable[[str, list[Iteration]], None] | None = None,
    warn: Callable[[str], None] = print,
) -> list[Evaluated]:
    """Localise, repair, save, load again and measure; results in the order of the settings.

    Args:
        work: what to do, as checked by `check_evaluation`.
        compute: where.
        on_rows: progress of row passes.
        on_iterations: called with (search, new iterations).
        warn: is told what makes the rates mean less than they say.

    Raises:
        InputError: bad input; nothing has been written.
        WorkError: the disk is full or no worker is left; nothing has been written.
    """
    handle = compute.handle(work.model, work.target)
    cases = _searches(work, compute, handle, on_rows, warn)
    # Before the search, so that bad pixels are found while nothing has been computed for nothing.
    before = {
        split: compute.predict(handle, images, on_rows(split, images.rows)) for split, images in work.held_out.items()
    }
    searches = [(case, problem) for case in cases for problem in case.problems]

    def on_segment(task: int, iterations: list[Iteration], _: SearchOutcome) -> None:
        case, problem = searches[task]
        if on_iterations is not None:
            on_iterations(f"{case.setting.name}/{problem.name}", iterations)

    output, label = work.paths.output, cases[0].found.chunk.label
    evaluated = []
    # The folder also before the search, as it may turn out that nothing can be written there.
    with enough_room(output), _staged(output, _pieces(work)) as folder:
        outcomes = iter(
            compute.search(handle, [SearchTask(problem, case.found.rows) for case, problem in searches], on_segment)
        )
        rows = sum(images.rows for images in work.sets.values()) * len(searches)
        tick = on_rows("measure", rows)
        for case in cases:
            place = folder / case.setting.name
            _write_localised(place, len(work.seeds), work.target, case.found)
            runs = []
            for number, problem in enumerate(case.problems):
                outcome = next(outcomes)
                saved = _write_repaired(work, place / f"repaired_model_{number}", case.found, problem, outcome)
                runs.append(
                    EvaluationRun(
                        number=number,
                        seed=problem.source.seed,
                        iterations=outcome.state.swarm.iteration,
                        fitness=outcome.state.swarm.global_fitness,
                        stop=outcome.state.stop or "",
                        rates=_measured(work, compute, label, before, saved, tick),
                    )
                )
            ended = Evaluated(
                setting=case.setting,
                num_grad=case.setting.num_grad or GRADIENTS_PER_NEGATIVE * work.negatives.rows,
                weights=len(case.found.chunk.index),
                positive_weight=case.objective.positive_weight,
                runs=tuple(runs),
            )
            evaluated.append(ended)
            (place / RESULT).write_bytes(_result(work, ended).encode("utf-8", "surrogateescape"))
        write_evaluation(folder / TABLE, [row for result in evaluated for row in _table_rows(result, label)])
    return evaluated


def _searches(
    work: Evaluation, compute: Compute, handle: ModelHandle, on_rows: Progress, warn: Callable[[str], None]
) -> list[_SettingSearch]:
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
    _warn_of_others(work, rows, warn)
    ready = {}
    for key, (found, chunk, features, weights) in blamed.items():
        mine = rows
        if together is not None and features is not None:
            mine = replace(rows, inputs=np.ascontiguousarray(rows.inputs[:, np.searchsorted(together, features)]))
        ready[key] = _Found(found, chunk, weights, mine)
    cases = []
    for setting in work.settings:
        located = ready[setting.num_grad, setting.impact, setting.fronts]
        objective, problems = chunk_problems(
            located.chunk, located.rows, located.weights, work.target, setting.search, work.seeds
        )
        cases.append(_SettingSearch(setting, located, objective, problems))
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
    first = folder / "localized_data_0"
    first.mkdir(parents=True)
    target.write_localised(first, found.chunk.index, found.weights.old)
    draw_pareto_front(first / "pareto_front.png", found.localisation)
    for number in range(1, runs):
        shutil.copytree(first, folder / f"localized_data_{number}")


def _write_repaired(work: Evaluation, folder: Path, found: _Found, problem: Problem, outcome: SearchOutcome) -> Path:
    """What `optimize` writes; returns the path of the model."""
    patch = patch_of(work.target, found.chunk, problem, outcome)
    saved = save_repaired(work.model, patch, folder)
    work.target.write_localised(folder, found.chunk.index, patch.old, patch.new)
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
    with _without_words(compute):
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
    """What comes out, in the output folder: first the files of every run, then the results."""
    folders = [Path(setting.name) for setting in work.settings]
    runs = [
        folder / f"{kind}_{number}" / name
        for folder in folders
        for number in range(len(work.seeds))
        for kind, names in (
            ("localized_data", ("weights.csv", "pareto_front.png")),
            ("repaired_model", ("weights.csv", "repair")),
        )
        for name in names
    ]
    return [*runs, *(folder / RESULT for folder in folders), Path(TABLE)]


@contextmanager
def _staged(output: Path, pieces: Sequence[Path]) -> Iterator[Path]:
    """Yield a hidden folder of `output`; its `pieces` move to the same places in `output` when the body succeeds.

    On any exception, Ctrl-C included, the hidden folder goes and `output` is as before.
    """
    missing = [path for path in (output, *output.parents) if not path.exists()]
    folder = output / f".evaluate.tmp-{uuid4().hex[:12]}"
    try:
        folder.mkdir(parents=True)
        yield folder
        _move(folder, output, pieces)
    except BaseException:
        remove(folder)
        with suppress(OSError):  # somebody put something there meanwhile
            for path in missing:
                path.rmdir()
        raise
    remove(folder)


def _move(folder: Path, output: Path, pieces: Sequence[Path]) -> None:
    """Put every piece in its place. Results go first and come last: where there are some, they are of these models."""
    for piece in pieces:
        if piece.name in (RESULT, TABLE):
            remove(output / piece)
    for piece in pieces:
        place = output / piece
        place.parent.mkdir(parents=True, exist_ok=True)
        if (folder / piece).is_dir():
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
