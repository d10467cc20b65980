"""The page of a report: one self-contained HTML file, from the template and the charts."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cli.run_report import charts, crossfit_charts
from cli.run_report.comparison_page import comparison_content
from cli.run_report.crossfit import CrossFitView
from cli.run_report.data import CandidateView, CurveView, JobView, OutcomeView, ReportView, workers
from cli.run_report.pictures import Picture, pictures
from cli.run_report.promises import chance_text, enough_text, missing, promise_sentence, promise_value
from cli.run_report.words import (
    SPLIT_WORDS,
    STEP_WORDS,
    duration,
    label_text,
    number,
    percent,
    plural,
    points,
    span,
    under_repair,
    verdict_values,
)
from engine.charts.scale import BLUE, ORANGE
from engine.core.names import NAME_COLUMNS, escaped, isolated, shortened
from engine.core.types import Int64
from engine.metrics.accuracy import LabelChange, confusion, total_change

if TYPE_CHECKING:
    from engine.metrics.promise import Promise

_MANY_LABELS = 60
"""Above so many, charts show only labels under repair and those that changed most."""

_SHOWN_LABELS = 40
_PAIRS = 12
_CURVE_POINTS = 60
_ALL_POINTS = 40_000
"""Points of all curves together: the page stays below a few MB."""

_FEW_GROUPS = 12
_SENTENCE_COLUMNS = 160


@dataclass(frozen=True)
class _Facet:
    """Curves that are drawn in one chart."""

    title: str
    chart: Markup


@dataclass(frozen=True)
class _Pair:
    """A confusion and its rows before and after."""

    true: int
    predicted: int
    before: int
    after: int


def render_page(report: ReportView) -> str:
    """The report as HTML; reads the held-out image set, if it is still there, for its pictures."""
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
        "points": lambda share: points(share).replace("-", "−"),
        "number": lambda value: "–" if value is None else number(value).replace("-", "−"),
        "signed": lambda value: f"{value:+.3f}".replace("-", "−"),
        "span": lambda counts: span(counts).replace("-", "–"),
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
        "change_bar": charts.change_bar,
        "count_bar": charts.count_bar,
        "share_bar": charts.share_bar,
        "mixed_bar": crossfit_charts.mixed_bar,
        "promise_value": promise_value,
        "enough_text": enough_text,
        "blue": BLUE,
        "orange": ORANGE,
    }
    return environment.get_template("page.html.jinja").render(_content(report))


def _name(text: str, most: int) -> Markup:
    """A name from elsewhere, whose direction of writing ends with it; whole where the pointer is."""
    shown = shortened(escaped(text), most)
    title = Markup(' title="{}"').format(escaped(text)) if shown != escaped(text) else ""
    return Markup("<bdi{}>{}</bdi>").format(title, shown)


def _content(report: ReportView) -> dict[str, Any]:
    found = workers(report.jobs)
    return {
        "report": report,
        "who": under_repair(report.labels, report.label_names),
        "word": STEP_WORDS.get(report.mode or ""),
        "states": Counter(job.state for job in report.jobs),
        "headline": _headline(report),
        "outcomes": [(outcome, _radar(report, outcome, at)) for at, outcome in enumerate(report.outcomes)],
        "crossfit": _crossfit(report.crossfit),
        "comparison": comparison_content(report),
        "confusion": _confusion(report),
        "facets": _facets(report),
        "trade_off": _trade_off(report.candidates),
        "steps": _steps(report),
        "pictures": _pictures(report),
        "workers": found,
        "timeline": charts.timeline(found) if any(job.ended is not None for job in report.jobs) and found else None,
    }


def _crossfit(found: CrossFitView | None) -> dict[str, Any]:
    """What only runs of CrossFit have; what the page asks for is false of others."""
    if found is None:
        return dict.fromkeys(("view", "promise", "frontier", "mixture"))

    def chance(share: float, step: float = found.step) -> str:
        return chance_text(share, found.confidence, sure=step == 0)

    def verdict(promise: Promise) -> tuple[bool, str]:
        if found.promised:
            return True, "✓ promised"
        if promise.chance >= found.wanted:
            return True, "✓ sure enough"
        return False, "not sure enough" if promise.met else "✗ not met"

    return {
        "view": found,
        "promise": found.judges or bool(found.notes),
        "mixture": bool(found.tuned),
        "sentence": promise_sentence(found),
        "missing": missing(found),
        "asked": f"{100 * found.confidence:.10g}",
        "wanted": chance_text(found.wanted, found.confidence),
        "frontier": crossfit_charts.frontier(found.frontier, found.confidence) if found.frontier else None,
        "largest": max((abs(recipe.found or 0.0) for recipe in found.recipes), default=0.0),
        "largest_offset": max((abs(offset.found) for offset in found.offsets), default=0.0),
        "chance": chance,
        "verdict": verdict,
    }


def _headline(report: ReportView) -> dict[str, Any] | None:
    """What the cards on top say: the saved model, or while there is none what the last step ended with."""
    split = report.judged_by
    if split is None or len(report.outcomes) > 1:
        return None
    after: int | None = None
    if report.outcomes:
        changes = report.outcomes[0].changes[split]
    elif len(report.steps.get(split, ())) > 1:
        last = report.steps[split][-1]
        changes, after = last.changes, last.number
    else:
        return None
    return {
        "split": split,
        "after": after,
        "mine": total_change(changes, report.about(changes)) if report.about(changes) else None,
        "all": total_change(changes),
    }


def _radar(report: ReportView, outcome: OutcomeView, at: int) -> Markup | None:
    changes = outcome.changes.get(outcome.judged_by or "", ())
    if len(changes) < 3:
        return None
    weights = {change.label: change.fixed + change.broken for change in changes}
    shown = _shown_labels(weights, report.labels)
    spokes = [
        charts.Spoke(
            change.label,
            label_text(change.label, report.label_names),
            change.correct_before / change.total,
            change.correct_after / change.total,
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


def _confusion(report: ReportView) -> dict[str, Any] | None:
    split = next(iter(report.predictions), None)
    if split is None:
        return None
    found = report.predictions[split]
    highest = max(int(labels.max()) for labels in (found.label, found.before, found.after))
    classes = max(highest + 1, len(report.label_names or ()))
    before = confusion(found.label, found.before, classes)
    after = confusion(found.label, found.after, classes)
    difference = np.abs(after - before)
    present = np.flatnonzero(before.any(axis=0) | before.any(axis=1) | after.any(axis=0))
    changed = dict(zip(present.tolist(), (difference.sum(0) + difference.sum(1))[present].tolist(), strict=True))
    shown = _shown_labels(changed, report.labels)
    names = [label_text(label, report.label_names) for label in shown]
    square = np.ix_(shown, shown)
    strongest = max(_strongest(before[square]), _strongest(after[square]))
    return {
        "split": split,
        "left_out": len(changed) - len(shown),
        "charts": [
            charts.heat_map(name, shown, names, counts[square], strongest)
            for name, counts in (("before", before), ("after", after))
        ],
        "pairs": _pairs(before, after),
    }


def _strongest(counts: Int64) -> float:
    """The largest share of a label's rows that goes to one wrong label."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    return float(shares.max())


