"""Repairs by several methods from several draws of rows, judged alike on rows that chose nothing.

Every repair is a pure function of its method, draw and seed, and has a row of its own in the table `outcomes`: a run
that was interrupted goes on with those that are missing. A method that fails is a row that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compute.compute import Compute
from cluster.records.rows import prediction_rows
from cluster.records.store import enough_room
from cluster.runs.identity import fingerprints, identity_of, run_facts
from cluster.runs.localize import checkpoint_facts
from cluster.runs.outcomes import run_cells
from cluster.runs.recording import claimed
from cluster.runs.repair_rows import RepairRows, labels_without_rows, read_rows, subject_of
from cluster.workers.origins import foreign_origins
from engine.core.errors import InputError
from engine.core.progress import Progress, Tick, ignore, unseen
from engine.data.image_set import ImageSet
from engine.layers.dense_chain import DenseChain
from engine.methods.base import MethodSettings, Subject
from engine.methods.given import check_stated
from engine.methods.outcome import Cell
from engine.methods.registry import REFERENCE
from engine.metrics.requirements import Requirement, check_rows
from engine.models.load import LoadedModel, check_fits
from engine.targets.base import Target

OUTCOMES = "outcomes.arrow"
"""The table of all repairs of a run that has ended."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What to compare."""

    model: LoadedModel  # to repair
    target: Target  # its weights under repair, whose features are cached
    chain: DenseChain  # the same as Dense layers
    sets: tuple[ImageSet, ...]  # repair rows, which are pooled
    names: tuple[str, ...]  # of the chunks that those are of
    repaired: tuple[int, ...]  # labels under repair; none for all that have failures
    requirements: tuple[Requirement, ...]  # of the result
    stated: bool  # the user stated them
    settings: MethodSettings  # of all methods
    methods: tuple[str, ...]  # names, each once, with settings where they have some
    draws: int  # of repair rows, from the first seed on
    rows: int | None  # of a draw; None for all
    seed: int  # of the first draw
    validation: ImageSet  # rows that choose within a method
    test: ImageSet  # rows that judge
    checkpoints: Path | None  # folder with checkpoints of the training, or None
    last: tuple[int, int]  # which of them are compared, from the end
    output: Path  # the run directory
    allow_shared_rows: bool = False  # as of `cluster.runs.optimize.Repairs`

    @property
    def held_out(self) -> dict[str, ImageSet]:
        return {"validation": self.validation, "test": self.test}


def check_comparison(work: Comparison) -> None:
    """Refuse what cannot work, before any row is read."""
    check_stated(work.methods, work.settings)
    for images in (*work.sets, *work.held_out.values()):
        check_fits(images, work.model)
    for images in work.held_out.values():
        check_rows(work.requirements, np.bincount(images.labels, minlength=work.model.classes), images.path)
    if lacking := labels_without_rows(work.repaired, work.test):
        raise InputError(
            f"{work.test.path}: found no rows of label {lacking[0]}, which is to be repaired, expected some to judge by"
        )
    _check_draws(work.rows, sum(images.rows for images in work.sets))
    if work.draws < 1:
        raise InputError(f"draws is {work.draws}, expected at least 1")


def _check_draws(rows: int | None, pool: int, unreadable: Mapping[Path, str] | None = None) -> None:
    if rows is not None and not 2 <= rows <= pool:
        why = f" as {next(iter(unreadable))} cannot be read" if unreadable else ""
        raise InputError(f"rows is {rows} and there are {pool} to draw from{why}, expected 2 to {pool}")


def run_comparison(
    work: Comparison,
    compute: Compute,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_rows: Progress = unseen,
    on_repairs: Callable[[int], Tick] = lambda count: ignore,
) -> None:
    """Run all repairs that have not ended and record them in `work.output`; nobody else works there meanwhile.

    Resumed, a run that had come to its end stays as it is, unless its repairs were lost.
    """
    directory = work.output
    with claimed(directory, compute, resume=resume, overwrite=overwrite) as claim, enough_room(directory):
        handle = compute.handle(work.model, work.target)
        rows = read_rows(
            compute,
            handle,
            work.chain.head,
            work.sets,
            work.held_out,
            on_rows,
            allow_shared=work.allow_shared_rows,
            judging=("validation", "test"),
            measured=False,
        )
        _check_draws(work.rows, len(rows.pool.labels), rows.unreadable)
        if not (work.repaired or rows.failing):
            raise InputError("the model gets every repair row right, expected failures to repair")
        subject = subject_of(rows, compute, work, work.settings, on_rows)
        facts = _facts(work, subject, rows, compute)
        if claim.ended(facts) is not None and (directory / OUTCOMES).is_file():
            return
        with claim.recorded(facts) as (records, end):
            assert subject.test is not None
            told = prediction_rows("test", subject.test.labels, subject.test.before, subject.test.before)
            records.replace("predictions", "test", told)  # before the repairs, for reports on a run that goes on
            end.earlier = run_cells([(subject, cells_of(work))], compute, handle, records, on_repairs)
            end.more["redispatched"] = compute.redispatched


def cells_of(work: Comparison) -> list[Cell]:
    """All repairs, method by method: what was compiled for one draw serves the next."""
    return [
        Cell(f"{method}-draw{draw}", method, draw, work.seed + draw, work.rows)
        for method in work.methods
        for draw in range(work.draws)
    ]


def _checkpoints(work: Comparison, subject: Subject) -> dict[str, str]:
    """What is compared, or why it cannot be: the row of a method that needs it says that."""
    if subject.checkpoints_error:
        return {"error": subject.checkpoints_error}
    return checkpoint_facts(work.checkpoints, work.last)


def _facts(work: Comparison, subject: Subject, rows: RepairRows, compute: Compute) -> dict[str, Any]:
    settings = asdict(work.settings)
    identity = {
        "kind": "compare",
        "methods": list(work.methods),
        "draws": work.draws,
        "rows": work.rows,
        "seed": work.seed,
        "labels": list(subject.repaired),
        "settings": settings,
        "requirements": [requirement.text for requirement in work.requirements],
        "data": subject.pool.rows.fingerprint,
        "chunks": list(work.names),
        "checkpoints": _checkpoints(work, subject),
        "foreign methods": foreign_origins(work.methods),
        "held-out data": fingerprints({split: images.path for split, images in work.held_out.items()}),
    }
    return {
        **run_facts(work.model, compute, work.held_out, [*work.held_out.values(), *work.sets]),
        "identity": identity_of(work.model, work.target, compute, identity),
        "kind": "compare",
        "reference": REFERENCE if REFERENCE in work.methods else None,
        "methods": list(work.methods),
        "draws": work.draws,
        "rows": work.rows,
        "pool": len(subject.pool.labels),
        "labels": list(subject.repaired),
        "requirements": [requirement.text for requirement in work.requirements],
        "stated": work.stated,
        "confidence": work.settings.crossfit.confidence,
        "arguments": {
            "settings": settings,
            "sets": [str(images.path) for images in work.sets],
            "compute": asdict(compute.options),
        },
        "left out": {str(path): why for path, why in rows.unreadable.items()},
        "target": {path: list(value.shape) for path, value in work.chain.values.items()},
    }
