"""The page of a report: one self-contained HTML file, from the template and the charts."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cli.run_report import charts, tables
from cli.run_report.comparison import ComparisonView
from cli.run_report.pictures import pictures, spread
from cli.run_report.rows import Row
from cli.run_report.text import (
    chance_text,
    enough_text,
    failures,
    heading,
    interval_sentence,
    missing,
    promise_sentence,
    promise_value,
)
from cli.run_report.view import CrossFitView, RunView
from cli.run_report.words import (
    SPLIT_WORDS,
    STEP_WORDS,
    duration,
    label_text,
    number,
    percent,
    plural,
    points,
    under_repair,
    verdict_values,
)
from engine.charts.style import BLUE, ORANGE
from engine.core.names import NAME_COLUMNS, escaped, isolated, shortened
from engine.core.types import Int64
from engine.metrics.accuracy import LabelChange, confusion, total_change

if TYPE_CHECKING:
    from engine.metrics.promise import Promise

_MANY_LABELS, _SHOWN_LABELS = 60, 40  # of more, charts show those under repair and those that changed most
_PAIRS = 12
_CURVE_POINTS, _ALL_POINTS = 60, 40_000  # of a curve, and of all: the page stays below a few MB
_PICTURES = 40  # of a run, those fixed and those broken
_ALL_PICTURES, _MOST, _LEAST = 160, 12, 3  # of all methods together, and of one method and kind
_FEW_GROUPS = 12
_SENTENCE_COLUMNS = 160


def render_page(report: RunView) -> str:
    """Reads the held-out image set, if it is still there, for its pictures."""
    names = report.label_names
    if names is not None:
        report = replace(report, label_names=tuple(isolated(shortened(name, NAME_COLUMNS)) for name in names))
    environment = Environment(
        loader=PackageLoader("cli.run_report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": lambda share: "–" if share is None else points(share).replace("-", "−"),
        "number": lambda value: "–" if value is None else number(value).replace("-", "−"),
        "duration": duration,
        "exact": lambda value: "" if value is None else repr(value),
        "label": lambda label: _name(label_text(label, names), NAME_COLUMNS),
        "sentence": lambda text: _name(text, _SENTENCE_COLUMNS),
        "in_title": lambda label: isolated(label_text(label, names)),
        "split": SPLIT_WORDS.__getitem__,
        "pretty": lambda value: escaped(json.dumps(value, indent=2, ensure_ascii=False), keep="\n"),
        "shell": lambda words: shlex.join(map(str, words)),
        "file_name": lambda path: PurePath(path).name,
    }
    environment.globals |= {
        "plural": plural,
        "verdict_values": lambda verdict: [text.replace("-", "−") for text in verdict_values(verdict)],
        "total_change": total_change,
        "charts": charts,
        "tables": tables,
        "promise_value": promise_value,
        "enough_text": enough_text,
        "blue": BLUE,
        "orange": ORANGE,
    }
    return environment.get_template("page.html.jinja").render(_content(report))


def _name(text: str, most: int) -> Markup:
    """A name from elsewhere, whose direction of writing ends with it; a tooltip has all of it."""
    shown = shortened(escaped(text), most)
    title = Markup(' title="{}"').format(escaped(text)) if shown != escaped(text) else ""
    return Markup("<bdi{}>{}</bdi>").format(title, shown)


def _content(report: RunView) -> dict[str, Any]:
    timed = report.workers and any(job.ended is not None for job in report.jobs)
    return {
        "report": report,
        "who": under_repair(report.labels, report.label_names),
        "word": STEP_WORDS.get(report.kind),
        "states": Counter(job.state for job in report.jobs),
        "headline": _headline(report),
        "outcomes": [
            (outcome, _radar(report, outcome.changes.get(outcome.judged_by or "", ()), at))
            for at, outcome in enumerate(report.outcomes)
        ],
        "crossfit": _crossfit(report.crossfit),
        "comparison": _comparison(report, report.comparison),
        "confusion": _confusion(report),
        "facets": _facets(report),
        "trade_off": _trade_off([job for job in report.jobs if job.gain is not None]),
        "steps": _steps(report),
        "pictures": _pictures(report),
        "workers": report.workers,
        "timeline": charts.timeline(report.workers) if timed else None,
    }


def _crossfit(found: CrossFitView | None) -> dict[str, Any]:
    """What only runs of CrossFit have; what the page asks for is false of others."""
    if found is None:
        return dict.fromkeys(("view", "promise", "frontier", "mixture"))

    def chance_of(share: float, step: float = found.step) -> str:
        return chance_text(share, found.confidence, sure=step == 0)

    def verdict(promise: Promise) -> tuple[bool, str]:
        if found.promised or promise.chance >= found.wanted:
            return True, "✓ promised" if found.promised else "✓ sure enough"
        return False, "not sure enough" if promise.met else "✗ not met"

    return {
        "view": found,
        "promise": found.judges or bool(found.notes),
        "mixture": bool(found.tuned),
        "sentence": promise_sentence(found),
        "missing": missing(found),
        "asked": f"{100 * found.confidence:.10g}",
        "wanted": chance_text(found.wanted, found.confidence),
        "frontier": charts.frontier(found.frontier, found.confidence) if found.frontier else None,
        "largest": max((abs(recipe.found or 0.0) for recipe in found.recipes), default=0.0),
        "largest_offset": max((abs(offset.found) for offset in found.offsets), default=0.0),
        "chance": chance_of,
        "verdict": verdict,
    }


def _comparison(report: RunView, found: ComparisonView | None) -> dict[str, Any]:
    """What only comparisons have; what the page asks for is false of others."""
    if found is None:
        return dict.fromkeys(("view", "pictures", "frontiers"))
    first = found.readings[0]
    words = [method.verdict(first) for method in found.methods if first in method.readings]
    classes = {
        method.name: [row.after for row in reading.repairs if row.after is not None]
        for method in found.methods
        if (reading := method.readings.get(first)) is not None
    }
    classes = {name: afters for name, afters in classes.items() if afters} if found.test is not None else {}
    most = max(_LEAST, min(_MOST, _ALL_PICTURES // max(1, 2 * len(classes))))

    def often(count: Int64) -> Int64:
        return np.argsort(-count, kind="stable")[: min(most, int((count > 0).sum()))]

    shown, note = pictures(found.test or Row(), classes, often, report.held_out.get("test"), report.started)
    return {
        "view": found,
        "heading": heading(found, report.label_names),
        "better": sum("better" in word and "worse" not in word for word in words),
        "worse": sum("worse" in word and "better" not in word for word in words),
        "failures": failures(found),
        "readings": [(name, *tables.READINGS[name][1:], _largest(found, name)) for name in found.readings],
        "intervals": interval_sentence(found),
        "frontiers": [
            (text, drawn)
            for cost, text in charts.COSTS.items()
            if (drawn := charts.methods_frontier(found, cost)) is not None
        ],
        "pictures": [(name, len(classes[name]), kinds) for name, kinds in shown.items()],
        "note": note,
    }


def _largest(found: ComparisonView, reading: str) -> dict[str, float]:
    """By measure the furthest end of any interval, or the largest difference, which fills half of a cell."""
    reach: dict[str, float] = {}
    for method in found.methods:
        view = method.readings.get(reading)
        for measure, against in () if view is None else view.against.items():
            ends = [abs(end) for end in (against.mean, against.low, against.high) if end is not None]
            reach[measure] = max(reach.get(measure, 0.0), *ends, 0.0)
    return reach


def _headline(report: RunView) -> dict[str, Any] | None:
    """Of the saved model, or while there is none of the last step."""
    split = report.judged_by
    if split is None or len(report.outcomes) > 1:
        return None
    if report.outcomes:
        return {"split": split, "totals": report.totals(report.outcomes[0].changes[split])}
    steps = report.steps_on(split)
    return {"split": split, "totals": steps[-1]} if len(steps) > 1 else None


def _radar(report: RunView, changes: Sequence[LabelChange], at: int) -> Markup | None:
    if len(changes) < 3:
        return None
    shown = _shown_labels({change.label: change.fixed + change.broken for change in changes}, report.labels)
    spokes = [
        Row(
            label=change.label,
            name=label_text(change.label, report.label_names),
            before=change.correct_before / change.total,
            after=change.correct_after / change.total,
        )
        for change in changes
        if change.label in shown
    ]
    return charts.radar(f"radar-{at}", spokes)


def _shown_labels(changed: dict[int, int], labels: Sequence[int]) -> list[int]:
    """All labels, ascending; of very many those under repair and those with the most rows changed."""
    if len(changed) <= _MANY_LABELS:
        return sorted(changed)
    ranked = sorted(changed, key=lambda label: (label not in labels, -changed[label], label))
    return sorted(ranked[:_SHOWN_LABELS])


def _confusion(report: RunView) -> dict[str, Any] | None:
    split = next(iter(report.predictions), None)
    if split is None:
        return None
    found = report.predictions[split]
    highest = max(int(labels.max()) for labels in (found.label, found.before, found.after))
    classes = max(highest + 1, len(report.label_names or ()))
    before, after = (confusion(found.label, predicted, classes) for predicted in (found.before, found.after))
    change = np.abs(after - before)
    present = np.flatnonzero(before.any(axis=0) | before.any(axis=1) | after.any(axis=0))
    changed = dict(zip(present.tolist(), (change.sum(0) + change.sum(1))[present].tolist(), strict=True))
    shown = _shown_labels(changed, report.labels)
    names = [label_text(label, report.label_names) for label in shown]
    square = np.ix_(shown, shown)
    strongest = max(_strongest(before[square]), _strongest(after[square]))
    np.fill_diagonal(change, 0)
    order = np.argsort(-change, axis=None, kind="stable")[:_PAIRS]
    places = zip(*(axis.tolist() for axis in np.unravel_index(order, change.shape)), strict=True)
    return {
        "split": split,
        "left_out": len(changed) - len(shown),
        "charts": [
            charts.heat_map(name, shown, names, counts[square], strongest)
            for name, counts in (("before", before), ("after", after))
        ],
        "pairs": [(*at, int(before[at]), int(after[at])) for at in places if change[at]],  # the largest change first
    }


def _strongest(counts: Int64) -> float:
    """The largest share of a label's rows that goes to one wrong label."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    return float(shares.max())


