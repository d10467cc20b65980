"""`report` and `watch` of comparisons: what the terminal and the page say, against the tables of the run."""

from __future__ import annotations

import base64
import io
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.stats import t as student

from cli.commands.watch import read_status, words
from cli.run_report.comparison import ComparisonView
from cli.run_report.text import comparison_text
from cli.run_report.view import read_run
from cluster.records.store import RunRecords, read_facts
from tests.integration.conftest import Command
from tests.support.comparisons import EFFECTS, REASON, Effect, Written, write_comparison
from tests.support.pages import Element, card, cells, in_order, page_of, points, rows_in, rows_of
from tests.support.run_samples import HOSTILE

RAN = [name for name, effect in EFFECTS.items() if effect.kind != "failed"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Five methods, of which one failed, with five draws."""
    return write_comparison(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def page(written: Written) -> Element:
    return page_of(written.directory)


def outcomes_of(written: Written, method: str, reading: str) -> list[dict[str, Any]]:
    """By draw."""
    rows = rows_of(written.directory, "outcomes")
    return [row for row in rows if (row["method"], row["reading"]) == (method, reading)]


def view_of(directory: Path) -> ComparisonView:
    found = read_run(directory).comparison
    assert found is not None
    return found


def lines_of(text: str, title: str) -> dict[str, list[str]]:
    """The table below a title: cells by name of the row."""
    _, _, rest = text.partition(title)
    rows = rest.split("\n\n")[0].split("\n")
    start = next(at for at, row in enumerate(rows) if row.startswith("---"))
    found = {}
    for row in rows[start + 1 :]:
        if "  " not in row:
            break
        name, *values = re.split(r"  +", row.strip())
        found[name] = values
    return found


# The terminal.


def test_differences_are_those_of_the_formula(written: Written) -> None:
    """Draws of 60 of 300 rows share a fifth: e^2 = (1/5 + 1/4) s^2 + v / m, four degrees of freedom."""
    text, label = comparison_text(written.directory), written.label
    for measure, title, mask in (
        ("gain", "gain of 6 Shirt, less that of CrossFit", label == 6),
        ("all", "accuracy of all labels, less that of CrossFit", np.ones(len(label), bool)),
    ):
        theirs = outcomes_of(written, "CrossFit", "chosen")
        expected = {}
        for method in [name for name in RAN if name != "CrossFit"]:
            mine = outcomes_of(written, method, "chosen")
            d = np.array([one[measure] - two[measure] for one, two in zip(mine, theirs, strict=True)])
            right = [
                (np.array(one["after"]) == label)[mask] * 1.0 - (np.array(two["after"]) == label)[mask]
                for one, two in zip(mine, theirs, strict=True)
            ]
            v = np.var(np.mean(right, axis=0), ddof=1)
            error = np.sqrt((1 / 5 + 0.25) * np.var(d, ddof=1) + v / mask.sum())
            expected[method] = d.mean(), student.ppf(0.975, 4) * error, 2 * student.sf(abs(d.mean()) / error, 4)
        ranked = sorted(expected, key=lambda method: expected[method][2])
        holm = np.maximum.accumulate([min(1, (3 - at) * expected[each][2]) for at, each in enumerate(ranked)])
        table = lines_of(text, title)
        assert list(table) == list(expected)
        for method, (mean, reach, _) in expected.items():
            p = float(holm[ranked.index(method)])
            verdict = "not told apart" if p >= 0.05 else "better" if mean > 0 else "worse"
            ends = f"{100 * (mean - reach):+.2f} to {100 * (mean + reach):+.2f}"
            assert table[method] == [f"{100 * mean:+.2f}", ends, f"{p:.3f}", verdict]
    assert "which share 20.00 % of their rows" in " ".join(text.split())


def test_verdicts_by_effects_that_are_plain(tmp_path: Path) -> None:
    """Who fixes more and breaks less is better; who gains and breaks is both; who does the same is not told apart."""
    effects = {
        "CrossFit": Effect(0.3, 0.02),
        "twin": Effect(0.3, 0.02),
        "good": Effect(0.9, 0.001),
        "bad": Effect(0.0, 0.15),
        "costly": Effect(0.95, 0.3),
    }
    found = write_comparison(tmp_path, effects, draws=8, rows=30, test_rows=3000)
    view = view_of(found.directory)
    verdicts = {method.name: method.verdict("chosen") for method in view.methods}
    assert verdicts == {
        "CrossFit": "reference",
        "twin": "not told apart",
        "good": "better",
        "bad": "worse",
        "costly": "gain better, all worse",
    }
    tree = page_of(found.directory)
    marked = {"good": "✓ better", "bad": "✗ worse", "costly": "✗ gain better, all worse"}
    chosen = rows_in(tree, "outcomes", reading="chosen")
    assert {row.data("method")[0]: row.with_data("verdict")[0].text.strip() for row in chosen} == verdicts | marked
    assert card(tree, "told").data("better", "worse") == ("1", "1")


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"draws": 1}, "one draw tells nothing of others"),
        ({"rows": None}, "every draw has all rows: only seeds differ"),
        ({"rows": 300}, "every draw has all rows: only seeds differ"),
    ],
)
def test_where_there_are_no_intervals(shape: dict[str, Any], why: str, tmp_path: Path, command: Command) -> None:
    found = write_comparison(tmp_path, **shape)
    done = command("report", found.directory)
    assert (done.code, done.err) == (0, "")
    assert f"no intervals: {why}" in done.out
    assert lines_of(done.out, "gain of 6 Shirt, less that of")["head"][1:] == ["-", "-", "not told apart"]
    assert ("all 300 repair rows" in done.out) == ("rows" in shape)
    tree = page_of(found.directory)
    assert f"No intervals: {why}" in tree.text
    assert {cells(row)["adjusted"] for row in rows_in(tree, "differences")} == {("", "–")}


def test_a_reference_that_is_not_there(tmp_path: Path, command: Command) -> None:
    found = write_comparison(tmp_path, {"CrossFit": Effect(kind="failed"), "head": Effect(0.4, 0.01)})
    out = command("report", found.directory).out
    assert "no differences: there are no repairs by CrossFit and another method" in out
    verdicts = [method.verdict("chosen") for method in view_of(found.directory).methods]
    assert verdicts == [f"failed: {REASON}", "not compared"]
    RunRecords(found.directory).write_facts(read_facts(found.directory) | {"reference": None})
    assert "held against is not among those compared" in " ".join(command("report", found.directory).out.split())
    page_of(found.directory)


def test_a_method_that_fails_in_some_draws(tmp_path: Path) -> None:
    """The others count, and differences are of the draws that both have."""
    found = write_comparison(tmp_path, failing_draws={"head": (1, 3), "CrossFit": (3, 4)})
    view = view_of(found.directory)
    head = next(method for method in view.methods if method.name == "head")
    assert (head.done, head.lost, head.failed) == (3, 2, ((REASON, 2),))
    assert head.readings["chosen"].against["gain"].draws == 2
    assert (view.ended, view.total) == (25, 25)
    assert f"head failed in 2 of 5 draws: {REASON}" in " ".join(comparison_text(found.directory).split())


# The page.


def test_page_and_terminal_have_the_numbers_of_the_tables(written: Written, page: Element) -> None:
    text = comparison_text(written.directory)
    titles = {"chosen": "as validation rows choose", "found": "as found, where nobody chooses"}
    assert max(map(len, text.splitlines())) <= 80
    for reading in ("chosen", "found"):
        rows = {row.data("method")[0]: row for row in rows_in(page, "outcomes", reading=reading)}
        assert list(rows) == list(EFFECTS)
        said = lines_of(text, titles[reading])
        assert said.pop("NeuRecover") == ["failed", *["-"] * 8]
        for method in RAN:
            stored, found = outcomes_of(written, method, reading), cells(rows[method])
            for column in ("gain", "all", "worst"):
                mean = float(np.mean([row[column] for row in stored]))
                assert float(found[column][0]) == pytest.approx(mean, abs=1e-15)
                assert found[column][1] == points(float(found[column][0]))
            assert found["kept"][0] == f"{sum(row['kept'] for row in stored)}/5"
            changes = [found[column][1].replace("−", "-") for column in ("gain", "all", "worst")]
            counted = [f"{float(found[column][0]):.0f}" for column in ("fixed", "broken")]
            pairs = [found[column][1].replace("–", "-") for column in ("kept", "held")]
            assert said[method] == [*changes, found["worst_label"][0], *counted, *pairs, found["seconds"][1]]
            left = EFFECTS[method].kind == "nothing"
            assert found["promised"][0] == f"{0 if left else sum(row['promised'] for row in stored)}/5"
            assert found["left"][0] == ("5" if left else "0")
        assert rows["NeuRecover"].with_data("verdict")[0].data("verdict") == (f"failed: {REASON}",)
        differences = rows_in(page, "differences", reading=reading)
        assert len(differences) == 6
        for row in differences:
            found = cells(row)
            low, high = (float(end.replace("−", "-")) for end in found["low"][1].split(" to "))
            assert low <= float(found["mean"][1].replace("−", "-")) <= high
            assert float(found["p"][0]) <= float(found["adjusted"][0])
    (failure,) = page.with_data("failure")
    assert failure.text == f"NeuRecover failed in 5 of 5 draws: {REASON}"


def test_the_frontier(written: Written, page: Element) -> None:
    for across, sign, unit in (("broken", 1, 1), ("worst", -1, 100)):
        (chart,) = [
            element
            for element in page.all()
            if element.tag == "svg" and element.attributes.get("aria-labelledby", "").startswith(f"frontier-{across}-")
        ]
        marks = chart.with_data("frontier-method")
        assert sorted(mark.data("frontier-method", "reading") for mark in marks) == sorted(
            (method, reading) for method in RAN for reading in ("chosen", "found")
        )
        for mark in marks:
            rows = outcomes_of(written, *mark.data("frontier-method", "reading"))
            cost, gain = (np.mean([row[name] for row in rows]) for name in (across, "gain"))
            assert [float(value) for value in mark.data("cost", "gain")] == pytest.approx(
                [sign * unit * cost, 100 * gain]
            )
        round_ones = [mark for mark in marks if mark.tag == "circle"]
        assert {mark.data("frontier-method")[0] for mark in marks if mark.tag == "polygon"} == {"CrossFit"}
        in_order([(float(mark.data("cost")[0]), float(mark.attributes["cx"])) for mark in round_ones])
        in_order([(float(mark.data("gain")[0]), -float(mark.attributes["cy"])) for mark in round_ones])
        assert {mark.attributes["class"] for mark in round_ones if mark.data("reading") == ("found",)} == {"ring"}
        assert {mark.attributes["class"] for mark in round_ones if mark.data("reading") == ("chosen",)} == {
            "dot chosen"
        }
        apart(chart)
        (front,) = [element for element in chart.all() if element.attributes.get("class") == "mean"]
        # Whoever breaks least of those that gain most is beaten by nobody; nobody who breaks more and gains less is.
        assert "CrossFit" in front.text
        assert "Arachne" not in front.text


def apart(chart: Element) -> None:
    """Names stand below each other, inside the chart."""
    names = [element.attributes for element in chart.with_data("name")]
    assert len({name["x"] for name in names}) == 1
    heights = sorted(float(name["y"]) for name in names)
    assert all(upper + 14.5 < lower for upper, lower in pairwise(heights))
    _, _, _, height = map(float, chart.attributes["viewbox"].split())
    assert heights[0] > 10 and heights[-1] < height


def test_many_methods_that_are_alike(tmp_path: Path) -> None:
    """Eighteen names without room beside their points, and the page stays small."""
    effects = {f"method-{number}": Effect(0.3, 0.01) for number in range(18)}
    found = write_comparison(tmp_path, effects, draws=2)
    tree = page_of(found.directory)
    charts = [element for element in tree.all() if element.tag == "svg" and element.with_data("name")]
    assert [len(chart.with_data("name")) for chart in charts] == [19, 19]
    for chart in charts:
        apart(chart)
    assert 0 < len(tree.with_data("image")) <= 160


def test_pictures_are_of_the_rows_that_most_draws_change(written: Written, page: Element) -> None:
    with h5py.File(written.directory.parent / "test.h5") as file:
        images = file["images"][...]
    was_right = written.before == written.label
    for method in RAN:
        after = np.array([row["after"] for row in outcomes_of(written, method, "chosen")])
        counts = {
            "fixed": ((after == written.label) & ~was_right).sum(axis=0),
            "broken": ((after != written.label) & was_right).sum(axis=0),
        }
        for kind, count in counts.items():
            (title,) = [each for each in page.with_data("often") if each.data("often", "method") == (kind, method)]
            assert title.data("rows") == (str((count > 0).sum()),)
            mine = [each for each in page.with_data("image") if each.data("image", "method") == (kind, method)]
            assert len(mine) == min(12, (count > 0).sum())
            drawn = [int(each.data("draws")[0]) for each in mine]
            assert drawn == sorted(count[count > 0].tolist(), reverse=True)[:12]
            for each in mine:
                row = int(each.data("row")[0])
                assert (count[row], written.label[row]) == tuple(map(int, each.data("draws", "label")))
                content = base64.b64decode(each.attributes["src"].partition(",")[2])
                with Image.open(io.BytesIO(content)) as picture:
                    np.testing.assert_array_equal(np.asarray(picture), np.rint(images[row, :, :, 0] * 255))


def test_images_that_have_moved(tmp_path: Path) -> None:
    found = write_comparison(tmp_path)
    (tmp_path / "test.h5").unlink()
    tree = page_of(found.directory)
    assert f"No pictures: {tmp_path / 'test.h5'} does not exist" in tree.text
    assert tree.with_data("image") == []
    assert len(tree.with_data("often")) == 2 * len(RAN)


def test_names_from_elsewhere(tmp_path: Path, command: Command) -> None:
    effects = {
        "CrossFit": Effect(0.4, 0.01),
        "</title><script>nothing()</script>": Effect(0.3, 0.02),
        "\x1b[31mred": Effect(kind="failed"),
    }
    found = write_comparison(tmp_path, effects, names=HOSTILE, labels=(0, 1, 2))
    out = command("report", found.directory).out
    assert all(character.isprintable() or character == "\n" for character in out)
    page_of(found.directory)
    assert not set((tmp_path / "page.html").read_text(encoding="utf-8")) & set("\x1b\x07\u202d\u202e")


def test_labels_without_names(tmp_path: Path) -> None:
    found = write_comparison(tmp_path, names=None, labels=(3, 6))
    assert "gain of label 3 and label 6, less that of CrossFit" in comparison_text(found.directory)


# While the run goes on, and where tables are damaged.


def test_a_run_that_goes_on(tmp_path: Path, command: Command) -> None:
    """Seven of 25 repairs: CrossFit has all draws, Arachne two, the others none."""
    found = write_comparison(tmp_path, ended=7)
    out = command("report", found.directory).out
    assert "7 of 25 repairs have ended" in " ".join(out.split())
    assert list(lines_of(out, "gain of 6 Shirt, less that of CrossFit")) == ["Arachne"]
    assert [method.verdict("chosen") for method in view_of(found.directory).methods][2:] == ["has not run"] * 3
    page_of(found.directory)
    shutil.rmtree(found.directory / "predictions")
    text = " ".join(command("report", found.directory).out.split())
    assert "no intervals: classes of test rows are missing" in text
    shutil.rmtree(found.directory / "outcomes")
    assert "0 of 25 repairs have ended" in " ".join(command("report", found.directory).out.split())
    page_of(found.directory)


def test_watching_a_comparison(tmp_path: Path, command: Command) -> None:
    found = write_comparison(tmp_path, ended=7)
    status = words(read_status(found.directory, read_facts(found.directory)))
    assert (status["step"], status["done"]) == ("", "7 of 25 repairs")
    (found.directory / "progress.json").unlink()
    status = words(read_status(found.directory, read_facts(found.directory)))
    assert status["done"] == "7 of 25 repairs"
    assert re.fullmatch(r"[\d.]+ repairs/(s|min), 2 workers", status["rest"])
    RunRecords(found.directory).write_facts(read_facts(found.directory) | {"state": "interrupted"})
    done = command("watch", found.directory)
    assert (done.code, done.err) == (0, "")
    assert "7 of 25 repairs have ended" in " ".join(done.out.split())


def test_classes_of_other_rows_make_no_interval(tmp_path: Path, command: Command) -> None:
    found = write_comparison(tmp_path, ended=25)
    rows = outcomes_of(found, "head", "chosen")
    RunRecords(found.directory).replace("outcomes", "head-0", [rows[0] | {"after": rows[0]["after"][:-1]}])
    table = lines_of(command("report", found.directory).out, "gain of 6 Shirt, less that of CrossFit")
    assert table["head"][1:] == ["-", "-", "not told apart"]
    assert table["Arachne"][1] != "-"
    page_of(found.directory)


def test_damaged_and_other_runs(tmp_path: Path, command: Command) -> None:
    found = write_comparison(tmp_path, ended=10)
    part = next((found.directory / "outcomes").iterdir())
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    done = command("report", found.directory)
    assert done.code == 2
    assert re.search(r"the table outcomes is damaged \(.*\), expected a whole one", done.err)
    part.write_bytes(content)
    facts = read_facts(found.directory)
    RunRecords(found.directory).write_facts({name: value for name, value in facts.items() if name != "draws"})
    assert "run.json has no draws, expected the facts of a comparison" in command("report", found.directory).err
