"""Repair of many chunks and labels at once, to stated requirements, in one of three modes.

- `chain`: chunk i repairs the model that chunk i-1 left; what is returned is the best of all by validation.
- `independent`: every chunk repairs the base model; what is returned is the best single patch.
- `rounds`: every chunk repairs the best model so far; patches are merged, and the next round starts from there.

Decisions follow from what searches found, wherever they ran: so an interrupted run comes to the same end.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.batch.selection import Best, HeldOut, merged, searched
from cluster.batch.spec import Batch, ChunkFile, group_name, groups_of, jobs_of, tasks_of
from cluster.compute.compute import Compute
from cluster.records.rows import change_rows, patch_places, patches_batch
from cluster.records.store import RunRecords
from cluster.runs.ledger import Ledger, OnJobs, run_searches
from cluster.runs.outcomes import PATCH
from cluster.runs.output import mark_missing, missed, save_repaired
from cluster.runs.parts import Part
from cluster.runs.reports import Measured, label_rows, measure, record_verdicts
from cluster.runs.shared_rows import KnownRows, check_shared_rows
from cluster.workers.harvest import TaskEvent
from cluster.workers.judge import Candidate, Candidates, Judge, Score
from cluster.workers.model import ModelHandle
from cluster.workers.task import Base
from engine.core.progress import Progress, unseen
from engine.core.rng import RngKey
from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet
from engine.metrics.accuracy import Comparison
from engine.metrics.requirements import Verdict, check_requirements, rank
from engine.passes.classes import NotNumbersError, classes_of, rows_of, scores_of
from engine.patches.arrow import write_patch
from engine.patches.patch import Patch
from engine.patches.save import repaired_path
from engine.problem.case import LayerInputs

_CANDIDATE_ROWS = 65_536  # held before they are written


@dataclass(frozen=True, eq=False)
class BatchStep:
    number: int  # 0 for the base model
    kernel: Float32  # (D, C)
    jobs: tuple[str, ...]  # searches whose patches made it from the step before
    score: Score  # on validation
    correct: int  # rows of the labels under repair, on test data where there is some, else on validation
    total: int


@dataclass(frozen=True, eq=False)
class BatchReport:
    """How a batch ended.

    Attributes:
        model: path of the repaired model.
        patch: from the base model to it.
        steps: of the run, the base model first.
        chosen: the step that the model is of.
        comparisons: the saved model, loaded again, against the base model, by split.
        verdicts: by split; empty where no requirements were stated.
        counts: jobs by state.
        failed: notes of jobs that failed, by chunk.
        notes: what else is worth saying.
        earlier: seconds of interrupted commands before this one.
    """

    model: Path
    patch: Patch
    steps: tuple[BatchStep, ...]
    chosen: BatchStep
    comparisons: Mapping[str, Comparison]
    verdicts: Mapping[str, tuple[Verdict, ...]]
    counts: Mapping[str, int]
    failed: Mapping[str, str]
    notes: tuple[str, ...]
    earlier: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 done and met, 3 requirements not met (on test data where there is some), 4 some jobs failed."""
        if self.failed:
            return 4
        judged = self.verdicts.get("test") or self.verdicts.get("validation") or ()
        return 0 if all(verdict.met for verdict in judged) else 3


@dataclass(frozen=True, eq=False)
class BatchRows:
    """The model, ready to run, and rows of a batch that no chunk has; `positives` join those that must not break."""

    handle: ModelHandle
    held_out: dict[str, HeldOut]
    positives: LayerInputs | None


@dataclass(frozen=True, eq=False)
class _BatchRun:
    """What the steps of a run share."""

    batch: Batch
    compute: Compute
    rows: BatchRows
    ledger: Ledger


def run_batch(
    batch: Batch,
    compute: Compute,
    open_records: Callable[[], RunRecords],
    *,
    on_rows: Progress = unseen,
    on_jobs: OnJobs | None = None,
) -> BatchReport:
    """Repair.

    Args:
        batch: what to do, as checked by `check_batch`.
        compute: where.
        open_records: starts or resumes the run directory, once the held-out rows are known to be good.
        on_rows: progress of row passes.
        on_jobs: called with the content of `progress.json` as it changes.

    Raises:
        InputError: held-out rows are damaged, or the model's outputs for one of them are not numbers; nothing has been
            written.
        WorkError: the disk is full or no worker is left; the run can be resumed.
    """
    rows = read_batch_rows(batch, compute, on_rows)
    return repair_batch(batch, compute, rows, Ledger(open_records(), batch.target, on_jobs))


def repair_batch(batch: Batch, compute: Compute, rows: BatchRows, ledger: Ledger) -> BatchReport:
    run = _BatchRun(batch, compute, rows, ledger)
    if batch.mode != "rounds":  # which may end before its last round
        ledger.plan(batch.steps, batch.steps * batch.jobs_per_step)
    steps = _steps(run)
    # The base model comes first and `max` keeps the first of equals: nothing is changed for nothing.
    return _finish(run, steps, max(steps, key=lambda step: step.score))


