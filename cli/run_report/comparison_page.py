"""What the page of a comparison has beside that of other runs: tables, the frontier, and pictures of each method."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cli.run_report import comparison_charts
from cli.run_report.comparison import chance, counted, failures, heading, interval_sentence
from cli.run_report.comparison_data import ComparisonView, JudgingRows, MethodView
from cli.run_report.data import ReportView
from cli.run_report.pictures import read_pictures
from cli.run_report.words import under_repair
from engine.core.types import Int64

_ALL_PICTURES = 160
"""Pictures of all methods together: the page stays below a few MB."""

_MOST, _LEAST = 12, 3
"""Pictures of one method and kind."""

READINGS = {
    "chosen": (
        "As chosen",
        "What a method comes to where rows of validation choose among what it offers and the model as it is, or a "
        "promise of its own does.",
    ),
    "found": ("As found", "What a method comes to where nobody chooses: its first offer."),
}
"""Heading and explanation of each reading."""


@dataclass(frozen=True)
class OftenView:
    """A test row that a method fixes or breaks in some draws, with the class in most of them and its picture."""

    row: int
    label: int
    before: int
    after: int
    draws: int
    uri: str


@dataclass(frozen=True)
class MethodPictures:
    """Of one method: pictures by kind, `fixed` or `broken`, how many rows it does so in any draw, and its draws."""

    name: str
    draws: int
    kinds: tuple[tuple[str, int, tuple[OftenView, ...]], ...]


def comparison_content(report: ReportView) -> dict[str, Any]:
    """What the template asks for; false of runs of another kind."""
    found = report.comparison
    if found is None:
        return dict.fromkeys(("view", "pictures", "frontiers"))
    first = found.readings[0]
    words = Counter(
        word
        for method in found.methods
        for word in (["reference"] if method.reference else [method.verdict(first)])
        if first in method.readings
    )
    mine, note = _pictures(found, report.held_out.get("test"), report.started)
    return {
        "view": found,
        "heading": heading(found, report.label_names),
        "who": under_repair(found.labels, report.label_names),
        "first": first,
        "reference": next((method for method in found.methods if method.reference), None),
        "better": sum(count for word, count in words.items() if "better" in word and "worse" not in word),
        "worse": sum(count for word, count in words.items() if "worse" in word and "better" not in word),
        "failures": failures(found),
        "readings": [(name, *READINGS[name], _largest(found, name)) for name in found.readings],
        "intervals": interval_sentence(found),
        "frontiers": [
            (text, drawn)
            for across, text in comparison_charts.COSTS.items()
            if (drawn := comparison_charts.frontier(found, across)) is not None
        ],
        "pictures": mine,
        "note": note,
        "chance": chance,
        "counted": counted,
        "interval_bar": comparison_charts.interval_bar,
    }


def _largest(found: ComparisonView, reading: str) -> dict[str, float]:
    """By measure what fills half of a cell: the furthest end of any interval, or the largest difference."""
    reach: dict[str, float] = {}
    for method in found.methods:
        view = method.readings.get(reading)
        for measure, against in () if view is None else view.against.items():
            difference = against.difference
            ends = [abs(end) for end in (difference.mean, difference.low, difference.high) if end is not None]
            reach[measure] = max(reach.get(measure, 0.0), *ends, 0.0)
    return reach


def _pictures(found: ComparisonView, path: Path | None, started: str | None) -> tuple[list[MethodPictures], str | None]:
    """Test rows that each method fixes and breaks most often over the draws, as it is chosen."""
    test, reading = found.test, found.readings[0]
    if test is None:
        return [], None
    methods = [method for method in found.methods if any(name == reading for name, _ in method.after)]
    most = max(_LEAST, min(_MOST, _ALL_PICTURES // max(1, 2 * len(methods))))
    counts = {method.name: _counts(method, reading, test) for method in methods}
    shown = {
        name: {
            kind: np.argsort(-count, kind="stable")[: min(most, int((count > 0).sum()))] for kind, count in of.items()
        }
        for name, of in counts.items()
    }
    wanted = [positions for of in shown.values() for positions in of.values()]
    if not wanted:
        return [], None
    uris, note = read_pictures(path, test.row, test.label, np.unique(np.concatenate(wanted)), started)
    return [
        MethodPictures(
            method.name,
            sum(name == reading for name, _ in method.after),
            tuple(
                (
                    kind,
                    int((count > 0).sum()),
                    tuple(
                        _often(method, reading, test, kind, at, int(count[at]), uris[at])
                        for at in shown[method.name][kind].tolist()
                        if at in uris
                    ),
                )
                for kind, count in counts[method.name].items()
            ),
        )
        for method in methods
    ], note


def _counts(method: MethodView, reading: str, test: JudgingRows) -> dict[str, Int64]:
    """In how many draws each test row (n,) is fixed and broken."""
    was_right = test.before == test.label
    right = np.zeros(len(test.label), np.int64)
    draws = 0
    for (name, _), after in method.after.items():
        if name == reading:
            right += after == test.label
            draws += 1
    return {"fixed": np.where(was_right, 0, right), "broken": np.where(was_right, draws - right, 0)}


def _often(method: MethodView, reading: str, test: JudgingRows, kind: str, at: int, draws: int, uri: str) -> OftenView:
    label = int(test.label[at])
    classes = Counter(int(after[at]) for (name, _), after in method.after.items() if name == reading)
    if kind == "broken":
        classes.pop(label, None)
    after = label if kind == "fixed" else min(classes, key=lambda each: (-classes[each], each))
    return OftenView(int(test.row[at]), label, int(test.before[at]), after, draws, uri)
