"""Repairs by methods where they run: pure functions of their arguments, so that they may run anywhere, or twice."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engine.core.errors import InputError
from engine.methods.base import MethodJob, Subject
from engine.methods.outcome import MethodOutcome, carry_out, draw
from engine.methods.registry import METHODS, method_of, origin


@dataclass(frozen=True, eq=False)
class MethodTask:
    """One repair.

    Attributes:
        name: unique within a run.
        method: its name.
        draw: number of the draw of its rows.
        seed: of the draw and of everything random in the repair.
        rows: of the pool that are drawn; None for all.
        keep: bring back the new values of weights too.
    """

    name: str
    method: str
    draw: int
    seed: int
    rows: int | None
    keep: bool = False


def run_method(subject: Subject, task: MethodTask, data: str) -> MethodOutcome:
    """Run one repair and judge it.

    Args:
        subject: what all repairs of a run share.
        task: which repair.
        data: fingerprint of the pool.
    """
    drawn = draw(subject.pool.labels, task.rows, task.seed, data)
    outcome = carry_out(method_of(task.method), MethodJob(subject, drawn, task.seed))
    if task.keep:
        return outcome
    light = {name: replace(found, offer=replace(found.offer, values={})) for name, found in outcome.readings.items()}
    return replace(outcome, readings=light)


def missing_methods(names: Sequence[str]) -> str:
    """Why a method cannot be had in this process; empty where all can."""
    return next(filter(None, map(_missing, names)), "")


def other_methods(origins: Mapping[str, str]) -> str:
    """Why methods cannot be had in this process, or are others than those of some origins; empty where neither is.

    Args:
        origins: of methods by name, as `engine.methods.registry.origin` tells them elsewhere.
    """
    if why := missing_methods(tuple(origins)):
        return why
    for name, there in origins.items():
        here = origin(name)
        if here != there:
            return f"on {socket.gethostname()}: method {name} is of {here or 'no package'}, expected {there}"
    return ""


def foreign_origins(names: Sequence[str]) -> dict[str, str]:
    """Origins of those methods that other packages bring, by name: part of what a run is."""
    return {name: origin(name) for name in names if name not in METHODS}


def _missing(name: str) -> str:
    try:
        method_of(name)
    except InputError as error:
        return f"on {socket.gethostname()}: {error}"
    return ""
