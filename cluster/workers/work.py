from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.core.errors import InputError, reason


@dataclass(frozen=True, eq=False)
class SentWork:
    """A piece of work as it travels; see `engine.core.plans.Work`."""

    call: Callable[..., Any]
    args: tuple[Any, ...]  # those that others share come as references
    model: bool
    origins: Mapping[str, str]  # of the methods of other packages that it is of, by name


def this_process() -> str:
    """Host and process id, as tables name who ran something."""
    return f"{socket.gethostname()}:{os.getpid()}"


def travelling(error: BaseException) -> Exception:
    """An error as it travels back: itself, or where it cannot be packed and unpacked, its kind and message."""
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:  # its class is somebody else's
        again = None
    return again if isinstance(again, Exception) else InputError(f"{type(error).__name__}: {reason(error)}")


def size_of(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return sum(map(size_of, vars(value).values())) if hasattr(value, "__dataclass_fields__") else 64
