"""What the benchmarks share: the machine they ran on, measuring side by side, results, memory and images."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.ipc

from cli.shared import console
from engine.core.files import replace_file
from engine.core.types import Float32, Int64

SHIPPED = Path(__file__).resolve().parent.parent / "cli" / "quickstart_data"
"""The quickstart's images and model."""

COMMAND = "import sys; from cli.main import main; main(sys.argv[1:])"
"""What the console script `repair-dist` runs."""

model_option = click.option(
    "--model",
    "model_path",
    type=click.Path(exists=True, resolve_path=True, path_type=Path),
    default=SHIPPED / "model.keras",
    help="Model to measure with [default: the quickstart's].",
)

dataset_option = click.option(
    "--dataset-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/usr/share/datasets/fashion-mnist"),
    show_default=True,
    help="Folder with the four IDX files of Fashion-MNIST.",
)

output_option = click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the numbers as an Arrow file, which benchmarks/plot.py draws [default: they are only printed].",
)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain text table with a line for each row, however wide."""
    return console.table(header, rows, most=400)


def machine(*packages: str) -> str:
    """Cores, processor and versions, in one line; and how busy the machine is with other work.

    Args:
        packages: others than the usual ones whose versions matter; those that are not installed are left out.
    """
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    versions = ", ".join(_versions(["tensorflow", "keras", "ray", "numpy", *packages]))
    # NumPy's matrix products are slower under it; some processors need it.
    kernel = os.environ.get("OPENBLAS_CORETYPE")
    return (
        f"machine: {os.cpu_count()} cores ({processor}), load {os.getloadavg()[0]:.1f} at start; "
        f"Python {platform.python_version()}, {versions}" + (f"; OPENBLAS_CORETYPE={kernel}" if kernel else "")
    )


def _versions(packages: Sequence[str]) -> list[str]:
    found = []
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found


def column(name: str, kind: pa.DataType, text: str, unit: str = "") -> pa.Field:
    """A column of results with its meaning and, where it has one, its unit."""
    return pa.field(name, kind, metadata={"description": text} | ({"unit": unit} if unit else {}))


def write_results(
    folder: Path | None,
    name: str,
    columns: Sequence[pa.Field],
    rows: Sequence[Mapping[str, Any]],
    line: str,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write rows as the Arrow IPC file `<folder>/<name>.arrow`, whole or not at all.

    Args:
        folder: is made where there is none; None writes nothing.
        name: of the benchmark.
        columns: see `column`; a row has a value, or None, for each.
        rows: of the table.
        line: what `machine` said; it becomes the schema's metadata.
        facts: more of that.
    """
    if folder is None:
        return
    schema = pa.schema(list(columns), metadata={"benchmark": name, "machine": line, **(facts or {})})
    path = folder / f"{name}.arrow"
    options = pa.ipc.IpcWriteOptions(compression="zstd")  # those of the study lie in the repository
    with replace_file(path) as temporary, pa.ipc.new_file(temporary, schema, options=options) as writer:
        writer.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema))
    click.echo(f"results: {path}")


@dataclass(frozen=True)
class Aim:
    """What was to be reached, and what was measured.

    Attributes:
        what: in words, with the size it is about.
        measured: in this run.
        limit: at most so much, or at least where `at_least` is set.
        at_least: bigger is better.
    """

    what: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it was reached; not by what is not a number."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


AIMS = "aims-"
"""Begins the names of files with aims; they lie beside those with results."""

AIM_COLUMNS = [
    column("what", pa.string(), "what was to be reached"),
    column("measured", pa.float64(), "in this run"),
    column("limit", pa.float64(), "at most, or at least where at_least is set"),
    column("at_least", pa.bool_(), "bigger is better"),
]


def write_aims(folder: Path | None, name: str, aims: Sequence[Aim], line: str) -> None:
    """Leave what benchmark `name` was to reach for `benchmarks/aims.py`, as `write_results` leaves its rows."""
    write_results(folder, f"{AIMS}{name}", AIM_COLUMNS, [asdict(aim) for aim in aims], line)


