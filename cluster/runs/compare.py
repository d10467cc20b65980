"""Repairs by several methods from several draws of rows, judged alike on rows that chose nothing.

A method that fails is a row of the table `outcomes` that says why.
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
from cluster.runs.outcomes import run_cells
from cluster.runs.recording import claimed
from cluster.runs.repair_rows import Asked, RepairRows, labels_without_rows, method_facts, read_rows, subject_of
from engine.core.errors import InputError
from engine.core.progress import Progress, Tick, ignore, unseen
from engine.data.image_set import ImageSet
from engine.methods.base import Subject
from engine.methods.given import check_stated
from engine.methods.outcome import Cell
from engine.methods.registry import REFERENCE
from engine.metrics.requirements import check_rows
from engine.models.load import check_fits

OUTCOMES = "outcomes.arrow"
"""The table of all repairs of a run that has ended."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(Asked):
    """What to compare."""

    names: tuple[str, ...]  # of the chunks that the rows are of
    methods: tuple[str, ...]  # names, each once, with settings where they have some
    draws: int  # of repair rows, from the first seed on
    rows_of_draw: int | None  # None for all
    seed: int  # of the first draw
    test: ImageSet  # rows that judge


def check_comparison(work: Comparison) -> None:
    """Refuse what cannot work, before any row is read."""
    check_stated(work.methods, work.settings)
    for images in (*work.rows, *work.held_out.values()):
        check_fits(images, work.model)
    for images in work.held_out.values():
        check_rows(work.requirements, np.bincount(images.labels, minlength=work.model.classes), images.path)
    if lacking := labels_without_rows(work.repaired, work.test):
        raise InputError(
            f"{work.test.path}: found no rows of label {lacking[0]}, which is to be repaired, expected some to judge by"
        )
    _check_draws(work.rows_of_draw, sum(images.rows for images in work.rows))
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
        rows = read_rows(work, compute, handle, on_rows, by_features=True)
        _check_draws(work.rows_of_draw, len(rows.pool.labels), rows.unreadable)
        if not (work.repaired or rows.failing):
            raise InputError("the model gets every repair row right, expected failures to repair")
        subject = subject_of(rows, compute, work, on_rows)
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
        Cell(f"{method}-draw{draw}", method, draw, work.seed + draw, work.rows_of_draw)
        for method in work.methods
        for draw in range(work.draws)
    ]


def _facts(work: Comparison, subject: Subject, rows: RepairRows, compute: Compute) -> dict[str, Any]:
    grid = {"methods": list(work.methods), "draws": work.draws, "rows": work.rows_of_draw}
    identity = {"kind": "compare", **grid, "seed": work.seed, "chunks": list(work.names)}
    arguments = {"sets": [str(images.path) for images in work.rows]}
    return {
        **method_facts(work, subject, rows, compute, work.methods, asdict(work.settings), identity, arguments),
        "kind": "compare",
        "reference": REFERENCE if REFERENCE in work.methods else None,
        **grid,
        "pool": len(subject.pool.labels),
        "target": {path: list(value.shape) for path, value in work.chain.values.items()},
    }
