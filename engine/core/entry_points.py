"""What installed packages declare for this project; nothing of them is imported before it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from engine.core.errors import InputError, reason
from engine.core.names import listed


def declared(group: str) -> list[EntryPoint]:
    """The entry points of a group, each once, by name and then by what they name."""
    try:
        found = entry_points(group=group)
    except Exception as error:  # a file without the form of entry points raises almost anything
        raise InputError(
            f"the entry points of the installed packages cannot be read ({type(error).__name__}: {reason(error)}), "
            f"expected them in order to find {group}"
        ) from error
    return sorted(set(found), key=lambda entry: (entry.name, entry.value))


def load_one(what: str, entries: Sequence[EntryPoint], expected: str) -> object:
    """What the entry points of one name, at least one, stand for; InputError where they are several, or it fails."""
    if len(entries) > 1:
        values = listed([entry.value for entry in entries])
        raise InputError(f"{what} is declared {len(entries)} times ({values}), expected one of this name")
    (entry,) = entries
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {reason(error)}"
        raise InputError(f"{what} cannot be imported from {entry.value} ({why}), expected a {expected}") from error