def read_results(path: Path) -> pa.Table:
    """What `write_results` wrote."""
    with pa.ipc.open_file(path) as reader:
        return reader.read_all()


def side_by_side(calls: Mapping[str, Callable[[], object]], rounds: int, seconds: float = 0.0) -> dict[str, float]:
    """Median seconds of each call, all called in turn in every round, after one call each to warm up.

    Short calls are repeated within a round until `seconds` have passed, after one that does not count.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(0.05)  # threads of the call before may still spin
            if seconds:
                call()  # its caches hold the data of the call before
            begun = time.perf_counter()
            while True:
                start = time.perf_counter()
                call()
                stop = time.perf_counter()
                times[name].append(stop - start)
                if stop - begun >= seconds:
                    break
    return {name: median(values) for name, values in times.items()}


def shipped_images(rows: int, preprocess: str = "pad") -> tuple[Float32, Int64]:
    """The first `rows` test images of the quickstart, float32 (n, 32, 32, 3), and their classes (n,)."""
    from engine.data.preprocess import preprocess_images
    from engine.datasets.fashion_mnist import read_split

    images, labels = read_split(SHIPPED, "t10k")
    return preprocess_images(images[:rows], preprocess), labels[:rows].astype(np.int64)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):+.{digits}f} ± {deviation:.{digits}f}"


def images_of(folder: Path, split: str) -> int:
    """How many images an official split of Fashion-MNIST has."""
    from engine.datasets.fashion_mnist import read_split

    return len(read_split(folder, split)[1])


def prepared_split(folder: Path, split: str, preprocess: str, start: int, count: int | None) -> tuple[Float32, Int64]:
    """Images of an official split of Fashion-MNIST as the model takes them, and their classes."""
    from engine.data.image_set import READ_ROWS
    from engine.data.preprocess import preprocess_images
    from engine.datasets.fashion_mnist import read_split

    images, labels = read_split(folder, split)
    part = slice(start, None if count is None else start + count)
    images, labels = images[part], labels[part]
    if count is not None and len(images) < count:
        raise click.ClickException(f"{folder} has {len(images)} training images from {start}, expected {count}")
    blocks = [images[first : first + READ_ROWS] for first in range(0, len(images), READ_ROWS)]
    return np.concatenate([preprocess_images(block, preprocess) for block in blocks]), labels.astype(np.int64)


def write_images(path: Path, blocks: Sequence[tuple[Float32, Int64]], rows: int) -> None:
    """Write blocks of images and classes, in turn and over again until there are `rows`, as an image set.

    Every repetition moves the images one pixel further to the right, so that no two rows are equal.
    """
    from engine.data.writer import write_image_set

    shape, classes = blocks[0][0].shape[1:], int(max(labels.max() for _, labels in blocks)) + 1
    with write_image_set(path, rows=rows, image_shape=shape, classes=classes) as writer:
        left, turn = rows, 0
        while left:
            for images, labels in blocks:
                count = min(len(images), left)
                moved = np.roll(images[:count], turn, axis=2)
                writer.append(moved, np.eye(classes, dtype=np.uint8)[labels[:count]])
                left -= count
            turn += 1


def run_command(command: Sequence[object], directory: Path) -> float:
    """Run a command line in a folder and return its seconds; what it prints is kept for the case that it fails."""
    begun = time.perf_counter()
    done = subprocess.run([str(word) for word in command], cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - begun


class MemoryWatch:
    """Polls the private memory of a process and of all it started; peaks in bytes by process.

    Private memory (USS) is what ending the process would free: pages that it shares, such as libraries or Ray's
    object store, do not count.
    """

    def __init__(self, pid: int, interval: float = 0.05) -> None:
        """Watch until `stop`."""
        self.peaks: dict[int, int] = {}
        self._pid, self._interval = pid, interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self._interval):
            for pid in _tree(self._pid):
                try:
                    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
                except OSError:  # it has ended
                    continue
                private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
                self.peaks[pid] = max(self.peaks.get(pid, 0), private * 1024)


def _tree(root: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
