"""Tables of a report in the terminal, which `optimize` prints too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.run_report.words import percent, points
from cli.shared.console import label_name, table

if TYPE_CHECKING:
    from engine.metrics.accuracy import LabelChange


def changes_table(changes: Sequence[LabelChange], names: Sequence[str] | None) -> str:
    """Accuracy per label, and of all, before and after, with the rows fixed and broken; `names` of labels, or None."""
    from engine.metrics.accuracy import total_change

    named = [(label_name(change.label, names), change) for change in changes]
    rows: list[list[object]] = []
    for name, change in [*named, ("all", total_change(changes))]:
        before, after = change.correct_before / change.total, change.correct_after / change.total
        counts = (change.fixed, change.broken)
        rows.append([name, change.total, percent(before), percent(after), points(after - before), *counts])
    return table(["label", "rows", "before %", "after %", "change", "fixed", "broken"], rows)
