"""Repair rate and break rate of repairs, over many runs, and the toolkit's `result.txt`.

RR = 100 · repaired / wrong and BR = 100 · broken / right, in percent. On the rows of the search all negative inputs
count as wrong and all positive ones as right, as in the toolkit; on held-out rows the base model says which are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.core.types import Int64
    from engine.metrics.accuracy import LabelChange

DATASETS = {
    "fashion-mnist": "FashionMNIST",
    "cifar-10": "CIFAR10",
    "gtsrb": "GTSRB",
    "bdd": "BDD",
    "bdd-objects": "BDDObjects",
    "image-folder": "ImageFolder",
}
"""Data sets and their classes in the toolkit, which `result.txt` names."""


@dataclass(frozen=True)
class Rates:
    """What a repair does to a set of rows, in counts.

    Attributes:
        wrong: rows to repair.
        repaired: of these, rows that the repaired model gets right.
        right: rows to keep.
        broken: of these, rows that the repaired model gets wrong.
    """

    wrong: int
    repaired: int
    right: int
    broken: int

    @property
    def rr(self) -> float:
        """Repair rate in percent; not a number without rows to repair."""
        return 100 * self.repaired / self.wrong if self.wrong else math.nan

    @property
    def br(self) -> float:
        """Break rate in percent; not a number without rows to keep."""
        return 100 * self.broken / self.right if self.right else math.nan


@dataclass(frozen=True)
class Summary:
    """A rate over several runs, in percent; `deviation` is that of a sample (n − 1), not a number of one run."""

    mean: float
    deviation: float
    best: float
    worst: float


@dataclass(frozen=True)
class Given:
    """What `result.txt` repeats of the command line; `dataset` is a class of `DATASETS`, None where it was not said."""

    dataset: str | None
    method: str
    model_dir: Path
    target_data_dir: Path
    positive_inputs_dir: Path
    output_dir: Path


def search_rates(negatives: Int64, negatives_predicted: Int64, positives: Int64, positives_predicted: Int64) -> Rates:
    return Rates(
        wrong=len(negatives),
        repaired=int((negatives == negatives_predicted).sum()),
        right=len(positives),
        broken=int((positives != positives_predicted).sum()),
    )


def held_out_rates(changes: Sequence[LabelChange], label: int) -> Rates:
    """Rates on held-out rows, to repair those of a label, or of all for -1."""
    repaired = [change for change in changes if label in (change.label, -1)]
    return Rates(
        wrong=sum(change.total - change.correct_before for change in repaired),
        repaired=sum(change.fixed for change in repaired),
        right=sum(change.correct_before for change in changes),
        broken=sum(change.broken for change in changes),
    )


def summarise(values: Sequence[float], *, larger_is_better: bool) -> Summary:
    """Summary of a rate, one value for each run; all not numbers where the values are, or there are none."""
    if not values or any(math.isnan(value) for value in values):
        return Summary(*[math.nan] * 4)
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    best, worst = max(values), min(values)
    if not larger_is_better:
        best, worst = worst, best
    return Summary(statistics.fmean(values), deviation, best, worst)


def run_line(run: int, rates: Rates | str) -> str:
    """The line of a run in `result.txt`: its rates, or why it failed."""
    if isinstance(rates, str):
        return f"{run}: failed: {rates}"
    return f"{run}: RR {rates.rr:.2f}%, BR {rates.br:.2f}%"


def result_text(
    given: Given,
    *,
    num_grad: int | None,
    num_particles: int | None,
    num_iterations: int | None,
    runs: Sequence[Rates | str],
) -> str:
    """The content of `result.txt` as the toolkit writes it, without a line end after the last line."""
    settings = {
        "dataset": given.dataset,
        "method": given.method,
        "model_dir": given.model_dir,
        "num_grad": num_grad,
        "target_data_dir": given.target_data_dir,
        "positive_inputs_dir": given.positive_inputs_dir,
        "output_dir": given.output_dir,
        "num_particles": num_particles,
        "num_iterations": num_iterations,
        "num_runs": len(runs),
    }
    unknown = [name for name in ("num_grad", "num_particles", "num_iterations") if settings[name] is None]
    told = [f"{name}: {value}" for name, value in settings.items() if name not in unknown]
    ended = [rates for rates in runs if isinstance(rates, Rates)]
    rr = summarise([rates.rr for rates in ended], larger_is_better=True)
    br = summarise([rates.br for rates in ended], larger_is_better=False)
    lines = ["# Settings", *told, "", "# Results"]
    lines += [run_line(run, rates) for run, rates in enumerate(runs)]
    lines += ["", f"Average: RR {rr.mean:.2f}%, BR {br.mean:.2f}%"]
    return "\n".join(lines)
