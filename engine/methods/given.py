"""What a person may state of a method: of the search inside of it, and by its name as in `Arachne(optimiser=DE)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import combinations
from typing import Any

from engine.core.errors import InputError
from engine.core.names import listed
from engine.core.stated import stated_fields
from engine.methods.base import Method, MethodSettings
from engine.methods.mixtures import MixtureMethod
from engine.methods.registry import method_of, parsed
from engine.methods.weight_search import WeightSearch, searching
from engine.search.optimisers import OPTIMISERS
from engine.search.settings import OPTIMISER_SETTINGS, PopulationSettings, SearchSettings, own_fields

_MOVES = {each.name: each for kind in OPTIMISER_SETTINGS.values() for each in own_fields(kind).values()}

OPTIMISER = ("optimiser", *_MOVES)  # what may be stated of the optimiser of a search

_STATED = {
    each.name: each
    for each in (*stated_fields(PopulationSettings).values(), *stated_fields(SearchSettings).values(), *_MOVES.values())
}

OF_SEARCHES = ("optimiser", *(name for name, each in _STATED.items() if not each.owners))
"""What may be stated of any search."""

OF_WEIGHTS = (*OF_SEARCHES, *(name for name, each in _STATED.items() if "others" in each.owners))
"""What may be stated of searches of weights."""

OBJECTIVES = ("arachne", "loss", "requirements")
"""What a search of weights may go by, as `--objective` takes it; the others need more than a word."""


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


def with_settings(name: str, settings: MethodSettings) -> tuple[Method, MethodSettings]:
    """The method of a name, and the settings of all methods with what the name states in place of them."""
    base, stated = parsed(name)
    method = method_of(base)
    if not stated:
        return method, settings
    try:
        return _with_settings(method, settings, stated)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def check_stated(names: Sequence[str], settings: MethodSettings) -> None:
    """Refuse settings that no method can run with, and the same repair by two names."""
    known: dict[str, dict[str, Any]] = {}
    for name in names:
        base, stated = parsed(name)
        if stated:
            known.setdefault(base, {})[name] = with_settings(name, settings)
    for base, found in known.items():
        if base in names:
            found[base] = with_settings(base, settings)
        for first, second in combinations(found, 2):
            if found[first] == found[second]:
                raise InputError(f"{first} and {second} are the same, expected each method with its settings once")


def _with_settings(
    method: Method, settings: MethodSettings, stated: Mapping[str, str]
) -> tuple[Method, MethodSettings]:
    repair: Any = method.repair
    mixes = isinstance(repair, MixtureMethod)
    search = search_of(method, settings) if mixes or is_dataclass(repair) else None
    if search is not None and "optimiser" in stated:
        other = OPTIMISERS[_choice("optimiser", stated["optimiser"], tuple(OPTIMISERS))].settings()
        search = searching(search, MethodSettings(optimiser=other))
    of_swarm = () if search is None else _of_swarm(search.swarm, mixes)
    of_search = () if search is None else _of_search(method, stated.get("objective", search.objective))
    of_crossfit = _of_crossfit(method)
    possible = (*of_search, *of_swarm, *of_crossfit, *(() if search is None else ("optimiser",)))
    for key in stated:
        if not possible:
            raise InputError(f"{method.name} takes no settings, expected its name alone")
        if key not in possible:
            raise InputError(f"{key} means nothing to {method.name}, expected {listed(possible, len(possible))}")
        if settings.optimiser is not None and key != "num_particles" and key in (*of_swarm, "optimiser"):
            raise InputError(f"{key} is stated and --optimiser too, expected one of them")

    def values(of: Sequence[str], kind: type) -> dict[str, Any]:
        return {key: _value(kind, key, stated[key]) for key in of if key in stated}

    crossfit = replace(settings.crossfit, **values(of_crossfit, type(settings.crossfit)))
    if search is not None:
        swarm = replace(search.swarm, **values(of_swarm, type(search.swarm)))
        search = replace(search, swarm=swarm, **values(of_search, SearchSettings))
    if mixes:
        return method, replace(settings, crossfit=crossfit if search is None else replace(crossfit, search=search))
    if search is None:
        return method, replace(settings, crossfit=crossfit)
    repair = replace(repair, settings=search)
    if isinstance(repair, WeightSearch) and "positive_worth" in stated:
        repair = replace(repair, worths=())
    return replace(method, repair=repair), replace(settings, crossfit=crossfit, search=None, optimiser=None)


def _of_crossfit(method: Method) -> tuple[str, ...]:
    """Fields of CrossFitSettings that mean something to a method."""
    if "folds" not in method.needs:
        return ()
    repair = method.repair
    scaled = not isinstance(repair, MixtureMethod) or repair.scaled
    searches = not isinstance(repair, MixtureMethod) or repair.searches
    step, temperature = ("step",) if scaled else (), ("temperature",) if searches else ()
    return ("folds", "promise_rows", "confidence", *step, *temperature)


def _of_search(method: Method, objective: str) -> tuple[str, ...]:
    """Fields of SearchSettings that mean something to a method with a search by an objective."""
    repair = method.repair
    if isinstance(repair, MixtureMethod):
        return ("num_iterations", "min_iteration_range")
    found = ("num_iterations", "min_iteration_range", "num_input_pos_sampled")
    if objective == "rates":
        return (*found, "positive_weight")
    worth = () if objective == "requirements" else ("positive_weight", "positive_worth")
    return (*found, *worth, *(("objective",) if isinstance(repair, WeightSearch) and repair.adapt is None else ()))


def _of_swarm(swarm: PopulationSettings, mixes: bool) -> tuple[str, ...]:
    """Fields of an optimiser's settings; coefficients have no bound of a layer."""
    return tuple(field.name for field in fields(swarm) if field.init and not (mixes and field.name == "bound"))


def _value(kind: type, name: str, text: str) -> Any:
    """The value of a field of a dataclass."""
    if name == "objective":
        return _choice(name, text, OBJECTIVES)
    allowed = next(field.type for field in fields(kind) if field.name == name).split(" | ")
    if "None" in allowed and text.casefold() == "none":
        return None
    if "bool" in allowed:
        return _choice(name, text.title(), ("True", "False")) == "True"
    number = int if "int" in allowed else float
    try:
        return number(text)
    except ValueError:
        told = "a whole number" if number is int else "a number"
        raise InputError(f"{name} is {text!r}, expected {told}") from None


def _choice(name: str, text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise InputError(f"{name} is {text!r}, expected {', '.join(choices)}")
    return text
