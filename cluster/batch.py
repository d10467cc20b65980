"""Repair of many chunks and labels at once, to stated requirements, in one of three modes.

- `chain`: chunk i repairs the model that chunk i-1 left; what is returned is the best of all by validation.
- `independent`: every chunk repairs the base model; what is returned is the best single patch.
- `rounds`: every chunk repairs the best model so far; patches are merged, and the next round starts from there.

Every decision is a pure function of what the searches found, which is the same wherever they ran: an interrupted run
that goes on decides again and comes to the same end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cluster.compute import Compute, ModelHandle
from cluster.inputs import OnRows, save_repaired
from cluster.ledger import Ledger, OnJobs
from cluster.passes import ship_rows
from cluster.records import RunRecords
from cluster.reports import comparison_rows, patch_rows, prediction_rows, verdict_rows
from cluster.selection import Candidate, HeldOut, Jury, Score, ranked
from cluster.tasks import SearchSpec, Task
from engine.cases import LayerInputs
from engine.comparison import Comparison
from engine.containers import repaired_path
from engine.errors import InputError
from engine.files import remove, replace_file
from engine.head import TargetLayer
from engine.imagesets import ImageSet, check_fits_model, open_image_set
from engine.localize import Impact
from engine.models import LoadedModel, load_model
from engine.patch import Patch, patch_between
from engine.patch_file import write_patch
from engine.requirements import Requirement, Verdict, check_rows, judge, rank
from engine.search import SearchSettings
from engine.weights_file import write_weights

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Mode = Literal["chain", "independent", "rounds"]

NOT_MET = "requirements-not-met.txt"


@dataclass(frozen=True, eq=False)
class ChunkFile:
    """One chunk: its name, its folder, and its rows, or why they cannot be read."""

    name: str
    folder: Path
    images: ImageSet | None
    error: str = ""


@dataclass(frozen=True)
class Weighting:
    """A positive weight as the user gave it: `200`, or `0.15x` for each positive input."""

    text: str
    settings: SearchSettings


@dataclass(frozen=True, eq=False)
class Batch:
    """What to repair with what.

    Attributes:
        model: to repair.
        target: its layer under repair.
        chunks: repair sets.
        labels: under repair.
        weightings: settings of the searches, one for each positive weight.
        seeds: of the searches.
        mode: how the chunks work together.
        max_rounds: of mode rounds.
        offers: patches that each search offers.
        num_grad: size of the pool of localisation, or None.
        impact: forward impact of localisation.
        fronts: Pareto fronts of localisation.
        requirements: what is asked of the result.
        stated: the user stated them; otherwise they only rank the candidates.
        validation: rows that choose.
        test: rows that only measure, or None.
        positives: further rows that must not break.
        output: the run directory.
    """

    model: LoadedModel
    target: TargetLayer
    chunks: tuple[ChunkFile, ...]
    labels: tuple[int, ...]
    weightings: tuple[Weighting, ...]
    seeds: tuple[int, ...]
    mode: Mode
    max_rounds: int
    offers: int
    num_grad: int | None
    impact: Impact
    fronts: int
    requirements: tuple[Requirement, ...]
    stated: bool
    validation: ImageSet
    test: ImageSet | None
    positives: tuple[ImageSet, ...]
    output: Path

    @property
    def jobs_per_step(self) -> int:
        """Searches of one step, before chunks without failures are known."""
        chunks = 1 if self.mode == "chain" else len(self.chunks)
        return chunks * len(self.labels) * len(self.weightings) * len(self.seeds)

    @property
    def steps(self) -> int:
        """Steps at most."""
        return {"chain": len(self.chunks), "independent": 1, "rounds": self.max_rounds}[self.mode]


@dataclass(frozen=True, eq=False)
class Step:
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
    """

    model: Path
    patch: Patch
    steps: tuple[Step, ...]
    chosen: Step
    comparisons: Mapping[str, Comparison]
    verdicts: Mapping[str, tuple[Verdict, ...]]
    counts: Mapping[str, int]
    failed: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 done and met, 3 requirements not met (on test data where there is some), 4 some jobs failed."""
        if self.failed:
            return 4
        judged = self.verdicts.get("test") or self.verdicts.get("validation") or ()
        return 0 if all(verdict.met for verdict in judged) else 3


@dataclass(eq=False)
class _Run:
    """What the steps of a run share."""

    batch: Batch
    compute: Compute
    handle: ModelHandle
    ledger: Ledger
    held_out: dict[str, HeldOut]
    positives: LayerInputs | None

    def record(self, name: str, stage: str, held_out: HeldOut, comparison: Comparison) -> None:
        """Rows of the table `labels` for one model on one set of rows."""
        rows = comparison_rows(name, stage, held_out.split, comparison)
        self.ledger.records.replace("labels", f"{name}-{stage}-{held_out.split}", rows)


def open_chunks(directory: Path, input_shape: tuple[int, ...], classes: int, model: Path) -> tuple[ChunkFile, ...]:
    """The chunks of a folder: its sub-folders with `repair.h5`, by number and then by name; or the folder itself.

    A numbered folder without a readable `repair.h5` that fits the model is a chunk with an error.

    Raises:
        InputError: there is no chunk.
    """
    if not directory.is_dir():
        found = "is a file" if directory.exists() else "no such folder"
        raise InputError(f"{directory}: {found}, expected a folder of chunks as `split` writes them")
    folders = [
        folder
        for folder in directory.iterdir()
        if folder.is_dir() and (folder.name.isdecimal() or (folder / "repair.h5").exists())
    ]
    folders.sort(key=lambda each: (0, int(each.name), "") if each.name.isdecimal() else (1, 0, each.name))
    if not folders and (directory / "repair.h5").exists():
        folders = [directory]
    if not folders:
        raise InputError(f"{directory}: found no chunk, expected folders 0, 1, … with a repair.h5 each")
    chunks = [_open_chunk(folder.absolute(), input_shape, classes, model) for folder in folders]
    if all(chunk.images is None for chunk in chunks):
        raise InputError(chunks[0].error)
    return tuple(chunks)


def _open_chunk(folder: Path, input_shape: tuple[int, ...], classes: int, model: Path) -> ChunkFile:
    try:
        images = open_image_set(folder / "repair.h5")
        check_fits_model(images, input_shape, classes, model)
    except InputError as error:
        return ChunkFile(folder.name, folder, None, str(error))
    return ChunkFile(folder.name, folder, images)


def check_batch(batch: Batch) -> list[str]:
    """Refuse what cannot work, before any work starts; returns warnings.

    Raises:
        InputError: held-out rows that do not fit the model or have no rows to judge a requirement by.
    """
    model = batch.model
    for images in (batch.validation, batch.test, *batch.positives):
        if images is not None:
            check_fits_model(images, model.input_shape, model.classes, model.path)
    for images in (batch.validation, batch.test):
        if images is not None:
            check_rows(batch.requirements, np.bincount(images.labels, minlength=model.classes), images.path)
    if model.path.resolve() == repaired_path(model, batch.output).resolve():
        raise InputError(f"{model.path} is the model to repair, expected another --output-dir")
    sets = [*(chunk.images for chunk in batch.chunks), *batch.positives]
    seen = np.unique(np.concatenate([images.labels for images in sets if images is not None]))
    warnings = []
    for requirement in batch.requirements if batch.stated else ():
        missing = [label for label in requirement.labels or () if label not in seen]
        if missing and not requirement.wildcard:
            warnings.append(
                f'no repair row has label {missing[0]}, so no search can keep to "{requirement.text}"; '
                "more rows may be given with --positive-inputs-dir"
            )
    return warnings


def run_batch(
    batch: Batch,
    compute: Compute,
    open_records: Callable[[], RunRecords],
    *,
    on_rows: OnRows | None = None,
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
        InputError: held-out rows are damaged; nothing has been written.
        WorkError: the disk is full or no worker is left; the run can be resumed.
    """
    handle = compute.handle(batch.model, batch.target)
    layer = handle.runner.layer
    kernel = np.asarray(batch.target.layer.kernel, dtype=np.float32)

    def rows_of(split: str, images: ImageSet) -> LayerInputs:
        return compute.layer_inputs(handle, images, on_rows(split, images.rows) if on_rows else None)

    held_out = {}
    for split, images in (("validation", batch.validation), ("test", batch.test)):
        if images is not None:
            rows = rows_of(split, images)
            held_out[split] = HeldOut(split, images, rows, layer.predicted(layer.logits(rows.inputs, kernel)))
    positives = [rows_of("positives", images) for images in batch.positives]
    ledger = Ledger(open_records(), batch.target.path, kernel.shape, on_jobs)
    if batch.mode != "rounds":  # which may end before its last round
        ledger.plan(batch.steps, batch.steps * batch.jobs_per_step)
    run = _Run(batch, compute, handle, ledger, held_out, LayerInputs.joined(positives) if positives else None)
    steps = _steps(run, kernel)
    # The base model comes first and `max` keeps the first of equals: nothing is changed for nothing.
    chosen = max(steps, key=lambda step: step.score)
    return _finish(run, kernel, steps, chosen)


