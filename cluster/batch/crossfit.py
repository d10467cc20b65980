"""CrossFit on the rows of many chunks, which are pooled: one mixture for all labels, or a repair for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cluster.batch.modes import OUTPUTS
from cluster.batch.spec import ChunkFile
from cluster.compute.compute import Compute
from cluster.records.store import RunRecords, enough_room, holds_run
from cluster.runs.crossfit import CrossFitRepair, CrossFitReport, check_repair, ready_repair
from cluster.runs.crossfit_rows import RepairRows, read_rows
from cluster.runs.crossfit_run import carry_out, tune_part
from cluster.runs.merging import Parts
from cluster.runs.optimize import OnIterations
from cluster.runs.parts import Part, ended_before
from cluster.runs.shared_rows import refuse_one_file
from cluster.workers.model import ModelHandle
from engine.core.errors import InputError
from engine.core.files import remove
from engine.core.lock import LOCK, locked
from engine.core.progress import Progress, Tick, ignore, unseen


@dataclass(frozen=True, eq=False)
class CrossFitBatch:
    """What to repair with what.

    Attributes:
        repair: of all labels asked for, with the rows of all chunks that could be opened; without labels, of all that
            have failures.
        chunks: as they were found, those that could not be opened too.
        separate: repair every label on its own, in `label-<n>` below the output of `repair`.
        part: run the tunings of this part alone, and decide nothing; not with `separate`.
    """

    repair: CrossFitRepair
    chunks: tuple[ChunkFile, ...]
    separate: bool
    part: Part | None = None


@dataclass(frozen=True, eq=False)
class PooledRows:
    """The rows of all chunks, and the model that has seen them."""

    handle: ModelHandle
    rows: RepairRows


def check_crossfit_batch(batch: CrossFitBatch) -> None:
    """Refuse what cannot work, before any row is read.

    Raises:
        InputError: as `check_repair` does; or held-out rows are those of a chunk, or labels are repaired on their own
            below the directory of a run.
    """
    repair = batch.repair
    if not repair.allow_shared_rows:
        refuse_one_file([images.path for images in repair.held_out.values()], [images.path for images in repair.rows])
    if batch.separate and holds_run(repair.output):
        raise InputError(f"{repair.output}: a run is there already, expected a new name for one of each label")
    check_repair(repair)


def read_chunks(batch: CrossFitBatch, compute: Compute, on_rows: Progress = unseen) -> PooledRows:
    """Read the rows of all chunks, but for those that cannot be read.

    Raises:
        InputError: no chunk can be read, held-out rows cannot, or they are rows of chunks too.
    """
    repair = batch.repair
    handle = compute.handle(repair.model, repair.target)
    rows = read_rows(
        compute,
        handle,
        repair.chain.head,
        repair.rows,
        repair.held_out,
        on_rows,
        allow_shared=repair.allow_shared_rows,
        leave_out=True,
    )
    unreadable = {
        chunk.folder: chunk.error if chunk.images is None else rows.unreadable[chunk.images.path]
        for chunk in batch.chunks
        if chunk.images is None or chunk.images.path in rows.unreadable
    }
    return PooledRows(handle, replace(rows, unreadable=unreadable))


def repairs_of(batch: CrossFitBatch, rows: RepairRows) -> tuple[CrossFitRepair, ...]:
    """The repairs of a batch: one of all its labels, or one of each.

    Raises:
        InputError: no row has a label that was asked for.
    """
    repair = batch.repair
    labels = repair.repaired or rows.failing
    missing = sorted(set(labels) - set(rows.pooled.labels.tolist()))
    if missing:
        raise InputError(f"no repair row has label {missing[0]}, which is to be repaired, expected some")
    if not batch.separate:
        return (replace(repair, repaired=labels),)
    return tuple(replace(repair, repaired=(label,), output=repair.output / f"label-{label}") for label in labels)


def run_recorded(
    batch: CrossFitBatch,
    repair: CrossFitRepair,
    pooled: PooledRows,
    compute: Compute,
    *,
    resume: bool = False,
    overwrite: bool = False,
    parts: Parts | None = None,
    on_rows: Progress = unseen,
    on_tunings: Callable[[int], Tick] = lambda count: ignore,
    on_iterations: OnIterations | None = None,
) -> CrossFitReport | None:
    """Run one of the repairs in its directory, `repair.output`; nobody else works there meanwhile.

    Args:
        batch: of the repair.
        repair: one of `repairs_of`.
        pooled: as `read_chunks` read them.
        compute: where.
        resume: go on with the run in the directory, or start it.
        overwrite: replace an earlier run.
        parts: of the same repair, which have tuned.
        on_rows, on_tunings, on_iterations: as of `cluster.runs.crossfit_run.repair_crossfit`.

    Returns:
        None of a part, and where the run in the directory had come to its end, which stays as it is; its `run.json`
        says how it ended.

    Raises:
        InputError: the directory is in use, or holds a run of something else, or the parts are of another repair;
            nothing has been written then. Or the weights of a tuning did not stay finite.
        WorkError: the disk is full or no worker is left, and the run can be resumed; or somebody else goes on with it.
    """
    directory, names = repair.output, [chunk.name for chunk in batch.chunks]
    left_out = [chunk.name for chunk in batch.chunks if chunk.folder in pooled.rows.unreadable]
    ready = ready_repair(repair, pooled.rows, compute, pooled.handle, {"chunks": names, "left out": left_out})
    if batch.part is not None:
        ready = replace(ready, facts=batch.part.facts(ready.facts))
    if parts is not None:
        ready = replace(ready, facts=parts.facts(ready.facts))
    if not (resume and holds_run(directory)):
        RunRecords.check_new(directory, overwrite=overwrite)
    with locked(directory / LOCK, directory, say=compute.say) as lock, enough_room(directory):
        if ended_before(directory, ready.facts, resume=resume) is not None:
            return None
        if resume and holds_run(directory):
            records = RunRecords.resume(directory, ready.facts, lock=lock)
        else:
            records = RunRecords.create(directory, ready.facts, overwrite=overwrite, lock=lock)
            for name in OUTPUTS:  # of an earlier run
                remove(directory / name)
        if batch.part is not None:
            tune_part(ready, batch.part, compute, records, on_tunings=on_tunings)
            return None
        if parts is not None:
            with records.telling_end(ready.facts):
                parts.join(records)
        return carry_out(ready, compute, records, on_rows=on_rows, on_tunings=on_tunings, on_iterations=on_iterations)
