"""Tables that are both in the terminal and on the page: their columns, and how a value is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from cli.run_report.words import number, percent, points, span


@dataclass(frozen=True)
class Column:
    heading: str
    of: Callable[[Any], Any]  # its value of a row, in full precision; None where there is none
    told: Callable[[Any], str] = str
    told_on_page: Callable[[Any], str] | None = None  # where it is another
    signed: bool = False  # the page colours it by its sign

    def text(self, row: Any) -> str:
        value = self.of(row)
        return "-" if value is None else self.told(value)

    def page(self, row: Any) -> str:
        value = self.of(row)
        return "–" if value is None else (self.told_on_page or self.told)(value).replace("-", "−")


Table = dict[str, Column]
"""Columns by what the page calls their values."""


def _share(count: str) -> Callable[[Any], float]:
    return lambda change: getattr(change, count) / change.total


def _mean(column: str, *, points_of: bool = True) -> Column:
    told, on_page = (points, None) if points_of else ("{:.0f}".format, "{:.1f}".format)
    return Column(column, lambda reading: reading.mean(column), told, on_page, signed=points_of)


def _pair(column: str) -> Column:
    """Of how many draws so many."""

    def pair(reading: Any) -> Any:
        count, total = getattr(reading, column)
        return (count, total) if total else None

    return Column(column, pair, "{0[0]}/{0[1]}".format)


def _chance(value: float) -> str:
    """A p-value in three digits, never as 0."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _span_on_page(counts: Sequence[int]) -> str:
    return span(counts).replace("-", "–")


_before, _after = _share("correct_before"), _share("correct_after")
_signed = "{:+.3f}".format

CHANGES: Table = {  # of a LabelChange
    "total": Column("rows", attrgetter("total")),
    "base.accuracy": Column("before %", _before, percent),
    "repaired.accuracy": Column("after %", _after, percent),
    "change": Column("change", lambda change: _after(change) - _before(change), points, signed=True),
    "repaired": Column("fixed", attrgetter("fixed")),
    "broken": Column("broken", attrgetter("broken")),
}
STEPS: Table = {  # of `RunView.steps_on`
    "correct": Column("correct", attrgetter("mine.correct_after")),
    "incorrect": Column("incorrect", lambda step: step.mine.total - step.mine.correct_after),
    "accuracy": Column("accuracy", lambda step: _after(step.mine), percent),
    "all": Column("all labels", lambda step: _after(step.all), percent),
}
WORKERS: Table = {  # of `RunView.workers`
    "searches": Column("searches", lambda worker: len(worker.jobs)),
    "busy": Column("busy s", attrgetter("busy"), "{:.1f}".format),
}
MIXTURE: Table = {  # of the recipes of a CrossFitView; the first two of its offsets as well
    "found": Column("coefficient", attrgetter("found"), _signed),
    "taken": Column("times step", attrgetter("taken"), _signed),
    "epochs": Column("epochs", lambda recipe: [each.epochs for each in recipe.tunings], span, _span_on_page),
    "rows": Column("rows", lambda recipe: [each.rows for each in recipe.tunings], span, _span_on_page),
    "change": Column("rms change", attrgetter("change"), number),
}
READINGS = {  # title in the terminal, heading and explanation on the page
    "chosen": (
        "as validation rows choose, or a promise of the method's own",
        "As chosen",
        "What a method comes to where rows of validation choose among what it offers and the baseline model, or a "
        "promise of its own does.",
    ),
    "found": (
        "as found, where nobody chooses",
        "As found",
        "What a method comes to where nobody chooses: its first offer.",
    ),
}
READING: Table = {  # of a ReadingView
    **{name: _mean(name) for name in ("gain", "all", "worst")},
    "worst_label": Column("of", lambda reading: reading.worst_label if reading.worst_label >= 0 else None),
    **{name: _mean(name, points_of=False) for name in ("fixed", "broken")},
    **{name: _pair(name) for name in ("kept", "promised", "held")},
    "left": Column("left", attrgetter("left")),
}
METHOD: Table = {  # of a MethodView
    "done": Column("draws", attrgetter("done")),
    "seconds": Column("s", attrgetter("seconds"), "{:.1f}".format),
}
DIFFERENCE: Table = {  # of `ReadingView.against`
    "mean": Column("difference", attrgetter("mean"), points),
    "low": Column(
        "95 % interval",
        lambda each: None if each.low is None else (each.low, each.high),
        lambda ends: " to ".join(map(points, ends)),
    ),
    "p": Column("p", attrgetter("p"), _chance),
    "adjusted": Column("p by Holm", attrgetter("adjusted"), _chance),
    "draws": Column("draws", attrgetter("draws")),
}
