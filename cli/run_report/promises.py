"""What CrossFit found, as text: how it was tuned and mixed, and what is promised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.run_report.tables import changes_table
from cli.shared.console import COLUMNS, label_name, table
from cli.shared.verdicts import verdict_table

if TYPE_CHECKING:
    from cluster.runs.crossfit import CrossFitReport
    from engine.metrics.promise import Frontier, Promise


def describe_crossfit(report: CrossFitReport, names: Sequence[str] | None) -> str:
    """What a repair did; numbers of held-out rows are those of the saved model, loaded again."""
    repair, frontier = report.repair, report.frontier
    lines = list(report.notes)
    if frontier is not None and report.found is not None:
        recipes = repair.settings.recipes
        mixed = ", ".join(
            f"{value:+.2f} of {recipe.name}" for recipe, value in zip(recipes, report.found, strict=False)
        )
        lines += [
            f"CrossFit of label {', '.join(label_name(label, names) for label in repair.repaired)}: "
            f"{len(recipes)} recipes in {repair.settings.folds} folds, {repair.chain.tuned_values} weights of "
            f"{', '.join(layer.name for layer in repair.chain.layers if layer.tuned)}",
            f"mixture: {mixed}; step {frontier.point.step:g}",
            "",
            "out of fold, before and after (rows that no tuning saw):",
            changes_table(report.judged, names),
            "",
            promise_table(frontier.point.promises),
            promise_sentence(frontier, repair.settings.promise_rows),
        ]
    for measured in report.measured:
        title = f"{measured.split}, before and after (model loaded again):"
        lines += ["", title, changes_table(measured.changes, measured.label_names)]
        if repair.stated and report.verdicts.get(measured.split):
            lines += ["", verdict_table(report.verdicts[measured.split])]
    from cluster.runs.crossfit import PATCH

    created = [report.model, *([repair.output / PATCH] if len(report.patch) else [])]
    return "\n".join([*lines, "created files:", *map(str, created)])


def promise_table(promises: Sequence[Promise]) -> str:
    """One line per requirement, in percent or points."""
    lines = []
    for promise in promises:
        side = ">=" if promise.requirement.at_least else "<="
        lines.append(
            [
                promise.requirement.text,
                f"{side} {100 * promise.requirement.limit:.10g}",
                f"{100 * promise.value:.2f}",
                f"{100 * promise.low:.1f} to {100 * promise.high:.1f}",
                promise.rows,
                f"{chance_text(promise.chance)}",
                "no number" if promise.enough is None else promise.enough,
            ]
        )
    header = ["requirement", "required %", "value %", "new rows", "rows", "chance %", "enough"]
    return table(header, lines, least=COLUMNS)


def promise_sentence(frontier: Frontier, new_rows: int) -> str:
    """What is promised, or why nothing is, and how many rows would be enough."""
    chance, asked = chance_text(frontier.point.chance), f"{100 * frontier.confidence:g}"
    about = f"{new_rows} new rows of each label keep all requirements together with {chance} % chance"
    if frontier.promised:
        return f"promised: {about}, asked were {asked} %"
    if frontier.point.step == 0:
        return f"not promised: no step keeps more requirements than the model as it is, which is left ({about})"
    more = frontier.enough
    if more is None:
        why = "no number of rows would be enough for this repair"
    else:
        why = f"about {more} rows of each label would be enough for this repair"
    return f"not promised, the best compromise: {about}, asked were {asked} %; {why}"


def chance_text(chance: float) -> str:
    """In percent, never rounded up to certainty."""
    return f"{min(100 * chance, 99.9):.1f}" if chance < 1 else "100"
