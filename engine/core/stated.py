"""Fields of settings that a person may state: what a command line says of each. Plain data, next to the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Stated:
    """How a person states a field."""

    name: str  # of the option, with underscores
    text: str  # what it does, with what it is by default where no value says that
    kind: type = int  # of its values: int, float, bool or str
    default: Any = None  # None where what is not stated follows from something else
    shown: str | bool = False  # the default in words, where it is not the same for all methods; True shows the value
    choices: tuple[str, ...] = ()  # of a str, all values
    section: str = "Search"  # of the help, "Search" or "Where it runs"
    # methods that it means something to, "others" for those without a pipeline of their own; none for all
    owners: tuple[str, ...] = ()
    need: str = ""  # that such a method must have, see `engine.methods.base.Need`
    swept: bool = False  # whether many values may be tried
    rare: bool = True  # whether only the whole help has it
    place: bool = False  # whether it says where a command runs, and nothing of what comes out
    metavar: str | None = None  # what its value is called


_KINDS = {"int": int, "float": float, "bool": bool}


def stated(default: Any, text: str, *, name: str = "", **more: Any) -> Any:
    """A field of settings that a person may state, under its own name or another; `more` as of `Stated`."""
    return field(default=default, metadata={"name": name, "text": text, "more": more})


def stated_fields(settings: type[Any]) -> dict[str, Stated]:
    """The fields of settings that may be stated, by their names."""
    found = {}
    for each in fields(settings):
        if "text" in each.metadata:
            default = None if each.default is MISSING else each.default
            kind = _KINDS.get(str(each.type).removesuffix(" | None"), str)
            words = {"kind": kind, "default": default, **each.metadata["more"]}
            found[each.name] = Stated(each.metadata["name"] or each.name, each.metadata["text"], **words)
    return found


def made(settings: type[Any], values: Mapping[str, Any], **more: Any) -> Any:
    """Settings from values by option, where None and a missing one take the default, and from `more` by field."""
    given = {each: values.get(option.name) for each, option in stated_fields(settings).items() if each not in more}
    return settings(**{each: value for each, value in given.items() if value is not None}, **more)
