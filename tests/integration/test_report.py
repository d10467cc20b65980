"""`report`: the tables in the terminal, and the page in a real browser, against the tables of the run."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cli.run_report.pictures import to_bytes
from cluster.records.store import RunRecords, read_facts, read_table
from engine.core.names import escaped
from engine.core.names import width as width_of
from tests.integration.conftest import Command
from tests.support.comparisons import write_comparison
from tests.support.pages import (
    WIDTHS,
    Element,
    card,
    cells,
    in_order,
    look_at,
    marks,
    page_of,
    parse,
    percent,
    points,
    rows_in,
    rows_of,
)
from tests.support.run_samples import SAMPLES, write_run

FINISHED = [name for name, sample in SAMPLES.items() if not sample.running]


TOLD = {
    "labels": ("label", "total", "base.accuracy", "repaired.accuracy", "change", "repaired", "broken"),
    "steps": ("job", "correct", "incorrect", "accuracy"),
    "workers": ("worker", "searches", "busy"),
    "mixture": ("recipe", "found", "taken"),
}
"""Tables of the page that the terminal has: what a row is called, and the columns that both have."""


def counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Sums over rows of `labels`."""
    return {name: sum(row[name] for row in rows) for name in ("total", "correct", "repaired", "broken")}


@pytest.mark.parametrize("name", FINISHED)
def test_before_and_after_are_those_of_the_tables(
    name: str, samples: dict[str, Path], trees: dict[str, Element]
) -> None:
    labels = rows_of(samples[name], "labels")
    shown = rows_in(trees[name], "labels")
    found: dict[tuple[str, str], set[str]] = {}
    for row in shown:
        job, split, label = row.data("job", "split", "label")
        found.setdefault((job, split), set()).add(label)
        mine = [entry for entry in labels if (entry["job"], entry["split"]) == (job, split)]
        mine = [entry for entry in mine if label in ("all", str(entry["label"]))]
        base = counts([entry for entry in mine if entry["stage"] == "base"])
        repaired = counts([entry for entry in mine if entry["stage"] == "repaired"])
        before, after = base["correct"] / base["total"], repaired["correct"] / repaired["total"]
        assert cells(row) == {
            "total": (str(base["total"]), str(base["total"])),
            "base.accuracy": (repr(before), percent(before)),
            "repaired.accuracy": (repr(after), percent(after)),
            "change": (repr(after - before), points(after - before)),
            "broken": (str(repaired["broken"]), str(repaired["broken"])),
            "repaired": (str(repaired["repaired"]), str(repaired["repaired"])),
        }
    expected: dict[tuple[str, str], set[str]] = {}
    for entry in labels:
        if entry["stage"] == "repaired":
            expected.setdefault((entry["job"], entry["split"]), {"all"}).add(str(entry["label"]))
    assert found == expected
    assert found


