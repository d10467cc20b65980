"""Runs of long benchmarks as lines of JSON, so that one that was interrupted goes on where it was."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
from scipy.special import stdtrit

Line = Mapping[str, Any]


class Ledger:
    """Lines of a file, each one run, of which some columns together are the name."""

    def __init__(self, path: Path | None, key: Sequence[str], before: Line | None = None) -> None:
        """Read the file where there is one; None keeps lines in memory alone.

        `before` has columns that lines of an earlier version lack, as these lines mean them. A last line that was cut
        short is taken away, and made again.
        """
        self._path, self._key = path, tuple(key)
        content = path.read_bytes() if path is not None and path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if path is not None and len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        lines = [{**(before or {}), **json.loads(line)} for line in whole.splitlines()]
        self._lines = {self._name(line): line for line in lines}

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All runs."""
        return list(self._lines.values())

    def has(self, **name: Any) -> bool:
        """Whether a run is there already."""
        return self._name(name) in self._lines

    def add(self, **line: Any) -> None:
        """Keep a run, in the file at once."""
        self._lines[self._name(line)] = line
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _name(self, line: Line) -> tuple[Any, ...]:
        return tuple(line[column] for column in self._key)


out_option = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of lines of JSON, one for each run; runs that it has are not made again [default: only tables].",
)

tables_option = click.option("--tables", is_flag=True, help="Print the tables of --out and run nothing.")


def grouped(lines: Iterable[Line], *columns: str) -> dict[tuple[Any, ...], list[Line]]:
    """Lines by the values of some columns, sorted by those."""
    found: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
    for line in lines:
        found[tuple(line[column] for column in columns)].append(line)
    return dict(sorted(found.items()))


def paired_interval(
    ours: Mapping[tuple[int, int], float], others: Mapping[tuple[int, int], float]
) -> tuple[float, float] | None:
    """Mean difference between two ways, by label and draw, and half of its interval; see `mean_interval`.

    Pairs are of one label and draw; where there are several labels each draw counts once, with its mean over them.
    """
    by_draw = defaultdict(list)
    for (label, draw), value in ours.items():
        if (label, draw) in others:
            by_draw[draw].append(value - others[label, draw])
    return mean_interval([mean(differences) for differences in by_draw.values()])


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Mean of values, and half of the width of its 95 % interval by Student's t; None of fewer than two."""
    if len(values) < 2:
        return None
    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / len(values) ** 0.5
    return mean(values), half
