from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.shared.console import COLUMNS, table

if TYPE_CHECKING:
    from engine.metrics.promise import Promise
    from engine.metrics.requirements import Verdict

EXIT_NOT_MET = 3


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    lines = []
    for verdict in verdicts:
        before = f"{verdict.count_before} -> " if verdict.count_before != verdict.count_after else ""
        counts = f"{before}{verdict.count_after} of {verdict.total}"
        cells = judged_cells(verdict, tied=verdict.margin == 0)
        lines.append([*cells, counts, "met" if verdict.met else "not met"])
    header = ["requirement", "required %", "value %", "95 % interval", "rows", "verdict"]
    return table(header, lines, least=COLUMNS)  # what is required is a sentence, which is read whole


def judged_cells(judged: Verdict | Promise, *, tied: bool) -> list[str]:
    requirement = judged.requirement
    required = f"{'>=' if requirement.at_least else '<='} {100 * requirement.limit:.10g}"
    value = value_text(judged.value, requirement.limit, tied=tied)
    return [requirement.text, required, value, f"{100 * judged.low:.1f} to {100 * judged.high:.1f}"]


def value_text(value: float, limit: float, *, tied: bool) -> str:
    """A share in percent with two digits, or as many as show on which side of the limit it lies, if not `tied`."""
    digits = 2
    while True:
        shown = f"{100 * value:.{digits}f}"
        if shown != f"{100 * limit:.{digits}f}" or tied or digits == 12:
            return shown
        digits += 1