@pytest.mark.parametrize("name", SAMPLES)
def test_searches_are_those_of_the_tables(name: str, samples: dict[str, Path], trees: dict[str, Element]) -> None:
    jobs = {row["job"]: row for row in rows_of(samples[name], "jobs")}
    swarm = rows_of(samples[name], "swarm")
    page = trees[name]
    shown = {row.attributes["data-job"]: row for row in rows_in(page, "jobs")}
    assert set(shown) == set(jobs)
    for job, row in shown.items():
        for column, (value, text) in cells(row).items():
            stored = jobs[job][column]
            assert value == ("" if stored is None else repr(stored))
            written_as = "–" if stored is None else f"{stored:.2f}" if column == "seconds" else f"{stored:.4g}"
            assert text == (str(stored) if isinstance(stored, int) else written_as)
        assert jobs[job]["state"] in row.text
        assert jobs[job]["note"] in row.text

    last = {}
    for row in swarm:
        last[row["job"]] = row
    curves = {curve.attributes["data-curve"]: curve for curve in page.with_data("curve")}
    assert set(curves) == set(last)
    for job, curve in curves.items():
        assert curve.data("value", "last") == (repr(last[job]["best"]), str(last[job]["iteration"]))
    for chart in [element for element in page.all() if element.tag == "svg" and element.with_data("curve")]:
        # A curve ends with `H<x>V<y>`, its last iteration and its best above the fitness at the start.
        ends = {}
        for curve in chart.with_data("curve"):
            x, y = re.findall(r"H([\d.]+)V([\d.]+)$", curve.attributes["d"])[0]
            ends[curve.attributes["data-curve"]] = (float(x), float(y))
        if len(ends) > 1:
            in_order([(last[job]["iteration"], x) for job, (x, _) in ends.items()])
            in_order([(last[job]["best"] - jobs[job]["start_fitness"], -y) for job, (_, y) in ends.items()])
    ran = {bar.attributes["data-ran"]: bar.data("ended", "seconds") for bar in page.with_data("ran")}
    assert ran == {
        job: (repr(row["ended"]), repr(row["seconds"])) for job, row in jobs.items() if row["ended"] is not None
    }
    for lane in {bar.attributes["y"] for bar in page.with_data("ran")}:
        mine = [bar.attributes for bar in page.with_data("ran") if bar.attributes["y"] == lane]
        assert len({jobs[bar["data-ran"]]["worker"] for bar in mine}) == 1
        bars = sorted((float(bar["x"]), float(bar["width"])) for bar in mine)
        for (x, width), (following, _) in pairwise(bars):
            assert x + width <= following + 0.11, "bars of one worker do not cover each other"
    for row in page.with_data("worker"):
        mine = [entry for entry in jobs.values() if entry["worker"] == row.attributes["data-worker"]]
        busy = sum(entry["seconds"] for entry in sorted(mine, key=lambda entry: (entry["step"], entry["job"])))
        assert cells(row) == {"searches": (str(len(mine)),) * 2, "busy": (repr(busy), f"{busy:.1f}")}
    assert card(page, "jobs").data("done") == (str(sum(row["state"] == "done" for row in jobs.values())),)


@pytest.mark.parametrize("name", [name for name in FINISHED if SAMPLES[name].required])
def test_verdicts_are_those_of_the_table(name: str, samples: dict[str, Path], trees: dict[str, Element]) -> None:
    stored = {(row["split"], str(row["requirement"])): row for row in rows_of(samples[name], "verdicts")}
    shown = rows_in(trees[name], "verdicts")
    assert {element.data("split", "requirement") for element in shown} == set(stored)
    for row in shown:
        verdict = stored[row.data("split", "requirement")]
        whole = [element.attributes.get("title") or element.text for element in row.all() if element.tag == "bdi"]
        assert whole == [escaped(verdict["text"])]
        found = cells(row)
        for column, (value, _) in found.items():
            assert value == repr(verdict[column])
        assert found["met"][1] == ("✓ met" if verdict["met"] else "✗ not met")
        assert found["base"][1] == percent(verdict["base"])
        assert found["count_after"][1] == percent(verdict["count_after"] / verdict["total"])
        assert found["margin"][1] == points(verdict["margin"])
        if verdict["kind"] == "max_drop":
            assert found["low"][1] == f"change {points(-verdict['high'])} to {points(-verdict['low'])}"
        elif verdict["kind"] == "min_gain":
            assert found["low"][1] == f"change {points(verdict['low'])} to {points(verdict['high'])}"
        else:
            assert found["low"][1] == f"{percent(verdict['low'])} to {percent(verdict['high'])}"
    split = "test" if "test" in SAMPLES[name].splits else "validation"
    assert card(trees[name], "met").data("met") == (
        str(sum(row["met"] for (where, _), row in stored.items() if where == split)),
    )
    assert "they chose" in trees[name].text


