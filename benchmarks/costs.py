"""Cost of one iteration against particles, rows, weights and classes, with the floor that this machine allows.

python benchmarks/costs.py [--factor FACTOR ...] [--output FOLDER]

The floor counts what the touched-units algorithm cannot do without, and divides it by rates measured here with as many
threads: bytes read and written once by the rate of copying memory, multiply-adds by that of a large matrix product,
exponentials by that of computing nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from common import column, machine, output_option, side_by_side, table, write_results
from problems import Job, Size, check, drawn, exact, iterations

from engine import backend
from engine.backend import ops

BASE = Size(rows=1000, weights=16, classes=10, units=8)
FACTORS: dict[str, tuple[Size, ...]] = {
    "particles": tuple(replace(BASE, particles=value) for value in (10, 30, 100, 300, 1000)),
    "rows": tuple(replace(BASE, rows=value) for value in (100, 300, 1000, 3000, 10_000, 30_000)),
    "weights": tuple(replace(BASE, weights=value) for value in (8, 16, 32, 64, 256, 1024)),
    "units": tuple(replace(BASE, weights=64, classes=100, units=value) for value in (1, 2, 4, 8, 16, 64)),
    "classes": tuple(replace(BASE, classes=value) for value in (10, 100, 1000, 10_000)),
}
"""One factor at a time; everything else stays as it is."""


@dataclass(frozen=True)
class Work:
    """What an evaluation cannot do without."""

    bytes: int
    multiply_adds: int
    exponentials: int


@dataclass(frozen=True)
class Peak:
    """What this machine does in a second, with all the threads that the fitness has."""

    bytes: float
    multiply_adds: float
    exponentials: float

    def floor(self, work: Work) -> float:
        """Seconds: bytes move while the processor computes, but products and exponentials wait for each other."""
        computing = work.multiply_adds / self.multiply_adds + work.exponentials / self.exponentials
        return max(work.bytes / self.bytes, computing)


def last_dense_work(job: Job) -> Work:
    """Of the touched-units formula, for all P particles.

    Read: the inputs of the K weights, the U touched logits and three numbers of each row, and the changes; written:
    four sums per particle. Each weight moves a logit of each row. Each touched logit has its exponential, and so have
    the others together; the logarithm counts as one more.
    """
    size, particles = job.size, len(job.candidates)
    columns = len(np.unique(job.weights.feature))
    values = size.rows * (columns + size.units + 3) + particles * size.weights
    return Work(
        4 * values + 8 * 4 * particles,
        particles * size.rows * size.weights,
        particles * size.rows * (size.units + 2),
    )


PROBLEMS: dict[str, tuple[Callable[[Size], Job], Callable[[Job], Work]]] = {"last Dense": (drawn, last_dense_work)}
"""Target layers: how to make a job of a size, and what it needs at least."""

COLUMNS = (
    column("problem", pa.string(), "target layer"),
    column("factor", pa.string(), "what differs between the rows of one chart"),
    column("value", pa.int64(), "of the factor"),
    column("particles", pa.int64(), "candidates of an iteration", "candidates"),
    column("rows", pa.int64(), "rows a candidate is judged on", "rows"),
    column("weights", pa.int64(), "weights that a candidate changes", "weights"),
    column("classes", pa.int64(), "output units of the model", "units"),
    column("units", pa.int64(), "output units that the weights belong to", "units"),
    column("fitness", pa.float64(), "median time of the fitness of all candidates", "s"),
    column("iteration", pa.float64(), "median time of an iteration, the moves of the swarm included", "s"),
    column("bytes", pa.int64(), "bytes that must move", "B"),
    column("multiply_adds", pa.int64(), "multiply-adds that must be done", "multiply-adds"),
    column("exponentials", pa.int64(), "exponentials and logarithms that must be computed", "exponentials"),
    column("floor", pa.float64(), "time of those at the rates measured", "s"),
    column("ratio", pa.float64(), "fitness / floor", "1"),
    column("peak_bytes", pa.float64(), "memory copied per second, read and written", "B/s"),
    column("peak_multiply_adds", pa.float64(), "multiply-adds per second of a large product", "1/s"),
    column("peak_exponentials", pa.float64(), "exponentials per second", "1/s"),
)


@click.command()
@click.option("--factor", "factors", type=click.Choice(list(FACTORS)), multiple=True, help="Factors [default: all].")
@click.option("--problem", type=click.Choice(list(PROBLEMS)), multiple=True, help="Target layers [default: all].")
@click.option("--rounds", type=int, default=5, show_default=True, help="Rounds of the medians.")
@output_option
def main(factors: tuple[str, ...], problem: tuple[str, ...], rounds: int, output: Path | None) -> None:
    """Time one factor at a time, on drawn rows and weights."""
    line = machine()
    click.echo(line)
    peak = measure_peak()
    click.echo(
        f"measured here: {peak.bytes / 1e9:.1f} GB/s copied (read and written), "
        f"{peak.multiply_adds / 1e9:.0f} G multiply-adds/s, {peak.exponentials / 1e9:.2f} G exponentials/s\n"
        f"medians of {rounds} rounds; floor: the larger of bytes and of multiply-adds with exponentials at these "
        "rates\n"
    )
    rows: list[dict[str, Any]] = []
    for name in problem or PROBLEMS:
        for factor in factors or FACTORS:
            rows += one_factor(name, factor, peak, rounds)
    write_results(output, "costs", COLUMNS, rows, line)


def one_factor(name: str, factor: str, peak: Peak, rounds: int) -> list[dict[str, Any]]:
    """Time all values of a factor in turn, print the table, and return the rows."""
    make, work_of = PROBLEMS[name]
    jobs = {getattr(size, factor): make(size) for size in FACTORS[factor]}
    calls: dict[str, Callable[[], object]] = {}
    for value, job in jobs.items():
        fitness = job.fitness()
        check(f"{name}, {factor} {value}", fitness.evaluate(job.candidates), exact(job))
        calls[f"fitness {value}"] = partial(fitness.evaluate, job.candidates)
        calls[f"iteration {value}"] = iterations(job, fitness)
    times = side_by_side(calls, rounds, 0.1)
    rows, cells = [], []
    for value, job in jobs.items():
        size, work = job.size, work_of(job)
        seconds, iteration, floor = times[f"fitness {value}"], times[f"iteration {value}"], peak.floor(work)
        rows.append(
            {
                "problem": name,
                "factor": factor,
                "value": value,
                "particles": len(job.candidates),
                "rows": size.rows,
                "weights": size.weights,
                "classes": size.classes,
                "units": size.units,
                "fitness": seconds,
                "iteration": iteration,
                "bytes": work.bytes,
                "multiply_adds": work.multiply_adds,
                "exponentials": work.exponentials,
                "floor": floor,
                "ratio": seconds / floor,
                "peak_bytes": peak.bytes,
                "peak_multiply_adds": peak.multiply_adds,
                "peak_exponentials": peak.exponentials,
            }
        )
        parts = (
            work.bytes / peak.bytes,
            work.multiply_adds / peak.multiply_adds,
            work.exponentials / peak.exponentials,
            floor,
        )
        cells.append(
            [
                f"{value:,}",
                f"{1e3 * seconds:,.3f}",
                f"{1e3 * iteration:,.3f}",
                *(f"{1e3 * part:,.4f}" for part in parts),
                f"{seconds / floor:,.1f}",
            ]
        )
    base = next(iter(jobs.values())).size
    same = {"P": "particles", "n": "rows", "K": "weights", "C": "classes", "U": "units"}
    fixed = ", ".join(f"{letter} {getattr(base, what):,}" for letter, what in same.items() if what != factor)
    click.echo(f"{name}, {fixed}; milliseconds")
    header = [factor, "fitness", "iteration", "bytes", "multiply-adds", "exponentials", "floor", "fitness / floor"]
    click.echo(table(header, cells) + "\n")
    return rows


def measure_peak(threads: int | None = None) -> Peak:
    """Memory copied, a large matrix product and exponentials; medians of 5.

    Args:
        threads: of this process; None is as many as there are cores.
    """
    threads = threads or os.cpu_count() or 1
    source = np.ones(1 << 25, np.float32)  # 128 MiB: far beyond the caches
    target = np.empty_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    side = 2048
    matrix = backend.on_device(np.random.default_rng(0).normal(size=(side, side)).astype(np.float32))
    product = backend.compiled(ops.matmul)
    # As large as a tile's logits: in the cache of its core.
    some = backend.on_device(np.random.default_rng(0).normal(size=(100, 1024)).astype(np.float32))
    repeats = 64

    def many_exponentials(values: Any, offsets: Any) -> Any:
        total = ops.zeros_like(values)
        for number in range(repeats):
            total = total + ops.exp(values + offsets[number])
        return total

    offsets = backend.on_device(np.linspace(-1, 0, repeats, dtype=np.float32))
    exponentials = backend.compiled(many_exponentials)
    with ThreadPoolExecutor(threads) as pool:
        times = side_by_side(
            {
                "copy": lambda: list(pool.map(lambda part: np.copyto(*part), parts)),
                "product": lambda: np.asarray(product(matrix, matrix)),
                "exponentials": lambda: np.asarray(exponentials(some, offsets)),
            },
            rounds=5,
            seconds=0.2,
        )
    count = repeats * int(np.prod(some.shape))
    return Peak(2 * source.nbytes / times["copy"], side**3 / times["product"], count / times["exponentials"])


if __name__ == "__main__":
    main()
