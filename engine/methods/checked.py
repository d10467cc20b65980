"""What a method came to, as it must be before anything is made of it: one of another package may return anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Real

import numpy as np

from engine.core.errors import InputError
from engine.core.types import Float32
from engine.layers.tail_chain import Chain
from engine.methods.base import NOTHING, Offer, Repair


def checked(chain: Chain, repair: object) -> Repair:
    """A repair whose offers are in float32; those that change no value are as `NOTHING`, with their fitness and chance.

    Raises InputError where this is no repair, or something in it is not what `Repair` and `Offer` say.
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
