"""Repairs of a grid: each by one method, from one draw of rows, with one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.core.plans import Plan, Work
from engine.methods.base import MethodJob, Subject
from engine.methods.given import with_settings
from engine.methods.outcome import MethodOutcome, draw, repaired


@dataclass(frozen=True)
class Cell:
    """One repair."""

    name: str  # unique within a run
    method: str  # its name, with its settings where it has some
    draw: int  # number of the draw of its rows
    seed: int  # of the draw and of everything random in the repair
    rows: int | None = None  # of the pool that are drawn; None for all
    keep: bool = False  # bring back the new values of weights too


def repair_cell(subject: Subject, cell: Cell, data: str) -> Plan[MethodOutcome]:
    """Run one repair and judge it.

    Args:
        subject: what all repairs of a run share.
        cell: which repair.
        data: fingerprint of the pool.
    """
    drawn = draw(subject.pool.labels, cell.rows, cell.seed, data)
    method, settings = with_settings(cell.method, subject.settings)
    job = MethodJob(replace(subject, settings=settings), drawn, cell.seed)
    outcome = yield from repaired(method, job)
    if cell.keep:
        return outcome
    light = {name: replace(found, offer=replace(found.offer, values={})) for name, found in outcome.readings.items()}
    return replace(outcome, readings=light, promise=None)


def cell_work(subject: Subject, cell: Cell, data: str) -> Work:
    """A repair as a piece of work."""
    return Work(cell.name, repair_cell, (subject, cell, data), "repair")
