"""Results of work as bytes, for a run that goes on: a NumPy archive of arrays, and how they stand in plain values.

And fingerprints of work, by which such a run knows that a result is that of the work it has before it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from engine.core.errors import InputError
from engine.core.plans import Work


def pack(name: str, value: Any) -> bytes:
    """The result of a piece of work.

    Args:
        name: of the work, for the error.
        value: None, numbers, texts, arrays, and lists, tuples and dicts (with texts as keys) of these.

    Raises:
        InputError: it is something else.
    """
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


def fingerprint(work: Work) -> str:
    """SHA-256 of what a piece of work calls and with what; of what is no plain value and no dataclass, the type counts.

    The same for an argument that a plan was sent and for the same value out of `unpack`.
    """
    return _digest((work.call, work.args)).hex()


_SHARED: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()
"""Digests of frozen dataclasses that are compared by identity: much work may share one."""


def _digest(value: Any) -> bytes:
    if isinstance(value, np.ndarray | np.generic) and not isinstance(value, float | str) and value.dtype != object:
        content = np.ascontiguousarray(value).view(np.uint8).data
        return _hashed(f"{value.dtype.str} {value.shape}".encode(), content)
    if isinstance(value, float):  # of NumPy too
        return _hashed(b"float", float(value).hex().encode())
    if value is None or isinstance(value, bool | int | str | bytes):
        return _hashed(repr(value).encode())
    if isinstance(value, list | tuple):
        return _hashed(b"list" if isinstance(value, list) else b"tuple", *map(_digest, value))
    if isinstance(value, Mapping):
        return _hashed(b"dict", *(_digest(pair) for pair in value.items()))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        named = value if hasattr(value, "__qualname__") else type(value)
        return _hashed(f"{named.__module__}.{named.__qualname__}".encode())
    kind: Any = type(value)
    shared = kind.__eq__ is object.__eq__ and kind.__dataclass_params__.frozen and hasattr(value, "__weakref__")
    if shared and value in _SHARED:
        return _SHARED[value]
    parts = (_digest(getattr(value, field.name)) for field in dataclasses.fields(value))
    digest = _hashed(kind.__qualname__.encode(), *parts)
    if shared:
        _SHARED[value] = digest
    return digest


def _hashed(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(f"{[len(part) for part in parts]}".encode())
    for part in parts:
        digest.update(part)
    return digest.digest()
