"""Methods of other packages where they run: whether they can be had there, and are the same."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from engine.core.errors import InputError
from engine.methods.registry import METHODS, method_of, origin, parsed


def missing_methods(names: Sequence[str]) -> str:
    """Why a method cannot be had in this process; empty where all can."""
    try:
        for name in names:
            method_of(parsed(name)[0])
    except InputError as error:
        return f"on {socket.gethostname()}: {error}"
    return ""


def other_methods(origins: Mapping[str, str]) -> str:
    """Why methods, by name with their origins elsewhere, cannot be had or are others here; empty where neither is."""
    if why := missing_methods(tuple(origins)):
        return why
    for name, there in origins.items():
        here = origin(parsed(name)[0])
        if here != there:
            return f"on {socket.gethostname()}: method {name} is of {here or 'no package'}, expected {there}"
    return ""


def foreign_origins(names: Sequence[str]) -> dict[str, str]:
    """Origins of those methods that other packages bring, by name: part of what a run is."""
    return {name: origin(base) for name in names if (base := parsed(name)[0]) not in METHODS}
