"""What CrossFit found, as text: how it was tuned and mixed, and what is promised."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.run_report.tables import changes_table
from cli.run_report.words import number, plural, span, under_repair
from cli.shared.console import COLUMNS, label_name, table
from cli.shared.verdicts import value_text

if TYPE_CHECKING:
    from cli.run_report.crossfit import CrossFitView
    from engine.metrics.promise import Promise

_SHOWN_OFFSETS = 12
_SHOWN_REQUIREMENTS = 6
_KEPT = "\u00a0"
"""A space at which no line ends."""


def describe_crossfit(found: CrossFitView, labels: Sequence[int], names: Sequence[str] | None) -> str:
    """What a repair did to rows that no tuning saw, and what it promises; `labels` are under repair."""
    parts = ["\n".join(found.notes), _tunings(found, labels, names)]
    if found.frontier:
        title = "out of fold, before and after (rows that no tuning saw):"
        parts += [_mixture(found, names), f"{title}\n{changes_table(found.judged, names)}"]
    if found.judges:
        parts.append("\n".join([promise_table(found), promise_sentence(found), *(f"  {x}" for x in missing(found))]))
    return "\n\n".join(part for part in parts if part)


def _tunings(found: CrossFitView, labels: Sequence[int], names: Sequence[str] | None) -> str:
    if not found.tuned:
        return ""
    total = len(found.recipes) * found.folds
    done = "" if found.tuned == total else f"; {found.tuned} of {total} tunings are done"
    recipes = plural(len(found.recipes), "recipe", "recipes")
    layers = ", ".join(found.layers)
    who = under_repair(labels, names)
    return f"CrossFit of {who}: {recipes} in {found.folds} folds, {found.weights} weights of {layers}{done}"


def _mixture(found: CrossFitView, names: Sequence[str] | None) -> str:
    """Coefficients of the recipes and offsets of the labels, as searched and as they are in the model."""
    rows = [
        [
            recipe.name,
            "-" if recipe.found is None else f"{recipe.found:+.3f}",
            "-" if recipe.taken is None else f"{recipe.taken:+.3f}",
            span([tuning.epochs for tuning in recipe.tunings]),
            span([tuning.rows for tuning in recipe.tunings]),
            number(recipe.change),
        ]
        for recipe in found.recipes
    ]
    lines = [
        f"mixture of the recipes, of which step {found.step:g} was taken:",
        table(["recipe", "coefficient", "times step", "epochs", "rows", "rms change"], rows),
    ]
    largest = sorted(found.offsets, key=lambda offset: -abs(offset.taken))[:_SHOWN_OFFSETS]
    if largest:
        words = [f"{label_name(offset.label, names)} {offset.taken:+.3f}".replace(" ", _KEPT) for offset in largest]
        if len(largest) < len(found.offsets):
            words.append(f"and {len(found.offsets) - len(largest)} smaller ones")
        text = f"offsets of logits, times step: {', '.join(words)}"
        wrapped = textwrap.fill(text, COLUMNS, subsequent_indent="  ", break_long_words=False)
        lines.append(wrapped.replace(_KEPT, " "))
    return "\n".join(lines)


def promise_table(found: CrossFitView) -> str:
    """One line per requirement, in percent or points; how many rows would be enough where nothing is promised."""
    lines = []
    for promise in found.promises:
        side = ">=" if promise.requirement.at_least else "<="
        line = [
            promise.requirement.text,
            f"{side} {100 * promise.requirement.limit:.10g}",
            promise_value(promise),
            f"{100 * promise.low:.1f} to {100 * promise.high:.1f}",
            promise.rows,
            chance_text(promise.chance, found.confidence, sure=found.step == 0),
        ]
        lines.append(line if found.promised else [*line, enough_text(promise)])
    header = ["requirement", "required %", "value %", "new rows %", "rows", "chance %"]
    met = sum(promise.met for promise in found.promises)
    title = f"requirements, rows that no tuning saw: {met} of {len(found.promises)} met"
    return f"{title}\n{table(header if found.promised else [*header, 'enough'], lines, least=COLUMNS)}"


def promise_sentence(found: CrossFitView) -> str:
    """What is promised, or that nothing is, and how many rows would be enough."""
    count, met = len(found.promises), sum(promise.met for promise in found.promises)
    if not count:
        return "nothing is promised: no requirement has rows to judge it by"
    if found.frontier and found.step == 0:
        if found.asked_step:
            return "not promised: step 0 was asked for, so the model is left as it is"
        return (
            "not promised: on the rows at hand every step keeps fewer requirements than the model as it is "
            f"({met} of {count}), so it is left as it is"
        )
    which = {1: "the requirement", 2: "both requirements"}.get(count, f"all {count} requirements together")
    new = f"{plural(found.new_rows, 'row', 'rows')} of each label from the same source"
    about = (
        f"with {chance_text(found.chance, found.confidence, sure=found.step == 0)} % chance the next {new} keep {which}"
    )
    asked = f"{100 * found.confidence:.10g} %"
    if found.promised:
        return f"promised: {about} ({asked} were asked for)"
    best = "" if found.asked_step or not found.frontier else f"; step {found.step:g} is the best compromise"
    easiest = None if found.asked_step else found.easiest
    enough = found.enough if easiest is None else easiest.enough
    more = "more rows to repair with would not be enough"
    if enough is not None:
        more = f"about {plural(enough, 'row', 'rows')} of each label to repair with would be enough"
    if easiest is not None:
        more += f" for a step of {easiest.step:g}"
    return f"not promised: {about}, but {asked} were asked for{best}; {more}"


def missing(found: CrossFitView) -> list[str]:
    """What the requirements lack that are not sure enough, where nothing is promised, in a few sentences."""
    lacking = () if found.promised else found.lacking
    if not lacking:
        return []
    needed = chance_text(found.wanted, found.confidence)
    few = [f"{promise.requirement.text} (about {promise.enough})" for promise in lacking if promise.enough is not None]
    hopeless = [promise for promise in lacking if promise.enough is None]
    broken = [promise.requirement.text for promise in hopeless if not _better(promise)]
    vague = [promise.requirement.text for promise in hopeless if _better(promise)]
    sentences = [
        ("no better than the limit on the rows at hand", broken),
        ("sure enough from more rows of each label to repair with", few),
        (f"{found.new_rows} new rows of each label are too few to be sure of (--promise-rows)", vague),
    ]
    return [
        f"for {100 * found.confidence:.10g} % together each requirement needs {needed} %",
        *(f"{what}: {_some(texts)}" for what, texts in sentences if texts),
    ]


def _better(promise: Promise) -> bool:
    """Better than its limit, and not just as good."""
    return promise.met and promise.value != promise.requirement.limit


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _SHOWN_REQUIREMENTS
    return ", ".join(texts[:_SHOWN_REQUIREMENTS]) + (f" and {more} more" if more > 0 else "")


def promise_value(promise: Promise) -> str:
    """In percent, or points, with as many digits as show on which side of the limit it lies."""
    limit = promise.requirement.limit
    return value_text(promise.value, limit, tied=promise.value == limit)


def enough_text(promise: Promise) -> str:
    """Rows of each label that would be enough."""
    return "no number" if promise.enough is None else str(promise.enough)


def chance_text(chance: float, confidence: float, *, sure: bool = False) -> str:
    """In percent, rounded down, so that it never claims more: nor certainty, unless it is `sure`.

    It has as many digits as the confidence, so that both compare as the numbers do.
    """
    if sure and chance == 1:
        return "100"
    digits = max(1, len(f"{100 * confidence:.10g}".partition(".")[2]))
    shown = math.floor(round(100 * chance * 10**digits, 6)) / 10**digits
    if shown >= 100:
        return f">{100 - 10**-digits:.{digits}f}"
    return f"<{10**-digits:.{digits}f}" if shown == 0 else f"{shown:.{digits}f}"
