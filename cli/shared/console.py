"""What a command shows while it works: lines and bars on standard error, results on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from engine.core.names import escaped, in_words, shortened, width
from engine.core.progress import Tick

COLUMNS = 80
"""Of the narrowest terminal."""

_RECOGNISED = 24
"""Columns in which a name can be told from others."""


class Console:
    """Progress bars that end with the command, and lines that do not cut through them."""

    def __init__(self, verbose: int) -> None:
        self._verbose = verbose
        self._bars: list[Any] = []

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars:
            bar.close()

    def say(self, line: str) -> None:
        if self._verbose:
            tqdm.write(escaped(line, keep="\n"), file=sys.stderr)

    def warn(self, line: str) -> None:
        tqdm.write(f"warning: {escaped(line)}", file=sys.stderr)

    def rows(self, title: str, total: int | None) -> Tick:
        """A bar over rows, as an `engine.core.progress.Progress`."""
        bar = self._bar(title, total, "rows")

        def tick(count: int) -> None:
            bar.update(count)
            if total is not None and bar.n >= total:
                bar.close()

        return tick

    def iterations(self, searches: int, limit: int) -> Callable[[str, int, float], None]:
        bar = self._bar("search", searches * limit, "iterations")
        best: dict[str, float] = {}

        def tick(job: str, done: int, found: float) -> None:
            bar.update(done)
            if done:
                best[job] = found
                bar.set_postfix_str(f"best fitness {max(best.values()):.4g}")

        return tick

    def tunings(self, total: int) -> Tick:
        bar = self._bar("tuning", total, "tunings")
        return lambda count: bar.update(count) and None

    def repairs(self, total: int) -> Tick:
        bar = self._bar("repair", total, "repairs")
        return lambda count: bar.update(count) and None

    def jobs(self) -> Callable[[Mapping[str, Any]], None]:
        """A bar over the searches of a batch: how many have ended, how fast, what is best and the time left."""
        bar = self._bar("batch", None, "jobs")

        def tick(progress: Mapping[str, Any]) -> None:
            bar.total = progress["jobs"]
            if progress["steps"] != 1:
                of = f"/{progress['steps']}" if progress["steps"] else ""
                bar.set_description(f"step {progress['step']}{of}", refresh=False)
            bar.set_postfix_str(escaped(progress["best"]), refresh=False)
            bar.update(progress["jobs_done"] - bar.n)

        return tick

    def _bar(self, title: str, total: int | None, unit: str) -> Any:
        # Short work shows no bar: it would flicker by.
        bar = tqdm(
            total=total, desc=title, unit=f" {unit}", leave=False, delay=0.5, disable=None if self._verbose else True
        )
        self._bars.append(bar)
        return bar


def echo(text: object, *, err: bool = False) -> None:
    """Print a result; of what a terminal would obey instead of showing it, only line feeds reach it as they are."""
    click.echo(_printable(str(text), keep="\n"), err=err)


def created(*paths: Path) -> None:
    echo("\n".join(["created files:", *(escaped(str(path)) for path in paths)]))


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], least: int = _RECOGNISED, most: int = COLUMNS
) -> str:
    """A plain text table of at most `most` columns, if those beside the names, in the first, leave room.

    Names are shortened, or stand on lines of their own where less than `least` columns would be left of them.
    """
    cells = [[_printable(str(cell)) for cell in row] for row in [header, *rows]]
    widths = [max(width(row[column]) for row in cells) for column in range(len(header))]
    room = most - sum(widths[1:]) - 2 * (len(header) - 1)
    apart = widths[0] > room and width(cells[0][0]) <= room < least
    if apart:
        widths[0] = width(cells[0][0])
    else:
        widths[0] = min(widths[0], room if room >= least else most)
    lines = []
    for row in cells:
        name = row[0]
        if apart and row is not cells[0]:
            lines.append(_fitted(name, most))
            name = ""
        aligned = (" " * (size - width(cell)) + cell for cell, size in zip(row[1:], widths[1:], strict=True))
        name = _fitted(name, widths[0])
        lines.append("  ".join([name + " " * (widths[0] - width(name)), *aligned]))
    lines.insert(1, "  ".join("-" * size for size in widths))
    return "\n".join(lines)


def label_name(label: int, names: Sequence[str] | None) -> str:
    """`6 Shirt`, or `6` where the data has no names, as a terminal can show it."""
    return f"{label} {in_words(names[label])}" if names else str(label)


def _printable(text: str, keep: str = "") -> str:
    """Text as a terminal shows it, where its encoding has not all characters too."""
    encoding = _encoding()
    return escaped(text, keep).encode(encoding, "backslashreplace").decode(encoding)


def _fitted(text: str, most: int) -> str:
    ellipsis = "…" if "…".encode(_encoding(), "replace") != b"?" else "..."
    return shortened(text, most, ellipsis)


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"
