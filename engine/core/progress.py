"""How long work shows that it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Tick = Callable[[int], None]
"""Called with how much was just done."""


class Progress(Protocol):
    """Shows the progress of one piece of work after the other; a console's bars are one."""

    def __call__(self, title: str, total: int | None) -> Tick:
        """Begin a piece of work, of unknown size where `total` is None."""
        ...


def ignore(count: int) -> None:
    """The `Tick` that shows nothing."""
    del count


def unseen(title: str, total: int | None) -> Tick:
    """The `Progress` that shows nothing."""
    del title, total
    return ignore
