"""Repair of many chunks and labels at once, to stated requirements, in one of three modes.

- `chain`: chunk i repairs the model that chunk i-1 left; what is returned is the best of all by validation.
- `independent`: every chunk repairs the base model; what is returned is the best single patch.
- `rounds`: every chunk repairs the best model so far; patches are merged, and the next round starts from there.

Patches are merged greedily, or by a search of how much of each is taken; see `cluster.batch.selection`.

Every decision is a pure function of what the searches found, which is the same wherever they ran: an interrupted run
that goes on decides again and comes to the same end.
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

from cluster.batch.selection import Best, HeldOut, merged, searched
from cluster.batch.spec import Batch, ChunkFile, group_name, groups_of, jobs_of, tasks_of
from cluster.compute.compute import Compute
from cluster.records.rows import change_rows, patch_rows, prediction_rows, verdict_rows
from cluster.records.store import RunRecords
from cluster.runs.ledger import Ledger, OnJobs
from cluster.runs.output import NOT_MET_FILE, mark_missing, missed, save_repaired
from cluster.runs.parts import Part
from cluster.runs.shared_rows import KnownRows, check_shared_rows
from cluster.runs.tasks import blocks
from cluster.workers.judge import Candidate, Candidates, Judge, Score
from cluster.workers.model import ModelHandle
from cluster.workers.task import Base
from engine.core.progress import Progress, unseen
from engine.core.rng import RngKey
from engine.core.types import Float32, Int64
from engine.data.image_set import ImageSet
from engine.metrics.accuracy import Comparison
from engine.metrics.requirements import Verdict, check_requirements, rank
from engine.models.known_data import REPAIR_FACTS
from engine.models.load import load_model
from engine.passes.classes import NotNumbersError, classes_of, rows_of, scores_of
from engine.patches.arrow import write_patch
from engine.patches.patch import Patch
from engine.patches.save import repaired_path
from engine.problem.case import LayerInputs

_CANDIDATE_ROWS = 65_536  # held before they are written

OUTPUTS = ("repair", REPAIR_FACTS, "patch.arrow", "weights.csv", "weights.arrow", NOT_MET_FILE)
"""What a batch leaves in its directory beside the records."""


@dataclass(frozen=True, eq=False)
class BatchStep:
    """What a step ended with.

    Attributes:
        number: 0 for the base model.
        kernel: (D, C).
        jobs: searches whose patches made it from the step before.
        score: on validation.
        correct, total: rows of the labels under repair, on test data where there is some, else on validation.
    """

    number: int
    kernel: Float32
    jobs: tuple[str, ...]
    score: Score
    correct: int
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


@dataclass(eq=False)
class _BatchRun:
    """What the steps of a run share."""

    batch: Batch
    compute: Compute
    handle: ModelHandle
    ledger: Ledger
    held_out: dict[str, HeldOut]
    positives: LayerInputs | None

    def record(self, name: str, stage: str, held_out: HeldOut, comparison: Comparison) -> None:
        """Rows of the table `labels` for one model on one set of rows."""
        rows = change_rows(name, stage, held_out.split, comparison.changes())
        self.ledger.records.replace("labels", f"{name}-{stage}-{held_out.split}", rows)


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
    run = _opened(batch, compute, open_records, on_rows, on_jobs)
    kernel = batch.target.kernel
    if batch.mode != "rounds":  # which may end before its last round
        run.ledger.plan(batch.steps, batch.steps * batch.jobs_per_step)
    steps = _steps(run, kernel)
    # The base model comes first and `max` keeps the first of equals: nothing is changed for nothing.
    chosen = max(steps, key=lambda step: step.score)
    return _finish(run, kernel, steps, chosen)


def search_part(
    batch: Batch,
    part: Part,
    compute: Compute,
    open_records: Callable[[], RunRecords],
    *,
    on_rows: Progress = unseen,
    on_jobs: OnJobs | None = None,
) -> Ledger:
    """Search the chunks of a part of a batch of mode independent, and decide nothing; returns its books.

    Args:
        batch: all of it.
        part: which part.
        compute, open_records, on_rows, on_jobs: as of `run_batch`.

    Raises:
        InputError, WorkError: as `run_batch` does.
    """
    run = _opened(batch, compute, open_records, on_rows, on_jobs)
    names = part.mine(chunk.name for chunk in batch.chunks)
    chunks = [chunk for chunk in batch.chunks if chunk.name in names]
    run.ledger.plan(1, batch.jobs_per_step // len(batch.chunks) * len(chunks))
    compute.say(f"part {part}: {len(chunks)} of {len(batch.chunks)} chunks")
    _search(run, 1, batch.target.kernel, chunks)  # what it found is judged again beside that of the other parts
    return run.ledger


def _opened(
    batch: Batch,
    compute: Compute,
    open_records: Callable[[], RunRecords],
    on_rows: Progress,
    on_jobs: OnJobs | None,
) -> _BatchRun:
    """Read and check the rows that choose and measure, and open the records."""
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
    held_out = {}
    for split, images in (("validation", batch.validation), ("test", batch.test)):
        if images is not None:
            held_out[split] = HeldOut(split, images, *known(split, images))
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
    ledger = Ledger(open_records(), batch.target, on_jobs)
    return _BatchRun(batch, compute, handle, ledger, held_out, LayerInputs.joined(positives) if positives else None)


def _steps(run: _BatchRun, kernel: Float32) -> list[BatchStep]:
    batch = run.batch
    steps = [_end_step(run, 0, kernel, ())]
    if batch.mode == "chain":
        for number, chunk in enumerate(batch.chunks, start=1):
            found = _search(run, number, steps[-1].kernel, [chunk])
            # As the tutorial's loop, the chain goes on from the repaired model even where it is worse.
            steps.append(_follow(run, number, steps[-1], found))
        return steps
    if batch.mode == "independent":
        found = _search(run, 1, kernel, batch.chunks)
        steps.append(_follow(run, 1, steps[-1], found[:1]))
        return steps
    for number in range(1, batch.max_rounds + 1):
        found = _search(run, number, kernel, batch.chunks)
        step = _follow(run, number, steps[-1], found)
        if step.score <= steps[-1].score:
            break
        steps.append(step)
        kernel = step.kernel
    return steps


def _follow(run: _BatchRun, number: int, before: BatchStep, found: Sequence[Candidate]) -> BatchStep:
    """The step after `before`, with the merge of what was found."""
    if not found:
        return _end_step(run, number, before.kernel, ())
    judge, layer = _judge(run, before.kernel), run.handle.runner.layer
    if run.batch.merge == "search":
        settings = run.batch.weightings[0].settings
        source = RngKey(run.batch.seeds[0], f"merge of step {number} by {judge.rows.fingerprint}", -1)
        best = searched(judge, layer, found, settings, source)
    else:
        best = merged(judge, layer, found)
    return _end_step(run, number, best.applied(before.kernel), best.jobs)


def _judge(run: _BatchRun, kernel: Float32) -> Judge:
    held_out = run.held_out["validation"]
    logits = run.handle.runner.layer.logits(held_out.rows.inputs, kernel)
    return Judge(kernel, held_out.rows, held_out.before, logits, run.batch.requirements)


def _end_step(run: _BatchRun, number: int, kernel: Float32, jobs: tuple[str, ...]) -> BatchStep:
    """Measure what a step ended with and record it."""
    layer, labels = run.handle.runner.layer, list(run.batch.labels)
    comparisons = {}
    for split, held_out in run.held_out.items():
        after = classes_of(scores_of(layer.head, layer.logits(held_out.rows.inputs, kernel)))
        comparisons[split] = held_out.compare(after)
        run.record(f"step{number}", "step", held_out, comparisons[split])
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
    base = Base(kernel, run.positives)
    tasks = tasks_of(batch, step, chunks, base.key, run.compute.workers, ledger.has)
    with _old_objects_left_alone(), ledger.flushing():
        for block in blocks(tasks):
            for event in run.compute.run_tasks(run.handle, base, block, ledger.begun(block), judge):
                ledger.take(event)
                if event.candidates is not None:
                    best.add(event.candidates)
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
            candidates, changes = judge.judged(
                run.handle.runner.layer, job.name, job.place, search.index, search.values
            )
            if candidates:
                best.add(Candidates.of(candidates))
            rows += change_rows(job.name, "candidate", "validation", changes)
        if len(rows) >= _CANDIDATE_ROWS:
            write()
    write()


def _finish(run: _BatchRun, kernel: Float32, steps: Sequence[BatchStep], chosen: BatchStep) -> BatchReport:
    """Save the chosen model, load it again, measure and judge that, and record it."""
    batch, records = run.batch, run.ledger.records
    notes = []
    refused = ""
    try:
        patch, comparisons, after = _save_and_measure(run, kernel, chosen.kernel)
        validation = comparisons["validation"]
        if rank(check_requirements(batch.requirements, validation), validation) < steps[0].score:
            # Rounding in the whole model may move a row across a limit; better no repair than a worse model.
            refused = "is worse than the base model by the requirements"
    except NotNumbersError as error:
        refused = f"gives row {error.row} of {error.path} outputs that are NaN or infinite"
    if refused:
        notes.append(f"loaded again, the repaired model {refused}: not changed")
        chosen = steps[0]
        patch, comparisons, after = _save_and_measure(run, kernel, kernel)
    verdicts = (
        {split: check_requirements(batch.requirements, comparison) for split, comparison in comparisons.items()}
        if batch.stated
        else {}
    )
    for split, comparison in comparisons.items():
        held_out = run.held_out[split]
        run.record("batch", "base", held_out, held_out.compare(held_out.before))
        run.record("batch", "repaired", held_out, comparison)
        records.replace("verdicts", split, verdict_rows(split, verdicts.get(split, ())))
        labels = held_out.rows.labels
        records.replace("predictions", split, prediction_rows(split, labels, held_out.before, after[split]))
    shapes = batch.target.shapes
    records.replace("patches", "batch", patch_rows("batch", 0, None, patch, shapes))
    records.check_ours()
    write_patch(batch.output / "patch.arrow", patch, shapes)
    report = BatchReport(
        model=repaired_path(batch.model, batch.output),
        patch=patch,
        steps=tuple(steps),
        chosen=chosen,
        comparisons=comparisons,
        verdicts=verdicts,
        counts=dict(run.ledger.counts),
        failed=dict(run.ledger.failed),
        notes=tuple(notes),
        earlier=run.ledger.earlier,
    )
    mark_missing(batch.output, missed(report.verdicts))
    return report


def _save_and_measure(
    run: _BatchRun, base: Float32, kernel: Float32
) -> tuple[Patch, dict[str, Comparison], dict[str, Int64]]:
    batch = run.batch
    patch = batch.target.patch_between(base, kernel)
    run.ledger.records.check_ours()
    rows = next((chunk.images for chunk in batch.chunks if chunk.images is not None), None)
    saved = save_repaired(batch.model, patch, batch.output, rows)
    batch.target.write_localised(batch.output, batch.target.index_of(patch, str(saved)), patch.old, patch.new)
    reloaded = run.compute.handle(load_model(saved, allow_custom_code=batch.model.allow_custom_code))
    after = {split: run.compute.predict(reloaded, held_out.images) for split, held_out in run.held_out.items()}
    return patch, {split: run.held_out[split].compare(predicted) for split, predicted in after.items()}, after
