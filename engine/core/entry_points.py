"""What installed packages declare for this project; nothing of them is imported."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from engine.core.errors import InputError, reason


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
