"""Repairs of one or several chunks: search, choose, save, reload, measure, record.

Decisions follow from what searches found, which is in the records: an interrupted run comes to the same end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.records.rows import patch_places
from cluster.records.store import RunRecords
from cluster.runs.chunk import Chunk, ChunkPaths, held_out_rows, open_chunk, search_rows
from cluster.runs.identity import fingerprints, run_facts
from cluster.runs.ledger import Ledger, OnJobs, divided, parts_of_groups, run_searches
from cluster.runs.localize import target_of_handle
from cluster.runs.output import check_output, measuring, save_repaired, tell_label_file
from cluster.runs.recording import recording
from cluster.runs.reports import ChunkReport, Measured, label_rows, measure
from cluster.runs.shared_rows import held_out_sets, predict_held_out
from cluster.workers.harvest import EndedSearch, TaskEvent
from cluster.workers.model import ModelHandle
from cluster.workers.task import ReadyCase, RepairTask, SearchJob
from engine.core.errors import InputError
from engine.core.progress import Progress, unseen
from engine.core.rng import RngKey
from engine.core.types import Int64
from engine.data.image_set import ImageSet
from engine.fitness.objective import Objective
from engine.fitness.rows import SearchRows, Weights
from engine.models.load import LoadedModel, check_fits
from engine.passes.classes import predicted_classes
from engine.patches.patch import NO_CHANGE, Patch
from engine.problem.case import RepairCase
from engine.problem.problem import build_fitness, goal_elsewhere, goal_of, problem_of, seen_by
from engine.search.loop import SearchSettings
from engine.targets.base import Target
from engine.targets.memory import Plan, SearchSize, check_plan

OnIterations = Callable[[str, int, float], None]
"""Called with the name of a search, how many iterations it has run meanwhile, and its best fitness so far."""


@dataclass(frozen=True, eq=False)
class Repairs:
    """What to repair with what.

    Attributes:
        model: to repair.
        target: its weights under repair.
        chunks: each is repaired on its own.
        seeds: each is a search of its own; the best of a chunk is kept.
        settings: of the searches.
        validation: rows that no search sees, which choose between the seeds; None leaves the choice to the search's
            own fitness.
        test: rows that only measure the result, or None.
        overwrite: replace an output folder that is not a repaired model, or is the input.
        allow_shared_rows: tell of rows that are held out and searched, however many; else more than a few are refused.
        label_file: `labels.json` that gets the weights of its labels and their new values, or None.
    """

    model: LoadedModel
    target: Target
    chunks: Sequence[ChunkPaths]
    seeds: Sequence[int]
    settings: SearchSettings
    validation: ImageSet | None = None
    test: ImageSet | None = None
    overwrite: bool = False
    allow_shared_rows: bool = False
    label_file: Path | None = None

    @property
    def held_out(self) -> dict[str, ImageSet]:
        """Sets that no search sees, by split."""
        return held_out_sets(self.validation, self.test)


@dataclass(frozen=True, eq=False)
class _ChunkSearch:
    """A chunk with weights to search."""

    chunk: Chunk
    ready: ReadyCase
    jobs: tuple[SearchJob, ...]  # one per seed
    objective: Objective
    plan: Plan
    validation: tuple[Objective, SearchRows] | None  # rows that choose between the seeds, and what judges there


@dataclass(frozen=True, eq=False)
class _Work:
    """What the steps of a run share."""

    repairs: Repairs
    compute: Compute
    handle: ModelHandle
    on_rows: Progress


def repair(
    repairs: Repairs,
    compute: Compute,
    open_records: Callable[[Mapping[str, Any]], RunRecords],
    *,
    on_rows: Progress = unseen,
    on_iterations: OnIterations | None = None,
    on_jobs: OnJobs | None = None,
) -> list[ChunkReport]:
    """Repair every chunk and record the run.

    Args:
        repairs: what to do.
        compute: where.
        open_records: starts the run directory from its facts, or goes on with the run there, once the input is known
            to be good.
        on_rows: progress of row passes.
        on_iterations: called with (job, how many iterations more, best fitness so far).
        on_jobs: called with the content of `progress.json` as it changes.

    Raises:
        InputError: bad input; nothing has been written.
        WorkError: the disk is full or no worker is left; the run can be resumed.
    """
    begun = time.perf_counter()
    run = _Work(repairs, compute, compute.handle(repairs.model, repairs.target), on_rows)
    chunks = _open_all(repairs)
    if any(chunk is not None and len(chunk.index) for chunk in chunks):
        compute.begin()
    cases = [_case(run, chunk) if chunk is not None and len(chunk.index) else None for chunk in chunks]
    searched = [case for case in cases if case is not None]
    _check_names([(case.chunk.paths.negatives, job.name) for case in searched for job in case.jobs])
    # Before the search, so that bad pixels are found while nothing has been written.
    sets = repairs.held_out
    known = [chunk.known for chunk in chunks if chunk is not None]
    before = predict_held_out(compute, run.handle, sets, known, on_rows, allow=repairs.allow_shared_rows)
    held_out = {split: (images, before[split]) for split, images in sets.items()}
    facts = _facts(repairs, chunks, compute)
    facts["tiles"] = [None if case is None else case.plan.facts() for case in cases]
    records = open_records(facts)
    with recording(records, facts, compute, begun) as end:
        ledger = Ledger(records, repairs.target, on_jobs)
        end.earlier = ledger.earlier
        search(compute, run.handle, [(case.ready, case.jobs) for case in searched], ledger, on_iterations)
        reports = []
        for paths, chunk, case in zip(repairs.chunks, chunks, cases, strict=True):
            report = _finish(run, paths, chunk, case, ledger, held_out)
            if report.job:
                ledger.choose([report.job])
            if report.measured:
                name = report.job or f"{chunk.data[:12] if chunk else 'none'}-{report.label}"
                records.replace("labels", name, label_rows(name, report.measured))
            reports.append(report)
            if repairs.label_file is not None and chunk is not None:
                assert repairs.settings.priorities is not None
                records.check_ours()
                labels = repairs.settings.priorities.repaired(np.unique(chunk.negatives.labels).tolist())
                tell_label_file(repairs.label_file, paths.output, labels, compute.say)
    return reports


def search(
    compute: Compute,
    handle: ModelHandle,
    cases: Sequence[tuple[ReadyCase, Sequence[SearchJob]]],
    ledger: Ledger,
    on_iterations: OnIterations | None,
) -> None:
    """Run the searches of cases that have not ended to their end, and take them down; see `cluster.runs.ledger`."""
    parts = parts_of_groups(len(cases), compute.workers)
    tasks = (
        RepairTask(name, 1, ready.folder, ready.case.label, searches, handle.key, ready, 1)
        for ready, jobs in cases
        for name, searches in divided(jobs[0].name, jobs, len(jobs), parts, ledger.has)
    )
    count = sum(len(jobs) for _, jobs in cases)
    ledger.plan(1, count)
    ledger.begin(1, count)

    def tell(event: TaskEvent) -> None:
        if on_iterations is not None:
            for segment in event.segments:
                for searched in segment.searches:
                    on_iterations(searched.name, len(searched.seconds), searched.best)

    run_searches(compute, handle, None, tasks, ledger, tell)


def _open_all(repairs: Repairs) -> list[Chunk | None]:
    model = repairs.model
    for paths in repairs.chunks:
        check_output(paths.output, model, overwrite=repairs.overwrite)
    for images in repairs.held_out.values():
        check_fits(images, model)
    return [open_chunk(paths, model, repairs.target) for paths in repairs.chunks]


def planned(
    handle: ModelHandle,
    compute: Compute,
    weights: Weights,
    rows: int,
    settings: SearchSettings,
    *,
    searches: int,
    name: str,
) -> Plan:
    """Plan searches and say it, named for people, before any row is read."""
    size = SearchSize(
        rows=rows,
        row_values=math.prod(handle.loaded.input_shape),
        classes=handle.loaded.classes,
        particles=settings.swarm.num_particles,
        tiling=settings.tiling,
        batch_rows=handle.batch_rows,
        searches=searches,
    )
    plan = target_of_handle(handle).memory_plan(weights, size)
    swarm = settings.swarm
    told = f"search: {swarm.optimiser}, {swarm.num_particles} candidates in each of at most {settings.num_iterations}"
    for sentence in (f"{told} iterations", *plan.sentences()):
        compute.say(f"{name}: {sentence}" if name else sentence)
    check_plan(plan)
    return plan


def _case(run: _Work, chunk: Chunk) -> _ChunkSearch:
    """Extract the features of a chunk and of the rows that choose for it, and set up one search per seed."""
    settings, target, held_out = run.repairs.settings, run.repairs.target, run.repairs.validation
    features, weights = target.search_weights(target.kernel, chunk.index)
    count = sum(images.rows for images in (*chunk.sets.values(), held_out) if images is not None)
    seeds, name = len(run.repairs.seeds), chunk.paths.negatives.name
    plan = planned(run.handle, run.compute, weights, count, settings, searches=seeds, name=name)
    rows = search_rows(chunk, features, run.handle, run.compute, run.on_rows)
    ready = ready_chunk(chunk, rows, weights, target, settings)
    with _named(chunk.paths.negatives):
        objective, jobs = chunk_jobs(ready, settings, run.repairs.seeds)
    validation = None
    if held_out is not None:
        others = held_out_rows(held_out, chunk.label, features, run.handle, target.head, run.compute, run.on_rows)
        with _named(held_out.path):
            validation = goal_elsewhere(ready.problem, rows, others)
    return _ChunkSearch(chunk, ready, jobs, objective, plan, validation)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which rows bad input is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def ready_chunk(
    chunk: Chunk, rows: SearchRows, weights: Weights, target: Target, settings: SearchSettings
) -> ReadyCase:
    """The case of a chunk with its search; `weights` are those of `chunk.index`."""
    case = RepairCase(chunk.label, chunk.data, chunk.index, weights, rows)
    source = RngKey(0, chunk.data, chunk.label)
    problem = problem_of(target, target.kernel, chunk.index, weights, name=chunk.data, source=source, settings=settings)
    places = patch_places(target.patch(chunk.index, weights.old, weights.old), target.shapes)
    return ReadyCase(case, problem, chunk.paths.negatives, places)


def chunk_jobs(
    ready: ReadyCase, settings: SearchSettings, seeds: Sequence[int], prefix: str = ""
) -> tuple[Objective, tuple[SearchJob, ...]]:
    """What judges the candidates of a chunk, and its searches, one per seed."""
    problem, rows = replace(ready.problem, settings=settings), ready.case.rows
    objective = goal_of(problem, seen_by(problem, rows), rows)
    weight = objective.positive_weight
    told = settings.objective if weight is None else f"w{weight:g}"
    name = f"{prefix}{ready.case.data[:12]}-{ready.case.label}-{told}"
    return objective, tuple(SearchJob(f"{name}-s{seed}", settings, seed) for seed in seeds)


def _check_names(named: Sequence[tuple[Path, str]]) -> None:
    first: dict[str, Path] = {}
    for path, name in named:
        if name in first:
            raise InputError(f"{first[name]} and {path} give the same search {name}, expected each rows and seed once")
        first[name] = path


def _finish(
    run: _Work,
    paths: ChunkPaths,
    chunk: Chunk | None,
    case: _ChunkSearch | None,
    ledger: Ledger,
    held_out: Mapping[str, tuple[ImageSet, Int64]],
) -> ChunkReport:
    """Choose among the searches of a chunk, save the patched model, load it again and measure that."""
    repairs = run.repairs
    chosen, note = _choose(run, case, ledger) if case else (None, None)
    patch = patch_of(repairs.target, case.ready, chosen) if case and chosen else NO_CHANGE
    ledger.records.check_ours()
    saved = save_repaired(repairs.model, patch, paths.output, None if chunk is None else chunk.negatives)
    if chunk is not None:
        old = repairs.target.kernel[chunk.index[:, 0], chunk.index[:, 1]]
        repairs.target.write_localised(paths.output, chunk.index, old, patch.new if len(patch) else old)
    if chunk is None:
        note = f"{paths.negatives}: the label has no failures, the model is copied unchanged"
    elif case is None:
        note = f"{paths.negatives / 'weights.csv'}: names no weights, the model is copied unchanged"
    believed = (chosen.patched, chosen.intact) if chosen else None
    sets: dict[str, tuple[ImageSet, Int64]] = {}
    if chunk is not None:
        before = _base_classes(run, case, chunk)
        sets = {split: (images, before[split]) for split, images in chunk.sets.items()}
    with measuring(saved):
        measured = measure(run.compute, repairs.model, saved, {**sets, **held_out}, run.on_rows)
    if case is not None and believed is not None:
        note = "; ".join(filter(None, (note, _disagreement(case.objective, believed, measured)))) or None
    return ChunkReport(
        paths=paths,
        label=chunk.label if chunk else -1,
        model=saved,
        patch=patch,
        job=chosen.job if chosen else None,
        objective=case.objective if case else None,
        believed=believed,
        measured=measured,
        note=note,
    )


def _disagreement(objective: Objective, believed: tuple[int, int], measured: Sequence[Measured]) -> str | None:
    """What to say where the saved model gets other rows right than the search counted; layers of float16 round much."""
    comparisons = {one.split: one.comparison for one in measured}
    counts = {split: (int(one.totals.sum()), int(np.diagonal(one.after).sum())) for split, one in comparisons.items()}
    searched = {"negative": (objective.negatives, believed[0]), "positive": (objective.positives, believed[1])}
    differing = [
        f"{counts[split][1]} of {total} {split} inputs and the search counted {correct}"
        for split, (total, correct) in searched.items()
        if split in counts and counts[split][0] == total and counts[split][1] != correct
    ]
    return f"the saved model gets {', '.join(differing)}: rows near a tie" if differing else None


def _choose(run: _Work, case: _ChunkSearch, ledger: Ledger) -> tuple[EndedSearch, str | None]:
    """The best search of a chunk, by fitness on the validation rows or else by its own, and what to note about it."""
    repairs, problem = run.repairs, case.ready.problem
    found = ledger.ended([job.name for job in case.jobs])
    if repairs.validation is None or case.validation is None:
        return max(found, key=lambda search: search.fitness), None
    judge, rows = case.validation
    candidates = np.stack([*(search.values[0] for search in found), case.ready.case.weights.old])
    fitness = judge.fitness(build_fitness(problem, rows, run.handle.tail_of(problem)).evaluate(candidates))
    # A candidate whose losses are not numbers is the worst.
    *values, unrepaired = np.where(np.isnan(fitness), -np.inf, fitness)
    choice = int(np.argmax(values))
    note = None
    if unrepaired >= values[choice]:
        note = (
            f"on {repairs.validation.path} the baseline model has the higher fitness, {unrepaired:.2f} against "
            f"{values[choice]:.2f}"
        )
        note += "" if judge.positive_weight is None else ": a larger --positive-weight breaks less"
    return found[choice], note


def patch_of(target: Target, ready: ReadyCase, search: EndedSearch) -> Patch:
    """What the best candidate of a search changes."""
    return target.patch(ready.case.index, ready.case.weights.old, search.values[0])


def _base_classes(run: _Work, case: _ChunkSearch | None, chunk: Chunk) -> dict[str, Int64]:
    """What the base model predicts for the rows of a chunk: known from its features, where there was a search."""
    if case is not None:
        return chunk.in_files(predicted_classes(run.repairs.target.head, case.ready.case.rows.logits))
    return {
        split: run.compute.predict(run.handle, images, run.on_rows(split, images.rows))
        for split, images in chunk.sets.items()
    }


def _facts(repairs: Repairs, chunks: Sequence[Chunk | None], compute: Compute) -> dict[str, Any]:
    held_out = repairs.held_out
    named = [*held_out.values(), *(chunk.negatives for chunk in chunks if chunk is not None)]
    data = [None if chunk is None else chunk.data for chunk in chunks]
    identity = {
        "data": data,
        "held-out data": fingerprints({split: images.path for split, images in held_out.items()}),
        "settings": asdict(repairs.settings),
        "seeds": list(repairs.seeds),
    }
    return {
        **run_facts(repairs.model, repairs.target, compute, held_out, named, identity),
        "arguments": {
            "settings": asdict(repairs.settings),
            "seeds": list(repairs.seeds),
            "chunks": [{key: str(value) for key, value in asdict(paths).items()} for paths in repairs.chunks],
            "compute": asdict(compute.options),
        },
        "target": {path: list(shape) for path, shape in repairs.target.shapes.items()},
        "data": data,
        "labels": sorted({chunk.label for chunk in chunks if chunk is not None and chunk.label >= 0}),
    }
