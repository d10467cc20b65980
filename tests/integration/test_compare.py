"""`compare`: every method on the same rows; what it prints, leaves and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.records.store import read_facts, read_table
from tests.integration.conftest import Command, Done

Refused = Callable[..., str]

SMALL = ["--recipes", "2:1:epochs=1", "--folds", "2", "--num-workers", "0", "--draws", "2", "--rows", "200"]
ROWS = ["--chunks", "data", "--val-data", "data/val.h5", "--test-data", "data/test.h5"]
COMPARE = ["compare", "--model-dir", "model.keras", *ROWS, *SMALL]
SHIRT = [*COMPARE, "--labels", "Shirt"]
FEW = "crossfit,Arachne,label-offset,NeuRecover"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done | Path]:
    """A finished comparison, made once: where it is, and how it ended."""
    return {"run": tmp_path_factory.mktemp("compare") / "run"}


@pytest.fixture
def finished(workspace: Path, command: Command, compared: dict[str, Done | Path]) -> tuple[Path, Done]:
    run = compared["run"]
    if "done" not in compared:
        compared["done"] = command(*SHIRT, "--methods", FEW, "--output-dir", run)
    done = compared["done"]
    assert isinstance(run, Path) and isinstance(done, Done) and done.code == 0, done
    return run, done


def test_what_a_comparison_says_and_leaves(finished: tuple[Path, Done], command: Command) -> None:
    run, done = finished
    assert "4 methods, 2 draws of 200 of" in done.out and "under\nrepair: 6 Shirt" in done.out
    assert "NeuRecover" in done.out and "checkpoints of the training" in " ".join(done.out.split())
    assert "gain of 6 Shirt, less that of CrossFit" in done.out
    facts = read_facts(run)
    assert facts["state"] == "done" and facts["methods"] == ["CrossFit", "Arachne", "label-offset", "NeuRecover"]
    rows = read_table(run, "outcomes").to_pylist()
    assert {row["reading"] for row in rows if row["method"] == "NeuRecover"} == {"failed"}
    assert {row["reading"] for row in rows if row["method"] != "NeuRecover"} == {"chosen", "found"}
    told = command("report", run).out
    assert "model.keras: compare, 6 Shirt, done" in told and told.split("\n\n", 1)[1].strip() in done.out
    page = run.parent / "page.html"
    assert command("report", run, "--html", page).code == 0
    assert "NeuRecover" in page.read_text(encoding="utf-8")


def test_the_same_again_with_resume_changes_nothing(finished: tuple[Path, Done], command: Command) -> None:
    run, done = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.arrow")}
    again = command(*SHIRT, "--methods", FEW, "--output-dir", run, "--resume")
    assert again.code == 0 and again.out == done.out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.arrow")} == before


def test_refusals(workspace: Path, refused: Refused) -> None:
    out = ["--output-dir", "run"]
    refused(*SHIRT, *out, "--methods", "Arachnid", says=("there is no method 'Arachnid'", "did you mean 'Arachne'"))
    refused(*SHIRT, *out, "--methods", "tail,tail", says=("methods is 'tail,tail'", "each once, or all"))
    refused(*SHIRT, *out, "--rows", "1000", says=("rows is 1000 and there are 400 to draw from",))
    refused(*SHIRT, *out, "--draws", "0", says=("draws is 0, expected at least 1",))
    refused(*SHIRT, *out, "--last", "1,2", says=("last is '1,2'", "as in 2,1"))
    refused(*SHIRT, *out, "--resume", "--overwrite", says=("expected one of them",))
    refused(*COMPARE, *out, "--labels", "Coat,Coat", says=("names a label twice",))
    refused(*SHIRT, *out, "--test-data", "data/val.h5", says=("are one file",))
    refused(*SHIRT, *out, "--target-layer", "conv2d", says=("is no weight of a Dense layer",))
    refused(*SHIRT, "--output-dir", "data", says=("something that is not a run is there already",))