def _steps(run: _Run, kernel: Float32) -> list[Step]:
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


def _follow(run: _Run, number: int, before: Step, found: Sequence[Candidate]) -> Step:
    """The step after `before`, with the merge of what was found."""
    if not found:
        return _end_step(run, number, before.kernel, ())
    best = _jury(run, before.kernel).merged(found)
    return _end_step(run, number, best.applied(before.kernel), best.jobs)


def _jury(run: _Run, kernel: Float32) -> Jury:
    head, layer = run.batch.target.head, run.handle.runner.layer
    return Jury.of(head, layer, kernel, run.held_out["validation"], run.batch.requirements)


def _end_step(run: _Run, number: int, kernel: Float32, jobs: tuple[str, ...]) -> Step:
    """Measure what a step ended with and record it."""
    layer, labels = run.handle.runner.layer, list(run.batch.labels)
    comparisons = {}
    for split, held_out in run.held_out.items():
        after = layer.predicted(layer.logits(held_out.rows.inputs, kernel))
        comparisons[split] = held_out.compare(after)
        run.record(f"step{number}", "step", held_out, comparisons[split])
    validation = comparisons["validation"]
    score = rank(judge(run.batch.requirements, validation), validation)
    run.ledger.choose(jobs)
    told = comparisons.get("test", validation)
    correct = int(np.diagonal(told.after)[labels].sum())
    step = Step(number, kernel, jobs, score, correct, int(told.totals[labels].sum()))
    run.ledger.best(_in_words(run, validation, score))
    return step