@pytest.mark.parametrize("name", ["rounds", "signs", "independent"])
def test_confusions_are_those_of_the_predictions(
    name: str, samples: dict[str, Path], trees: dict[str, Element]
) -> None:
    sample, page = SAMPLES[name], trees[name]
    split = "test" if "test" in sample.splits else "validation"
    rows = [row for row in rows_of(samples[name], "predictions") if row["split"] == split]
    confusion = {when: np.zeros((sample.classes,) * 2, int) for when in ("before", "after")}
    for row in rows:
        for when, matrix in confusion.items():
            matrix[row["label"], row[when]] += 1
    shown = {when: np.zeros((sample.classes,) * 2, int) for when in ("before", "after")}
    for cell in page.with_data("confusion"):
        when, true, predicted, value = cell.data("confusion", "true", "predicted", "value")
        shown[when][int(true), int(predicted)] = int(value)
    for when, matrix in confusion.items():
        np.testing.assert_array_equal(shown[when], matrix)
    in_order(marks(page, "confusion", "predicted", "x"))
    in_order(marks(page, "confusion", "true", "y"))

    change = confusion["after"] - confusion["before"]
    np.fill_diagonal(change, 0)
    pairs = page.with_data("pair")
    assert len(pairs) == min(12, np.count_nonzero(change))
    sizes = []
    for pair in pairs:
        true, predicted = map(int, pair.attributes["data-pair"].split(","))
        found = cells(pair)
        assert [int(found[column][0]) for column in ("before", "after", "change")] == [
            confusion["before"][true, predicted],
            confusion["after"][true, predicted],
            change[true, predicted],
        ]
        sizes.append(abs(change[true, predicted]))
    assert sizes == sorted(np.abs(change)[change != 0].tolist(), reverse=True)[:12]

    accuracy = {
        (when, str(label)): repr(float(matrix[label, label] / matrix[label].sum()))
        for when, matrix in confusion.items()
        for label in range(sample.classes)
    }
    assert {point.data("radar", "label"): point.data("value")[0] for point in page.with_data("radar")} == accuracy


@pytest.mark.parametrize("name", ["rounds", "chain"])
def test_steps_and_trade_off_follow_from_the_tables(
    name: str, samples: dict[str, Path], trees: dict[str, Element]
) -> None:
    sample, page, labels = SAMPLES[name], trees[name], rows_of(samples[name], "labels")

    def correct(job: str, split: str, about: tuple[int, ...]) -> tuple[int, int]:
        mine = [row for row in labels if (row["job"], row["split"]) == (job, split) and row["label"] in about]
        return sum(row["correct"] for row in mine), sum(row["total"] for row in mine)

    everything = tuple(range(sample.classes))
    shown = rows_in(page, "steps")
    assert len(shown) == sample.steps + 1
    for number, row in enumerate(shown):
        assert row.data("job", "split") == (f"step{number}", "test")
        right, total = correct(f"step{number}", "test", sample.labels)
        all_right, all_total = correct(f"step{number}", "test", everything)
        found = cells(row)
        assert (found["correct"][1], found["incorrect"][1]) == (str(right), str(total - right))
        assert found["accuracy"] == (repr(right / total), percent(right / total))
        assert found["all"] == (repr(all_right / all_total), percent(all_right / all_total))

    in_order(marks(page, "candidate", "overall", "cx"))
    in_order(marks(page, "candidate", "gain", "cy", -1))
    gains: dict[float, list[tuple[float, float]]] = {}
    jobs = [row for row in rows_of(samples[name], "jobs") if row["state"] == "done"]
    drawn = {mark.attributes["data-candidate"]: mark.data("gain", "overall") for mark in page.with_data("candidate")}
    assert set(drawn) == {row["job"] for row in jobs}
    for row in jobs:
        start = f"step{row['step'] - 1}"
        change = []
        for about in ((row["label"],), everything):
            right, total = correct(row["job"], "validation", about)
            change.append((right - correct(start, "validation", about)[0]) / total)
        assert drawn[row["job"]] == (repr(change[0]), repr(change[1]))
        gains.setdefault(row["positive_weight"], []).append((change[0], change[1]))
    means = rows_in(page, "weights")
    assert len(means) == (len(gains) if len(gains) > 1 else 0)
    for row in means:
        mine = np.array(gains[float(row.attributes["data-weight"])])
        found = cells(row)
        assert int(found["searches"][0]) == len(mine)
        np.testing.assert_allclose(
            [float(found[column][0]) for column in ("gain", "overall")], mine.mean(axis=0), atol=1e-12
        )


