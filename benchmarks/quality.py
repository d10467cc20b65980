"""What repairs do to images that they did not see: CrossFit, simpler methods beside it, and Arachne at its best.

python benchmarks/quality.py --model MODEL [--dataset-dir FOLDER] [--out FILE]

A draw takes repair rows from the pool, the training images from --offset on; the rest of the pool judges, and the
official test images stand beside it. Every method gets the same rows, folds, requirements and step rule.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import click
from common import dataset_option, machine, model_option, table
from ledger import Ledger, Line, grouped, out_option, paired_interval, tables_option
from unseen import (
    LAST,
    TAIL,
    Subject,
    apart,
    draw,
    drop,
    numbers,
    offset_option,
    others_drop,
    preprocess_option,
    subjects,
    words,
)

from engine import backend
from engine.core.plans import run_here
from engine.core.rng import RngKey
from engine.core.types import Float32, Int64
from engine.layers.weight_stats import WeightStats
from engine.methods.mixtures import MixtureFit, MixtureMethod
from engine.methods.registry import METHODS, method_of
from engine.metrics.requirements import Requirement
from engine.models.load import load_model
from engine.problem.case import find_case
from engine.problem.crossfit import CrossFit, CrossFitSettings
from engine.problem.problem import prepare, problem_of
from engine.search import loop
from engine.search.loop import POSITIVE_WORTH, SearchSettings
from engine.targets.last_dense import find_target
from engine.targets.model_runner import ModelRunner

OURS, ARACHNE = "CrossFit", "Arachne"
KNOWN = {name: found for name in METHODS if isinstance(found := method_of(name).repair, MixtureMethod)}
ALL_ROWS, OTHERS = 0.0, 0.03
"""Losses of accuracy that are allowed, shares: of all rows together, and of each label but the one under repair."""

KEY = ("model", "layers", "rows", "label", "draw", "method", "setting")

FOUND, STEP = "found", "chosen"
READINGS = {FOUND: "searched", STEP: "step"}
"""Of a method: as it was found, and after the step that makes it promise."""


@dataclass(frozen=True)
class Setting:
    """Of Arachne: worth of a positive in negatives, Pareto fronts of its weights, spread and bound of its swarm times
    those of the layer.
    """

    worth: float
    fronts: int
    bound: float

    @property
    def name(self) -> str:
        """As tables have it."""
        return f"{self.worth:g}x, {self.fronts} {'front' if self.fronts == 1 else 'fronts'}, bound {self.bound:g}x"


DEFAULT = Setting(POSITIVE_WORTH, 1, 1.0)
SETTINGS = tuple(Setting(*values) for values in product((POSITIVE_WORTH, 0.6, 2.4), (1, 5), (0.25, 1.0, 4.0)))


LEGEND = f"""
Required: all rows lose nothing, other labels at most 3 points. Searched: what a method found, whole; step: the largest
step that promises this with 95 % chance, else the largest that keeps most of it out of fold.
Label, all, worst other: mean change of accuracy in points, on the rest of the pool and on the official test images,
which chose nothing; fixed, broken: images of a run. Kept: share of runs that keep all on the rest; sure: share that
promise it. CrossFit before by: so much more it gains on the rest as searched, mean paired difference ± 95 % interval
over draws. {ARACHNE}, best: of its {len(SETTINGS)} settings the one that gains most on the rest among those whose means
keep what is required there, else the one whose means miss it least: chosen by what judges, which favours it."""


@dataclass(frozen=True)
class Draw:
    """A cell of the benchmark: one repair that every method makes."""

    layers: str
    rows: int
    label: int
    number: int

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """All rows lose nothing, other labels little."""
        return (drop(ALL_ROWS), *others_drop(OTHERS, self.label))

    def name(self, model: str, method: str, setting: str = "") -> dict[str, Any]:
        """Of a run."""
        return dict(zip(KEY, (model, self.layers, self.rows, self.label, self.number, method, setting), strict=True))


@click.command()
@model_option
@dataset_option
@preprocess_option
@offset_option
@click.option("--labels", default="0,2,4,6", show_default=True, callback=numbers, help="Labels, each repaired.")
@click.option("--rows", default="1000,3000,10000", show_default=True, callback=numbers, help="Repair rows of a draw.")
@click.option("--draws", type=int, default=10, show_default=True, help="Draws of each label and number of rows.")
@click.option("--layers", default=f"{TAIL},{LAST}", show_default=True, callback=words(LAST, TAIL), help="Repaired.")
@click.option(
    "--methods",
    default=",".join([*KNOWN, ARACHNE]),
    show_default=True,
    callback=words(*KNOWN, ARACHNE),
    help=f"Compared; {ARACHNE} repairs the last layer alone.",
)
@click.option(
    "--mean-labels", default="0,4,6", show_default=True, callback=numbers, help="Labels of the tables of means."
)
@out_option
@tables_option
def main(
    model_path: Path,
    dataset_dir: Path,
    preprocess: str,
    offset: int,
    labels: tuple[int, ...],
    rows: tuple[int, ...],
    draws: int,
    layers: tuple[str, ...],
    methods: tuple[str, ...],
    mean_labels: tuple[int, ...],
    out: Path | None,
    tables: bool,
) -> None:
    """Repair labels from draws of rows by every method, and judge on the rest."""
    backend.limit_threads(1)
    click.echo(machine())
    ledger = Ledger(out, KEY)
    if not tables:
        loaded = load_model(model_path)
        model = f"{loaded.path.name} {loaded.fingerprint[:8]}"
        wanted = [Draw(*values) for values in product(layers, rows, labels, range(draws))]
        left = [(cell, names) for cell in wanted if (names := missing(ledger, model, cell, methods))]
        known = subjects(loaded, *apart(dataset_dir, preprocess, offset), layers) if left else {}
        for cell, names in left:
            told = run(ledger, model, known[cell.layers], cell, names)
            click.echo(f"{cell.layers}, {cell.rows} rows, label {cell.label}, draw {cell.number}: {told}")
    click.echo(LEGEND)
    for (model,), lines in grouped(ledger.lines, "model").items():
        for (kind, count), cells in grouped(lines, "layers", "rows").items():
            labels = tuple(sorted({line["label"] for line in cells}))
            means = tuple(label for label in labels if label in mean_labels)
            for chosen in dict.fromkeys([*((label,) for label in labels), *([means] if means else [])]):
                of = "label" if len(chosen) == 1 else "means over labels"
                click.echo(f"\n{model}, {kind} Dense, {count} rows, {of} {', '.join(map(str, chosen))}")
                show([line for line in cells if line["label"] in chosen])


def missing(ledger: Ledger, model: str, cell: Draw, methods: Sequence[str]) -> list[tuple[str, str]]:
    """Methods, and settings of Arachne, that a draw has not been repaired by."""
    asked = [(name, "") for name in methods if name != ARACHNE]
    if cell.layers == LAST:
        asked = [(name, "") for name, _ in asked if name != "head"]  # which is the tail there
        asked += [(ARACHNE, setting.name) for setting in SETTINGS if ARACHNE in methods]
    return [(name, setting) for name, setting in asked if not ledger.has(**cell.name(model, name, setting))]


def run(ledger: Ledger, model: str, subject: Subject, cell: Draw, names: Sequence[tuple[str, str]]) -> str:
    """Repair one draw by some methods; what became of the label, in words."""
    chosen, rest = draw(len(subject.pool.before), cell.rows, cell.label, cell.number)
    outcomes = functools.partial(subject.outcomes, rest=rest, label=cell.label, requirements=cell.requirements)
    job = subject.job(chosen, cell.label, cell.requirements, cell.number, CrossFitSettings())
    fits: dict[Any, tuple[MixtureFit, float]] = {}
    told = []
    for name, setting in names:
        if name == ARACHNE:
            begun = time.perf_counter()
            values = arachne(subject, chosen, cell, next(known for known in SETTINGS if known.name == setting))
            line: dict[str, Any] = {"seconds": time.perf_counter() - begun, FOUND: outcomes(values)}
        else:
            line = judged(KNOWN[name], job, fits, outcomes)
        ledger.add(**cell.name(model, name, setting), **line)
        if name != ARACHNE:
            told.append(f"{name} {line[FOUND]['rest']['label']:+.1f}")
    return ", ".join(told) or ARACHNE


def judged(
    method: MixtureMethod,
    job: CrossFit,
    fits: dict[Any, tuple[MixtureFit, float]],
    outcomes: Callable[[dict[str, Float32]], dict[str, Any]],
) -> dict[str, Any]:
    """Fit a method, unless another one of the draw was fitted alike, and take a step."""
    begun = time.perf_counter()
    if method.fit not in fits:
        fits[method.fit] = run_here(method.fit(job, (job.seed,))), time.perf_counter() - begun
    fit, seconds = fits[method.fit]
    steps = method.steps(job.settings)
    begun = time.perf_counter()
    frontier = job.judged(fit.job.predicted(fit.changes, fit.found, steps), steps)
    seconds += time.perf_counter() - begun
    return {
        "seconds": seconds,
        "step": frontier.point.step,
        "sure": {FOUND: frontier.points[0].chance >= frontier.confidence, STEP: frontier.promised},
        FOUND: outcomes(fit.values(frontier.points[0].step)),
        STEP: outcomes(fit.values(frontier.point.step)),
    }


def arachne(subject: Subject, chosen: Int64, cell: Draw, setting: Setting) -> dict[str, Float32]:
    """The last layer's kernel, repaired by Arachne."""
    loaded = subject.loaded
    target = find_target(loaded.model, loaded.loss, loaded.classes, loaded.path)
    kernel = target.kernel
    found = find_case(
        ModelRunner(loaded.model, target), kernel, subject.pool.rows.take(chosen), cell.label, fronts=setting.fronts
    )
    if found is None:
        return {}
    settings = SearchSettings(positive_worth=setting.worth)
    source = RngKey(cell.number, found.data, cell.label)
    problem = problem_of(target, kernel, found.index, found.weights, name=found.data, source=source, settings=settings)
    stats = problem.stats
    wider = WeightStats(stats.mean, setting.bound * stats.std, setting.bound * stats.range)
    problem = replace(problem, stats=wider)
    prepared = prepare(problem, found.rows)
    state, _ = loop.advance(settings, source, prepared.objective, problem.start(), prepared.fitness.evaluate)
    repaired = kernel.copy()
    repaired[found.index[:, 0], found.index[:, 1]] = loop.result(state)
    return {target.path: repaired}


