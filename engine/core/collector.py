"""Python's collector of unreachable objects, and the half million objects of the libraries that stay for good."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

WORKER = "REPAIR_DIST_WORKER"
"""Environment variable that says the same as `own_process`, where the libraries come before the first call."""

_own: list[bool] = []


def own_process() -> None:
    """Say that this process is this project's alone: what `importing` makes is never looked at again, nor anything at
    its end, which would take a second. What is registered for the end happens.
    """
    if not _own:
        _own.append(True)
        atexit.register(_leave)


@contextmanager
def importing() -> Iterator[None]:
    """Import libraries in the body while the collector rests, which would take a fifth of their time."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _own or WORKER in os.environ:
            gc.freeze()
        if on:
            gc.enable()


def _leave() -> None:
    gc.disable()
    gc.freeze()