def write_labels(
    records: RunRecords, job: str, stage: str, total: int, label: int = 0, **splits: tuple[int, int]
) -> None:
    """Rows of a label, of `total` each, that are right before and after, by split; none is broken."""
    rows = [
        {"job": job, "stage": stage, "split": split, "label": label, "total": total, "correct": after}
        | {"accuracy": after / total, "repaired": after - before, "broken": 0}
        for split, (before, after) in splits.items()
    ]
    records.replace("labels", job, rows)


def test_a_search_of_a_later_step_is_measured_from_where_it_started(tmp_path: Path) -> None:
    """By hand: 50 of 100 right, 60 after step 1; a patch of step 2 has 63 right, 13 more than the base model."""
    records = RunRecords.create(tmp_path / "run", {"mode": "rounds", "labels": [0]}, overwrite=False)
    for job, stage, right in (("step0", "step", 50), ("step1", "step", 60), ("second", "candidate", 63)):
        write_labels(records, job, stage, 100, validation=(50, right))
    blank = dict.fromkeys(read_table(tmp_path / "run", "jobs").column_names)
    searched = {"job": "second", "step": 2, "chunk": "", "label": 0, "seed": 0, "stop": "no gain", "state": "done"}
    records.replace("jobs", "second", [blank | searched])
    (dot,) = page_of(tmp_path / "run").with_data("candidate")
    assert dot.data("gain", "overall") == ("0.03", "0.03")


def test_which_step_was_saved(tmp_path: Path, command: Command) -> None:
    """Step 1 of two, by the counts of the saved model on every set; alike on one set only is not enough."""
    records = RunRecords.create(tmp_path / "run", {"mode": "rounds", "labels": [0]}, overwrite=False)
    right = {"step0": (30, 31), "step1": (36, 33), "step2": (36, 34), "batch": (36, 33)}
    for job, (validation, test) in right.items():
        stage = "repaired" if job == "batch" else "step"
        write_labels(records, job, stage, 40, validation=(30, validation), test=(31, test))
    assert "\nthe saved model is that of round 1, as validation chose\n" in command("report", tmp_path / "run").out
    assert ["saved" in row.text for row in rows_in(page_of(tmp_path / "run"), "steps")] == [False, True, False]


def test_a_label_under_repair_without_rows(tmp_path: Path, command: Command) -> None:
    """Then the accuracy over the steps is that of all labels, and says so."""
    records = RunRecords.create(tmp_path / "run", {"mode": "chain", "labels": [0]}, overwrite=False)
    for job, right in (("step0", 30), ("step1", 35)):
        write_labels(records, job, "step", 40, label=1, test=(30, right))
    out = command("report", tmp_path / "run").out
    assert "accuracy of all labels after each iteration, test rows:" in out
    assert re.search(r"^1 +35 +5 +87.50$", out, re.MULTILINE)
    page = page_of(tmp_path / "run")
    assert "Accuracy of all labels, test rows" in page.text
    assert [card.data("card")[0] for card in page.with_data("card")] == ["all", "rows", "jobs"]


