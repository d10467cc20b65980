"""What a command shows while it works: lines and bars on standard error, results on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from engine.core.progress import Tick


class Console:
    """Progress bars that end with the command, and lines that do not cut through them."""

    def __init__(self, verbose: int) -> None:
        """With verbose 0 nothing but results is shown."""
        self._verbose = verbose
        self._bars: list[Any] = []

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars:
            bar.close()

    def say(self, line: str) -> None:
        """A line about the work."""
        if self._verbose:
            tqdm.write(line, file=sys.stderr)

    def warn(self, line: str) -> None:
        """A warning; shown whatever the verbosity."""
        tqdm.write(f"warning: {line}", file=sys.stderr)

    def rows(self, title: str, total: int | None) -> Tick:
        """A bar over rows, as an `engine.core.progress.Progress`."""
        bar = self._bar(title, total, "rows")

        def tick(count: int) -> None:
            bar.update(count)
            if total is not None and bar.n >= total:
                bar.close()

        return tick

    def iterations(self, searches: int, limit: int) -> Callable[[str, Sequence[Any]], None]:
        """A bar over the iterations of all searches, with the best fitness so far."""
        bar = self._bar("search", searches * limit, "iterations")
        best: dict[str, float] = {}

        def tick(job: str, done: Sequence[Any]) -> None:
            bar.update(len(done))
            if done:
                best[job] = done[-1].best
                bar.set_postfix_str(f"best fitness {max(best.values()):.4g}")

        return tick

    def jobs(self) -> Callable[[Mapping[str, Any]], None]:
        """A bar over the searches of a batch: how many have ended, how fast, what is best and the time left."""
        bar = self._bar("batch", None, "jobs")

        def tick(progress: Mapping[str, Any]) -> None:
            bar.total = progress["jobs"]
            if progress["steps"] != 1:
                of = f"/{progress['steps']}" if progress["steps"] else ""
                bar.set_description(f"step {progress['step']}{of}", refresh=False)
            bar.set_postfix_str(progress["best"], refresh=False)
            bar.update(progress["jobs_done"] - bar.n)

        return tick

    def _bar(self, title: str, total: int | None, unit: str) -> Any:
        # Short work shows no bar: it would flicker by.
        bar = tqdm(
            total=total,
            desc=title,
            unit=f" {unit}",
            leave=False,
            delay=0.5,
            disable=None if self._verbose else True,
        )
        self._bars.append(bar)
        return bar


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain text table: first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]))
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def label_name(label: int, names: Sequence[str] | None) -> str:
    """`6 Shirt`, or `6` where the data has no names."""
    return f"{label} {names[label]}" if names else str(label)
