"""`report` and `watch` of CrossFit runs: what the terminal and the page say, against the tables of the run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.commands.watch import read_status, words
from cli.run_report.rows import Row
from cli.run_report.text import chance_text, describe_crossfit, missing, promise_sentence
from cli.run_report.view import CrossFitView
from cluster.records.schema import OF_METHODS, SCHEMAS
from cluster.records.store import RunRecords, read_facts, read_table
from engine.metrics.promise import Promise
from engine.metrics.requirements import Kind, Requirement
from tests.integration.conftest import Command
from tests.support.pages import Element, card, cells, in_order, marks, page_of, parse, percent, points, rows_in, rows_of


@pytest.fixture(scope="session")
def page(crossfit_run: Path) -> Element:
    return parse(crossfit_run / "page.html")


def signed(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


# The page.


def test_promises_are_those_of_the_table(crossfit_run: Path, page: Element) -> None:
    stored = rows_of(crossfit_run / "run", "promises")
    rows = rows_in(page, "promises")
    assert len(rows) == len(stored) == 13
    for row, entry in zip(rows, stored, strict=True):
        found = cells(row)
        for column, (value, _) in found.items():
            assert value == ("" if entry[column] is None else repr(entry[column])), column
        assert set(found) == {"met", "limit", "value", "low", "chance", "rows", "new_rows", "enough"}
        assert row.children[0].text == entry["text"]
        assert found["limit"][1] == f"{'≥' if entry['kind'] == 'min_gain' else '≤'} {100 * entry['limit']:g}"
        assert found["enough"][1] == ("no number" if entry["enough"] is None else str(entry["enough"]))
        assert float(found["value"][1].replace("−", "-")) == pytest.approx(100 * entry["value"], abs=0.005)
    assert {entry["enough"] is None for entry in stored} == {True, False}
    wanted = 0.9 ** (1 / 13)
    for row, entry in zip(rows, stored, strict=True):
        sure = entry["chance"] >= wanted
        assert cells(row)["met"][1] == ("✓ sure enough" if sure else "not sure enough" if entry["met"] else "✗ not met")
    promised, chance = card(page, "promise").data("promised", "chance")
    assert promised == "False"
    assert float(chance) == pytest.approx(np.prod([entry["chance"] for entry in stored]))
    assert float(chance) == pytest.approx(read_facts(crossfit_run / "run")["chance"])


def test_what_was_mixed_is_that_of_the_tables(crossfit_run: Path, page: Element) -> None:
    mixture, tunings = rows_of(crossfit_run / "run", "mixture"), rows_of(crossfit_run / "run", "tunings")
    recipes = {entry["name"]: entry for entry in mixture if entry["kind"] == "recipe"}
    rows = rows_in(page, "mixture")
    assert [row.data("recipe")[0] for row in rows] == list(recipes) == ["2:1:epochs=2", "4:1:epochs=2"]
    for row in rows:
        entry = recipes[row.data("recipe")[0]]
        assert cells(row) == {name: (repr(entry[name]), signed(entry[name])) for name in ("found", "taken")}
        mine = {str(tuning["fold"]): tuning for tuning in tunings if tuning["recipe"] == entry["name"]}
        folds = row.with_data("fold")
        assert [fold.data("fold")[0] for fold in folds] == list(mine) == ["0", "1", "2"]
        for fold in folds:
            tuning = mine[fold.data("fold")[0]]
            assert fold.data("value", "rows", "epochs") == (repr(tuning["change"]), str(tuning["rows"]), "2")
            assert fold.text == f"{tuning['change']:.4g}"
        assert "266–267" in row.text and {tuning["rows"] for tuning in mine.values()} == {266, 267}
    offsets = {str(entry["label"]): entry for entry in mixture if entry["kind"] == "offset"}
    found = {row.data("label")[0]: cells(row) for row in rows_in(page, "offsets")}
    assert found == {
        label: {name: (repr(entry[name]), signed(entry[name])) for name in ("found", "taken")}
        for label, entry in offsets.items()
    }
    assert len(found) == 10


def test_the_step_and_its_chart(crossfit_run: Path, page: Element) -> None:
    frontier = rows_of(crossfit_run / "run", "frontier")
    rows = rows_in(page, "frontier")
    assert [row.data("step")[0] for row in rows] == [repr(entry["step"]) for entry in frontier]
    for row, entry in zip(rows, frontier, strict=True):
        found = cells(row)
        for column, (value, _) in found.items():
            assert value == repr(entry[column])
        assert [found[name][1] for name in ("gain", "all", "worst")] == [
            points(entry[name]) for name in ("gain", "all", "worst")
        ]
        assert (row.attributes.get("class") == "mine") == entry["taken"]
    drawn = page.with_data("frontier")
    for name in ("gain", "all", "worst", "chance"):
        mine = [mark for mark in drawn if mark.data("frontier") == (name,)]
        assert [mark.data("step", "value") for mark in mine] == [
            (repr(entry["step"]), repr(entry[name])) for entry in frontier
        ]
        largest = max(mine, key=lambda mark: float(mark.attributes["r"]))
        assert largest.data("step") == (repr(next(entry["step"] for entry in frontier if entry["taken"])),)
    changes = [mark for mark in drawn if mark.data("frontier") != ("chance",)]
    in_order([(float(mark.data("value")[0]), -float(mark.attributes["cy"])) for mark in changes])
    chances = [mark for mark in drawn if mark.data("frontier") == ("chance",)]
    in_order([(float(mark.data("value")[0]), -float(mark.attributes["cy"])) for mark in chances])
    in_order(marks(page, "frontier", "step", "cx"))


def test_before_and_after_of_rows_that_no_tuning_saw(crossfit_run: Path, page: Element) -> None:
    """The 400 repair rows, and apart from them the test rows of the saved model."""
    labels = rows_of(crossfit_run / "run", "labels")
    for split, stage, total in (("out of fold", "step", 400), ("test", "repaired", 120)):
        mine = [row for row in rows_in(page, "labels") if row.data("split") == (split,)]
        entries = [entry for entry in labels if (entry["split"], entry["stage"]) == (split, stage)]
        assert [row.data("label")[0] for row in mine] == [*(str(entry["label"]) for entry in entries), "all"]
        for row, entry in zip(mine, entries, strict=False):
            found = cells(row)
            assert found["repaired.accuracy"] == (repr(entry["accuracy"]), percent(entry["accuracy"]))
            assert (found["repaired"][1], found["broken"][1]) == (str(entry["repaired"]), str(entry["broken"]))
        assert cells(mine[-1])["total"][1] == str(total)


# The terminal.


def test_optimize_prints_what_report_prints(crossfit_run: Path, command: Command) -> None:
    reported = command("report", crossfit_run / "run")
    assert (reported.code, reported.err) == (0, "")
    printed, _, made = (crossfit_run / "out.txt").read_text(encoding="utf-8").partition("created files:\n")
    assert printed.strip() in reported.out
    assert made.splitlines()[:2] == [
        str(crossfit_run / "out" / "repair" / "model.keras"),
        str(crossfit_run / "out" / "patch.arrow"),
    ]
    assert ": CrossFit, 6 Shirt, done" in reported.out.splitlines()[0]


def test_the_tables_in_the_terminal(crossfit_run: Path, command: Command) -> None:
    out = command("report", crossfit_run / "run").out
    mixture, frontier = rows_of(crossfit_run / "run", "mixture"), rows_of(crossfit_run / "run", "frontier")
    step = next(entry["step"] for entry in frontier if entry["taken"])
    assert f"mixture of the recipes, of which step {step:g} was taken:" in out
    for entry in mixture:
        found, taken = (f"{entry[name]:+.3f}" for name in ("found", "taken"))
        if entry["kind"] == "recipe":
            line = rf"^{re.escape(entry['name'])} +{re.escape(found)} +{re.escape(taken)} +2 +266-267 +0\.0"
        else:
            line = rf"[ ,]{entry['label']} [A-Z][\w/ -]+ {re.escape(taken)}"
        assert re.search(line, out, re.MULTILINE), line
    for entry in rows_of(crossfit_run / "run", "promises"):
        chance = chance_text(entry["chance"], 0.9)
        enough = "no number" if entry["enough"] is None else entry["enough"]
        line = rf"^{re.escape(entry['text'])}\n.* {entry['rows']} +{re.escape(chance)} +{enough}$"
        assert re.search(line, out, re.MULTILINE), line
    judged = [entry for entry in rows_of(crossfit_run / "run", "labels") if entry["stage"] == "step"]
    fixed, broken = (sum(entry[name] for entry in judged) for name in ("repaired", "broken"))
    assert re.search(rf"^all +400 .* {fixed} +{broken}$", out, re.MULTILINE)
    met = sum(entry["met"] for entry in rows_of(crossfit_run / "run", "verdicts"))
    assert f"requirements, test rows: {met} of 13 met" in out


# What is promised, in words.


def promise(
    chance: float, enough: int | None = None, *, value: float = 0.0, limit: float = 0.03, kind: Kind = "max_drop"
) -> Promise:
    requirement = Requirement(kind, limit, (4,), None, f"{kind} {100 * limit:g}")
    met = value >= limit if requirement.at_least else value <= limit
    return Promise(requirement, value, value - 0.01, value + 0.01, 400, 500, met, chance, enough)


def point(step: float, *, taken: bool, enough: int | None = None) -> Row:
    return Row(step=step, taken=taken, enough=enough)


def view(*promises: Promise, step: float = 0.4, promised: bool = False) -> CrossFitView:
    return CrossFitView(
        recipes=(),
        folds=5,
        layers=("dense",),
        weights=10,
        offsets=(),
        frontier=(point(0.0, taken=step == 0), point(0.4, taken=step == 0.4)),
        promises=promises,
        judged=(),
        promised=promised,
        confidence=0.95,
        new_rows=500,
        asked_step=False,
        stated=True,
        notes=(),
    )


LEFT = view(promise(1.0, 400), promise(0.0, limit=0.06, kind="min_gain"), step=0.0)
STEPS = (point(0.0, taken=False, enough=0), point(0.2, taken=False, enough=610), point(0.4, taken=True))
SMALLER = replace(view(promise(0.9, 2374)), frontier=STEPS)
LACKING = view(promise(0.99, 900), promise(0.97, 2374), promise(0.8, 1200))
HOPELESS = view(promise(0.5, value=0.03), promise(0.1, value=0.04), promise(0.9, value=0.02), promise(0.97, 50))
NOTHING_WRONG = replace(
    view(promise(1.0, 400), promised=True), frontier=(), weights=None, notes=("all rows are right",)
)
VAGUE = replace(NOTHING_WRONG, promises=(promise(0.9, 800),), promised=False)
SURE = "promised: with {} % chance the next 500 rows of each label from the same source keep {} (95 % were asked for)"
UNSURE = "not " + SURE.replace(" (95 % were", ", but 95 % were").removesuffix(")")
BEST = "; step 0.4 is the best compromise"
ENOUGH = "; about {} rows of each label to repair with would be enough"
NO_NUMBER = "; more rows to repair with would not be enough"
KEPT = "on the rows at hand every step keeps fewer requirements than the baseline model (1 of 2), so it is kept"


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (view(promise(0.98), promised=True), SURE.format("98.0", "the requirement")),
        (view(promise(0.98), promise(1.0), promised=True), SURE.format("98.0", "both requirements")),
        (view(*map(promise, (0.98, 0.981, 1.0)), promised=True), SURE.format("96.1", "all 3 requirements together")),
        (NOTHING_WRONG, SURE.format("100", "the requirement")),
        # The largest number of those that are not sure enough: the others have enough already.
        (LACKING, UNSURE.format("76.8", "all 3 requirements together") + BEST + ENOUGH.format(2374)),
        # A smaller step may need fewer rows, unless this one was asked for.
        (SMALLER, UNSURE.format("90.0", "the requirement") + BEST + ENOUGH.format(610) + " for a step of 0.2"),
        (replace(SMALLER, asked_step=True), UNSURE.format("90.0", "the requirement") + ENOUGH.format(2374)),
        (VAGUE, UNSURE.format("90.0", "the requirement") + ENOUGH.format(800)),
        (HOPELESS, UNSURE.format("4.3", "all 4 requirements together") + BEST + NO_NUMBER),
        (LEFT, f"not promised: {KEPT}"),
        (replace(LEFT, asked_step=True), "not promised: step 0 was asked for, so the baseline model is kept"),
        (view(), "nothing is promised: no requirement has rows to judge it by"),
    ],
)
def test_a_promise_in_words(found: CrossFitView, sentence: str) -> None:
    assert promise_sentence(found) == sentence


def test_what_is_missing_in_words() -> None:
    """By the limit itself, from more rows, or because so few new rows vary too much."""
    assert missing(view(promise(0.98), promised=True)) == []
    assert missing(LACKING) == [
        "for 95 % together each requirement needs 98.3 %",
        "sure enough from more rows of each label to repair with: max_drop 3 (about 2374), max_drop 3 (about 1200)",
    ]
    assert missing(HOPELESS)[1:] == [
        "no better than the limit on the rows at hand: max_drop 3, max_drop 3",
        "sure enough from more rows of each label to repair with: max_drop 3 (about 50)",
        "500 new rows of each label are too few to be sure of (--promise-rows): max_drop 3",
    ]
    assert missing(view(*[promise(0.9, value=0.02)] * 8))[-1].endswith(", max_drop 3 and 2 more")


def test_a_model_with_nothing_to_repair() -> None:
    """Its promise is that of the model as it is; where nothing was required there is nothing to say of it."""
    text = describe_crossfit(NOTHING_WRONG, (6,), None)
    assert text.startswith("all rows are right\n\nrequirements, rows that no tuning saw: 1 of 1 met\n")
    assert describe_crossfit(replace(NOTHING_WRONG, stated=False), (6,), None) == "all rows are right"


@given(st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.975, 0.999, 0.9995]))
def test_a_chance_in_words_never_claims_more(chance: float, confidence: float) -> None:
    """It compares with the confidence as the numbers do, and certainty is only of what is certain."""
    text = chance_text(chance, confidence)
    if text[0] in "<>":
        low, high = (float(text[1:]) / 100, 1.0) if text[0] == ">" else (0.0, float(text[1:]) / 100)
        assert low <= chance <= high
    else:
        assert float(text) <= 100 * chance + 1e-6
        assert float(text) > 100 * chance - 0.1 - 1e-6
    assert text != "100"
    asked = float(f"{100 * confidence:.10g}")
    assert (float(text.lstrip("<>")) >= asked) == (chance >= confidence) or abs(chance - confidence) < 1e-9
    assert chance_text(1.0, confidence, sure=True) == "100"


def test_a_run_that_promises(crossfit_run: Path, tmp_path: Path, command: Command) -> None:
    """Then nobody has to ask how many rows would be enough, and every requirement is promised."""
    directory = tmp_path / "run"
    shutil.copytree(crossfit_run / "run", directory)
    RunRecords(directory).write_facts(read_facts(directory) | {"promised": True, "confidence": 0.05})
    out = command("report", directory).out
    assert "\npromised: with " in out and "(5 % were asked for)" in out
    assert "enough\n" not in out and "too few" not in out
    page = page_of(directory)
    assert [cells(row)["met"][1] for row in rows_in(page, "promises")] == ["✓ promised"] * 13
    (verdict,) = [element for element in page.with_data("promised") if element.tag == "p"]
    assert verdict.text.startswith("Promised: with ") and verdict.data("promised") == ("True",)


# Runs that go on.


def going_on(root: Path, to: Path, tables: tuple[str, ...], **progress: Any) -> Path:
    """A copy of the run as it was when it had only these tables."""
    directory = to / "running"
    shutil.copytree(root / "run", directory)
    for name in SCHEMAS:
        if name not in tables:
            (directory / f"{name}.arrow").unlink(missing_ok=True)
    facts = read_facts(directory)
    ended = ("chance", "enough", "notes", "placement", "promised", "seconds", "step", "exit_code")
    records = RunRecords(directory)
    records.write_facts({name: value for name, value in facts.items() if name not in ended} | {"state": "running"})
    if progress:
        records.write_progress({"step": 0, "steps": None, "jobs_done": 0, "jobs": 0, "elapsed": 3.0} | progress)
    return directory


def test_a_run_among_its_tunings(crossfit_run: Path, tmp_path: Path, command: Command) -> None:
    directory = going_on(crossfit_run, tmp_path, ("tunings",))
    tunings = read_table(directory, "tunings").slice(0, 4)
    (directory / "tunings.arrow").unlink()
    RunRecords(directory).replace("tunings", "some", tunings.to_pylist())
    out = command("report", directory).out
    assert ": CrossFit, 6 Shirt, running" in out
    assert "2 recipes in 3 folds, 74794 weights of dense, dense_1; 4 of 6 tunings are done" in out
    assert "promised" not in out and "mixture" not in out
    page = page_of(directory)
    assert [len(row.with_data("fold")) for row in rows_in(page, "mixture")] == [3, 1]
    assert not rows_in(page, "promises") and not page.with_data("promised")
    # Without `progress.json` the tables say as much.
    status = read_status(directory, read_facts(directory))
    assert status.tunings == (4, 6)


@pytest.mark.parametrize(
    ("progress", "says", "bar"),
    [
        ({"tunings": [0, 6]}, ("0 of 6 tunings", ""), (0, 6)),
        ({"tunings": [4, 6]}, ("4 of 6 tunings", ""), (4, 6)),
        ({"tunings": [6, 6], "step": 1, "jobs": 1}, ("6 of 6 tunings", "0 of 1 searches"), (0, 1)),
        ({"tunings": [6, 6], "step": 1, "jobs": 2, "jobs_done": 1}, ("6 of 6 tunings", "1 of 2 searches"), (1, 2)),
        ({"step": 1, "jobs": 2}, ("step 1", "0 of 2 searches"), (0, 2)),
    ],
)
def test_tunings_are_watched_and_then_the_search(
    progress: dict[str, Any], says: tuple[str, str], bar: tuple[int, int], crossfit_run: Path, tmp_path: Path
) -> None:
    directory = going_on(crossfit_run, tmp_path, ("tunings",), **progress)
    status = read_status(directory, read_facts(directory))
    said = words(status)
    assert (said["step"], said["done"]) == says
    assert status.ahead == bar


# Other readers.


def test_its_tables_load_elsewhere(crossfit_run: Path) -> None:
    import duckdb
    import pandas
    import polars

    for name in sorted(OF_METHODS - {"outcomes"}):
        table = read_table(crossfit_run / "run", name)
        assert table.schema.equals(SCHEMAS[name])
        path = crossfit_run / "run" / f"{name}.arrow"
        assert len(table) == len(pandas.read_feather(path)) == polars.read_ipc(path).height > 0
    promises = read_table(crossfit_run / "run", "promises")
    assert len(promises) == 13
    found = duckdb.sql("select product(chance) from promises").fetchall()
    assert found[0][0] == pytest.approx(read_facts(crossfit_run / "run")["chance"])


def test_a_damaged_table(crossfit_run: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    directory = going_on(crossfit_run, tmp_path, tuple(SCHEMAS))
    shutil.copy(directory / "mixture.arrow", directory / "promises.arrow")
    refused("report", directory, says=("running", "promises", "requirement"))