@pytest.mark.parametrize("name", ["rounds", "signs"])
def test_pictures_are_the_images_of_the_rows(name: str, samples: dict[str, Path], trees: dict[str, Element]) -> None:
    sample, page = SAMPLES[name], trees[name]
    stored = [row for row in rows_of(samples[name], "predictions") if row["split"] == "test"]
    with h5py.File(samples[name].parent / "test.h5") as file:
        images = file["images"][...]
    kinds = {
        "fixed": [row for row in stored if row["before"] != row["label"] == row["after"]],
        "broken": [row for row in stored if row["before"] == row["label"] != row["after"]],
    }
    headings = {heading.data("images")[0]: heading for heading in page.with_data("images")}
    for kind, rows in kinds.items():
        assert headings[kind].data("rows") == (str(len(rows)),)
        shown = [element for element in page.with_data("image") if element.data("image") == (kind,)]
        assert len(shown) == min(40, len(rows)) == int(re.findall(r"\d+", headings[kind].text)[-1])
        by_row = {row["row"]: row for row in rows}
        labels = [int(element.attributes["data-label"]) for element in shown]
        assert labels == sorted(labels)
        every = {row["label"] for row in rows}
        assert set(labels) == every if len(every) <= 40 else True
        for element in shown:
            row = by_row[int(element.attributes["data-row"])]
            assert element.data("label", "before", "after") == tuple(str(row[x]) for x in ("label", "before", "after"))
            head, _, content = element.attributes["src"].partition(",")
            assert head == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
                pixels = np.asarray(picture).reshape(sample.image_shape)
            np.testing.assert_array_equal(pixels, np.rint(images[row["row"]] / sample.brightest * 255))


def test_pictures_of_any_range_and_size() -> None:
    def grey(*values: float) -> np.ndarray:
        return np.array(values, np.float32).reshape(1, 1, -1, 1)

    assert to_bytes(grey(0.0, 0.5, 1.0)).ravel().tolist() == [0, 128, 255]
    assert to_bytes(grey(0.0, 0.2)).ravel().tolist() == [0, 51], "a dark set stays dark"
    assert to_bytes(grey(0, 2, 128, 255)).ravel().tolist() == [0, 2, 128, 255]
    assert to_bytes(grey(-1, 0, 1)).ravel().tolist() == [0, 128, 255]
    assert to_bytes(grey(-3, -3)).ravel().tolist() == [0, 0]
    assert to_bytes(grey(0, 500, 1000)).ravel().tolist() == [0, 128, 255]
    # 130 × 65 pixels become 43 × 21: means over squares of 3 × 3.
    large = np.zeros((2, 130, 65, 3), np.float32)
    large[1, :3, 3:6, 1] = np.arange(9).reshape(3, 3) / 8
    small = to_bytes(large)
    assert small.shape == (2, 43, 21, 3)
    assert small[1, 0, 1].tolist() == [0, 128, 0]
    assert np.count_nonzero(small) == 1
    assert to_bytes(np.ones((1, 2, 2, 4), np.float32)).shape == (1, 2, 2, 3)
    assert to_bytes(np.ones((1, 2, 2, 2), np.float32)).shape == (1, 2, 2, 1)


def test_image_sets_that_are_gone_or_changed(tmp_path: Path) -> None:
    directory = write_run(tmp_path, "chain")
    images = tmp_path / "test.h5"

    def note() -> str:
        tree = page_of(directory)
        (section,) = [element for element in tree.all() if element.attributes.get("id") == "images"]
        assert ("No pictures" in section.text) == (section.with_data("image") == [])
        assert len(section.with_data("images")) == 2
        return " ".join(element.text for element in section.all() if element.attributes.get("class") == "note")

    assert note() == ""
    later = images.stat().st_mtime + 3600
    os.utime(images, (later, later))
    assert "was written after the run had started" in note()
    with h5py.File(images, "r+") as file:
        file["labels"][7] = np.roll(file["labels"][7], 1)
    assert f"{images} has changed since" in note()
    with h5py.File(images, "r+") as file:
        file["labels"][7] = np.roll(file["labels"][7], -1)
        file["images"][...] = np.full(file["images"].shape, np.nan, np.float32)
    assert "NaN" in note()
    images.unlink()
    assert f"{images} does not exist" in note()


def test_names_keep_to_themselves(samples: dict[str, Path], trees: dict[str, Element]) -> None:
    page = (samples["hostile"].parent / "page.html").read_text(encoding="utf-8")
    assert not set(page) & set("\x1b\x07\u202d\u202e\u200f")
    assert page.count("\u2068") == page.count("\u2069") > 0
    rows = [row for row in trees["hostile"].with_data("table") if row.attributes.get("data-split") == "test"]
    shown = {}
    for row in rows:
        if row.data("table") == ("labels",) and row.attributes["data-label"] != "all":
            (name,) = [element for element in row.all() if element.tag == "bdi"]
            shown[int(row.attributes["data-label"])] = name.attributes.get("title") or name.text
            assert width_of(name.text) <= 40
    names = SAMPLES["hostile"].names
    assert names is not None
    assert shown == {label: f"{label} {escaped(name)}" for label, name in enumerate(names)}


