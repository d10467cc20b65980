"""One swarm iteration of 100 particles against the dense formula, NumPy, and setting weights in the model.

python benchmarks/fitness.py [--model MODEL] [--output FOLDER]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
from common import column, machine, model_option, output_option, side_by_side, table, write_results
from problems import (
    PARTICLES,
    REFERENCE_PARTICLES,
    Size,
    by_model,
    by_numpy,
    check,
    dense,
    drawn,
    exact,
    iterations,
    spread_over_units,
)

from engine.models.load import load_model

COMPARED = ("dense", "numpy", "evaluate")


@dataclass(frozen=True)
class Aim:
    """A size, and how many times faster than what we aim to be."""

    size: Size
    dense: float | None
    evaluate: float | None


AIMS = {
    "916,3,10,3": Aim(Size(916, 3, 10, 3), 4, 5000),
    "916,200,10,8": Aim(Size(916, 200, 10, 8), None, 5000),
    "27668,4,10,3": Aim(Size(27668, 4, 10, 3), None, None),
    "2000,64,1000,8": Aim(Size(2000, 64, 1000, 8), 150, None),
    "2000,64,1000,60": Aim(Size(2000, 64, 1000, 60), 10, None),
}

COLUMNS = (
    column("rows", pa.int64(), "rows a candidate is judged on", "rows"),
    column("weights", pa.int64(), "weights that a candidate changes", "weights"),
    column("classes", pa.int64(), "output units of the model", "units"),
    column("units", pa.int64(), "output units that the weights belong to", "units"),
    column("particles", pa.int64(), "candidates of an iteration", "candidates"),
    column("way", pa.string(), "fitness and iteration: this project; dense, numpy, evaluate: what it is compared with"),
    column("seconds", pa.float64(), "median time for all candidates", "s"),
    column("ratio", pa.float64(), "this / fitness", "1"),
    column("aim", pa.float64(), "what the ratio should be at least", "1"),
)


@click.command()
@model_option
@click.option("--size", "sizes", type=click.Choice(list(AIMS)), multiple=True, help="n,K,C,U [default: all].")
@click.option("--rounds", type=int, default=9, show_default=True, help="Rounds of the medians.")
@output_option
def main(model_path: Path, sizes: tuple[str, ...], rounds: int, output: Path | None) -> None:
    """Time one iteration of 100 particles at several sizes, everything side by side."""
    line = machine()
    click.echo(line)
    click.echo(
        f"{PARTICLES} particles; medians of {rounds} rounds, milliseconds per iteration of the whole swarm\n"
        "fitness: TiledFitness.evaluate; iteration: with the moves of the swarm; dense: all C logits, compiled alike;\n"
        f"numpy: one matrix product; evaluate: set the weights and model.evaluate on negatives and on positives,\n"
        f"{REFERENCE_PARTICLES} particles timed, with {model_path.name}\n"
    )
    loaded = load_model(model_path)
    cells, rows = [], []
    for aim in map(AIMS.__getitem__, sizes or AIMS):
        job = spread_over_units(loaded, aim.size) if aim.evaluate else drawn(aim.size)
        fitness = job.fitness()
        right = exact(job)
        calls: dict[str, Callable[[], Any]] = {
            "fitness": partial(fitness.evaluate, job.candidates),
            "iteration": iterations(job, fitness),
            "dense": dense(job),
            "numpy": partial(by_numpy, job),
        }
        for way in ("fitness", "dense", "numpy"):
            check(f"{aim.size}, {way}", calls[way](), right)
        times = side_by_side(calls, rounds, 0.1)
        if aim.evaluate:
            reference = by_model(loaded, job)
            check(f"{aim.size}, model.evaluate", reference(), right)
            slow = side_by_side({"fitness": calls["fitness"], "reference": reference}, 3, 0.1)
            times["evaluate"] = slow["reference"] / REFERENCE_PARTICLES * PARTICLES
        cells.append(row(aim, times))
        rows += results(aim, times)
    header = ["(n, K, C, U)", "fitness", "iteration", "dense", "numpy", "evaluate"]
    header += ["dense / fitness", "aim", "numpy / fitness", "evaluate / fitness", "aim"]
    click.echo(table(header, cells))
    write_results(output, "fitness", COLUMNS, rows, line)


def row(aim: Aim, times: dict[str, float]) -> list[str]:
    """One line of the table."""
    ours = times["fitness"]
    milliseconds = [
        f"{1e3 * times[name]:,.2f}" if name in times else "-"
        for name in ("fitness", "iteration", "dense", "numpy", "evaluate")
    ]
    times_faster = {name: f"{times[name] / ours:,.1f}" if name in times else "-" for name in COMPARED}
    aims = [f"{value:,g}" if value else "-" for value in (aim.dense, aim.evaluate)]
    dense, numpy, evaluate = times_faster["dense"], times_faster["numpy"], times_faster["evaluate"]
    return [str(aim.size), *milliseconds, dense, aims[0], numpy, evaluate, aims[1]]


def results(aim: Aim, times: dict[str, float]) -> list[dict[str, Any]]:
    """The rows of one size."""
    size, aims = aim.size, {"dense": aim.dense, "evaluate": aim.evaluate}
    return [
        {
            "rows": size.rows,
            "weights": size.weights,
            "classes": size.classes,
            "units": size.units,
            "particles": size.particles,
            "way": way,
            "seconds": seconds,
            "ratio": seconds / times["fitness"],
            "aim": aims.get(way),
        }
        for way, seconds in times.items()
    ]


if __name__ == "__main__":
    main()
