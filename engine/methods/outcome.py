"""A repair of a grid by one method: its offers, the choice among them, and what they do to rows that chose nothing."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine import backend
from engine.core.errors import InputError, is_interruption, reason, said
from engine.core.plans import Plan, Work
from engine.core.rng import generator
from engine.core.types import Float32, Int64
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.head import Head
from engine.layers.tail_chain import Chain, TailChain, dense_of
from engine.methods.base import NOTHING, Method, MethodJob, Offer, Repair, Subject, lacking
from engine.methods.checked import changed, checked
from engine.methods.given import with_settings
from engine.metrics import against
from engine.metrics.accuracy import compare
from engine.metrics.promise import frontier_of
from engine.metrics.requirements import check_requirements
from engine.passes.batching import batched, predicted_classes
from engine.passes.sizes import PASS_ROWS
from engine.problem.case import SeenRows

FOUND, CHOSEN = against.FOUND, against.CHOSEN
"""Readings of a repair: what the method finds where nobody chooses, and what it comes to with rows of validation."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One reading of a repair."""

    offer: Offer  # the change; the one called "nothing" where no value is another
    chance: float | None  # that new rows keep all requirements; None where no row judged that it was not made from
    promised: bool | None  # the chance reaches the confidence that is asked for; None where there is no chance
    # validation, test: classes (n,) that the repaired model predicts, or None without such rows
    validation: Int64 | None
    test: Int64 | None
    changed: int  # weights whose values are others


@dataclass(frozen=True, eq=False)
class MethodOutcome:
    """How a repair by a method ended."""

    readings: Mapping[str, Reading]  # by `FOUND` and `CHOSEN`; none where it failed
    # own, best: fitness of the model as it is and of what was found, by the method's objective, where it has one
    own: float | None = None
    best: float | None = None
    seconds: float = 0.0  # of the method itself, without judging
    cpu: float = 0.0  # seconds of processor time that it took, in all threads of this process
    failed: str = ""  # why it could not run, else empty
    notes: tuple[str, ...] = ()  # what else is to be said
    promise: Any = None  # as of `engine.methods.base.Repair`


@dataclass(frozen=True)
class Cell:
    """One repair."""

    name: str  # unique within a run
    method: str  # its name, with its settings where it has some
    draw: int  # number of the draw of its rows
    seed: int  # of the draw and of everything random in the repair
    rows: int | None = None  # of the pool that are drawn; None for all
    keep: bool = False  # bring back the new values of weights too


def draw(labels: Int64, rows: int | None, seed: int, data: str) -> Int64 | None:
    """Rows (n,) of a pool, drawn without replacement by a seed and the pool's fingerprint, ascending; None for all."""
    if rows is None:
        return None
    return np.sort(generator(seed, data, -1, "rows of a draw").permutation(len(labels))[:rows])


def cell_work(subject: Subject, cell: Cell, data: str) -> Work:
    """A repair as a piece of work; `data` is the fingerprint of the pool."""
    return Work(cell.name, repair_cell, (subject, cell, data), "repair")


def repair_cell(subject: Subject, cell: Cell, data: str) -> Plan[MethodOutcome]:
    """Run one repair and judge it."""
    drawn = draw(subject.pool.labels, cell.rows, cell.seed, data)
    method, settings = with_settings(cell.method, subject.settings)
    job = MethodJob(replace(subject, settings=settings), drawn, cell.seed)
    outcome = yield from repaired(method, job)
    if cell.keep:
        return outcome
    light = {name: replace(found, offer=replace(found.offer, values={})) for name, found in outcome.readings.items()}
    return replace(outcome, readings=light, promise=None)


def repaired(method: Method, job: MethodJob) -> Plan[MethodOutcome]:
    """Run a method among others and judge what it offers; one that cannot run says why in its outcome."""
    begun = _now()
    try:
        return (yield from judged(method, job))
    except (Exception, SystemExit) as error:
        # A method of another package may raise anything, and others have work to do.
        if is_interruption(error):
            raise
        why = said(error) if isinstance(error, InputError) else f"{type(error).__name__}: {reason(error)}"
    return MethodOutcome({}, None, None, *_since(begun), failed=why)


