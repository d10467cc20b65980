"""A run as text: what `report` prints, and commands where they end."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.run_report.tables import CHANGES, DIFFERENCE, METHOD, MIXTURE, READING, READINGS, STEPS, WORKERS, Table
from cli.run_report.words import SPLIT_WORDS, STEP_WORDS, duration, label_text, number, percent, plural, under_repair
from cli.shared.console import COLUMNS, label_name, table
from cli.shared.verdicts import judged_cells, value_text, verdict_table
from engine.core.names import in_words, shortened

if TYPE_CHECKING:
    from cli.run_report.comparison import ComparisonView
    from cli.run_report.rows import Row
    from cli.run_report.view import CrossFitView, OutcomeView, RunView
    from engine.metrics.accuracy import LabelChange
    from engine.metrics.promise import Promise
    from engine.metrics.requirements import Verdict


_CHOSEN_LABEL = 15  # columns of a label beside the name of its search, so that the line fits a terminal
_SHOWN_OFFSETS = 12
_SHOWN_REQUIREMENTS = 6
_KEPT = "\u00a0"  # a space at which no line ends
_NAME = 10  # columns of a method's name at least
_REASON = 500  # columns of a reason


def summary(run: RunView) -> str:
    if run.label_names is not None:
        run = replace(run, label_names=tuple(map(in_words, run.label_names)))
    if run.comparison is not None:
        return f"{_heading(run)}\n\n{describe_comparison(run.comparison, run.label_names)}"
    workers = _table("worker", WORKERS, [(worker.name, worker) for worker in run.workers]) if run.workers else ""
    return _joined(_heading(run), results(run), _steps(run), _jobs(run.jobs), _chosen(run), workers)


def results(run: RunView) -> str:
    """Promises, requirements on held-out rows, and accuracy before and after."""
    part = f"This is part {run.part} of a run: nothing is decided before `merge-runs` joins all parts."
    return _joined(
        part if run.part else "",
        "" if run.crossfit is None else describe_crossfit(run.crossfit, run.labels, run.label_names),
        *(_verdicts(run, split, verdicts) for split, verdicts in run.verdicts.items()),
        *(_outcome(run, outcome) for outcome in run.outcomes),
    )


def comparison_text(directory: Path) -> str:
    """What `compare` prints of its run."""
    from cli.run_report.view import read_run

    run = read_run(directory)
    assert run.comparison is not None
    return describe_comparison(run.comparison, run.label_names)


def changes_table(changes: Sequence[LabelChange], names: Sequence[str] | None) -> str:
    named = [(label_name(change.label, names), change) for change in changes]
    return _table("label", CHANGES, [*named, ("all", _total(changes))])


def _table(first: str, columns: Table, rows: Sequence[tuple[str, Any]]) -> str:
    """Rows with their names, under the heading `first`."""
    header = [first, *(column.heading for column in columns.values())]
    return table(header, [[name, *(column.text(row) for column in columns.values())] for name, row in rows])


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _total(changes: Sequence[LabelChange]) -> LabelChange:
    from engine.metrics.accuracy import total_change

    return total_change(changes)


def _heading(run: RunView) -> str:
    words = [f"{run.model}: {run.kind}, {under_repair(run.labels, run.label_names)}, {run.state}"]
    if run.seconds is not None:
        words.append(f"took {duration(run.seconds)}")
    if run.exit_code is not None:
        words.append(f"exit code {run.exit_code}")
    line = ", ".join(words)
    return f"{line}\nThe run has not ended: this is how far it is." if run.state == "running" else line


def _verdicts(run: RunView, split: str, verdicts: Sequence[Verdict]) -> str:
    met = sum(verdict.met for verdict in verdicts)
    what = "requirements" if run.requirements else "goals, as nothing was required"
    if run.crossfit is not None and not run.crossfit.stated:
        what = "requirements by default"
    return f"{what}, {SPLIT_WORDS[split]}: {met} of {len(verdicts)} met\n{verdict_table(verdicts)}"


def _outcome(run: RunView, outcome: OutcomeView) -> str:
    lines = []
    split = outcome.judged_by
    if split is not None:
        name = "" if len(run.outcomes) == 1 else f"{outcome.job}, "
        lines.append(f"{name}{SPLIT_WORDS[split]}, before and after (model loaded again):")
        lines.append(changes_table(outcome.changes[split], run.label_names))
    for split, word in (("negative", "repaired"), ("positive", "kept")):
        if split in outcome.changes:
            total = _total(outcome.changes[split])
            lines.append(f"{outcome.job}: {word} {total.correct_after} of {total.total} {split} inputs")
    return "\n".join(lines)


def _steps(run: RunView) -> str:
    """The accuracy of the labels under repair after every iteration: the table of the tutorial."""
    word, split = STEP_WORDS.get(run.kind), run.judged_by
    steps = run.steps_on(split)
    if word is None or len(steps) < 2:
        return ""
    shown = {name: column for name, column in STEPS.items() if name != "all"}
    told = _table(word, shown, [(str(step.number or "0 (base)"), step) for step in steps])
    who = under_repair(steps[0].about, run.label_names)
    title = f"accuracy of {who} after each {word}, {SPLIT_WORDS[split or 'test']}:"
    saved = run.saved_step
    note = "" if saved is None else f"\nthe saved model is that of {word} {saved}, as validation chose"
    return f"{title}\n{told}{note}"


def _jobs(jobs: Sequence[Row]) -> str:
    count = Counter(job.state for job in jobs)
    states = [state for state in ("done", "skipped", "failed", "running") if count[state] or state == "done"]
    lines = [f"searches: {', '.join(f'{count[state]} {state}' for state in states)}"]
    return "\n".join([*lines, *(f"  {job.job} failed: {job.note}" for job in jobs if job.state == "failed")])


def _chosen(run: RunView) -> str:
    rows = [
        [
            job.job,
            job.step,
            shortened(label_text(job.label, run.label_names), _CHOSEN_LABEL),
            job.seed,
            number(job.positive_weight),
            f"{number(job.patched)} of {number(job.negatives)}",
            f"{number(job.intact)} of {number(job.positives)}",
        ]
        for job in run.jobs
        if job.chosen
    ]
    header = ["search", "step", "label", "seed", "positive weight", "repaired", "kept"]
    return f"searches chosen, with the rows they were searched on:\n{table(header, rows)}" if rows else ""


# Runs of CrossFit.


def describe_crossfit(found: CrossFitView, labels: Sequence[int], names: Sequence[str] | None) -> str:
    parts = ["\n".join(found.notes), _tunings(found, labels, names)]
    if found.frontier:
        title = "out of fold, before and after (rows that no tuning saw):"
        parts += [_mixture(found, names), f"{title}\n{changes_table(found.judged, names)}"]
    if found.judges:
        parts.append("\n".join([promise_table(found), promise_sentence(found), *(f"  {x}" for x in missing(found))]))
    return _joined(*parts)


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
    lines = [
        f"mixture of the recipes, of which step {found.step:g} was taken:",
        _table("recipe", MIXTURE, [(recipe.name, recipe) for recipe in found.recipes]),
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
    lines = []
    for promise in found.promises:
        cells = judged_cells(promise, tied=promise.value == promise.requirement.limit)
        chance = chance_text(promise.chance, found.confidence, sure=found.step == 0)
        lines.append([*cells, promise.rows, chance, *([] if found.promised else [enough_text(promise)])])
    header = ["requirement", "required %", "value %", "new rows %", "rows", "chance %"]
    met = sum(promise.met for promise in found.promises)
    title = f"requirements, rows that no tuning saw: {met} of {len(found.promises)} met"
    return f"{title}\n{table(header if found.promised else [*header, 'enough'], lines, least=COLUMNS)}"


def promise_sentence(found: CrossFitView) -> str:
    count, met = len(found.promises), sum(promise.met for promise in found.promises)
    if not count:
        return "nothing is promised: no requirement has rows to judge it by"
    if found.frontier and found.step == 0:
        if found.asked_step:
            return "not promised: step 0 was asked for, so the baseline model is kept"
        return (
            "not promised: on the rows at hand every step keeps fewer requirements than the baseline model "
            f"({met} of {count}), so it is kept"
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
    """Not just as good as its limit."""
    return promise.met and promise.value != promise.requirement.limit


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _SHOWN_REQUIREMENTS
    return ", ".join(texts[:_SHOWN_REQUIREMENTS]) + (f" and {more} more" if more > 0 else "")


def promise_value(promise: Promise) -> str:
    limit = promise.requirement.limit
    return value_text(promise.value, limit, tied=promise.value == limit)


def enough_text(promise: Promise) -> str:
    return "no number" if promise.enough is None else str(promise.enough)


def chance_text(chance: float, confidence: float, *, sure: bool = False) -> str:
    """In percent with the digits of the confidence, rounded down so that it claims no more; 100 only if `sure`."""
    if sure and chance == 1:
        return "100"
    digits = max(1, len(f"{100 * confidence:.10g}".partition(".")[2]))
    shown = math.floor(round(100 * chance * 10**digits, 6)) / 10**digits
    if shown >= 100:
        return f">{100 - 10**-digits:.{digits}f}"
    return f"<{10**-digits:.{digits}f}" if shown == 0 else f"{shown:.{digits}f}"


# Comparisons of methods.


def describe_comparison(found: ComparisonView, names: Sequence[str] | None) -> str:
    known = [name for name in found.readings if any(name in method.readings for method in found.methods)]
    why = [textwrap.fill(line, COLUMNS, subsequent_indent="  ") for line in failures(found)]
    parts = [textwrap.fill(heading(found, names), COLUMNS), *(_outcomes(found, reading) for reading in known)]
    parts += ["\n".join(why), _differences(found, names)]
    return _joined(*parts)


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
    if not found.differences:
        if found.reference is None:
            return "no differences: the method that others are held against is not among those compared"
        return f"no differences: there are no repairs by {found.reference} and another method from the same draw"
    if all(against.low is None for against in found.differences) and found.differences[0].why:
        return f"no intervals: {found.differences[0].why}"
    return (
        f"intervals of 95 %: corrected resampled t over draws, which share {percent(found.shared)} % of their rows, "
        "and the sampling of test rows; p by Holm over the methods, better and worse only below 0.05"
    )


def _difference(against: Row) -> list[str]:
    """The p-value is that of an interval: without one there is none."""
    mean, interval, p = (DIFFERENCE[name].text(against) for name in ("mean", "low", "adjusted"))
    return [mean, interval, "-" if against.low is None else p, against.verdict]


def _outcomes(found: ComparisonView, reading: str) -> str:
    title = f"{READINGS[reading][0]} (test rows, means over draws; gain, all and worst in points):"
    shown = [column for name, column in READING.items() if name not in ("promised", "left")]
    header = ["method", *(column.heading for column in shown), METHOD["seconds"].heading]
    rows = []
    for method in found.methods:
        view = method.readings.get(reading)
        if view is None:
            rows.append([method.name, "failed" if method.failed else "-", *["-"] * len(shown)])
        else:
            rows.append([method.name, *(column.text(view) for column in shown), METHOD["seconds"].text(method)])
    lines = [textwrap.fill(title, COLUMNS), table(header, rows, least=_NAME)]
    if reading == found.readings[0]:
        lines.append(
            "worst, of: the other label that loses most; kept: draws whose test rows keep all\n"
            "requirements; held: promises that test rows keep, of those made"
        )
    return "\n".join(lines)


def _differences(found: ComparisonView, names: Sequence[str] | None) -> str:
    """Of the reading that is judged first; the page has both."""
    titles = {"gain": f"gain of {under_repair(found.labels, names)}", "all": "accuracy of all labels"}
    first = [(method.name, method.readings.get(found.readings[0])) for method in found.methods]
    parts = []
    for measure, title in titles.items():
        rows = [[name, *_difference(view.against[measure])] for name, view in first if view and view.against]
        if rows:
            header = ["method", "difference", "95 % interval", "p", "verdict"]
            lines = textwrap.fill(f"{title}, less that of {found.reference}, in points:", COLUMNS)
            parts.append(f"{lines}\n{table(header, rows, least=_NAME)}")
    return _joined(*parts, textwrap.fill(interval_sentence(found), COLUMNS))
