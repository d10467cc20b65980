"""`report`: what a run did, in the terminal or as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.run_report.comparison import describe_comparison
from cli.run_report.promises import describe_crossfit
from cli.run_report.tables import changes_table
from cli.run_report.words import SPLIT_WORDS, STEP_WORDS, duration, label_text, number, percent, under_repair
from cli.shared.console import created, echo, table
from cli.shared.options import PATH, option
from cli.shared.verdicts import verdict_table
from engine.core.errors import InputError
from engine.core.files import replace_file
from engine.core.names import in_words, shortened

if TYPE_CHECKING:
    from cli.run_report.data import JobView, OutcomeView, ReportView
    from engine.metrics.accuracy import LabelChange
    from engine.metrics.requirements import Verdict

MARK = '<meta name="generator" content="repair-dist report">'
"""By this line in its head a page of ours is known."""

_HEAD_BYTES = 2000
_CHOSEN_LABEL = 15
"""Columns of a label beside the name of its search, so that the line fits a terminal."""

_SEARCHED_ON = ("negative", "positive")


@click.command(short_help="What a run did: tables in the terminal, or a page to look at.")
@click.argument("run", type=PATH, metavar="RUN")
@option("--html", type=PATH, metavar="FILE", help="Write one self-contained page instead of printing tables.")
@option("--overwrite", type=bool, help="Let --html replace a file that is not such a page.")
def command(run: Path, html: Path | None, overwrite: bool) -> None:
    """Report on a run directory: requirements, accuracy before and after, iterations, searches and workers.
    Of `compare`: what each method gains and costs, and which differences can be told from chance.

    Works while the run goes on; then it says how far the run is. Numbers of held-out rows are those of the
    saved model, loaded again. The page needs no network and no other file; it shows the images that were fixed
    and broken if their image set is still where it was.

    Example: repair-dist report runs/batch-20260102-030405-000000 --html report.html
    """
    if html is not None:
        _check_page(html, overwrite=overwrite)

    from cli.run_report.data import read_report

    report = read_report(run)
    if html is None:
        echo(summary(report))
        return

    from cli.run_report.page import render_page

    page = render_page(report)
    with replace_file(html) as temporary:
        temporary.write_text(page, encoding="utf-8")
    created(html)


def summary(report: ReportView) -> str:
    """A run as plain text tables."""
    if report.label_names is not None:
        report = replace(report, label_names=tuple(map(in_words, report.label_names)))
    if report.comparison is not None:
        return f"{_heading(report)}\n\n{describe_comparison(report.comparison, report.label_names)}"
    parts = [_heading(report), results(report), _steps(report), _jobs(report.jobs), _chosen(report)]
    return "\n\n".join(part for part in [*parts, _workers(report.jobs)] if part)


def results(report: ReportView) -> str:
    """What a run came to: what is promised, the requirements on held-out rows, and accuracy before and after."""
    parts = []
    if report.part:
        parts.append(f"This is part {report.part} of a run: nothing is decided before `merge-runs` joins all parts.")
    if report.crossfit is not None:
        parts.append(describe_crossfit(report.crossfit, report.labels, report.label_names))
    parts += [_verdicts(report, split, verdicts) for split, verdicts in report.verdicts.items()]
    parts += [_outcome(report, outcome) for outcome in report.outcomes]
    return "\n\n".join(part for part in parts if part)


def _heading(report: ReportView) -> str:
    words = [f"{report.model}: {report.kind}, {under_repair(report.labels, report.label_names)}, {report.state}"]
    if report.seconds is not None:
        words.append(f"took {duration(report.seconds)}")
    if report.exit_code is not None:
        words.append(f"exit code {report.exit_code}")
    lines = [", ".join(words)]
    if report.state == "running":
        lines.append("The run has not ended: this is how far it is.")
    return "\n".join(lines)


def _verdicts(report: ReportView, split: str, verdicts: Sequence[Verdict]) -> str:
    met = sum(verdict.met for verdict in verdicts)
    what = "requirements" if report.requirements else "goals, as nothing was required"
    if report.crossfit is not None and not report.crossfit.stated:
        what = "requirements by default"
    return f"{what}, {SPLIT_WORDS[split]}: {met} of {len(verdicts)} met\n{verdict_table(verdicts)}"


def _outcome(report: ReportView, outcome: OutcomeView) -> str:
    lines = []
    split = outcome.judged_by
    if split is not None:
        changes = outcome.changes[split]
        name = "" if len(report.outcomes) == 1 else f"{outcome.job}, "
        lines += [
            f"{name}{SPLIT_WORDS[split]}, before and after (model loaded again):",
            changes_table(changes, report.label_names),
        ]
    for split in _SEARCHED_ON:
        if split in outcome.changes:
            total = _total(outcome.changes[split])
            word = "repaired" if split == "negative" else "kept"
            lines.append(f"{outcome.job}: {word} {total.correct_after} of {total.total} {split} inputs")
    return "\n".join(lines)


def _total(changes: Sequence[LabelChange], labels: Sequence[int] = ()) -> LabelChange:
    from engine.metrics.accuracy import total_change

    return total_change(changes, labels)


def _steps(report: ReportView) -> str:
    """The accuracy of the labels under repair after every iteration: the table of the tutorial."""
    split = report.judged_by
    steps = report.steps.get(split, ()) if split else ()
    word = STEP_WORDS.get(report.mode or "")
    if word is None or len(steps) < 2:
        return ""
    about = report.about(steps[0].changes)
    rows = []
    for step in steps:
        mine = _total(step.changes, about)
        name = "0 (base)" if step.number == 0 else step.number
        correct = mine.correct_after
        rows.append([name, correct, mine.total - correct, percent(correct / mine.total)])
    who = under_repair(about, report.label_names)
    title = f"accuracy of {who} after each {word}, {SPLIT_WORDS[split or 'test']}:"
    saved = report.saved_step
    note = "" if saved is None else f"\nthe saved model is that of {word} {saved}, as validation chose"
    return f"{title}\n{table([word, 'correct', 'incorrect', 'accuracy'], rows)}{note}"


def _jobs(jobs: Sequence[JobView]) -> str:
    count = Counter(job.state for job in jobs)
    words = [
        f"{count[state]} {state}"
        for state in ("done", "skipped", "failed", "running")
        if count[state] or state == "done"
    ]
    lines = [f"searches: {', '.join(words)}"]
    lines += [f"  {job.job} failed: {job.note}" for job in jobs if job.state == "failed"]
    return "\n".join(lines)


def _chosen(report: ReportView) -> str:
    rows = [
        [
            job.job,
            job.step,
            shortened(label_text(job.label, report.label_names), _CHOSEN_LABEL),
            job.seed,
            number(job.positive_weight),
            f"{number(job.patched)} of {number(job.negatives)}",
            f"{number(job.intact)} of {number(job.positives)}",
        ]
        for job in report.jobs
        if job.chosen
    ]
    if not rows:
        return ""
    header = ["search", "step", "label", "seed", "positive weight", "repaired", "kept"]
    return f"searches chosen, with the rows they were searched on:\n{table(header, rows)}"


def _workers(jobs: Sequence[JobView]) -> str:
    from cli.run_report.data import workers

    found = workers(jobs)
    if not found:
        return ""
    rows = [[worker.name, len(worker.jobs), f"{worker.busy:.1f}"] for worker in found]
    return table(["worker", "searches", "busy s"], rows)


def _check_page(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is not a page of ours."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path} is no name of a page, expected one that ends in .html")
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected the name of a page")
    if overwrite or not path.exists():
        return
    with path.open("rb") as file:
        if MARK.encode() not in file.read(_HEAD_BYTES):
            raise InputError(f"{path} is not a page of `report`, expected another name or --overwrite")
