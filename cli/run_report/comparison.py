"""A comparison of methods as text: what each comes to, which could not run, and differences to the reference."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.run_report.words import percent, plural, points, under_repair
from cli.shared.console import COLUMNS, table
from engine.core.names import shortened

if TYPE_CHECKING:
    from cli.run_report.comparison_data import AgainstView, ComparisonView, MethodView

READING_WORDS = {
    "chosen": "as validation rows choose, or a promise of the method's own",
    "found": "as found, where nobody chooses",
}

_NAME = 10
"""Columns of a method's name at least."""

_REASON = 500
"""Columns of a reason that are shown."""


def comparison_text(directory: Path) -> str:
    """What `compare` and `report` print of the run in a directory.

    Raises:
        InputError: the directory holds no comparison, or a damaged one.
    """
    from cli.run_report.data import read_report
    from engine.core.errors import InputError

    report = read_report(directory)
    if report.comparison is None:
        raise InputError(f"{directory}: found a run of {report.kind}, expected a comparison of methods")
    return describe_comparison(report.comparison, report.label_names)


def describe_comparison(found: ComparisonView, names: Sequence[str] | None) -> str:
    """Tables of what methods come to on test rows; `names` of labels, or None."""
    known = [name for name in found.readings if any(name in method.readings for method in found.methods)]
    why = [textwrap.fill(line, COLUMNS, subsequent_indent="  ") for line in failures(found)]
    parts = [textwrap.fill(heading(found, names), COLUMNS), *(_outcomes(found, reading) for reading in known)]
    parts += ["\n".join(why), _differences(found, names)]
    return "\n\n".join(part for part in parts if part)


def heading(found: ComparisonView, names: Sequence[str] | None) -> str:
    """What was compared, and how far it is."""
    drawn = f"all {found.pool} repair rows" if found.shared == 1 else f"{found.rows} of {found.pool} repair rows"
    about = f"{plural(len(found.methods), 'method', 'methods')}, {plural(found.draws, 'draw', 'draws')} of {drawn}"
    judged = "" if found.test is None else f", judged on {plural(len(found.test.label), 'test row', 'test rows')}"
    so_far = f"; {found.ended} of {found.total} repairs have ended" if found.ended < found.total else ""
    return f"{about}{judged}; under repair: {under_repair(found.labels, names)}{so_far}"


def failures(found: ComparisonView) -> list[str]:
    """A line for each method and reason for which it could not run."""
    of = f"of {plural(found.draws, 'draw', 'draws')}"
    return [
        f"{method.name} failed in {count} {of}: {shortened(note, _REASON)}"
        for method in found.failed
        for note, count in method.failed
    ]


def interval_sentence(found: ComparisonView) -> str:
    """What differences to the reference are held to, or why there is no interval, or no difference."""
    if not any(reading.against for method in found.methods for reading in method.readings.values()):
        if found.reference is None:
            return "no differences: the method that others are held against is not among those compared"
        return f"no differences: there are no repairs by {found.reference} and another method from the same draw"
    if found.without_interval:
        return f"no intervals: {found.without_interval}"
    return (
        f"intervals of 95 %: corrected resampled t over draws, which share {percent(found.shared)} % of their rows, "
        "and the sampling of test rows; p by Holm over the methods, better and worse only below 0.05"
    )


def difference_cells(against: AgainstView) -> tuple[str, str, str]:
    """Difference and interval in points, and p by Holm; dashes where there are none."""
    found = against.difference
    mean = "-" if found.mean is None else points(found.mean)
    if found.low is None or found.high is None or against.adjusted is None:
        return mean, "-", "-"
    return mean, f"{points(found.low)} to {points(found.high)}", chance(against.adjusted)


def chance(value: float) -> str:
    """A p-value in three digits, never as 0."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def counted(pair: tuple[int, int]) -> str:
    """`2/3`; a dash of none."""
    return "-" if pair[1] == 0 else f"{pair[0]}/{pair[1]}"


def _outcomes(found: ComparisonView, reading: str) -> str:
    title = f"{READING_WORDS[reading]} (test rows, means over draws; gain, all and worst in points):"
    header = ["method", "gain", "all", "worst", "of", "fixed", "broken", "kept", "held", "s"]
    rows = [_row(method, reading) for method in found.methods]
    lines = [textwrap.fill(title, COLUMNS), table(header, rows, least=_NAME)]
    if reading == found.readings[0]:
        lines.append(
            "worst, of: the other label that loses most; kept: draws whose test rows keep all\n"
            "requirements; held: promises that test rows keep, of those made"
        )
    return "\n".join(lines)


def _row(method: MethodView, reading: str) -> list[object]:
    found = method.readings.get(reading)
    if found is None:
        return [method.name, "failed" if method.failed else "-", *["-"] * 8]
    gain, overall, worst = (found.mean(column) for column in ("gain", "all", "worst"))
    return [
        method.name,
        *("-" if value is None else points(value) for value in (gain, overall, worst)),
        "-" if found.worst_label < 0 else found.worst_label,
        *(f"{found.mean(column):.0f}" for column in ("fixed", "broken")),
        counted(found.kept),
        counted(found.held),
        "-" if method.seconds is None else f"{method.seconds:.1f}",
    ]


def _differences(found: ComparisonView, names: Sequence[str] | None) -> str:
    """Of the reading that is judged first; the page has both."""
    reading = found.readings[0]
    titles = {"gain": f"gain of {under_repair(found.labels, names)}", "all": "accuracy of all labels"}
    parts = []
    for measure, title in titles.items():
        rows = []
        for method in found.methods:
            view = method.readings.get(reading)
            if view is not None and measure in view.against:
                against = view.against[measure]
                rows.append([method.name, *difference_cells(against), against.verdict])
        if rows:
            header = ["method", "difference", "95 % interval", "p", "verdict"]
            lines = textwrap.fill(f"{title}, less that of {found.reference}, in points:", COLUMNS)
            parts.append(f"{lines}\n{table(header, rows, least=_NAME)}")
    return "\n\n".join([*parts, textwrap.fill(interval_sentence(found), COLUMNS)])