def table_lines(out: str) -> list[str]:
    """The lines of all tables."""
    found = [line for part in re.findall(r"(?m)^[^\n]+\n-+  -(?:.+\n)+", out) for line in part.splitlines()]
    assert len(found) > 40
    return [line for line in found if not line.startswith("the saved model")]


def test_names_in_the_terminal(samples: dict[str, Path], command: Command) -> None:
    done = command("report", samples["hostile"])
    assert (done.code, done.err) == (0, "")
    assert all(character.isprintable() or character == "\n" for character in done.out)
    assert max(map(width_of, table_lines(done.out))) <= 80
    for text in ("0 nnnnn", "1 \\x1b[31mred", "3 two\\nlines\\tand a tab", "4 שלום (1)", "2 \\u202eright to left"):
        assert f"\n{text}" in done.out


def test_a_terminal_that_lacks_letters(samples: dict[str, Path]) -> None:
    words = [sys.executable, "-c", "from cli.main import main; main()", "report", str(samples["hostile"])]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, env=environment, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    out = done.stdout.decode("ascii")
    assert "\n4 \\u05e9\\u05dc\\u05d5\\u05dd (1)" in out
    assert max(map(len, table_lines(out))) <= 80


# In a browser.


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.usefixtures("trees")
def test_pages_in_a_browser(mode: str, samples: dict[str, Path], crossfit_run: Path, tmp_path: Path) -> None:
    """No page scrolls sideways, asks for anything, or says anything in the console; text can be read in both modes."""
    compared = write_comparison(tmp_path).directory
    page_of(compared)
    runs = samples | {"crossfit": crossfit_run / "run", "compared": compared}
    pages = {name: directory.parent / "page.html" for name, directory in runs.items()}
    dark = ["--force-dark-mode"] if mode == "dark" else []
    found, console, asked = look_at(pages, tmp_path, *dark)
    assert len(found) == len(pages) * len(WIDTHS)
    assert console == ""
    assert asked == []
    for view in found:
        assert (view["overflow"], view["wide"]) == (0, []), view
        assert (view["pictures"], view["injected"], view["charts"], view["sticky"]) == (0, 0, 0, "sticky"), view
        assert view["contrast"] >= 4.5, view
        assert (sum(map(int, re.findall(r"\d+", view["background"]))) > 600) == (mode == "light")
    assert {view["width"] for view in found} == set(WIDTHS)
    assert all(view["images"] > 40 for view in found if view["name"] in ("rounds", "signs", "chain", "compared"))


@pytest.mark.usefixtures("trees")
def test_the_browser_notices_what_is_wrong(samples: dict[str, Path], tmp_path: Path) -> None:
    page = (samples["chain"].parent / "page.html").read_text(encoding="utf-8")
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    wrong = '<div style="width:2000px">x</div><img src="http://outside.invalid/x.png"><script>nothing()</script>'
    wrong += '<p style="color:#999;background:#fff">pale</p>'
    (tmp_path / "wrong.html").write_text(page.replace("<main class", f"{wrong}<main class"), encoding="utf-8")
    found, console, asked = look_at({"wrong": tmp_path / "wrong.html"}, tmp_path)
    assert "nothing is not defined" in console
    assert set(asked) == {"http://outside.invalid/x.png"}
    for view in found:
        assert (view["overflow"] > 500) == bool(view["wide"])
        assert view["wide"]
        assert view["pictures"] == 1
        assert view["contrast"] < 3


def test_only_runs_of_crossfit_promise(trees: dict[str, Element]) -> None:
    for page in trees.values():
        assert "street <classifier>.keras" in page.text
        assert not page.with_data("promised")


# In the terminal.