def _in_words(run: _Run, comparison: Comparison, score: Score) -> str:
    labels = list(run.batch.labels)
    mine = np.diagonal(comparison.after)[labels].sum() / max(1, comparison.totals[labels].sum())
    everything = np.diagonal(comparison.after).sum() / comparison.totals.sum()
    met = f"{score[0]} of {len(judge(run.batch.requirements, comparison))} requirements, " if run.batch.stated else ""
    return f"{met}labels {100 * mine:.1f} %, all {100 * everything:.2f} %"


def _search(run: _Run, step: int, kernel: Float32, chunks: Sequence[ChunkFile]) -> list[Candidate]:
    """Run the searches of a step and judge what they offer; candidates that change something, best first."""
    batch, ledger = run.batch, run.ledger
    ledger.begin(step, batch.jobs_per_step)
    for chunk in chunks:
        if chunk.images is None:
            for label in batch.labels:
                ledger.fail(step, chunk.folder, label, _specs(batch, _group_name(step, chunk, label)), chunk.error)
    base = base_key(kernel, run.positives)
    tasks = tasks_of(batch, step, chunks, base, run.compute.workers, ledger.has)
    for event in run.compute.run_tasks(run.handle, kernel, run.positives, tasks, ledger.states(tasks)):
        ledger.take(event)
    groups = [_group_name(step, chunk, label) for chunk in chunks for label in batch.labels]
    return _judged(run, step, kernel, [spec.name for group in groups for spec in _specs(batch, group)])


def base_key(kernel: Float32, positives: LayerInputs | None) -> str:
    """What searches start from, beside the rows of their chunk."""
    more = "" if positives is None else positives.fingerprint
    return hashlib.sha256(np.ascontiguousarray(kernel).tobytes() + more.encode()).hexdigest()


