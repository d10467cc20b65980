"""Data sets that other packages bring: entry points of the group `repair_dist.datasets`.

A package states `NAME = "package.module:attribute"` there, where the attribute is an `engine.datasets.dataset.Dataset`,
and `repair-dist prepare NAME` knows it. Nothing of a package is imported before its data set is asked for, and nothing
of it runs on workers.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from engine.core.entry_points import declared, load_one
from engine.core.errors import InputError
from engine.core.names import in_words, listed

if TYPE_CHECKING:
    from engine.datasets.dataset import Dataset

GROUP = "repair_dist.datasets"


@dataclass(frozen=True)
class Plugin:
    """A data set of another package."""

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

        found = load_one(str(self), self.entries, "Dataset")
        if not isinstance(found, Dataset):
            value = self.entries[0].value
            raise InputError(f"{self} is a {type(found).__name__} ({value}), expected an engine.Dataset")
        return found


def find_plugins() -> dict[str, Plugin]:
    """Data sets of installed packages by their names with dashes for underscores, sorted; nothing is imported."""
    by_name: dict[str, list[EntryPoint]] = {}
    for entry in declared(GROUP):
        by_name.setdefault(entry.name.replace("_", "-"), []).append(entry)
    return {name: Plugin(entries[0].name, tuple(entries)) for name, entries in sorted(by_name.items())}


def _package(entry: EntryPoint) -> str:
    """Name of its package, or its module where the package has none."""
    name = None
    with contextlib.suppress(Exception):  # damaged metadata raises almost anything
        name = entry.dist.name if entry.dist else None
    return name or entry.value.partition(":")[0]
