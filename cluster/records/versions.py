"""Versions of what a run computes with."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable

from engine import backend

# Those that decide the bits of a result; the other backend is none of them.
DECIDING = (*{"tensorflow": ["tensorflow"], "jax": ["jax", "jaxlib"]}[backend.name], "keras", "numpy", "repair-dist")


def versions(names: Iterable[str] = (*DECIDING, "ray", "pyarrow", "h5py")) -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
