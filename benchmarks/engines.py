"""One iteration of 100 particles, here and in the swarms of EvoX, evosax and PySwarms, on the identical fitness.

python benchmarks/engines.py [--model MODEL] [--size N,K,C ...] [--particles P] [--output FOLDER]

The engines come with the extra `bench`; one that is not installed is left out, and without any nothing is timed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if importlib.util.find_spec("triton"):
    import triton  # noqa: F401 - of PyTorch: loaded behind TensorFlow, its copy of LLVM ends the process

import click
import numpy as np
import pyarrow as pa
from common import Aim, column, machine, model_option, output_option, side_by_side, table, write_aims, write_results
from problems import (
    PROBLEMS,
    REFERENCE_PARTICLES,
    Job,
    Size,
    by_model,
    by_numpy,
    check,
    dense,
    exact,
    iterations,
)
from rivals import ENGINES, STEPS, Rival

from engine import backend
from engine.models.load import LoadedModel, load_model

PACKAGES = ("evox", "torch", "evosax", "jax", "pyswarms")
BEST_AIMS, PLAIN_AIM = {"jax": 1.1, "tensorflow": 1.5}, 0.5
"""Our time per iteration against that of the best of the other engines, with our formula in their hands (by our
backend), and with the fitness as one would write it first."""

FORMS = {
    "the fitness as one would write it first": ("plain",),
    "all logits, in the faster of two forms": ("plain", "dense"),
    "whatever is fastest, our formula included": ("plain", "dense", "touched"),
}

SIZES = ((1000, 16, 10), (1000, 256, 10))
OURS = "repair-dist"

COLUMNS = (
    column("problem", pa.string(), "target layer"),
    column("rows", pa.int64(), "rows a candidate is judged on", "rows"),
    column("weights", pa.int64(), "weights that a candidate changes", "weights"),
    column("classes", pa.int64(), "output units of the model", "units"),
    column("units", pa.int64(), "output units that the weights belong to", "units"),
    column("particles", pa.int64(), "candidates of an iteration", "candidates"),
    column("engine", pa.string(), "whose swarm; empty: the fitness alone"),
    column("form", pa.string(), "how the fitness is computed; see benchmarks/rivals.py"),
    column("seconds", pa.float64(), "median time of an iteration, or of the fitness of all candidates", "s"),
    column("ours", pa.float64(), "our time of an iteration (where there is no swarm: of the fitness) / this", "1"),
)


def parse_size(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> list[tuple[int, ...]]:
    sizes = []
    for text in texts:
        try:
            sizes.append(tuple(int(part) for part in text.split(",")))
        except ValueError:
            sizes.append(())
        if len(sizes[-1]) != 3 or min(sizes[-1]) < 1:
            raise click.BadParameter(f"{text} is no size, expected rows,weights,classes like 1000,16,10")
    return sizes or list(SIZES)


@click.command()
@model_option
@click.option("--size", "sizes", multiple=True, callback=parse_size, help="n,K,C; may be given several times.")
@click.option("--particles", type=click.IntRange(2), default=100, show_default=True, help="Particles of a swarm.")
@click.option("--rounds", type=int, default=9, show_default=True, help="Rounds of the medians.")
@click.option("--problem", type=click.Choice(list(PROBLEMS)), multiple=True, help="Target layers [default: all].")
@click.option("--no-reference", is_flag=True, help="Leave out setting weights and model.evaluate.")
@output_option
def main(
    model_path: Path,
    sizes: list[tuple[int, int, int]],
    particles: int,
    rounds: int,
    problem: tuple[str, ...],
    no_reference: bool,
    output: Path | None,
) -> None:
    """Time one iteration in every engine, after all of them have given the same fitness."""
    check_installed()
    line = machine(*PACKAGES)
    click.echo(line)
    click.echo(
        f"{particles} particles; medians of {rounds} rounds, milliseconds per iteration of the whole swarm; "
        f"other engines run {STEPS} iterations in a call, and so do we\n"
        "forms of the fitness: plain, all logits as one would write it first; dense, the same with classes outermost,\n"
        "from the distinct inputs alone; touched, only the logits that the weights move (our formula in their hands)\n"
        "our iterations are those of a long search, whose swarm stays on the device; at first it moves in NumPy\n"
    )
    loaded = load_model(model_path)
    rows: list[dict[str, Any]] = []
    aims: list[Aim] = []
    for name in problem or PROBLEMS:
        for n, weights, classes in sizes:
            job = PROBLEMS[name](loaded, Size(n, weights, classes, particles=particles))
            rows += compare(name, loaded, job, rounds, not no_reference, aims)
    write_results(output, "engines", COLUMNS, rows, line)
    write_aims(output, f"engines-{backend.name}", aims, line)


def compare(
    name: str, loaded: LoadedModel, job: Job, rounds: int, reference: bool, aims: list[Aim]
) -> list[dict[str, Any]]:
    """Check, time and print one problem."""
    fitness = job.fitness()
    right = exact(job)
    rivals = installed(job)
    alone: dict[str, Callable[[], Any]] = {
        "ours": partial(fitness.evaluate, job.candidates),
        "dense, compiled": dense(job),
        "plain, NumPy": partial(by_numpy, job),
    }
    for form, call in alone.items():
        check(form, call(), right)
    for rival in rivals:
        check_rival(rival, job, right.sums)
        check(f"{rival.engine}, {rival.form}", rival.sums(job.candidates), right)
    calls: dict[tuple[str, str], Callable[[], object]] = {
        (OURS, "touched"): iterations(job, fitness, STEPS, long=True),
        (OURS, "touched, at first"): iterations(job, fitness, STEPS),
    }
    calls |= {(rival.engine, rival.form): rival.iterate for rival in rivals}
    calls |= {("", form): call for form, call in alone.items()}
    names = {f"{engine}, {form}": (engine, form) for engine, form in calls}
    times = side_by_side({name: calls[key] for name, key in names.items()}, rounds, 0.1)
    seconds = {key: times[name] / (STEPS if key[0] else 1) for name, key in names.items()}
    if reference and job.images is not None:
        slow = by_model(loaded, job)
        check("model.evaluate", slow(), right)
        both = side_by_side({"ours": alone["ours"], "slow": slow}, 3, 0.1)
        seconds["", "set weights, model.evaluate"] = both["slow"] / REFERENCE_PARTICLES * len(job.candidates)
    return report(name, job, seconds, aims)


class NothingToCompare(click.ClickException):
    """A whole extra is missing: a wrong call, as click has it, not a failure."""

    exit_code = 2


def check_installed() -> None:
    """Stop where none of the other engines is installed: there is nothing to compare with."""
    if all(lacking(needed) for needed, _ in ENGINES.values()):
        *others, last = ENGINES
        raise NothingToCompare(
            f"none of {', '.join(others)} and {last} is installed, expected one at least: pip install -e '.[bench]'"
        )


def lacking(needed: Sequence[str]) -> list[str]:
    """Modules that are not installed."""
    return [module for module in needed if importlib.util.find_spec(module) is None]


def installed(job: Job) -> list[Rival]:
    """The other engines; one sentence for each that is missing."""
    found: list[Rival] = []
    for name, (needed, engine) in ENGINES.items():
        if missing := lacking(needed):
            click.echo(f"{name} is left out: {' and '.join(missing)} not installed (pip install -e '.[bench]')")
        else:
            found += engine(job)
    return found


def check_rival(rival: Rival, job: Job, sums: Any) -> None:
    """Stop when an engine maximises something else."""
    ours, theirs = job.objective.fitness(sums), rival.fitness(job.candidates)
    # A row near a tie counts for one.
    if not np.allclose(ours, theirs, rtol=1e-4, atol=2.0):
        raise click.ClickException(f"{rival.engine}, {rival.form}: fitness {theirs} and ours {ours} differ")


def aim_of(forms: Sequence[str]) -> float | None:
    """What our time is to be at most, against the best of these forms; None where nothing was promised."""
    return {1: PLAIN_AIM, len(FORMS): BEST_AIMS[backend.name]}.get(len(forms))


def report(name: str, job: Job, seconds: dict[tuple[str, str], float], aims: list[Aim]) -> list[dict[str, Any]]:
    """Print the table of a problem; its rows as results, and what was to be reached, added to `aims`."""
    size = job.size
    ours, alone = seconds[OURS, "touched"], seconds["", "ours"]
    click.echo(f"{name}, (n, K, C) = ({size.rows}, {size.weights}, {size.classes}), {size.units} units touched")
    rows, cells = [], []
    for (engine, form), value in seconds.items():
        ratio = (ours if engine else alone) / value
        rows.append(
            {
                "problem": name,
                "rows": size.rows,
                "weights": size.weights,
                "classes": size.classes,
                "units": size.units,
                "particles": len(job.candidates),
                "engine": engine,
                "form": form,
                "seconds": value,
                "ours": ratio,
            }
        )
        cells.append([engine or "(fitness alone)", form, f"{1e3 * value:,.3f}", f"{ratio:.3g}"])
    click.echo(table(["swarm", "fitness", "ms", "ours / this"], cells))
    others = {key: value for key, value in seconds.items() if key[0] not in ("", OURS)}
    for text, forms in FORMS.items():
        some = {key: value for key, value in others.items() if key[1] in forms}
        if some:
            engine, form = min(some, key=some.__getitem__)
            ratio, limit = ours / some[engine, form], aim_of(forms)
            told = "" if limit is None else f"; aim {limit:g}: {'met' if ratio <= limit else 'NOT met'}"
            click.echo(f"ours / best: {ratio:.2f} of {engine} ({form}): {text}{told}")
            if limit is not None:
                aims.append(Aim(f"{backend.name}, (n, K, C) = {size}: ours / best, {text}", ratio, limit))
    click.echo("")
    return rows


if __name__ == "__main__":
    main()