def _now() -> tuple[float, float]:
    """Seconds on the clock, and of processor time."""
    return time.perf_counter(), time.process_time()


def _since(begun: tuple[float, float]) -> tuple[float, float]:
    seconds, cpu = _now()
    return seconds - begun[0], cpu - begun[1]


def judged(method: Method, job: MethodJob) -> Plan[MethodOutcome]:
    """Run a method and judge what it offers; what the method or its work raises is raised."""
    begun, subject = _now(), job.subject
    if why := lacking(method, subject):
        raise InputError(why)
    alone = job.alone
    repair: Repair
    if len(alone.failures):
        found = method.repair(alone)
        repair = (yield from found) if isinstance(found, Generator) else found
    else:
        labels = ", ".join(map(str, subject.repaired))
        repair = Repair([NOTHING], notes=(f"the model gets every row of label {labels} right: nothing is changed",))
    took = _since(begun)
    repair = checked(subject.chain, repair)
    first, taken = repair.offers[0], chosen(subject, repair)
    readings = {FOUND: _reading(subject, first)}
    readings[CHOSEN] = readings[FOUND] if taken is first else _reading(subject, taken)
    best = None if repair.own is None else first.fitness
    return MethodOutcome(readings, repair.own, best, *took, notes=repair.notes, promise=repair.promise)


def chosen(subject: Subject, repair: Repair) -> Offer:
    """The offer that a method takes: by its own rule, or the best on rows of validation, or without those the first.

    On rows of validation the model as it is stands for election too. Best is what keeps most requirements, then what
    gains most rows of the labels under repair, then what breaks fewest.
    """
    if repair.chosen is not None:
        return repair.offers[repair.chosen]
    validation = subject.validation
    if validation is None:
        return repair.offers[0]

    def worth(offer: Offer) -> tuple[int, int, int]:
        after = predicted(subject.chain, offer.values, validation)
        comparison = compare(validation.labels, validation.before, after, subject.chain.classes)
        met = sum(verdict.met for verdict in check_requirements(subject.requirements, comparison))
        labels = list(subject.repaired)
        gain = int((comparison.fixed - comparison.broken)[labels].sum())
        return met, gain, -int(comparison.broken.sum())

    return max((*repair.offers, NOTHING), key=worth)


def predicted(chain: Chain, values: Mapping[str, Float32], rows: SeenRows) -> Int64:
    """Classes (n,) of rows under new values (float32) of some weights, by path."""
    if not values:
        return rows.before
    placed = {path: backend.on_device(values.get(path, value)) for path, value in chain.values.items()}
    through_tail = isinstance(chain, TailChain)
    program = chain.compiled(chain.logits) if through_tail else _program(chain.head, dense_of(chain).layers)
    return predicted_classes(chain.head, batched(lambda batch: program(batch, placed), rows.rows.inputs, PASS_ROWS))


@functools.lru_cache(maxsize=4)
def _program(head: Head, layers: tuple[DenseLayer, ...]) -> Callable[..., Any]:
    """The pass of a chain, whose values are arguments: every call of a worker brings a chain of its own."""
    found: Callable[..., Any] = backend.compiled(DenseChain(head, layers, {}).logits)
    return found


def _reading(subject: Subject, offer: Offer) -> Reading:
    """Predict rows under an offer, and the chance of its requirements where it does not say so itself."""
    held_out = {
        name: None if rows is None else predicted(subject.chain, offer.values, rows)
        for name, rows in (("validation", subject.validation), ("test", subject.test))
    }
    chance, confidence = offer.chance, subject.settings.crossfit.confidence
    after = held_out["validation"]
    if chance is None and subject.validation is not None and after is not None:
        rows = subject.validation
        frontier = frontier_of(
            subject.requirements,
            rows.labels,
            rows.before,
            after[None],
            steps=(1.0,) if offer.values else (0.0,),
            confidence=confidence,
            new_rows=subject.settings.crossfit.promise_rows,
            classes=subject.chain.classes,
            fixed_step=True,
        )
        chance = frontier.point.chance
    promised = None if chance is None else chance >= confidence
    others = changed(subject.chain, offer.values)
    return Reading(offer, chance, promised, held_out["validation"], held_out["test"], others)
