"""The page of the study of methods, from its numbers alone: a template with words, and what is put into it.

The words of `methods_template.md` say what was asked and how it was measured; whatever the numbers say is put in here,
so that a study that ran anew cannot leave a sentence behind that is not true any more.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from string import Template
from typing import Any

from methods_results import Results
from methods_summary import GONE, RELIABLE, Against, Group, Summary, against, place, summarise
from study import SUBJECTS

from engine.core.files import replace_file
from engine.methods.registry import METHODS, REFERENCE, method_of
from engine.methods.weight_search import WORTHS
from engine.metrics.against import BETTER, CHOSEN, FOUND, MEASURES, READINGS, UNSURE, WORSE

PAGE = "methods.md"

TEMPLATE = Path(__file__).resolve().parent / "methods_template.md"

QUICK = 1.0
"""Seconds of a processor for a repair that nobody waits for."""

READING_TITLES = {CHOSEN: "As chosen", FOUND: "As found"}

FORMER = (
    " Since the study,\n`Arachne` is called `Arachne-worths`, `Arachne-required` is `Arachne(objective=requirements)`, "
    "and `label-offset` (one\noffset of the label under repair) was removed."
)
"""Names of a study that was made when `Arachne-worths` was called Arachne."""

HEADER = (
    *("method", "repairs", "left", "label", "all", "worst other", "fixed", "broken", "promised", "promises kept"),
    *("limits kept", "seconds", f"label, less {REFERENCE}'s", f"all, less {REFERENCE}'s"),
)


@dataclass(frozen=True)
class Want:
    """What somebody may want of a repair.

    Attributes:
        title: in words.
        reading: that is judged.
        fits: whether a method is one to name.
        worth: the larger the better.
    """

    title: str
    reading: str
    fits: Callable[[Summary], bool]
    worth: Callable[[Summary], float]


def _quick(one: Summary) -> bool:
    return one.keeps and one.label > 0 and one.seconds <= QUICK


WANTS = (
    Want("the label, limits kept", CHOSEN, lambda one: one.keeps and one.label > 0, lambda one: one.label),
    Want("a promise", CHOSEN, lambda one: one.promises > 0, lambda one: one.promises + one.label / 100),
    Want("all rows", CHOSEN, lambda one: one.all > 0, lambda one: one.all),
    Want("the label at any price", FOUND, lambda _: True, lambda one: one.label),
    Want("no waiting, limits kept", CHOSEN, _quick, lambda one: one.label),
)


def write_page(results: Results, folder: Path) -> Path:
    """Write the page beside the numbers; returns its path."""
    path = folder / PAGE
    with replace_file(path) as temporary:
        temporary.write_text(page(results), encoding="utf-8")
    return path


def page(results: Results) -> str:
    """The page."""
    groups = list(dict.fromkeys((row["model"], row["rows"]) for row in results.outcomes))
    groups.sort(key=lambda group: (list(results.models).index(group[0]), group[1]))
    summaries = {(group, reading): summarise(results, group, reading) for group in groups for reading in READINGS}
    verdicts = {group: against(results, group) for group in groups}
    known = {row["method"] for row in results.outcomes}
    ran = {_repair(row) for row in results.outcomes if row["reading"] in READINGS}
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        reference=REFERENCE,
        choices=_choices(results, groups, summaries),
        standing=_standing(groups, summaries, verdicts),
        methods=_methods(results),
        models=_models(results, groups),
        about_models=_about_models(results),
        rows=_rows_told(results),
        draws=_draws(results),
        results="\n\n".join(_group(results, group, summaries, verdicts[group]) for group in groups),
        failures=_failures(results),
        seeds=results.facts["seeds"],
        repairs=f"{len(ran):,}",
        failed=f"{len({_repair(row) for row in results.outcomes} - ran):,}",
        worths=_named([f"`{worth:g}x`" for worth in WORTHS], ", "),
        renamed="" if "Arachne-worths" in known else FORMER,
        arachne="Arachne-worths" if "Arachne-worths" in known else "Arachne",  # as it was called once
        minutes=f"{float(results.facts['seconds']) / 60:.0f}",
        command=results.facts["command"],
        machine=results.facts["machine"].removeprefix("machine: "),
        reliable=f"{100 * RELIABLE:.0f} %",
        quick="a second" if QUICK == 1 else f"{QUICK:g} seconds",
    )
    return text.rstrip() + "\n"


_Summaries = Mapping[tuple[Group, str], Sequence[Summary]]
_Verdicts = Mapping[Group, Mapping[tuple[str, str, str], Against]]


def _choices(results: Results, groups: Sequence[Group], summaries: _Summaries) -> str:
    """The best method of each group by what is wanted, and above that how often which one is."""
    best = {(want.title, group): _best(summaries[group, want.reading], want) for want in WANTS for group in groups}
    lines = []
    for want in WANTS:
        found = [best[want.title, group] for group in groups]
        counts = Counter("none" if one is None else one.method for one in found).most_common()
        told = ", ".join(f"{name} ({count})" for name, count in counts)
        lines.append(f"- **{want.title[0].upper()}{want.title[1:]}**: {told}.")
    rows = []
    for group in groups:
        cells = []
        for want in WANTS:
            one = best[want.title, group]
            cells.append("–" if one is None else f"{one.method} {_told(one, want)}")
        rows.append([_title(results, group), *cells])
    return "\n".join(lines) + "\n\n" + _table(["model and rows", *(want.title for want in WANTS)], rows)


def _best(found: Sequence[Summary], want: Want) -> Summary | None:
    """The reference wins ties: it stands first. Means of a method that failed in some draws are of other draws."""
    return max((one for one in found if not one.failed and want.fits(one)), key=want.worth, default=None)


def _told(found: Summary, want: Want) -> str:
    if want.title == "a promise":
        return f"{found.promised} of {found.repairs}"
    return points(found.all, 2) if want.title == "all rows" else points(found.label)


def _standing(groups: Sequence[Group], summaries: _Summaries, verdicts: _Verdicts) -> str:
    """How often a method is surely better or worse than the reference, over all groups."""
    by_method: dict[str, list[tuple[Group, Summary]]] = defaultdict(list)
    for group in groups:
        for one in summaries[group, CHOSEN]:
            by_method[one.method].append((group, one))
    rows = []
    for method, found in by_method.items():
        cells = []
        for measure in MEASURES:
            counts = Counter(
                verdicts[group][method, CHOSEN, measure].verdict
                for group, _ in found
                if (method, CHOSEN, measure) in verdicts[group]
            )
            told = [str(counts[verdict]) for verdict in (BETTER, UNSURE, WORSE)]
            cells.append("reference" if method == REFERENCE else " / ".join(told))
        ones = [one for _, one in found]
        rows.append(
            [
                f"**{method}**" if method == REFERENCE else method,
                str(len(found)),
                *cells,
                points(fmean(one.label for one in ones)),
                points(fmean(one.all for one in ones), 2),
                _share(sum(one.left for one in ones), sum(one.repairs for one in ones)),
                _share(sum(one.kept for one in ones), sum(one.repairs for one in ones)),
                _share(sum(one.promised for one in ones), sum(one.repairs for one in ones)),
                _share(sum(one.held for one in ones), sum(one.promised for one in ones)),
                _seconds(median(one.seconds for one in ones)),
            ]
        )
    header = ["method", "groups", "label", "all rows", "mean label", "mean all", "left", "limits kept", "promised"]
    return _table([*header, "promises kept", "seconds"], rows)


def _methods(results: Results) -> str:
    rows = []
    for name in sorted({row["method"] for row in results.outcomes} & {*METHODS, *GONE}, key=place):
        if name in GONE:
            rows.append([name, *GONE[name][1:]])
            continue
        method = method_of(name)
        rows.append([name, method.searches, method.objective, ", ".join(method.needs) or "–", method.source])
    return _table(["method", "changes", "by", "needs", "from"], [[_plain(cell) for cell in row] for row in rows], 5)


def _models(results: Results, groups: Sequence[Group]) -> str:
    rows = []
    for name, facts in results.models.items():
        labels = ", ".join(f"{label}: {100 * facts['by label'][label]:.1f} %" for label in facts["labels"])
        told = "; ".join(f"{size:,}: {_draws_of(results, (name, size))}" for model, size in groups if model == name)
        sizes = [f"{facts[key]:,}" for key in ("pool", "test", "weights")]
        rows.append([_plain(facts["title"]), f"{100 * facts['accuracy']:.1f} %", labels, told, *sizes])
    header = ["model", "accuracy", "of labels under repair", "repair rows: draws of labels", "pool", "test rows"]
    return _table([*header, "weights under repair"], rows)


def _cells(results: Results) -> dict[tuple[str, int, int], int]:
    """Draws that have numbers by model, repair rows and label, of all cells that were planned or have some."""
    seeds: dict[tuple[str, int, int], set[int]] = defaultdict(set)
    for model, size, label, _ in json.loads(results.facts.get("planned", "[]")):
        seeds[model, size, label] = set()
    for row in results.outcomes:
        seeds[row["model"], row["rows"], row["label"]].add(row["seed"])
    return {cell: len(found) for cell, found in seeds.items()}


def _draws_of(results: Results, group: Group) -> str:
    """How many draws have numbers: of all labels alike, or of each."""
    found = {label: count for (*where, label), count in sorted(_cells(results).items()) if tuple(where) == group}
    if len(set(found.values())) == 1:
        return str(next(iter(found.values())))
    return ", ".join(f"{count or 'none'} of label {label}" for label, count in found.items())


def _about_models(results: Results) -> str:
    """Which are trained for the study, which lack checkpoints, and which were not run."""
    models = results.models.values()
    trained = [facts["title"] for facts in models if facts.get("trained")]
    bare = [facts["title"] for facts in models if not facts.get("checkpoints")]
    away = [subject.title for subject in SUBJECTS if subject.name not in results.models]
    lines = []
    if trained:
        lines.append(
            f"Trained by `benchmarks/networks.py`, on few rows and for some minutes at most: {_named(trained)}."
        )
    if bare:
        lines.append(
            f"No checkpoints of the training are known of {_named(bare)}: methods that compare checkpoints cannot run "
            "there."
        )
    if away:
        lines.append(f"Not run: {_named(away)}.")
    return _plain(" ".join(lines)) if lines else ""


def _named(names: Sequence[str], between: str = "; ") -> str:
    """At least one name, the last behind an "and"; titles have commas in them."""
    return " and ".join(between.join(names).rsplit(between, 1))


def _rows_told(results: Results) -> str:
    """A line of a list for each kind of rows."""
    return "".join(f"\n- {line}" for line in results.facts.get("rows", "").splitlines())


def _draws(results: Results) -> str:
    """Of how many draws differences are means, from the fewest to the most."""
    counts = [row["draws"] for row in results.differences if row["mean"] is not None]
    if not counts:
        return "no"
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _group(
    results: Results, group: Group, summaries: _Summaries, verdicts: Mapping[tuple[str, str, str], Against]
) -> str:
    judged = sorted({row["label"] for row in results.outcomes if (row["model"], row["rows"]) == group})
    named = _named([str(label) for label in judged], ", ")
    head = f"Label {named}." if len(judged) == 1 else f"Labels {named}, each alone."
    parts = [f"### {_title(results, group)}", f"{head} Draws with numbers: {_draws_of(results, group)}."]
    for reading in READINGS:
        rows = []
        for one in summaries[group, reading]:
            differences = [_difference(verdicts.get((one.method, reading, measure)), measure) for measure in MEASURES]
            rows.append(
                [
                    f"**{one.method}**" if one.method == REFERENCE else one.method,
                    str(one.repairs) + (f" ({one.failed} failed)" if one.failed else ""),
                    str(one.left),
                    points(one.label),
                    points(one.all, 2),
                    "–" if one.worst is None else points(one.worst),
                    _rows(one.fixed),
                    _rows(one.broken),
                    str(one.promised),
                    f"{one.held} of {one.promised}" if one.promised else "–",
                    f"{one.kept} of {one.repairs}",
                    _seconds(one.seconds),
                    *(["–", "–"] if one.method == REFERENCE else differences),
                ]
            )
        parts += [f"{READING_TITLES[reading]}:", _table(HEADER, rows)]
    return "\n\n".join(parts)


def _difference(found: Against | None, measure: str) -> str:
    digits = 2 if measure == "all" else 1
    if found is None or found.mean is None:
        return "–"
    told = points(found.mean, digits)
    if found.low is None or found.high is None:
        return told
    told += f" ({points(found.low, digits)} to {points(found.high, digits)})"
    return told if found.verdict == UNSURE else f"{told} **{found.verdict}**"


def _failures(results: Results) -> str:
    """A line for each method and reason for which it could not run; reasons that differ in numbers are one."""
    places: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    notes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in results.outcomes:
        if row["reading"] not in READINGS:
            note = row["note"] or "no reason is given"
            key = row["method"], re.sub(r"\d+", "0", note)
            places[key][row["model"]] += 1
            notes[key].append(note)
    lines = []
    for key in sorted(places, key=lambda key: place(key[0])):
        where = ", ".join(f"{results.models[name]['title']} ({count})" for name, count in places[key].items())
        example = "" if len(set(notes[key])) == 1 else "for example, "
        lines.append(f"- **{key[0]}**, {where}: {example}{_plain(notes[key][0])}.")
    if results.facts["failed"]:
        lines.append(f"- Runs that ended with an error: {results.facts['failed']}.")
    if results.facts.get("missing"):
        lines.append(f"- Not in these numbers, as they have not come to their end: {results.facts['missing']}.")
    if results.facts["left out"]:
        lines.append(f"- Left out: {_plain(results.facts['left out'])}.")
    return "\n".join(lines) or "All methods ran in every draw."


def _title(results: Results, group: Group) -> str:
    title = results.models[group[0]]["title"]
    return f"{title[0].upper()}{title[1:]}: {group[1]:,} repair rows"


def _repair(row: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(row[name] for name in ("model", "rows", "label", "method", "seed"))


def points(value: float, digits: int = 1) -> str:
    """A change of accuracy in points, with its sign."""
    told = round(100 * value, digits)
    if told == 0:
        return f"{0:.{digits}f}"
    return f"{'+' if told > 0 else '−'}{abs(told):.{digits}f}"


def _rows(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _share(count: int, of: int) -> str:
    return "–" if not of else f"{math.floor(100 * count / of + 0.5)} %"


def _plain(text: str) -> str:
    """Text as a cell of a table can hold it."""
    for sign in "\\*_|<>[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table of Markdown: so many columns are words, and the others numbers."""
    lines = ["| " + " | ".join(header) + " |"]
    lines.append("| " + " | ".join("---" if number < words else "---:" for number in range(len(header))) + " |")
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
