"""Names from data files that become names of files and folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.core.errors import InputError

_LONGEST = 255  # bytes, the limit of common file systems


def plain_name(value: Any, what: str, path: Path) -> str:
    """`value` if it names a single file or folder inside whatever folder it is joined to."""
    plain = (
        isinstance(value, str)
        and value.isprintable()
        and not value.startswith(".")
        and not set(value) & set("/\\")
        and 0 < len(value.encode("utf-8", "surrogatepass")) <= _LONGEST
    )
    if not plain:
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}…"
        raise InputError(f"{path}: {what} is {shown}, expected a plain name that can be a file's or a folder's")
    return str(value)
