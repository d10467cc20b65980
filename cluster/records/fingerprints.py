"""Fingerprints of work, by which a run that goes on knows that a kept result is of the same work."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from engine.core.plans import Work


def fingerprint(work: Work) -> str:
    """SHA-256 of what work calls and with what; of what is no plain value and no dataclass, the type counts."""
    return _digest((work.call, work.args)).hex()


# Digests of frozen dataclasses that are compared by identity: much work may share one.
_SHARED: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()


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