def search_part(batch: Batch, part: Part, compute: Compute, rows: BatchRows, ledger: Ledger) -> None:
    """Search the chunks of a part of a batch of mode independent, and decide nothing."""
    names = part.mine(chunk.name for chunk in batch.chunks)
    chunks = [chunk for chunk in batch.chunks if chunk.name in names]
    ledger.plan(1, batch.jobs_per_step // len(batch.chunks) * len(chunks))
    compute.say(f"part {part}: {len(chunks)} of {len(batch.chunks)} chunks")
    run = _BatchRun(batch, compute, rows, ledger)
    _search(run, 1, batch.target.kernel, chunks)  # what it found is judged again beside that of the other parts


def read_batch_rows(batch: Batch, compute: Compute, on_rows: Progress) -> BatchRows:
    """Read and check the rows that choose and measure; raises InputError as `run_batch` does."""
    compute.begin()
    handle = compute.handle(batch.model, batch.target)
    compute.warm_up(handle, batch.validation)
    layer = handle.runner.layer
    kernel = batch.target.kernel

    def known(split: str, images: ImageSet) -> tuple[LayerInputs, Int64]:
        rows = compute.layer_inputs(handle, images, on_rows(split, images.rows))
        with rows_of(images.path, 0, batch.model.path):
            return rows, layer.predicted(layer.logits(rows.inputs, kernel))

    sets = [chunk.images for chunk in batch.chunks if chunk.images is not None]
    digests = compute.digests(batch.model, sets, on_rows("chunks", sum(images.rows for images in sets)))
    searched = [KnownRows({path: rows}) for path, rows in digests.items()]
    held_out = {split: HeldOut(images, *known(split, images)) for split, images in batch.held_out.items()}
    positives = [known("positives", images)[0] for images in batch.positives]
    check_shared_rows(
        [KnownRows({known.images.path: known.rows.digests}) for known in held_out.values()],
        [
            *searched,
            *(KnownRows({images.path: rows.digests}) for images, rows in zip(batch.positives, positives, strict=True)),
        ],
        allow=batch.allow_shared_rows,
        warn=compute.warn,
    )
    return BatchRows(handle, held_out, LayerInputs.joined(positives) if positives else None)


def _steps(run: _BatchRun) -> list[BatchStep]:
    """The base model and what each step made of the one before.

    As the tutorial's loop, a chain goes on from the repaired model even where it is worse.
    """
    batch = run.batch
    steps = [_end_step(run, 0, batch.target.kernel, ())]
    for number in range(1, batch.steps + 1):
        chunks = batch.chunks[number - 1 : number] if batch.mode == "chain" else batch.chunks
        found = _search(run, number, steps[-1].kernel, chunks)
        step = _follow(run, number, steps[-1], found[:1] if batch.mode == "independent" else found)
        if batch.mode == "rounds" and step.score <= steps[-1].score:
            break
        steps.append(step)
    return steps


def _follow(run: _BatchRun, number: int, before: BatchStep, found: Sequence[Candidate]) -> BatchStep:
    if not found:
        return _end_step(run, number, before.kernel, ())
    judge, layer = _judge(run, before.kernel), run.rows.handle.runner.layer
    if run.batch.merge == "search":
        settings = run.batch.weightings[0].settings
        source = RngKey(run.batch.seeds[0], f"merge of step {number} by {judge.rows.fingerprint}", -1)
        best = searched(judge, layer, found, settings, source)
    else:
        best = merged(judge, layer, found)
    return _end_step(run, number, best.applied(before.kernel), best.jobs)


def _judge(run: _BatchRun, kernel: Float32) -> Judge:
    held_out = run.rows.held_out["validation"]
    logits = run.rows.handle.runner.layer.logits(held_out.rows.inputs, kernel)
    return Judge(kernel, held_out.rows, held_out.before, logits, run.batch.requirements)


def _end_step(run: _BatchRun, number: int, kernel: Float32, jobs: tuple[str, ...]) -> BatchStep:
    layer, labels = run.rows.handle.runner.layer, list(run.batch.labels)
    comparisons = {}
    for split, held_out in run.rows.held_out.items():
        after = classes_of(scores_of(layer.head, layer.logits(held_out.rows.inputs, kernel)))
        comparisons[split] = held_out.compare(after)
        rows = change_rows(f"step{number}", "step", split, comparisons[split].changes())
        run.ledger.records.replace("labels", f"step{number}-step-{split}", rows)
    validation = comparisons["validation"]
    score = rank(check_requirements(run.batch.requirements, validation), validation)
    run.ledger.choose(jobs)
    told = comparisons.get("test", validation)
    correct = int(np.diagonal(told.after)[labels].sum())
    step = BatchStep(number, kernel, jobs, score, correct, int(told.totals[labels].sum()))
    run.ledger.best(_in_words(run, validation, score))
    return step


def _in_words(run: _BatchRun, comparison: Comparison, score: Score) -> str:
    labels = list(run.batch.labels)
    mine = np.diagonal(comparison.after)[labels].sum() / max(1, int(comparison.totals[labels].sum()))
    everything = np.diagonal(comparison.after).sum() / comparison.totals.sum()
    met = (
        f"{score[0]} of {len(check_requirements(run.batch.requirements, comparison))} requirements, "
        if run.batch.stated
        else ""
    )
    return f"{met}labels {100 * mine:.1f} %, all {100 * everything:.2f} %"


def _search(run: _BatchRun, step: int, kernel: Float32, chunks: Sequence[ChunkFile]) -> list[Candidate]:
    """Run the searches of a step, judged where they run; the best candidates that change something, best first."""
    batch, ledger = run.batch, run.ledger
    ledger.begin(step, batch.jobs_per_step)
    for chunk in chunks:
        if chunk.images is None:
            for label in batch.labels:
                jobs = list(jobs_of(batch, group_name(step, chunk, label)))
                ledger.fail(step, chunk.folder, label, jobs, chunk.error)
    judge, best = _judge(run, kernel), Best()
    _judge_again(run, step, judge, chunks, best)
    base = Base(kernel, run.rows.positives)
    tasks = tasks_of(batch, step, chunks, base.key, run.compute.workers, ledger.has)

    def keep(event: TaskEvent) -> None:
        if event.candidates is not None:
            best.add(event.candidates)

    with _old_objects_left_alone():
        run_searches(run.compute, run.rows.handle, base, tasks, ledger, keep, judge)
    return best.ranked


@contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """Python's collector does not look again and again at what the libraries hold: 0.5 s each time, as was measured."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _judge_again(run: _BatchRun, step: int, judge: Judge, chunks: Sequence[ChunkFile], best: Best) -> None:
    """Judge what searches offer that had ended before this command, as it was judged then."""
    rows: list[dict[str, Any]] = []
    parts = itertools.count()

    def write() -> None:
        if rows:
            run.ledger.records.replace("labels", f"step{step}-again-{next(parts)}", rows)
            rows.clear()

    groups = groups_of(run.batch, step, chunks) if run.ledger.goes_on else ()
    for job in (job for group, first in groups for job in jobs_of(run.batch, group, first)):
        for search in run.ledger.ended([job.name]):
            layer = run.rows.handle.runner.layer
            candidates, changes = judge.judged(layer, job.name, job.place, search.index, search.values)
            if candidates:
                best.add(Candidates.of(candidates))
            rows += change_rows(job.name, "candidate", "validation", changes)
        if len(rows) >= _CANDIDATE_ROWS:
            write()
    write()


def _finish(run: _BatchRun, steps: Sequence[BatchStep], chosen: BatchStep) -> BatchReport:
    batch, records = run.batch, run.ledger.records
    notes = []
    refused = ""
    try:
        patch, measured = _save_and_measure(run, chosen.kernel)
        validation = next(one.comparison for one in measured if one.split == "validation")
        if rank(check_requirements(batch.requirements, validation), validation) < steps[0].score:
            # Rounding in the whole model may move a row across a limit; better no repair than a worse model.
            refused = "is worse than the base model by the requirements"
    except NotNumbersError as error:
        refused = f"gives row {error.row} of {error.path} outputs that are NaN or infinite"
    if refused:
        notes.append(f"loaded again, the repaired model {refused}: not changed")
        chosen = steps[0]
        patch, measured = _save_and_measure(run, chosen.kernel)
    records.replace("labels", "batch", label_rows("batch", measured))
    verdicts = record_verdicts(records, measured, batch.requirements if batch.stated else ())
    shapes = batch.target.shapes
    saved = patches_batch({"batch": [(None, patch.new)]}, patch_places(patch, shapes))
    records.write("patches", "batch", pa.Table.from_batches([saved]))
    records.check_ours()
    write_patch(batch.output / PATCH, patch, shapes)
    mark_missing(batch.output, missed(verdicts))
    return BatchReport(
        model=repaired_path(batch.model, batch.output),
        patch=patch,
        steps=tuple(steps),
        chosen=chosen,
        comparisons={one.split: one.comparison for one in measured},
        verdicts=verdicts if batch.stated else {},
        counts=dict(run.ledger.counts),
        failed=dict(run.ledger.failed),
        notes=tuple(notes),
        earlier=run.ledger.earlier,
    )


def _save_and_measure(run: _BatchRun, kernel: Float32) -> tuple[Patch, tuple[Measured, ...]]:
    batch = run.batch
    patch = batch.target.patch_between(batch.target.kernel, kernel)
    run.ledger.records.check_ours()
    rows = next((chunk.images for chunk in batch.chunks if chunk.images is not None), None)
    saved = save_repaired(batch.model, patch, batch.output, rows)
    batch.target.write_localised(batch.output, batch.target.index_of(patch, str(saved)), patch.old, patch.new)
    sets = {split: (held_out.images, held_out.before) for split, held_out in run.rows.held_out.items()}
    return patch, measure(run.compute, batch.model, saved, sets)
