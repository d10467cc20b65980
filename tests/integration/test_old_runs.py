"""Run directories of earlier versions, which `report` and `watch` go on reading, and those of later ones.

`scripts/make_old_runs.py` made those of 0.6.0, whose `run.json` has no format number.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.records.store import FORMAT, read_facts
from tests.integration.conftest import Command
from tests.support.pages import page_of

RUNS = Path(__file__).parents[1] / "data" / "run-0.6.0"
SAID = {
    "optimize-crossfit": (
        "data/model.keras: CrossFit, 6 Shirt, done, took 2.0 s, exit code 3",
        "CrossFit of 6 Shirt: 2 recipes in 2 folds, 74794 weights of dense, dense_1",
        "1:1          +1.447      +0.362      15    75    0.003218",
        "6 Shirt          24     54.17    66.67  +12.50      3       0",
        "not promised: with 76.6 % chance the next 12 rows of each label from the same source keep both requirements, "
        "but 90 % were asked for; step 0.25 is the best compromise; more rows to repair with would not be enough",
        "all             120     87.50    86.67   -0.83      0       1",
    ),
    "batch-arachne": (
        "data/model.keras: rounds, 6 Shirt, done, took 1.1 s, exit code 3",
        "requirements, test rows: 1 of 2 met",
        "gain of 6 Shirt at least 2 points",
        "all             120     87.50    86.67   -0.83      0       1",
        "step1-chunk0-label6-w0.15x-s0",
        "1  6 Shirt     0             20.1    5 of 7  126 of 134",
    ),
    "compare": (
        "data/model.keras: compare, 6 Shirt, done, took 5.0 s",
        "2 methods, 2 draws of 150 of 300 repair rows, judged on 120 test rows; under",
        "head           +0.00  -1.67  -10.80   4      1       3   0/2     -  1.2",
        "label-offset  +15.00  -2.50  -26.77   0      2       4   1/2     -  0.8",
    ),
}
PAGES = {
    "optimize-crossfit": ("76.6 %", "66.67", "87.50"),
    "batch-arachne": ("87.50", "86.67", "step1-chunk0-label6-w0.15x-s0"),
    "compare": ("head", "label-offset", "+15.00"),
}


@pytest.fixture(params=SAID)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a run directory of 0.6.0."""
    return Path(shutil.copytree(RUNS / request.param, tmp_path / request.param))


def test_a_run_of_0_6_0_is_reported(old: Path, command: Command) -> None:
    assert "format" not in read_facts(old)
    reported = command("report", old)
    assert reported.code == 0
    lines = [line.strip() for line in reported.out.splitlines()]
    assert set(SAID[old.name]) <= set(lines)
    assert command("watch", old) == reported


def test_a_run_of_0_6_0_has_a_page(old: Path, tmp_path: Path) -> None:
    text = page_of(old, tmp_path / "page.html").text
    assert all(value in text for value in PAGES[old.name])


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory of a later format than is known, below the current directory."""
    monkeypatch.chdir(tmp_path)
    directory = Path(shutil.copytree(RUNS / "batch-arachne", "later"))
    facts = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    (directory / "run.json").write_text(json.dumps({**facts, "format": FORMAT + 1}), encoding="utf-8")
    return directory


def test_a_run_of_a_later_format_is_refused(later: Path, refused: Callable[..., str]) -> None:
    sentence = (
        f"error: later: found a run of format {FORMAT + 1}, which a newer version of repair-dist wrote, "
        f"expected at most {FORMAT}\n"
    )
    assert refused("report", later, says=()) == sentence
    assert refused("report", later, "--html", "page.html", says=()) == sentence
    assert refused("watch", later, says=()) == sentence
    assert refused("merge-runs", later, later, "--output-dir", "merged", says=()) == sentence


def test_a_run_of_a_later_format_is_not_resumed(
    workspace: Path, later: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    later = later.resolve()
    monkeypatch.chdir(workspace)
    words = ["optimize", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6", "--resume"]
    refused(
        *(*words, "--output-dir", "out", "--run-dir", later, "--num-workers", "0", "--verbose", "0"),
        says=(f"{later}: found a run of format {FORMAT + 1}, ",),
    )


def test_every_run_states_its_format(crossfit_run: Path) -> None:
    assert read_facts(crossfit_run / "run")["format"] == FORMAT == 2
