"""A repair of a grid by one method: its offers, the choice among them, and what they do to rows that chose nothing."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
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
from engine.methods.given import with_settings
from engine.metrics import against
from engine.metrics.accuracy import compare
from engine.metrics.promise import frontier_of
from engine.metrics.requirements import check_requirements
from engine.passes.classes import batched, predicted_classes
from engine.passes.sizes import PASS_ROWS
from engine.problem.case import SeenRows

FOUND, CHOSEN = against.FOUND, against.CHOSEN
"""Readings of a repair: what the method finds where nobody chooses, and what it comes to with rows of validation."""


@dataclass(frozen=True, eq=False)
class Reading:
    offer: Offer  # the change; the one called "nothing" where no value is another
    chance: float | None  # that new rows keep all requirements; None where no row judged that it was not made from
    promised: bool | None  # the chance reaches the confidence that is asked for; None where there is no chance
    # validation, test: classes (n,) that the repaired model predicts, or None without such rows
    validation: Int64 | None
    test: Int64 | None
    changed: int  # weights whose values are others


@dataclass(frozen=True, eq=False)
class MethodOutcome:
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
    """`data` is the fingerprint of the pool."""
    return Work(cell.name, repair_cell, (subject, cell, data), "repair")


def repair_cell(subject: Subject, cell: Cell, data: str) -> Plan[MethodOutcome]:
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


def _now() -> tuple[float, float]:  # on the clock, and of processor time
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

    The baseline model is a candidate too. Best is what keeps most requirements, then what gains most rows of the labels
    under repair, then what breaks fewest.
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
    validation, test = (
        None if rows is None else predicted(subject.chain, offer.values, rows)
        for rows in (subject.validation, subject.test)
    )
    chance, confidence, rows = offer.chance, subject.settings.crossfit.confidence, subject.validation
    if chance is None and rows is not None and validation is not None:
        frontier = frontier_of(
            subject.requirements,
            rows.labels,
            rows.before,
            validation[None],
            steps=(1.0,) if offer.values else (0.0,),
            confidence=confidence,
            new_rows=subject.settings.crossfit.promise_rows,
            classes=subject.chain.classes,
            fixed_step=True,
        )
        chance = frontier.point.chance
    promised = None if chance is None else chance >= confidence
    return Reading(offer, chance, promised, validation, test, changed(subject.chain, offer.values))


def checked(chain: Chain, repair: object) -> Repair:
    """A repair whose offers are in float32; those that change no value are as `NOTHING`, with their fitness and chance.

    One of another package may return anything: InputError where something is not what `Repair` and `Offer` say.
    """
    if not isinstance(repair, Repair):
        raise InputError(f"the method comes to {_told(repair)}, expected a Repair")
    if not isinstance(repair.offers, Iterable):
        raise InputError(f"the method offers {_told(repair.offers)}, expected some Offers")
    offers = [_offer(chain, offer) for offer in repair.offers]
    if not offers:
        raise InputError("the method offers nothing at all, expected at least the model as it is (NOTHING)")
    own = None if repair.own is None else _number("own of the repair", repair.own)
    if own is not None and offers[0].fitness < own:
        raise InputError(
            f"the fitness of the method's first offer is {offers[0].fitness} and that of the model as it is {own}, "
            "expected no less"
        )
    return replace(repair, offers=offers, own=own, chosen=_chosen(repair.chosen, len(offers)), notes=_notes(repair))


def changed(chain: Chain, values: Mapping[str, Float32]) -> int:
    """How many values are others than those of the chain."""
    return sum(int((value != chain.values[path]).sum()) for path, value in values.items())


def _offer(chain: Chain, offer: object) -> Offer:
    if not isinstance(offer, Offer):
        raise InputError(f"the method offers {_told(offer)}, expected an Offer")
    if not _is_text(offer.name):
        raise InputError(f"the method calls an offer {_told(offer.name)}, expected text")
    if not isinstance(offer.values, Mapping):
        raise InputError(f"the values of offer {offer.name!r} are {_told(offer.values)}, expected a dict by path")
    fitness = _number(f"the fitness of offer {offer.name!r}", offer.fitness)
    chance = None if offer.chance is None else _number(f"the chance of offer {offer.name!r}", offer.chance)
    if chance is not None and not 0 <= chance <= 1:
        raise InputError(f"the chance of offer {offer.name!r} is {chance}, expected 0 to 1")
    values = {}
    for path, given in offer.values.items():
        with np.errstate(over="ignore"):  # what float32 has no room for is infinite, and refused below
            value = np.asarray(given, np.float32)
        if path not in chain.values or value.shape != chain.values[path].shape:
            expected = ", ".join(f"{known} {one.shape}" for known, one in chain.values.items())
            raise InputError(f"the method changes {path!r} {value.shape}, expected weights of {expected}")
        if not np.isfinite(value).all():
            raise InputError(f"the method sets values of {path!r} to NaN or infinity, expected numbers of float32")
        values[path] = value
    if not changed(chain, values):
        return replace(NOTHING, fitness=fitness, chance=chance)
    if offer.name == NOTHING.name:
        raise InputError(f"the method calls a change {offer.name!r}, expected a name that is not the unchanged model's")
    return replace(offer, values=values, fitness=fitness, chance=chance)


def _number(what: str, value: object) -> float:
    found = _told(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        if not math.isnan(number):
            return number
        found = "NaN"
    raise InputError(f"{what} is {found}, expected a number")


def _chosen(value: object, offers: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value < offers:
        raise InputError(f"the method chooses offer {_told(value)} of {offers}, expected 0 to {offers - 1}")
    return int(value)


def _notes(repair: Repair) -> tuple[str, ...]:
    if not isinstance(repair.notes, tuple | list):
        raise InputError(f"the notes of the method are {_told(repair.notes)}, expected a tuple of texts")
    if strange := [note for note in repair.notes if not _is_text(note)]:
        raise InputError(f"a note of the method is {_told(strange[0])}, expected text")
    return tuple(repair.notes)


def _is_text(value: object) -> bool:
    """Whether a value is text that a table can hold: lone surrogates are none."""
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode("utf-8")


def _told(value: object) -> str:
    """A value inside a sentence, or only of what kind it is."""
    return f"{value!r:.60}" if isinstance(value, str | int | float | np.integer) else f"a {type(value).__name__}"