HEADER = (
    "method",
    "runs",
    "label",
    "all",
    "worst other",
    "fixed",
    "broken",
    "fixed / broken",
    "kept",
    "official: label",
    "all",
    "worst other",
    "fixed",
    "broken",
    "fixed / broken",
    "sure",
    "step",
    "s",
    "CrossFit before by",
)


def show(lines: Sequence[Line]) -> None:
    """Print the table of one cell, and of what CrossFit is not better than."""
    ours = [line for line in lines if line["method"] == OURS]
    cells, behind = [], []
    for name, reading, mine in readings(lines):
        first = name == OURS and reading == FOUND
        difference = None if first else paired(ours, mine, reading)
        title = name if name.startswith(ARACHNE) else f"{name}, {READINGS[reading]}"
        before = "" if difference is None else "{:+.1f} ± {:.1f}".format(*difference)
        cells.append([title, *summary(mine, reading), before])
        if difference is not None and difference[0] <= difference[1] and name != OURS:
            behind.append(title)
    click.echo(table(HEADER, cells))
    if behind:
        click.echo(f"CrossFit as searched is not surely before: {'; '.join(behind)}")


def readings(lines: Sequence[Line]) -> list[tuple[str, str, list[Line]]]:
    """Lines of the table: what they are called, which reading they are, and their runs."""
    found = []
    for name, method in KNOWN.items():
        mine = [line for line in lines if line["method"] == name]
        # Whole it is the tail.
        whole = [FOUND] if name != "WiSE-FT" else []
        found += [(name, reading, mine) for reading in (*whole, *([STEP] if method.scaled else [])) if mine]
    settings = {name: of for (name,), of in grouped(lines, "setting").items() if name}
    if settings:
        best = max(settings, key=lambda name: worth(settings[name]))
        chosen = {"default": DEFAULT.name, "best": best}
        found += [
            (f"{ARACHNE}, {title} ({name})", FOUND, list(settings[name]))
            for title, name in chosen.items()
            if name in settings
        ]
    return found


