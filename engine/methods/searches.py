"""The searches inside of methods, as far as they tell: what a person may state of them, and as what they then run."""

from __future__ import annotations

from engine.core.stated import stated_fields
from engine.methods.base import Method, MethodSettings
from engine.methods.mixtures import MixtureMethod
from engine.methods.weight_search import searching
from engine.search.settings import OPTIMISER_SETTINGS, PopulationSettings, SearchSettings, own_fields

_MOVES = {each.name: each for kind in OPTIMISER_SETTINGS.values() for each in own_fields(kind).values()}

OPTIMISER = ("optimiser", *_MOVES)
"""What may be stated of the optimiser of a search."""

_STATED = {
    each.name: each
    for each in (*stated_fields(PopulationSettings).values(), *stated_fields(SearchSettings).values(), *_MOVES.values())
}

OF_SEARCHES = ("optimiser", *(name for name, each in _STATED.items() if not each.owners))
"""What may be stated of any search."""

OF_WEIGHTS = (*OF_SEARCHES, *(name for name, each in _STATED.items() if "others" in each.owners))
"""What may be stated of searches of weights."""


def search_of(method: Method, settings: MethodSettings) -> SearchSettings | None:
    """The search that a method runs under settings; None where it runs none, or does not tell.

    One that mixes tunings searches as CrossFit's settings say. Any other tells by an attribute `settings` of what
    repairs, the search where a person states none.
    """
    if isinstance(method.repair, MixtureMethod):
        return settings.crossfit.search if method.repair.searches else None
    own = getattr(method.repair, "settings", None)
    return searching(own, settings) if isinstance(own, SearchSettings) else None


def stated_of(method: Method) -> tuple[str, ...]:
    """What a person may state of the search of a method; everything where it does not tell what it does."""
    if isinstance(method.repair, MixtureMethod):
        return OF_SEARCHES if method.repair.searches else ()
    return OF_WEIGHTS
