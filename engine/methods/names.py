"""Methods as a comparison names them: `CrossFit`, or with settings as in `Arachne(objective=requirements)`."""

from __future__ import annotations

import re

from engine.core.errors import InputError
from engine.methods.registry import check_name, method_names

_WITH_SETTINGS = re.compile(r"([^()]+)\(([^()]+)\)")
_OUTSIDE = re.compile(r",(?![^()]*\))")


def read_names(text: str) -> tuple[str, ...]:
    """Names with commas between, as tables have them: spelt as the registry does, without spaces around settings.

    Raises:
        InputError: a method is unknown, or its settings are not of the form SETTING=VALUE, each once.
    """
    return tuple(_spelt(part.strip()) for part in _OUTSIDE.split(text) if part.strip())


def parsed(name: str) -> tuple[str, dict[str, str]]:
    """The method of a name, and its settings as text."""
    found = _WITH_SETTINGS.fullmatch(name)
    if found is None or name in method_names():
        return name, {}
    pairs = (part.partition("=") for part in found[2].split(","))
    return found[1], {key: value for key, _, value in pairs}


def _spelt(text: str) -> str:
    if not {"(", ")"} & set(text) or text.casefold() in map(str.casefold, method_names()):
        return check_name(text)
    found = _WITH_SETTINGS.fullmatch(text)
    pairs = [part.partition("=") for part in found[2].split(",")] if found else []
    stated = {key.strip(): value.strip() for key, _, value in pairs}
    if found is None or len(stated) < len(pairs) or not all(key and value for key, value in stated.items()):
        raise InputError(f"method {text!r} cannot be read, expected NAME or NAME(SETTING=VALUE,...), each setting once")
    return f"{check_name(found[1].strip())}({','.join(f'{key}={value}' for key, value in stated.items())})"