def worth(lines: Sequence[Line]) -> tuple[float, float]:
    """Of a setting: how far its means miss what is required, in points and negative, and what it gains."""
    changes = {what: mean(line[FOUND]["rest"][what] for line in lines) for what in ("label", "all", "worst")}
    lacking = min(0.0, changes["all"] + 100 * ALL_ROWS, changes["worst"] + 100 * OTHERS)
    return lacking, changes["label"]


def summary(lines: Sequence[Line], reading: str) -> list[str]:
    """Cells of a line of the table."""
    cells = [str(len(lines))]
    for judge in ("rest", "official"):
        runs = [line[reading][judge] for line in lines]
        fixed, broken = (mean(run[what] for run in runs) for what in ("fixed", "broken"))
        cells += [f"{mean(run[what] for run in runs):+.{digits}f}" for what, digits in (("label", 1), ("all", 2))]
        cells += [f"{mean(run['worst'] for run in runs):+.1f}", f"{fixed:.0f}", f"{broken:.0f}"]
        cells.append(f"{fixed / broken:.2f}" if broken else "-")
        if judge == "rest":
            cells.append(f"{100 * mean(run['kept'] for run in runs):.0f} %")
    sure = [line["sure"][reading] for line in lines if "sure" in line]
    steps = [line["step"] if reading == STEP else 1.0 for line in lines if "step" in line]
    cells += [f"{100 * mean(sure):.0f} %" if sure else "-", f"{mean(steps):.2f}" if steps else "-"]
    return [*cells, f"{mean(line['seconds'] for line in lines):.1f}"]


def paired(ours: Sequence[Line], others: Sequence[Line], reading: str) -> tuple[float, float] | None:
    """Mean difference of the gain on the rest, CrossFit as searched before another, and half of its interval."""

    def gains(lines: Sequence[Line], reading: str) -> dict[tuple[int, int], float]:
        return {(line["label"], line["draw"]): line[reading]["rest"]["label"] for line in lines}

    return paired_interval(gains(ours, FOUND), gains(others, reading))


if __name__ == "__main__":
    main()