@pytest.mark.parametrize("name", [*SAMPLES, "crossfit"])
def test_the_terminal_says_what_the_page_says(
    name: str, samples: dict[str, Path], trees: dict[str, Element], crossfit_run: Path, command: Command
) -> None:
    directory = (samples | {"crossfit": crossfit_run / "run"})[name]
    page = (trees | {"crossfit": parse(crossfit_run / "page.html")})[name]
    text = command("report", directory).out
    held_out = read_facts(directory)["held_out"]
    best = next((split for split in ("test", "validation") if held_out.get(split)), None)
    for table, (key, *columns) in TOLD.items():
        for row in rows_in(page, table):
            if row.attributes.get("data-split", best) in (best, "out of fold"):
                start = row.attributes[f"data-{key}"].removeprefix("step")
                line = " +".join(re.escape(cells(row)[column][1].replace("−", "-")) for column in columns)
                # A name that is too long has a line of its own.
                assert re.search(rf"^{re.escape(start)}\b.*\n? +{line}( |$)", text, re.MULTILINE), line
    for row in rows_in(page, "jobs"):
        line = re.search(rf"^{row.attributes['data-job']}\n? +{cells(row)['step'][1]} ", text, re.MULTILINE)
        assert (line is not None) == (row.attributes.get("class") == "mine")
    for row in rows_in(page, "verdicts") if name != "hostile" else ():
        word = cells(row)["met"][1][2:]
        assert re.search(rf"^{re.escape(row.children[0].text)}\n .* {word}$", text, re.MULTILINE)
    states = Counter(row["state"] for row in rows_of(directory, "jobs"))
    shown = [state for state in ("done", "skipped", "failed", "running") if states[state] or state == "done"]
    assert f"searches: {', '.join(f'{states[state]} {state}' for state in shown)}\n" in text


def test_the_table_of_a_chain_is_that_of_the_tutorial(samples: dict[str, Path], command: Command) -> None:
    lines = command("report", samples["chain"]).out.splitlines()
    start = lines.index("accuracy of 6 Shirt after each iteration, test rows:")
    assert lines[start + 1].split() == ["iteration", "correct", "incorrect", "accuracy"]
    assert [line.split()[0] for line in lines[start + 3 : start + 14]] == [*map(str, range(11))]
    assert lines[start + 14] == "the saved model is that of iteration 10, as validation chose"
    (failed,) = [row for row in rows_of(samples["chain"], "jobs") if row["state"] == "failed"]
    assert f"  {failed['job']} failed: {failed['note']}" in lines


def test_runs_that_go_on_and_runs_without_held_out_rows(samples: dict[str, Path], command: Command) -> None:
    running = command("report", samples["running"])
    assert (running.code, running.err) == (0, "")
    assert "rounds, 6 Shirt, running\nThe run has not ended" in running.out
    assert "before and after" not in running.out
    alone = command("report", samples["optimize-alone"]).out
    labels = [row for row in rows_of(samples["optimize-alone"], "labels") if row["stage"] == "repaired"]
    for word, split in (("repaired", "negative"), ("kept", "positive")):
        sums = counts([row for row in labels if row["split"] == split])
        assert f"{word} {sums['correct']} of {sums['total']} {split} inputs" in alone


# What is refused.


def test_bad_input(samples: dict[str, Path], refused: Callable[..., str], tmp_path: Path) -> None:
    directory = samples["optimize"]
    (tmp_path / "empty").mkdir()
    refused("report", tmp_path / "empty", says=("empty", "run.json"))
    refused("report", tmp_path / "none", says=("none", "run.json"))
    old = tmp_path / "old"
    shutil.copytree(directory, old)
    jobs = read_table(old, "jobs").drop_columns(["state"])
    with pa.OSFile(str(old / "jobs.arrow"), "wb") as sink, pa.ipc.new_file(sink, jobs.schema) as writer:
        writer.write_table(jobs)
    refused("report", old, says=("old", "jobs", "state"))
    (old / "run.json").write_text("{")
    refused("report", old, says=("run.json",))
