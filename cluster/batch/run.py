"""A batch with its run directory: started, resumed, interrupted or ended, `run.json` says so."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from cluster.batch.identity import facts_of
from cluster.batch.modes import OUTPUTS, run_batch, search_part
from cluster.batch.spec import Batch, too_many_searches
from cluster.compute.compute import Compute
from cluster.records.store import RunRecords, enough_room, holds_run
from cluster.runs.ledger import OnJobs
from cluster.runs.merging import Parts
from cluster.runs.parts import end_part, ended_before
from engine.core.errors import InputError
from engine.core.files import remove
from engine.core.lock import LOCK, Lock, locked
from engine.core.progress import Progress, unseen


def run_recorded(
    batch: Batch,
    compute: Compute,
    *,
    resume: bool = False,
    overwrite: bool = False,
    parts: Parts | None = None,
    on_rows: Progress = unseen,
    on_jobs: OnJobs | None = None,
) -> int:
    """Run a batch in its directory `batch.output`; returns the exit code, see `cluster.batch.modes.BatchReport`.

    A part of a batch has 0, or 4 where some chunks could not be read: it is not judged.

    Nobody else works in the directory meanwhile, see `engine.core.lock`.

    Args:
        batch: what to do, as checked by `cluster.batch.spec.check_batch`.
        compute: where.
        resume: go on with the run in the directory, or start it; one that had come to its end stays as it is.
        overwrite: replace an earlier run.
        parts: of the same batch, which have searched it.
        on_rows: progress of row passes.
        on_jobs: called with the content of `progress.json` as it changes.

    Raises:
        InputError: there are more searches than memory holds results of; the directory is in use, or holds a run of
            something else; the parts are of another batch; or held-out rows are damaged. Nothing has been written then.
        WorkError: the disk is full or no worker is left, and the run can be resumed; or somebody else goes on with it.
    """
    if too_many := too_many_searches(batch):
        raise InputError(too_many)
    if not (resume and holds_run(batch.output)):
        RunRecords.check_new(batch.output, overwrite=overwrite)
    with locked(batch.output / LOCK, batch.output, say=compute.say) as lock:
        return _run(batch, compute, lock, resume, overwrite, parts, on_rows, on_jobs)


def _run(
    batch: Batch,
    compute: Compute,
    lock: Lock,
    resume: bool,
    overwrite: bool,
    parts: Parts | None,
    on_rows: Progress,
    on_jobs: OnJobs | None,
) -> int:
    begun = time.perf_counter()
    goes_on = resume and holds_run(batch.output)
    facts = facts_of(batch, compute)
    if batch.part is not None:
        facts = batch.part.facts(facts)
    if parts is not None:
        facts = parts.facts(facts)
    if (before := ended_before(batch.output, facts, resume=resume)) is not None:
        return int(before["exit_code"])
    opened: list[RunRecords] = []
    ends = ExitStack()

    def open_records() -> RunRecords:
        if goes_on:
            records = RunRecords.resume(batch.output, facts, lock=lock)
        else:
            records = RunRecords.create(batch.output, facts, overwrite=overwrite, lock=lock)
            for name in OUTPUTS:  # of an earlier run
                remove(batch.output / name)
        ends.enter_context(records.telling_end(facts))
        opened.append(records)
        if parts is not None:
            parts.join(records)
        return records

    with ends, enough_room(batch.output):
        if batch.part is not None:
            ledger = search_part(batch, batch.part, compute, open_records, on_rows=on_rows, on_jobs=on_jobs)
            seconds, code = ledger.earlier + time.perf_counter() - begun, 4 if ledger.failed else 0
            end_part(opened[0], {**facts, **_how(compute, seconds), "exit_code": code})
            return code
        report = run_batch(batch, compute, open_records, on_rows=on_rows, on_jobs=on_jobs)
        ended = {
            **_how(compute, report.earlier + time.perf_counter() - begun),
            "notes": list(report.notes),
            "exit_code": report.exit_code,
        }
        opened[0].compact({**facts, **ended})
    return report.exit_code


def _how(compute: Compute, seconds: float) -> dict[str, Any]:
    """What `run.json` says of how it was computed."""
    return {
        "hardware": compute.hardware_kind(),
        "placement": compute.decisions,
        "seconds": seconds,
        "redispatched": compute.redispatched,
    }
