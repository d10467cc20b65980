"""Results of work as bytes, for a run that goes on: a NumPy archive of arrays, and how they stand in plain values."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.errors import InputError


def pack(name: str, value: Any) -> bytes:
    """A result: None, numbers, texts, arrays, and lists, tuples and dicts of these; else InputError, which names it."""
    arrays: list[Any] = []

    def plain(value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            arrays.append(value)
            return {"array": len(arrays) - 1}
        if isinstance(value, list | tuple):
            return {"list" if isinstance(value, list) else "tuple": [plain(one) for one in value]}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": {key: plain(one) for key, one in value.items()}}
        raise InputError(
            f"{name} comes to a {type(value).__name__}, expected numbers, texts, arrays, and lists, tuples and dicts "
            "of these"
        )

    form = json.dumps(plain(value))
    with io.BytesIO() as content:
        np.savez(content, form=np.array(form, np.str_), **{str(number): array for number, array in enumerate(arrays)})
        return content.getvalue()


def unpack(path: Path) -> tuple[bool, Any]:
    """Whether there is a result in a file, and that; a file that is damaged holds none."""
    if not path.is_file():
        return False, None
    try:
        # Opened here: of a damaged archive NumPy leaves the file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return True, _value(json.loads(str(arrays["form"])), arrays)
    except Exception:  # what the readers of archives and arrays raise for damaged bytes is anything
        return False, None


def _value(form: Any, arrays: Any) -> Any:
    if not isinstance(form, dict):
        return form
    ((kind, inside),) = form.items()
    if kind == "array":
        array = arrays[str(inside)]
        return array if array.ndim else array[()]
    if kind == "dict":
        return {key: _value(one, arrays) for key, one in inside.items()}
    found = [_value(one, arrays) for one in inside]
    return found if kind == "list" else tuple(found)