def _facets(report: RunView) -> list[tuple[str, Markup]]:
    """Curves by label, or by positive weight, or by chunk: whatever the searches differ in."""
    drawn = [(job, report.curves[job.job]) for job in report.jobs if job.job in report.curves]
    keep = max(_FEW_GROUPS, min(_CURVE_POINTS, _ALL_POINTS // max(1, len(drawn))))
    ways: tuple[tuple[str, Callable[[Any], str]], ...] = (
        ("label", lambda label: label_text(label, report.label_names)),
        ("positive_weight", lambda weight: f"positive weight {number(weight)}"),
        ("chunk", lambda chunk: f"chunk {PurePath(chunk).name}"),
    )
    groups = {"all": drawn} if drawn else {}
    for column, title in ways:
        values = sorted({getattr(job, column) for job, _ in drawn})
        if len(values) > 1:
            groups = {title(value): [each for each in drawn if getattr(each[0], column) == value] for value in values}
            break
    return [
        (
            f"{title}, {plural(len(mine), 'search', 'searches')}",
            charts.curves(f"curves-{at}", f"Convergence, {title}", mine, keep, wide=len(groups) <= 2),
        )
        for at, (title, mine) in enumerate(groups.items())
    ]


def _trade_off(jobs: Sequence[Row]) -> dict[str, Any] | None:
    """With means per positive weight, or per worth of one positive where weights follow their number."""
    if not jobs:
        return None
    known = [job for job in jobs if job.positive_weight is not None]
    per_weight = _means([(job.positive_weight, job) for job in known])
    per_positive = _means([(job.positive_weight / job.positives, job) for job in known if job.positives])
    by_positive = 0 < len(per_positive) < len(per_weight)
    means = per_positive if by_positive else per_weight
    if not 1 < len(means) <= _FEW_GROUPS:
        means = []
    return {
        "chart": charts.trade_off(jobs, means),
        "means": means,
        "what": "weight of one positive input" if by_positive else "positive weight",
    }


def _means(valued: Sequence[tuple[float, Row]]) -> list[tuple[str, float, float, int]]:
    """(text, mean overall, mean gain, count) by ascending value, equal to four digits."""
    groups: dict[float, list[Row]] = {}
    for value, job in valued:
        groups.setdefault(float(f"{value:.4g}"), []).append(job)
    means = []
    for value, mine in sorted(groups.items()):
        overall, gain = (sum(getattr(job, column) for job in mine) / len(mine) for column in ("overall", "gain"))
        means.append((f"{value:g}", overall, gain, len(mine)))
    return means


def _steps(report: RunView) -> dict[str, Any] | None:
    word, judge = STEP_WORDS.get(report.kind), report.judged_by
    by_split = {split: report.steps_on(split) for split in ("test", "validation")}
    if word is None or judge is None or len(by_split[judge]) < 2:
        return None
    lines = []
    for split, steps in by_split.items():
        about = steps[0].about if steps else ()
        for labels, column, style in ((about, "accuracy", "after"), ((), "all", "before")):
            if labels or (steps and column == "all"):
                name = f"{under_repair(labels, report.label_names)}, {split}"
                values = [100 * tables.STEPS[column].of(step) for step in steps]
                lines.append((name, style if split == judge else f"{style} dashed", values))
    return {
        "split": judge,
        "who": under_repair(by_split[judge][0].about, report.label_names),
        "lines": lines,
        "chart": charts.accuracy_lines(lines, word),
        "rows": by_split[judge],
    }


def _pictures(report: RunView) -> dict[str, Any] | None:
    split = next(iter(report.predictions), None)
    if split is None:
        return None
    rows = report.predictions[split]

    def some(count: Int64) -> Int64:
        return spread(np.flatnonzero(count), rows.label, _PICTURES)

    found, note = pictures(rows, {"": [rows.after]}, some, report.held_out.get(split), report.started)
    return {
        "split": split,
        "note": note,
        "kinds": [(name, kind.rows, len(kind.shown), _by_label(kind.shown)) for name, kind in found[""].items()],
    }


def _by_label(shown: Sequence[Row]) -> list[tuple[int, list[tuple[tuple[int, int, int], list[Row]]]]]:
    """By true label, and in it by (true, before, after), the most frequent first."""
    labels: dict[int, dict[tuple[int, int, int], list[Row]]] = {}
    for picture in shown:
        kind = (picture.label, picture.before, picture.after)
        labels.setdefault(picture.label, {}).setdefault(kind, []).append(picture)
    return [
        (label, sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])))
        for label, kinds in sorted(labels.items())
    ]
