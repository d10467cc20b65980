"""Pieces of work of which none is divided: tunings, and repairs by methods."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from cluster.workers.pool import WorkerPool

T = TypeVar("T")
E = TypeVar("E")


@dataclass(frozen=True, eq=False)
class Whole(Generic[T, E]):
    """How tasks of a kind are run; their results do not depend on where.

    Attributes:
        what: they are, in words.
        here: runs one in this process.
        there: runs some on workers, in any order.
    """

    what: str
    here: Callable[[T], E]
    there: Callable[[WorkerPool, Sequence[T]], Iterator[E]]


def this_process() -> str:
    """Host and process id, as tables name who ran something."""
    return f"{socket.gethostname()}:{os.getpid()}"
