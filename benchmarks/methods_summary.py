"""What the numbers of the study of methods come to, for each method on a model and a number of repair rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median

from methods_results import Results

from engine.methods.registry import METHODS
from engine.metrics.against import MEASURES, READINGS
from engine.metrics.against import verdict as verdict_of
from engine.metrics.resampled import holm

RELIABLE = 0.9
"""Share of repairs that must keep what is required, or of promises, for a method to be named."""

Group = tuple[str, int]
"""A model and a number of repair rows."""


@dataclass(frozen=True)
class Summary:
    """What a method comes to in a group: means over labels and draws, shares, and counts of repairs.

    Attributes:
        method: its name.
        repairs: that ran.
        failed: that did not.
        left: that leave the model as it is, in which no weight has another value.
        label, all, worst: changes of accuracy on test rows; `worst` None without other labels.
        fixed, broken: test rows.
        promised: repairs with a promise; a model that is left as it is promises nothing.
        held: of those, with limits kept on test rows.
        kept: repairs with limits kept on test rows.
        seconds: of a processor, median.
    """

    method: str
    repairs: int
    failed: int
    left: int
    label: float
    all: float
    worst: float | None
    fixed: float
    broken: float
    promised: int
    held: int
    kept: int
    seconds: float

    @property
    def keeps(self) -> bool:
        """Reliably keeps what is required."""
        return self.kept >= RELIABLE * self.repairs

    @property
    def promises(self) -> float:
        """Share of repairs with a promise; none where promises are not reliably kept."""
        return self.promised / self.repairs if self.held >= RELIABLE * self.promised else 0.0


@dataclass(frozen=True)
class Against:
    """A difference to the reference, its ends where it has an interval, and the verdict by Holm."""

    mean: float | None
    low: float | None
    high: float | None
    verdict: str


def summarise(results: Results, group: Group, reading: str) -> list[Summary]:
    """What methods come to in a group, in the order of the registry; without those that never ran."""
    mine = [row for row in results.outcomes if (row["model"], row["rows"]) == group]
    found = []
    for method in sorted({row["method"] for row in mine}, key=place):
        rows = [row for row in mine if row["method"] == method and row["reading"] == reading]
        if not rows:
            continue
        worst = [row["worst"] for row in rows if row["worst"] is not None]
        promised = [row for row in rows if row["promised"] and row["weights"] != 0]
        found.append(
            Summary(
                method=method,
                repairs=len(rows),
                failed=sum(row["method"] == method and row["reading"] not in READINGS for row in mine),
                left=sum(row["weights"] == 0 for row in rows),
                label=fmean(row["gain"] for row in rows),
                all=fmean(row["all"] for row in rows),
                worst=fmean(worst) if worst else None,
                fixed=fmean(row["fixed"] for row in rows),
                broken=fmean(row["broken"] for row in rows),
                promised=len(promised),
                held=sum(row["kept"] for row in promised),
                kept=sum(row["kept"] for row in rows),
                seconds=median(row["cpu"] for row in rows),
            )
        )
    return found


GONE: Mapping[str, tuple[str, ...]] = {
    "Arachne-required": (
        "label-priorities",
        "weights of the last Dense layer on the Pareto front of gradient loss and forward impact",
        "soft margins of the requirements, then the gain of the labels under repair",
        "localised weights, last layer",
        "this project, after Sohn et al., Arachne, TOSEM 2023",
    ),
    "label-offset": (
        "offsets",
        "one offset of the logits of the labels under repair",
        "soft margins of the requirements, then the gain of the labels under repair",
        "folds, offsets",
        "the simplest repair there is",
    ),
}
"""Methods that the study has and that are no more: behind which they stand, what they changed, by what, needs, source.
"""


def place(method: str) -> tuple[int, str]:
    """Ours stand in their own order, those of other packages behind them."""
    ours = [each for name in METHODS for each in (name, *(gone for gone, told in GONE.items() if told[0] == name))]
    return (ours.index(method) if method in ours else len(ours)), method


def against(results: Results, group: Group) -> dict[tuple[str, str, str], Against]:
    """Differences to the reference by method, reading and measure; Holm's procedure goes over the methods."""
    found = {}
    for reading in READINGS:
        for measure in MEASURES:
            rows = [
                row
                for row in results.differences
                if (row["model"], row["rows"]) == group and row["reading"] == reading and row["measure"] == measure
            ]
            adjusted = holm([row["p"] for row in rows])
            for row, chance in zip(rows, adjusted, strict=True):
                told = verdict_of(row["mean"], chance)
                found[row["method"], reading, measure] = Against(row["mean"], row["low"], row["high"], told)
    return found
