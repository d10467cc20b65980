"""What installed packages declare for this project; nothing of them is imported before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from engine.core.errors import InputError, reason
from engine.core.names import listed


def declared(group: str, name_of: Callable[[str], str] = str) -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of a group, each once and sorted, by what `name_of` makes of their names."""
    try:
        found = entry_points(group=group)
    except Exception as error:  # a file without the form of entry points raises almost anything
        raise InputError(
            f"the entry points of the installed packages cannot be read ({type(error).__name__}: {reason(error)}), "
            f"expected them in order to find {group}"
        ) from error
    by_name: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in sorted(set(found), key=lambda entry: (entry.name, entry.value)):
        name = name_of(entry.name)
        by_name[name] = (*by_name.get(name, ()), entry)
    return by_name


def load(entries: tuple[EntryPoint, ...], what: str, kind: str) -> object:
    """What the only one of `entries` names, imported; messages call it `what`, and `kind` what it should be."""
    if len(entries) > 1:
        values = listed([entry.value for entry in entries])
        raise InputError(f"{what} is declared {len(entries)} times ({values}), expected one of this name")
    (entry,) = entries
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {reason(error)}"
        raise InputError(f"{what} cannot be imported from {entry.value} ({why}), expected a {kind}") from error