def tasks_of(
    batch: Batch,
    step: int,
    chunks: Sequence[ChunkFile],
    base: str,
    workers: int,
    ended: Callable[[str], bool] = lambda job: False,
    prefix: str = "",
) -> list[Task]:
    """The tasks of a step on the chunks that can be read, without searches that have ended.

    A task has all searches of one label of one chunk; where there are fewer of those than two for each worker, their
    searches are divided.
    """
    readable = [chunk for chunk in chunks if chunk.images is not None]
    parts = max(1, -(-2 * workers // max(1, len(readable) * len(batch.labels))))
    tasks = []
    for chunk in readable:
        assert chunk.images is not None
        shipped = ship_rows(chunk.images)
        for label in batch.labels:
            group = prefix + _group_name(step, chunk, label)
            specs = _specs(batch, group)
            left = [spec for spec in specs if not ended(spec.name)]
            size = max(1, -(-len(left) // parts))
            for first in range(0, len(left), size):
                searches = tuple(left[first : first + size])
                tasks.append(
                    Task(
                        name=f"{group}+{specs.index(searches[0])}",
                        step=step,
                        chunk=shipped,
                        label=label,
                        searches=searches,
                        base=base,
                        num_grad=batch.num_grad,
                        impact=batch.impact,
                        fronts=batch.fronts,
                        offers=batch.offers,
                    )
                )
    return tasks


def _judged(run: _Run, step: int, kernel: Float32, jobs: Sequence[str]) -> list[Candidate]:
    """Judge what searches offer, record the best of each, and rank those that change something."""
    candidates, rows, seen = [], [], set()
    for candidate, comparison in _jury(run, kernel).measure(run.ledger.outcomes(jobs)):
        (job,) = candidate.jobs
        if job not in seen:
            rows += comparison_rows(job, "candidate", "validation", comparison)
            seen.add(job)
        if not np.array_equal(candidate.values, kernel[candidate.index[:, 0], candidate.index[:, 1]]):
            candidates.append(candidate)
    if rows:
        run.ledger.records.replace("labels", f"step{step}-candidates", rows)
    return ranked(candidates)


def _specs(batch: Batch, group: str) -> list[SearchSpec]:
    return [
        SearchSpec(f"{group}-w{weighting.text}-s{seed}", weighting.settings, seed)
        for weighting in batch.weightings
        for seed in batch.seeds
    ]


def _group_name(step: int, chunk: ChunkFile, label: int) -> str:
    return f"step{step}-chunk{chunk.name}-label{label}"


def _finish(run: _Run, kernel: Float32, steps: Sequence[Step], chosen: Step) -> BatchReport:
    """Save the chosen model, load it again, measure and judge that, and record it."""
    batch, records = run.batch, run.ledger.records
    notes = []
    patch, comparisons, after = _save_and_measure(run, kernel, chosen.kernel)
    validation = comparisons["validation"]
    if rank(judge(batch.requirements, validation), validation) < steps[0].score:
        # Rounding in the whole model may move a row across a limit; better no repair than a worse model.
        notes.append("loaded again, the repaired model is worse than the base model by the requirements: not changed")
        chosen = steps[0]
        patch, comparisons, after = _save_and_measure(run, kernel, kernel)
    verdicts = {split: judge(batch.requirements, each) for split, each in comparisons.items()} if batch.stated else {}
    for split, comparison in comparisons.items():
        held_out = run.held_out[split]
        run.record("batch", "base", held_out, held_out.compare(held_out.before))
        run.record("batch", "repaired", held_out, comparison)
        records.replace("verdicts", split, verdict_rows(split, verdicts.get(split, ())))
        labels = held_out.rows.labels
        records.replace("predictions", split, prediction_rows(split, labels, held_out.before, after[split]))
    shapes = {batch.target.path: kernel.shape}
    records.replace("patches", "batch", patch_rows("batch", 0, float("nan"), patch, shapes))
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
    )
    _mark(batch.output, report)
    return report


def _save_and_measure(
    run: _Run, base: Float32, kernel: Float32
) -> tuple[Patch, dict[str, Comparison], dict[str, Int64]]:
    batch = run.batch
    patch = patch_between(batch.target.path, base, kernel)
    saved = save_repaired(batch.model, patch, batch.output)
    index = np.stack(np.unravel_index(patch.flat_index, base.shape), axis=1).astype(np.int64).reshape(-1, 2)
    write_weights(batch.output / "weights.csv", batch.target.number, index, patch.old, patch.new)
    reloaded = run.compute.handle(load_model(saved, allow_custom_code=batch.model.allow_custom_code))
    after = {split: run.compute.predict(reloaded, held_out.images) for split, held_out in run.held_out.items()}
    return patch, {split: run.held_out[split].compare(each) for split, each in after.items()}, after


def _mark(output: Path, report: BatchReport) -> None:
    """Say beside a model that does not meet its requirements what is missing."""
    missing = [
        f"{split}: {verdict.requirement.text}: {100 * verdict.value:.2f} %, "
        f"missed by {-100 * verdict.margin:.2f} points"
        for split, verdicts in report.verdicts.items()
        for verdict in verdicts
        if not verdict.met
    ]
    if not missing:
        remove(output / NOT_MET)
        return
    with replace_file(output / NOT_MET) as temporary:
        temporary.write_text("\n".join(missing) + "\n", encoding="utf-8")
