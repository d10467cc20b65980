"""Data sets that other packages bring: entry points of the group `repair_dist.datasets`, imported when asked for."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from engine.core.entry_points import declared, load
from engine.core.errors import InputError
from engine.core.names import in_words, listed

if TYPE_CHECKING:
    from engine.datasets.dataset import Dataset

GROUP = "repair_dist.datasets"


@dataclass(frozen=True)
class Plugin:
    name: str  # as it is declared
    # the entry points that declare it; where there are several, none of them can be had
    entries: tuple[EntryPoint, ...]

    @property
    def packages(self) -> str:
        names = list(dict.fromkeys(map(_package, self.entries)))
        return f"the package{'s' if len(names) > 1 else ''} {listed(names)}"

    def __str__(self) -> str:
        return f"data set {in_words(self.name)} of {self.packages}"

    def load(self) -> Dataset:
        from engine.datasets.dataset import Dataset

        found = load(self.entries, str(self), "Dataset")
        if not isinstance(found, Dataset):
            value = self.entries[0].value
            raise InputError(f"{self} is a {type(found).__name__} ({value}), expected an engine.Dataset")
        return found


def find_plugins() -> dict[str, Plugin]:
    """By their names with dashes for underscores, sorted; nothing is imported."""
    by_name = declared(GROUP, lambda name: name.replace("_", "-"))
    return {name: Plugin(entries[0].name, entries) for name, entries in sorted(by_name.items())}


def _package(entry: EntryPoint) -> str:
    name = None
    with contextlib.suppress(Exception):  # damaged metadata raises almost anything
        name = entry.dist.name if entry.dist else None
    return name or entry.value.partition(":")[0]