def _pairs(before: Int64, after: Int64) -> list[_Pair]:
    """The confusions whose rows changed most, the largest change first."""
    change = np.abs(after - before)
    np.fill_diagonal(change, 0)
    order = np.argsort(-change, axis=None, kind="stable")[:_PAIRS]
    places = [np.unravel_index(at, change.shape) for at in order]
    return [
        _Pair(int(true), int(predicted), int(before[true, predicted]), int(after[true, predicted]))
        for true, predicted in places
        if change[true, predicted]
    ]


def _facets(report: ReportView) -> list[_Facet]:
    """Curves by label, or by positive weight, or by chunk: whatever the searches differ in."""
    drawn = [(job, report.curves[job.job]) for job in report.jobs if job.job in report.curves]
    if not drawn:
        return []
    keep = max(_FEW_GROUPS, min(_CURVE_POINTS, _ALL_POINTS // len(drawn)))
    groups = _grouped(drawn, report)
    return [
        _Facet(
            f"{title}, {plural(len(mine), 'search', 'searches')}",
            charts.curves(f"curves-{at}", f"Convergence, {title}", mine, keep, wide=len(groups) <= 2),
        )
        for at, (title, mine) in enumerate(groups.items())
    ]


def _grouped(
    drawn: Sequence[tuple[JobView, CurveView]], report: ReportView
) -> dict[str, list[tuple[JobView, CurveView]]]:
    ways: tuple[tuple[Callable[[JobView], Any], Callable[[Any], str]], ...] = (
        (lambda job: job.label, lambda label: label_text(label, report.label_names)),
        (lambda job: job.positive_weight, lambda weight: f"positive weight {number(weight)}"),
        (lambda job: job.chunk, lambda chunk: f"chunk {PurePath(chunk).name}"),
    )
    for key, title in ways:
        values = sorted({key(job) for job, _ in drawn})
        if len(values) > 1:
            return {title(value): [(job, curve) for job, curve in drawn if key(job) == value] for value in values}
    return {"all": list(drawn)}


def _trade_off(candidates: Sequence[CandidateView]) -> dict[str, Any] | None:
    """Means per positive weight; where weights follow the number of positives, per worth of one positive."""
    if not candidates:
        return None
    per_weight = _means(candidates, lambda job: job.positive_weight)
    per_positive = _means(
        candidates,
        lambda job: None if not job.positives or job.positive_weight is None else job.positive_weight / job.positives,
    )
    by_positive = 0 < len(per_positive) < len(per_weight)
    means = per_positive if by_positive else per_weight
    if not 1 < len(means) <= _FEW_GROUPS:
        means = []
    return {
        "chart": charts.trade_off(candidates, means),
        "means": means,
        "what": "worth of one positive input" if by_positive else "positive weight",
    }


def _means(candidates: Sequence[CandidateView], key: Any) -> list[tuple[str, float, float, int]]:
    """(text, mean overall, mean gain, count) by ascending key, equal to four digits."""
    groups: dict[float, list[CandidateView]] = {}
    for candidate in candidates:
        value = key(candidate.job)
        if value is not None:
            groups.setdefault(float(f"{value:.4g}"), []).append(candidate)
    return [
        (
            f"{value:g}",
            sum(candidate.overall for candidate in mine) / len(mine),
            sum(candidate.gain for candidate in mine) / len(mine),
            len(mine),
        )
        for value, mine in sorted(groups.items())
    ]


def _steps(report: ReportView) -> dict[str, Any] | None:
    word = STEP_WORDS.get(report.mode or "")
    split = report.judged_by
    if word is None or split is None or len(report.steps.get(split, ())) < 2:
        return None
    lines = []
    for drawn_split in report.steps:
        style = "" if drawn_split == split else " dashed"
        about = report.about(report.steps[drawn_split][0].changes)
        for labels, colour in ((about, "after"), ((), "before")):
            if labels or colour == "before":
                sums = [total_change(step.changes, labels) for step in report.steps[drawn_split]]
                values = tuple(100 * change.correct_after / change.total for change in sums)
                name = f"{under_repair(labels, report.label_names)}, {drawn_split}"
                lines.append(charts.Line(name, f"{colour}{style}", values))
    about = report.about(report.steps[split][0].changes)
    rows: list[tuple[int, LabelChange, LabelChange]] = [
        (step.number, total_change(step.changes, about), total_change(step.changes)) for step in report.steps[split]
    ]
    return {
        "split": split,
        "who": under_repair(about, report.label_names),
        "lines": lines,
        "chart": charts.accuracy_lines(lines, word),
        "rows": rows,
    }


def _pictures(report: ReportView) -> dict[str, Any] | None:
    found = pictures(report.predictions, report.held_out, report.started)
    if found is None:
        return None
    kinds = (("fixed", found.fixed, found.fixed_rows), ("broken", found.broken, found.broken_rows))
    return {
        "split": found.split,
        "note": found.note,
        "kinds": [(name, rows, len(shown), _by_label(shown)) for name, shown, rows in kinds],
    }


def _by_label(shown: Sequence[Picture]) -> list[tuple[int, list[tuple[tuple[int, int, int], list[Picture]]]]]:
    """Pictures by true label, and in it by (true, before, after), the most frequent first."""
    labels: dict[int, dict[tuple[int, int, int], list[Picture]]] = {}
    for picture in shown:
        kind = (picture.label, picture.before, picture.after)
        labels.setdefault(picture.label, {}).setdefault(kind, []).append(picture)
    return [
        (label, sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])))
        for label, kinds in sorted(labels.items())
    ]
