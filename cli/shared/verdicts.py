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
                _value(verdict),
                f"{100 * verdict.low:.1f} to {100 * verdict.high:.1f}",
                f"{before}{verdict.count_after} of {verdict.total}",
                "met" if verdict.met else "not met",
            ]
        )
    header = ["requirement", "required %", "value %", "95 % interval", "rows", "verdict"]
    return table(header, lines, least=COLUMNS)  # what is required is a sentence, which is read whole


def _value(verdict: Verdict) -> str:
    """Two digits, or as many as show on which side of the limit it lies."""
    digits = 2
    while True:
        value = f"{100 * verdict.value:.{digits}f}"
        limit = f"{100 * verdict.requirement.limit:.{digits}f}"
        if value != limit or verdict.margin == 0 or digits == 12:
            return value
        digits += 1
