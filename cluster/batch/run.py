"""A batch with its run directory: started, resumed, interrupted or ended, `run.json` says so."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cluster.batch.modes import read_batch_rows, repair_batch, search_part
from cluster.batch.spec import Batch, too_many_searches
from cluster.compute.compute import Compute
from cluster.records.store import enough_room
from cluster.runs.identity import fingerprints, run_facts
from cluster.runs.ledger import Ledger, OnJobs
from cluster.runs.outcomes import OUTPUTS
from cluster.runs.parts import Parts
from cluster.runs.recording import claimed
from engine.core.errors import InputError
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
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "part": batch.part, "parts": parts}
    with claimed(batch.output, compute, **how) as claim, enough_room(batch.output):
        facts = claim.facts(facts_of(batch, compute))
        if (before := claim.ended(facts)) is not None:
            return int(before["exit_code"])
        rows = read_batch_rows(batch, compute, on_rows)
        with claim.recorded(facts, OUTPUTS) as (records, end):
            ledger = Ledger(records, batch.target, on_jobs)
            end.earlier = ledger.earlier
            if batch.part is not None:
                search_part(batch, batch.part, compute, rows, ledger)
                code = 4 if ledger.failed else 0
            else:
                report = repair_batch(batch, compute, rows, ledger)
                end.more["notes"], code = list(report.notes), report.exit_code
            end.more |= {"redispatched": compute.redispatched, "exit_code": code}
    return code


def facts_of(batch: Batch, compute: Compute) -> dict[str, Any]:
    """What `run.json` says of a batch."""
    files = {f"chunk {chunk.name}": chunk.folder / "repair.h5" for chunk in batch.chunks}
    files |= {f"{split} data": images.path for split, images in batch.held_out.items()}
    files |= {f"positive inputs {number}": images.path for number, images in enumerate(batch.positives)}
    requirements = [requirement.text for requirement in batch.requirements]
    identity = {
        "data": fingerprints(files),
        "mode": batch.mode,
        "labels": list(batch.labels),
        "positive weights": [weighting.text for weighting in batch.weightings],
        "settings": asdict(batch.weightings[0].settings) | {"positive_weight": None, "positive_worth": None},
        "seeds": list(batch.seeds),
        "max rounds": batch.max_rounds if batch.mode == "rounds" else None,
        "merge": None if batch.mode == "independent" else batch.merge,
        "offers": batch.offers,
        "num grad": batch.num_grad,
        "impact": batch.impact,
        "fronts": batch.fronts,
        "requirements": requirements,
    }
    named = batch.test, batch.validation
    return {
        **run_facts(batch.model, batch.target, compute, batch.held_out, named, identity),
        "mode": batch.mode,
        "labels": list(batch.labels),
        "requirements": requirements if batch.stated else [],
    }
