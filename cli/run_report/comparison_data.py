"""What a report says of a comparison of methods: plain values, from `run.json` and the table `outcomes`."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cli.run_report.words import COMPARE
from engine.core.errors import InputError
from engine.core.names import escaped
from engine.core.types import Int64
from engine.metrics.against import CHOSEN, FAILED, FOUND, MEASURES, READINGS, Judged, Part, difference, verdict
from engine.metrics.resampled import PairedDifference, holm


@dataclass(frozen=True)
class RepairView:
    """One reading of one repair: a row of `outcomes`; changes are shares, and None where no row tells."""

    draw: int
    weights: int | None
    gain: float | None
    all: float | None
    worst: float | None
    worst_label: int
    fixed: int
    broken: int
    promised: bool | None
    kept: bool | None

    @property
    def changed(self) -> bool:
        """The model is not left as it is: some weight has another value, whatever the offer is called."""
        return self.weights != 0


@dataclass(frozen=True)
class AgainstView:
    """A measure of a method less that of the reference, in the draws that both have.

    Attributes:
        difference: with its 95 % interval.
        adjusted: p-value by Holm over the methods; None where the draws cannot tell.
    """

    difference: PairedDifference
    adjusted: float | None

    @property
    def verdict(self) -> str:
        """In words, see `engine.metrics.against.verdict`."""
        return verdict(self.difference, self.adjusted)


@dataclass(frozen=True)
class ReadingView:
    """One reading of all repairs of a method that could run.

    Attributes:
        repairs: by draw.
        against: by measure; empty of the reference, and where that has no such reading.
    """

    repairs: tuple[RepairView, ...]
    against: Mapping[str, AgainstView]

    def mean(self, column: str) -> float | None:
        """Mean of a column over the draws that have it."""
        found = [value for each in self.repairs if (value := getattr(each, column)) is not None]
        return math.fsum(found) / len(found) if found else None

    def span(self, column: str) -> tuple[float, float] | None:
        """The smallest and the largest over the draws."""
        found = [value for each in self.repairs if (value := getattr(each, column)) is not None]
        return (min(found), max(found)) if found else None

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
        known = [each.kept for each in self.repairs if each.kept is not None]
        return sum(known), len(known)

    @property
    def left(self) -> int:
        """Draws that leave the model as it is."""
        return sum(not each.changed for each in self.repairs)


@dataclass(frozen=True, eq=False)
class MethodView:
    """A method in a comparison, as far as it is.

    Attributes:
        name: as `--methods` takes it, and as it can be shown.
        reference: it is what the others are held against.
        readings: by name; those that any draw has.
        failed: why it could not run, with the number of draws, the most frequent reason first.
        notes: what else repairs said, alike.
        seconds: median of a repair, without judging; None before the first.
        after: classes (n,) int64 predicted for the test rows, by reading and draw, where there are any.
    """

    name: str
    reference: bool
    readings: Mapping[str, ReadingView]
    failed: tuple[tuple[str, int], ...]
    notes: tuple[tuple[str, int], ...]
    seconds: float | None
    after: Mapping[tuple[str, int], Int64]

    @property
    def done(self) -> int:
        """Draws in which it ran."""
        return max((len(reading.repairs) for reading in self.readings.values()), default=0)

    @property
    def lost(self) -> int:
        """Draws in which it could not run."""
        return sum(count for _, count in self.failed)

    def verdict(self, reading: str) -> str:
        """In words; where the measures are not alike, those that are told apart."""
        found = self.readings.get(reading)
        if found is None:
            return f"failed: {self.failed[0][0]}" if self.failed else "has not run"
        if self.reference:
            return "reference"
        if not found.against:
            return "not compared"
        words = {measure: against.verdict for measure, against in found.against.items()}
        if len(set(words.values())) == 1:
            return next(iter(words.values()))
        return ", ".join(f"{measure} {word}" for measure, word in words.items() if word in ("better", "worse"))


@dataclass(frozen=True, eq=False)
class JudgingRows:
    """Rows that judge: row of the image set, true class, and class that the model as it is predicts, (n,) int64."""

    row: Int64
    label: Int64
    before: Int64


@dataclass(frozen=True, eq=False)
class ComparisonView:
    """A comparison, finished or going on.

    Attributes:
        methods: in the order of the run.
        reference: name of the method that the others are held against; None where it is not among them.
        draws: of repair rows.
        rows: of a draw; None for all of the pool.
        pool: rows to draw from.
        labels: under repair.
        test: rows that judge; None before they are known.
    """

    methods: tuple[MethodView, ...]
    reference: str | None
    draws: int
    rows: int | None
    pool: int
    labels: tuple[int, ...]
    test: JudgingRows | None

    @property
    def shared(self) -> float:
        """The fraction of their rows that two draws have in common."""
        return shared_rows(self.rows, self.pool)

    @property
    def ended(self) -> int:
        """Repairs that have ended, or failed."""
        return sum(method.done + method.lost for method in self.methods)

    @property
    def total(self) -> int:
        """Repairs in all."""
        return len(self.methods) * self.draws

    @property
    def failed(self) -> tuple[MethodView, ...]:
        """Methods that could not run in some draw."""
        return tuple(method for method in self.methods if method.failed)

    @cached_property
    def readings(self) -> tuple[str, ...]:
        """Readings that differ: `found` says nothing new where no method chose anything else."""
        alike = all(
            method.readings.get(CHOSEN) is None
            or method.readings.get(FOUND) is None
            or method.readings[CHOSEN].repairs == method.readings[FOUND].repairs
            for method in self.methods
        )
        return (CHOSEN,) if alike and any(CHOSEN in method.readings for method in self.methods) else READINGS

    @property
    def without_interval(self) -> str:
        """Why no method has an interval, where none has; else empty."""
        found = [
            against.difference
            for method in self.methods
            for reading in method.readings.values()
            for against in reading.against.values()
        ]
        return found[0].why if found and all(each.low is None for each in found) else ""


def read_comparison(directory: Path, facts: Mapping[str, Any], table_of: Callable[[str], Any]) -> ComparisonView | None:
    """What `run.json` (`facts`) and the tables (`table_of` by name) say, or None of a run of another kind.

    Raises:
        InputError: facts are missing.
    """
    if facts.get("kind") != COMPARE:
        return None
    for name in ("methods", "draws", "pool", "labels"):
        if facts.get(name) is None:
            raise InputError(f"{directory / 'run.json'} has no {name}, expected the facts of a comparison")
    test = _test_rows(table_of("predictions"))
    rows, after = _rows(table_of("outcomes"), 0 if test is None else len(test.label))
    stated, size = [str(name) for name in facts["methods"]], facts.get("rows")
    names = dict.fromkeys([*stated, *(row["method"] for row in rows)])
    labels = tuple(sorted(map(int, facts["labels"])))
    pool, reference = int(facts["pool"]), facts.get("reference")
    mine = {name: [row for row in rows if row["method"] == name] for name in names}
    judge = _Judge(reference, shared_rows(size, pool), labels, test, mine, after)
    against = {reading: judge.against(reading) for reading in READINGS}
    return ComparisonView(
        methods=tuple(_method(name, mine[name], after, reference, against) for name in names),
        reference=None if reference is None else escaped(reference),
        draws=int(facts["draws"]),
        rows=None if size is None else int(size),
        pool=pool,
        labels=labels,
        test=test,
    )


def shared_rows(rows: int | None, pool: int) -> float:
    """The fraction of their rows that two draws without replacement have in common, on average."""
    return 1.0 if rows is None or rows >= pool else rows / pool


_After = Mapping[tuple[str, str, int], Int64]
"""Classes of the test rows, by method, reading and draw."""


@dataclass(frozen=True, eq=False)
class _Judge:
    """What methods are held against the reference by."""

    reference: str | None
    shared: float
    labels: tuple[int, ...]
    test: JudgingRows | None
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    after: _After

    def against(self, reading: str) -> dict[str, dict[str, AgainstView]]:
        """By method and measure; methods without such a reading, and the reference, are left out."""
        by_draw = {
            name: {row["draw"]: self._judged(name, row) for row in rows if row["reading"] == reading}
            for name, rows in self.rows.items()
        }
        theirs = {} if self.reference is None else by_draw.get(self.reference, {})
        names = [name for name, mine in by_draw.items() if mine and name != self.reference] if theirs else []
        found: dict[str, dict[str, AgainstView]] = {name: {} for name in names}
        truth = None if self.test is None else self.test.label
        for measure in MEASURES:
            told = [
                difference([Part(self.labels, truth, by_draw[name], theirs)], measure, self.shared) for name in names
            ]
            for name, each, adjusted in zip(names, told, holm([each.p for each in told]), strict=True):
                found[name][measure] = AgainstView(each, adjusted)
        return found

    def _judged(self, name: str, row: Mapping[str, Any]) -> Judged:
        return Judged(
            {measure: row[measure] for measure in MEASURES}, self.after.get((name, row["reading"], row["draw"]))
        )


def _method(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    after: _After,
    reference: str | None,
    against: Mapping[str, Mapping[str, Mapping[str, AgainstView]]],
) -> MethodView:
    readings = {}
    for reading in READINGS:
        repairs = tuple(_repair(row) for row in rows if row["reading"] == reading)
        if repairs:
            readings[reading] = ReadingView(repairs, against[reading].get(name, {}))
    seconds = {row["draw"]: row["seconds"] for row in rows if row["reading"] in READINGS and row["seconds"] is not None}
    said = {row["draw"]: row["note"] for row in rows if row["reading"] in READINGS and row["note"]}
    return MethodView(
        name=escaped(name),
        reference=name == reference,
        readings=readings,
        failed=_counted(row["note"] or "no reason is given" for row in rows if row["reading"] == FAILED),
        notes=_counted(said.values()),
        seconds=statistics.median(seconds.values()) if seconds else None,
        after={(reading, draw): classes for (one, reading, draw), classes in after.items() if one == name},
    )


def _repair(row: Mapping[str, Any]) -> RepairView:
    values = {field.name: row[field.name] for field in fields(RepairView)}
    for name in ("gain", "all", "worst"):
        values[name] = None if values[name] is None or math.isnan(values[name]) else values[name]
    values |= {name: values[name] or 0 for name in ("fixed", "broken")}
    values["worst_label"] = -1 if values["worst_label"] is None else values["worst_label"]
    return RepairView(**values)


def _counted(texts: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Texts, as they can be shown, with how often each is there, the most frequent first."""
    return tuple(Counter(map(escaped, texts)).most_common())


def _rows(table: Any, test_rows: int) -> tuple[list[dict[str, Any]], dict[tuple[str, str, int], Int64]]:
    """Rows of `outcomes` without the classes, the last of each key; and the classes where they are as many as rows."""
    found = table.drop_columns(["after"]).to_pylist()
    last = {(row["method"], row["reading"], row["draw"]): at for at, row in enumerate(found)}
    after = {}
    for key, at in last.items():
        classes = table["after"][at].values
        if classes is not None and len(classes) == test_rows and not classes.null_count:
            after[key] = np.asarray(classes, np.int64)
    return [found[at] for at in last.values()], after


def _test_rows(table: Any) -> JudgingRows | None:
    split = np.array(table["split"].to_pylist(), dtype=str) == "test"
    if not split.any():
        return None
    columns = {name: np.asarray(table[name], np.int64)[split] for name in ("row", "label", "before")}
    return JudgingRows(**columns)
