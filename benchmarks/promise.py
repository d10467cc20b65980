"""How often repairs promise, how often promises are kept, and whether the rows that would be enough are enough.

python benchmarks/promise.py --model MODEL [--dataset-dir FOLDER] [--out FILE]

A draw takes repair rows from the pool, the training images from --offset on; the rest of the pool judges, and the
official test images stand beside it. Tunings do not depend on what is required: each draw is tuned once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np
from common import dataset_option, machine, model_option, table
from ledger import Ledger, Line, grouped, out_option, tables_option
from unseen import (
    LAST,
    TAIL,
    Subject,
    apart,
    draw,
    drop,
    gain,
    numbers,
    offset_option,
    others_drop,
    preprocess_option,
    subjects,
    words,
)

from engine import backend
from engine.core.plans import run_here
from engine.core.types import Int64
from engine.datasets.fashion_mnist import LABEL_NAMES
from engine.methods.mixtures import searched, tuned
from engine.metrics.accuracy import wilson_interval
from engine.metrics.requirements import Requirement
from engine.models.load import load_model
from engine.problem.crossfit import CrossFitSettings, mixed_values

KEY = ("model", "layers", "rows", "label", "draw", "required", "promise_rows")
DRAWS = {LAST: 20, TAIL: 6}
FEW = 10
"""Cells with fewer promises say little about how many of them are kept."""


@dataclass(frozen=True)
class Required:
    """What is asked of a repair of a label; shares of accuracy.

    Attributes:
        text: in words.
        all, others: largest losses of all rows together and of each other label.
        own: largest loss of the label under repair too.
        gain: smallest gain of the label, where one is asked.
        only: number of a label and of rows, where it is measured for those alone.
    """

    text: str
    all: float = 0.0
    others: float = 0.03
    own: bool = False
    gain: float | None = None
    only: tuple[int, int] | None = None

    def stated(self, label: int) -> tuple[Requirement, ...]:
        """The requirements, of a label."""
        own = [drop(self.others, label)] if self.own else []
        gains = [] if self.gain is None else [gain(self.gain, label)]
        return (drop(self.all), *others_drop(self.others, label), *own, *gains)


REQUIRED = {
    "A": Required("all >= 0, others >= -3"),
    "B": Required("all >= 0, others >= -2", others=0.02),
    "C": Required("all >= 0, others >= -3, label >= +4", gain=0.04),
    "D": Required("all >= -1, every label >= -3, label >= +6", all=0.01, own=True, gain=0.06, only=(6, 10_000)),
}
"""In points. D is what a person states of Shirt, as changes."""

LEGEND = f"""
Required: {"; ".join(f"{name}: {required.text}" for name, required in REQUIRED.items())}.
Promised: runs whose chance reaches 95 %; kept: those of them that keep all on the rest of the pool, on as many new rows
of each label as the chance is about, drawn from it, and on the official test images; label, all, worst: change of
accuracy on the rest in points, means of the runs that promise. Enough: rows of each label that would be, as the runs
that do not promise say, for the step that they take and for the best step: median, and share of them that say no
number would."""


CHECK_LEGEND = """
Runs that do not promise, by whether the number of rows that they say would be enough is reached by the same draw with
more rows; share of those that promise then, and that promise a step at least as large."""


@dataclass(frozen=True)
class Draw:
    """Rows of a repair."""

    layers: str
    rows: int
    label: int
    number: int

    def name(self, model: str, required: str, promise_rows: int) -> dict[str, Any]:
        """Of a run."""
        values = (model, self.layers, self.rows, self.label, self.number, required, promise_rows)
        return dict(zip(KEY, values, strict=True))


@click.command()
@model_option
@dataset_option
@preprocess_option
@offset_option
@click.option("--labels", default="0,4,6", show_default=True, callback=numbers, help="Labels, each repaired.")
@click.option("--rows", default="1000,3000,10000", show_default=True, callback=numbers, help="Repair rows of a draw.")
@click.option("--draws", type=int, help=f"Of each cell [default: {DRAWS[LAST]} for {LAST}, {DRAWS[TAIL]} for {TAIL}].")
@click.option("--layers", default=f"{LAST},{TAIL}", show_default=True, callback=words(LAST, TAIL), help="Repaired.")
@click.option(
    "--required", default=",".join(REQUIRED), show_default=True, callback=words(*REQUIRED), help="Requirements."
)
@click.option("--promise-rows", type=int, default=1000, show_default=True, help="New rows of a label, of a promise.")
@out_option
@tables_option
def main(
    model_path: Path,
    dataset_dir: Path,
    preprocess: str,
    offset: int,
    labels: tuple[int, ...],
    rows: tuple[int, ...],
    draws: int | None,
    layers: tuple[str, ...],
    required: tuple[str, ...],
    promise_rows: int,
    out: Path | None,
    tables: bool,
) -> None:
    """Repair labels from draws of rows under several requirements, and judge promises on the rest."""
    backend.limit_threads(1)
    click.echo(machine())
    ledger = Ledger(out, KEY)
    if not tables:
        loaded = load_model(model_path)
        model = f"{loaded.path.name} {loaded.fingerprint[:8]}"
        wanted = [
            Draw(kind, count, label, number)
            for kind, count, label in product(layers, rows, labels)
            for number in range(DRAWS[kind] if draws is None else draws)
        ]
        left = [(cell, names) for cell in wanted if (names := missing(ledger, model, cell, required, promise_rows))]
        known = subjects(loaded, *apart(dataset_dir, preprocess, offset), layers) if left else {}
        settings = CrossFitSettings(promise_rows=promise_rows)
        for cell, names in left:
            told = run(ledger, model, known[cell.layers], cell, names, settings)
            click.echo(f"{cell.layers}, {cell.rows} rows, label {cell.label}, draw {cell.number}: {told}")
    click.echo(LEGEND)
    for (model, new), lines in grouped(ledger.lines, "model", "promise_rows").items():
        click.echo(f"\n{model}, promises about {new} new rows of a label")
        click.echo(table(HEADER, [row("all", key, cell) for key, cell in grouped(lines, *CELL).items()]))
        told_kept(lines)
        click.echo("\nby label")
        by_label = grouped(lines, *CELL, "label").items()
        click.echo(table(HEADER, [row(str(key[-1]), key[:-1], cell) for key, cell in by_label]))
        if check := checked(lines):
            click.echo(CHECK_LEGEND)
            click.echo(table(CHECK_HEADER, check))


def missing(ledger: Ledger, model: str, cell: Draw, required: Sequence[str], promise_rows: int) -> list[str]:
    """Requirements that a draw has not been repaired under."""
    asked = [name for name in required if REQUIRED[name].only in (None, (cell.label, cell.rows))]
    return [name for name in asked if not ledger.has(**cell.name(model, name, promise_rows))]


def run(
    ledger: Ledger, model: str, subject: Subject, cell: Draw, names: Sequence[str], settings: CrossFitSettings
) -> str:
    """Tune one draw, and repair it under each of some requirements; what is promised, in words."""
    chosen, rest = draw(len(subject.pool.before), cell.rows, cell.label, cell.number)
    begun = time.perf_counter()
    job = subject.job(chosen, cell.label, (), cell.number, settings)
    changes = run_here(tuned(job))
    seconds = time.perf_counter() - begun
    told = []
    for name in names:
        requirements = REQUIRED[name].stated(cell.label)
        begun = time.perf_counter()
        mine = replace(job, requirements=requirements)
        found = run_here(searched(mine, changes)).found
        frontier, _ = mine.frontier(changes, found)
        spent = time.perf_counter() - begun
        values = mixed_values(job.chain, changes, found, frontier.point.step)
        new = new_rows(subject.pool.rows.labels, rest, settings.promise_rows)
        after = subject.predicted(subject.pool, values)
        ledger.add(
            **cell.name(model, name, settings.promise_rows),
            promised=frontier.promised,
            step=frontier.point.step,
            chance=frontier.point.chance,
            enough=frontier.point.enough,
            enough_at_best=None if frontier.easiest is None else frontier.easiest.enough,
            tuning_seconds=seconds,
            seconds=spent,
            new=asdict(subject.outcome(subject.pool, after, new, cell.label, requirements)),
            **subject.outcomes(values, rest, cell.label, requirements),
        )
        said = "promised" if frontier.promised else f"not promised, enough: {frontier.point.enough}"
        told.append(f"{name} step {frontier.point.step:g} {said}")
    return "; ".join(told)


def new_rows(labels: Int64, rest: Int64, count: int) -> Int64:
    """The first so many of the rest of each label, or all where there are fewer."""
    parts = [rest[labels[rest] == label][:count] for label in np.unique(labels)]
    return np.concatenate(parts)


SAID = {"enough": "its step", "enough_at_best": "best step"}
CELL = ("layers", "rows", "required")
HEADER = (
    "layers",
    "rows",
    "required",
    "label",
    "runs",
    "promised",
    "share",
    "kept on the rest",
    "95 % interval",
    "on new rows",
    "official",
    "label",
    "all",
    "worst",
    "step",
    "enough",
    "none",
    "at best",
    "none",
    "s",
)


def row(label: str, key: tuple[Any, ...], lines: Sequence[Line]) -> list[str]:
    """Cells of a line of the table."""
    promised = [line for line in lines if line["promised"]]
    others = [line for line in lines if not line["promised"]]
    cells = [str(part) for part in key] + [label, str(len(lines)), str(len(promised))]
    cells.append(f"{100 * len(promised) / len(lines):.0f} %")
    if promised:
        low, high = wilson_interval(kept(promised, "rest"), len(promised))
        cells += [f"{kept(promised, 'rest')} of {len(promised)}", f"{100 * low:.0f} to {100 * high:.0f} %"]
        cells += [f"{100 * kept(promised, judge) / len(promised):.0f} %" for judge in ("new", "official")]
        changes = [(mean(line["rest"][what] for line in promised), what) for what in ("label", "all", "worst")]
        cells += [f"{change:+.{2 if what == 'all' else 1}f}" for change, what in changes]
        cells.append(f"{mean(line['step'] for line in promised):.2f}")
    else:
        cells += ["-"] * 8
    for said in SAID:
        known = sorted(line[said] for line in others if line[said] is not None)
        # Those that say that no number would be enough come behind all others.
        cells.append(str(known[len(others) // 2]) if len(known) > len(others) // 2 else "-")
        cells.append(f"{100 * (1 - len(known) / len(others)):.0f} %" if others else "-")
    return [*cells, f"{mean(line['seconds'] + line['tuning_seconds'] for line in lines):.1f}"]


def kept(lines: Sequence[Line], judge: str) -> int:
    """Runs that keep all requirements on some rows."""
    return sum(line[judge]["kept"] for line in lines)


def told_kept(lines: Sequence[Line]) -> None:
    """Say how many promises are kept, over the cells with more than few of them."""
    cells = [[line for line in cell if line["promised"]] for cell in grouped(lines, *CELL).values()]
    many = [line for cell in cells if len(cell) >= FEW for line in cell]
    if not many:
        click.echo(f"no cell has {FEW} promises")
        return
    low, high = wilson_interval(kept(many, "rest"), len(many))
    click.echo(
        f"cells with at least {FEW} promises: {kept(many, 'rest')} of {len(many)} kept on the rest, "
        f"{100 * kept(many, 'rest') / len(many):.1f} % ({100 * low:.0f} to {100 * high:.0f} %)"
    )


CHECK_HEADER = (
    "layers",
    "required",
    "from rows",
    "to rows",
    "said for",
    "enough",
    "promise",
    "that step",
    "not enough",
    "promise",
    "that step",
)


def checked(lines: Sequence[Line]) -> list[list[str]]:
    """What runs say would be enough, against runs of more rows; these have the rows of the same draw and further ones.

    A run that does not promise says a number; the other one has enough rows where it has so many of each label.
    """
    found = []
    for (layers, required), mine in grouped(lines, "layers", "required").items():
        of = {(line["rows"], line["label"], line["draw"]): line for line in mine}
        counts = sorted({line["rows"] for line in mine})
        for few, many in product(counts, counts):
            pairs = [
                (line, of[many, line["label"], line["draw"]])
                for line in mine
                if few < many and line["rows"] == few and not line["promised"]
                if (many, line["label"], line["draw"]) in of
            ]
            for said, title in SAID.items() if pairs else ():
                cells = [layers, required, str(few), str(many), title]
                for answer in (True, False):
                    group = [(line, more) for line, more in pairs if says_enough(line[said], many) == answer]
                    promised = [more["promised"] for _, more in group]
                    as_far = [more["promised"] and more["step"] >= line["step"] for line, more in group]
                    cells.append(str(len(group)))
                    cells += [f"{100 * mean(share):.0f} %" if group else "-" for share in (promised, as_far)]
                found.append(cells)
    return found


def says_enough(count: int | None, rows: int) -> bool:
    """Whether so many rows, of all labels together, are as many of each as would be enough."""
    return count is not None and count * len(LABEL_NAMES) <= rows


if __name__ == "__main__":
    main()
