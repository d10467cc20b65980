"""Pieces of work that do not depend on each other, here or wherever a caller has them done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

P = TypeVar("P")
R = TypeVar("R")


class ParallelMap(Protocol):
    """Calls `function` with every piece and yields (piece, result) in any order; see `in_process`.

    `function` and pieces must be picklable; a piece may be done twice, or again in this process where files are missed.
    """

    def __call__(self, function: Callable[[P], R], pieces: Iterable[P], count: int) -> Iterator[tuple[P, R]]: ...


def in_process(function: Callable[[P], R], pieces: Iterable[P], count: int) -> Iterator[tuple[P, R]]:
    del count
    for piece in pieces:
        yield piece, function(piece)
