"""Verdicts on requirements as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.shared.console import COLUMNS, table

if TYPE_CHECKING:
    from engine.metrics.requirements import Verdict

EXIT_NOT_MET = 3
"""Exit code of a command that is done, where a requirement is not met."""


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """One line per requirement, in percent or, for a loss or a gain of accuracy, points.

    `rows` are those that are right, or for a rate those taken for the other label: before -> after where they differ.
    """
    lines = []
    for verdict in verdicts:
        side = ">=" if verdict.requirement.at_least else "<="
        before = f"{verdict.count_before} -> " if verdict.count_before != verdict.count_after else ""
        lines.append(
            [
                verdict.requirement.text,
                f"{side} {100 * verdict.requirement.limit:.10g}",
                value_text(verdict.value, verdict.requirement.limit, tied=verdict.margin == 0),
                f"{100 * verdict.low:.1f} to {100 * verdict.high:.1f}",
                f"{before}{verdict.count_after} of {verdict.total}",
                "met" if verdict.met else "not met",
            ]
        )
    header = ["requirement", "required %", "value %", "95 % interval", "rows", "verdict"]
    return table(header, lines, least=COLUMNS)  # what is required is a sentence, which is read whole


def value_text(value: float, limit: float, *, tied: bool) -> str:
    """A share in percent with two digits, or as many as show on which side of the limit it lies, if not `tied`."""
    digits = 2
    while True:
        shown = f"{100 * value:.{digits}f}"
        if shown != f"{100 * limit:.{digits}f}" or tied or digits == 12:
            return shown
        digits += 1
