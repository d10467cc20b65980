"""A run of `compare`, from `run.json` and the table `outcomes`."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cli.run_report.rows import Row, read_whole
from cli.run_report.words import COMPARE, kind_of
from engine.core.errors import InputError
from engine.core.names import escaped
from engine.metrics.against import CHOSEN, FAILED, FOUND, MEASURES, READINGS, Judged, Part, difference, verdict
from engine.metrics.resampled import holm

_TOLD = ("draw", "weights", "gain", "all", "worst", "worst_label", "fixed", "broken", "promised", "kept")
"""Columns in which two readings of a repair may differ."""


@dataclass(frozen=True, eq=False)
class ReadingView:
    """One reading of all repairs of a method that could run."""

    repairs: tuple[Row, ...]  # rows of `outcomes` by draw; `changed`: some weight; `after`: (n,) classes, or None
    against: Mapping[str, Row]  # by measure, less the reference in the draws that both have; empty of the reference

    def known(self, column: str) -> list[Any]:
        return [value for each in self.repairs if (value := getattr(each, column)) is not None]

    def mean(self, column: str) -> float | None:
        found = self.known(column)
        return math.fsum(found) / len(found) if found else None

    @property
    def worst_label(self) -> int:
        """The other label that loses most in most draws; -1 without others."""
        counts = Counter(each.worst_label for each in self.repairs if each.worst_label >= 0)
        return min(counts, key=lambda label: (-counts[label], label), default=-1)

    @property
    def promised(self) -> tuple[int, int]:
        """Draws with a promise, of those in which there could have been one; a model left as it is promises nothing."""
        known = [each.promised and each.changed for each in self.repairs if each.promised is not None]
        return sum(known), len(known)

    @property
    def held(self) -> tuple[int, int]:
        """Promises that test rows keep, of those made and judged."""
        made = [each.kept for each in self.repairs if each.promised and each.changed and each.kept is not None]
        return sum(made), len(made)

    @property
    def kept(self) -> tuple[int, int]:
        """Draws whose test rows keep all requirements, of those judged."""
        known = self.known("kept")
        return sum(known), len(known)

    @property
    def left(self) -> int:
        return sum(not each.changed for each in self.repairs)


@dataclass(frozen=True, eq=False)
class MethodView:
    """A method in a comparison, as far as it is."""

    name: str  # as `--methods` takes it, and as it can be shown
    reference: bool  # the others are held against it
    readings: Mapping[str, ReadingView]  # by name; those that any draw has
    failed: tuple[tuple[str, int], ...]  # why it could not run, with the number of draws, the most frequent first
    seconds: float | None  # median of a repair, without judging; None before the first

    @property
    def done(self) -> int:
        return max((len(reading.repairs) for reading in self.readings.values()), default=0)

    @property
    def lost(self) -> int:
        return sum(count for _, count in self.failed)

    def verdict(self, reading: str) -> str:
        """One word where the measures have the same, else those that are told apart."""
        found = self.readings.get(reading)
        if found is None:
            return f"failed: {self.failed[0][0]}" if self.failed else "has not run"
        if self.reference:
            return "reference"
        if not found.against:
            return "not compared"
        words: dict[str, str] = {measure: against.verdict for measure, against in found.against.items()}
        if len(set(words.values())) == 1:
            return next(iter(words.values()))
        return ", ".join(f"{measure} {word}" for measure, word in words.items() if word in ("better", "worse"))


@dataclass(frozen=True, eq=False)
class ComparisonView:
    """A comparison, finished or going on."""

    methods: tuple[MethodView, ...]
    reference: str | None  # the method that the others are held against; None where it is not among them
    draws: int
    rows: int | None  # of a draw; None for all of the pool
    pool: int  # rows to draw from
    labels: tuple[int, ...]  # under repair
    test: Row | None  # rows that judge: `row`, `label`, `before`, (n,) int64; None before they are known

    @property
    def shared(self) -> float:
        """The fraction of their rows that two draws without replacement have in common, on average."""
        return 1.0 if self.rows is None or self.rows >= self.pool else self.rows / self.pool

    @property
    def ended(self) -> int:
        return sum(method.done + method.lost for method in self.methods)

    @property
    def total(self) -> int:
        return len(self.methods) * self.draws

    @property
    def failed(self) -> tuple[MethodView, ...]:
        return tuple(method for method in self.methods if method.failed)

    @cached_property
    def readings(self) -> tuple[str, ...]:
        """Readings that differ: `found` says nothing new where no method chose anything else."""
        both = [method.readings for method in self.methods if {CHOSEN, FOUND} <= method.readings.keys()]
        alike = all(_told(readings[CHOSEN]) == _told(readings[FOUND]) for readings in both)
        return (CHOSEN,) if alike and any(CHOSEN in method.readings for method in self.methods) else READINGS

    @property
    def differences(self) -> list[Row]:
        readings = [reading for method in self.methods for reading in method.readings.values()]
        return [against for reading in readings for against in reading.against.values()]


def read_comparison(directory: Path, facts: Mapping[str, Any], test: Row | None) -> ComparisonView | None:
    """None of a run of another kind."""
    if kind_of(facts) != COMPARE:
        return None
    for name in ("methods", "draws", "pool", "labels"):
        if facts.get(name) is None:
            raise InputError(f"{directory / 'run.json'} has no {name}, expected the facts of a comparison")
    rows, size, reference = _rows(directory, test), facts.get("rows"), facts.get("reference")
    mine: dict[str, list[Row]] = {str(name): [] for name in facts["methods"]}
    for row in rows:
        mine.setdefault(row.method, []).append(row)
    found = ComparisonView(
        methods=(),
        reference=None if reference is None else escaped(reference),
        draws=int(facts["draws"]),
        rows=None if size is None else int(size),
        pool=int(facts["pool"]),
        labels=tuple(sorted(map(int, facts["labels"]))),
        test=test,
    )
    against = {reading: _against(found, mine, reference, reading) for reading in READINGS}
    return replace(found, methods=tuple(_method(name, mine[name], name == reference, against) for name in mine))


def _rows(directory: Path, test: Row | None) -> list[Row]:
    """Rows of `outcomes`, the last of each method, reading and draw, with classes where they are as many as rows."""
    table = read_whole(directory, "outcomes")
    rows: list[dict[str, Any]] = table.drop_columns(["after"]).to_pylist()
    last = {(row["method"], row["reading"], row["draw"]): (at, row) for at, row in enumerate(rows)}
    found = []
    for at, values in last.values():
        row = Row(**values)
        for name in ("gain", "all", "worst"):
            value = getattr(row, name)
            setattr(row, name, None if value is None or math.isnan(value) else value)
        row.fixed, row.broken = row.fixed or 0, row.broken or 0
        row.worst_label = -1 if row.worst_label is None else row.worst_label
        row.changed = row.weights != 0  # whatever the offer is called
        classes = table["after"][at].values
        whole = classes is not None and len(classes) == (0 if test is None else len(test.label))
        row.after = np.asarray(classes, np.int64) if whole and not classes.null_count else None
        found.append(row)
    return found


def _against(
    found: ComparisonView, mine: Mapping[str, Sequence[Row]], reference: str | None, reading: str
) -> dict[str, dict[str, Row]]:
    """By method, but the reference, and measure."""
    by_draw = {
        name: {
            row.draw: Judged({measure: getattr(row, measure) for measure in MEASURES}, row.after)
            for row in rows
            if row.reading == reading
        }
        for name, rows in mine.items()
    }
    theirs = by_draw.get(reference or "", {})
    names = [name for name, judged in by_draw.items() if judged and name != reference] if theirs else []
    truth = None if found.test is None else found.test.label
    told: dict[str, dict[str, Row]] = {name: {} for name in names}
    for measure in MEASURES:
        parts = [Part(found.labels, truth, by_draw[name], theirs) for name in names]
        each = [difference([part], measure, found.shared) for part in parts]
        for name, one, adjusted in zip(names, each, holm([one.p for one in each]), strict=True):
            told[name][measure] = Row(**vars(one), adjusted=adjusted, verdict=verdict(one, adjusted))
    return told


def _method(
    name: str, rows: Sequence[Row], reference: bool, against: Mapping[str, Mapping[str, Mapping[str, Row]]]
) -> MethodView:
    by_reading = {reading: tuple(row for row in rows if row.reading == reading) for reading in READINGS}
    reasons = [escaped(row.note or "no reason is given") for row in rows if row.reading == FAILED]
    seconds = {row.draw: row.seconds for row in rows if row.reading in READINGS and row.seconds is not None}
    return MethodView(
        name=escaped(name),
        reference=reference,
        readings={
            reading: ReadingView(repairs, against[reading].get(name, {}))
            for reading, repairs in by_reading.items()
            if repairs
        },
        failed=tuple(Counter(reasons).most_common()),
        seconds=statistics.median(seconds.values()) if seconds else None,
    )


def _told(reading: ReadingView) -> list[list[Any]]:
    return [[getattr(row, column) for column in _TOLD] for row in reading.repairs]
