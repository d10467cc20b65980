"""How the values of a report are written, in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from cli.shared.method_options import CROSSFIT
from cli.shared.verdicts import value_text

if TYPE_CHECKING:
    from engine.metrics.requirements import Verdict

COMPARE = "compare"  # kind of a run that compares methods, in `run.json`
STEP_WORDS = {"chain": "iteration", "rounds": "round"}  # what a step is called, by mode
SPLIT_WORDS = {  # rows measured, with what to think of them
    "test": "test rows",
    "validation": "validation rows (optimistic: they chose)",
    "out of fold": "repair rows, each under tunings that did not see it",
    "negative": "negative rows (searched on)",
    "positive": "positive rows (searched on)",
}
_LISTED_LABELS = 3


def kind_of(facts: Mapping[str, Any]) -> str:
    """Of `run.json`: compare, evaluate, CrossFit, independent, rounds, chain, or else optimize."""
    if "kind" in facts:
        return str(facts["kind"])
    return CROSSFIT if facts.get("method") == CROSSFIT else str(facts.get("mode") or "optimize")


def percent(share: float) -> str:
    """A share in percent: `0.8766` as `87.66`."""
    return f"{100 * share:.2f}"


def points(share: float) -> str:
    """A difference of shares in points, with its sign: `-0.0042` as `-0.42`."""
    return f"{100 * share:+.2f}"


def number(value: float | None) -> str:
    """A count or a measured number in four digits; a dash where there is none."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time in its two largest units: `3 min 12 s`; below a minute in seconds."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def begun(started: str) -> datetime:
    """When a run started; Python 3.10 does not read the Z of its ISO time."""
    return datetime.fromisoformat(started.replace("Z", "+00:00")).astimezone(timezone.utc)


def span(counts: Sequence[int]) -> str:
    """`9`, or `2666-2667` where they differ; a dash where there are none."""
    if not counts:
        return "-"
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}-{high}"


def plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def under_repair(labels: Sequence[int], names: Sequence[str] | None) -> str:
    """The labels under repair by name; of many the number, of none stated `all labels`."""
    if not labels:
        return "all labels"
    if len(labels) > _LISTED_LABELS:
        return f"the {len(labels)} labels under repair"
    texts = [label_text(label, names) for label in labels]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def label_text(label: int, names: Sequence[str] | None) -> str:
    """`6 Shirt`, or `label 6` where there are no names, or `several` for -1."""
    if label < 0:
        return "several"
    return f"{label} {names[label]}" if names else f"label {label}"


def verdict_values(verdict: Verdict) -> list[str]:
    """Before, after, interval (of a loss or a gain that of the change, in points), margin and rows."""
    low, high = verdict.low, verdict.high
    if verdict.requirement.relative:
        if not verdict.requirement.at_least:  # of a loss
            low, high = -high, -low
        interval = f"change {points(low)} to {points(high)}"
    else:
        interval = f"{percent(low)} to {percent(high)}"
    after = verdict.count_after / verdict.total
    margin = "-+"[verdict.margin >= 0] + value_text(abs(verdict.margin), 0.0, tied=verdict.margin == 0)
    return [percent(verdict.base), percent(after), interval, margin, str(verdict.total)]
