"""`compare`: every method on the same rows; what it prints, leaves and refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cli.commands.compare import parse_methods
from cluster.records.store import comparable, read_facts, read_table
from engine.data.image_set import open_image_set
from engine.methods.registry import method_names
from tests.integration.conftest import Command, Done
from tests.integration.test_batch import _not_a_number, lose_label

Refused = Callable[..., str]

SMALL = ["--recipes", "2:1:epochs=1", "--folds", "2", "--num-workers", "0", "--draws", "2", "--rows", "200"]
ROWS = ["--chunks", "data", "--val-data", "data/val.h5", "--test-data", "data/test.h5"]
COMPARE = ["compare", "--model-dir", "model.keras", *ROWS, *SMALL]
SHIRT = [*COMPARE, "--labels", "Shirt"]
HERE = ["--num-workers", "0"]
FEW = "crossfit,Arachne,head,NeuRecover"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done | Path]:
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
    assert facts["state"] == "done" and facts["methods"] == ["CrossFit", "Arachne", "head", "NeuRecover"]
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


def test_repairs_that_were_lost_are_made_again(
    workspace: Path, finished: tuple[Path, Done], command: Command, tmp_path: Path
) -> None:
    run, _ = finished
    shutil.copytree(run, tmp_path / "lost")
    (tmp_path / "lost" / "outcomes.arrow").unlink()
    again = command(*SHIRT, "--methods", FEW, "--output-dir", tmp_path / "lost", "--resume")
    assert again.code == 0
    known, made = (comparable(read_table(where, "outcomes")) for where in (run, tmp_path / "lost"))
    assert made.to_pylist() == known.to_pylist()
    assert read_facts(tmp_path / "lost")["state"] == "done"
    assert {path.name for path in run.iterdir()} == {path.name for path in (tmp_path / "lost").iterdir()}


def test_one_optimiser_for_all(workspace: Path, finished: tuple[Path, Done], command: Command) -> None:
    few = ["--methods", "CrossFit,Arachne,head", "--draws", "1", "--optimiser", "DE"]
    assert command(*SHIRT, *few, "--output-dir", "run").code == 0
    settings = read_facts(Path("run"))["identity"]["settings"]
    assert settings["optimiser"]["optimiser"] == settings["crossfit"]["search"]["swarm"]["optimiser"] == "DE"
    mine, known = (
        {row["method"]: row["after"] for row in read_table(run, "outcomes").to_pylist() if row["draw"] == 0}
        for run in (Path("run"), finished[0])
    )
    assert {name for name in mine if mine[name] != known[name]} == {"CrossFit", "Arachne"}


def test_arachne_is_the_search_of_optimize(workspace: Path, command: Command) -> None:
    """On the same rows by the same seed: the same classes of the test rows before a choice, and the same fitness but
    for rounding, as rows are read otherwise there.
    """
    few = ["--labels", "6", "--rows", "400", "--draws", "1", "--seed", "3", "--num-workers", "0"]
    words = ["compare", "--model-dir", "model.keras", *ROWS, *few, "--methods", "Arachne,Arachne-worths"]
    assert command(*words, "--output-dir", "run").code == 0
    one, several = (row for row in read_table(Path("run"), "outcomes").to_pylist() if row["reading"] == "found")
    assert (one["method"], several["method"]) == ("Arachne", "Arachne-worths")
    assert (one["best"], one["after"]) == (several["best"], several["after"])
    words = ["optimize", "--method", "Arachne", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6"]
    words += ["--positive-inputs-dir", "data/positive", "--test-data", "data/test.h5", "--seed", "3", *HERE]
    assert command(*words, "--output-dir", "out", "--run-dir", "alone").code == 0
    (job,) = read_table(Path("alone"), "jobs").to_pylist()
    assert (job["fitness"], job["start_fitness"]) == pytest.approx((one["best"], one["own"]), rel=1e-6)
    test, told = open_image_set(Path("data/test.h5")), read_table(Path("alone"), "labels").to_pylist()
    mine = {row["label"]: row["correct"] for row in told if (row["split"], row["stage"]) == ("test", "repaired")}
    right = test.labels[test.labels == np.array(one["after"])]
    assert {label: int((right == label).sum()) for label in mine} == mine and sum(mine.values()) > 0


def test_settings_of_one_method_stand_side_by_side(workspace: Path, command: Command) -> None:
    small = "num_iterations=3,num_particles=6"
    names = ["CrossFit", "CrossFit(folds=3)", f"Arachne(objective=requirements,{small})", f"Arachne({small})"]
    words = [*SHIRT, "--draws", "1", "--methods"]
    done = command(*words, ", ".join(names).replace("(f", " ( f"), "--output-dir", "run")
    assert done.code == 0, done.err
    assert read_facts(Path("run"))["methods"] == read_facts(Path("run"))["identity"]["methods"] == names
    rows = read_table(Path("run"), "outcomes").to_pylist()
    assert {row["method"] for row in rows if row["reading"] == "chosen"} == set(names)
    values = {row["method"]: row["best"] for row in rows}
    assert values[names[0]] != values[names[1]] and values[names[2]] != values[names[3]]
    assert command("report", "run", "--html", "page.html").code == 0
    for told in (done.out, Path("page.html").read_text(encoding="utf-8")):
        assert "CrossFit(folds=3)" in told
    again = command(*words, ",".join(names), "--output-dir", "run", "--resume")
    assert again.code == 0 and again.out == done.out
    other = command(*words, ",".join([*names[:-1], "Arachne(num_iterations=4)"]), "--output-dir", "run", "--resume")
    assert other.code == 2 and "methods" in other.err


def test_checkpoints_that_cannot_be_read_are_no_end(workspace: Path, command: Command) -> None:
    """Those of the default folder count, and a method that needs them has a row that says why it cannot run."""
    folder = Path("logs/model_check_points")
    folder.mkdir(parents=True)
    for epoch in (1, 2):
        (folder / f"{epoch}.weights.h5").write_text("no weights")
    few = ["--draws", "1", "--rows", "200", "--labels", "Shirt", "--num-workers", "0"]
    words = ["compare", "--model-dir", "model.keras", *ROWS, *few, "--methods", "offsets,NeuRecover"]
    done = command(*words, "--output-dir", "run")
    assert done.code == 0, done.err
    notes = {row["method"]: row["note"] for row in read_table(Path("run"), "outcomes").to_pylist()}
    assert (
        notes["NeuRecover"].startswith("logs/model_check_points/1.weights.h5: ") and "expected" in notes["NeuRecover"]
    )
    assert not notes["offsets"]


def test_a_draw_of_more_rows_than_can_be_read(workspace: Path, command: Command) -> None:
    for name, source in (("0", "data/repair.h5"), ("1", "data/val.h5")):
        Path("chunks", name).mkdir(parents=True)
        shutil.copy(source, Path("chunks", name, "repair.h5"))
    _not_a_number(Path("chunks/1/repair.h5"))
    words = ["compare", "--model-dir", "model.keras", "--chunks", "chunks", *ROWS[2:], "--allow-shared-rows"]
    done = command(*words, "--num-workers", "0", "--methods", "offsets", "--rows", "450", "--output-dir", "run")
    assert done.code == 2 and not Path("run").exists(), done.err
    assert "rows is 450 and there are 400 to draw from as " in done.err
    assert "chunks/1/repair.h5 cannot be read, expected 2 to 400" in done.err


def test_labels_without_rows_that_judge(workspace: Path, command: Command, refused: Refused) -> None:
    for name in ("val", "test"):
        lose_label(Path(f"data/{name}.h5"), 6)
    few = ["--draws", "1", "--num-workers", "0", "--verbose", "0", "--methods", "offsets", "--output-dir", "run"]
    words = ["compare", "--model-dir", "model.keras", *ROWS, *few]
    says = "data/test.h5: found no rows of label 6, which is to be repaired, expected some to judge by"
    refused(*words, "--labels", "4,6", says=(says,))
    done = command(*words, "--labels", "all")
    assert done.code == 0, done.err
    for name, split in (("val", "validation"), ("test", "test")):
        says = f"{name}.h5 has no rows of label 6, under repair: {split} rows tell nothing of it"
        assert says in done.err, done.err


@pytest.mark.parametrize("words", ["all", " ALL "])
def test_all_methods_are_asked_for_in_any_case(words: str) -> None:
    assert parse_methods(words) == method_names()


def test_refusals(workspace: Path, refused: Refused) -> None:
    out = ["--output-dir", "run"]
    refused(*SHIRT, *out, "--methods", "Arachnid", says=("there is no method 'Arachnid'", "did you mean 'Arachne'"))
    refused(*SHIRT, *out, "--methods", "tail,tail", says=("methods is 'tail,tail'", "each once, or all"))
    why = "Arachne(folds=3): folds means nothing to Arachne, expected num_iterations, "
    refused(*SHIRT, *out, "--methods", "CrossFit,Arachne(folds=3)", says=(why,))
    refused(*SHIRT, *out, "--methods", "CrossFit,tail(folds)", says=("method 'tail(folds)' cannot be read",))
    refused(*SHIRT, *out, "--methods", "CrossFit,CrossFit(folds=2)", says=("are the same, expected each method",))
    refused(*SHIRT, *out, "--rows", "1000", says=("rows is 1000 and there are 400 to draw from",))
    refused(*SHIRT, *out, "--rows", "1", says=("rows is 1, expected at least 2",))
    refused(*SHIRT, *out, "--draws", "0", says=("draws is 0, expected at least 1",))
    refused(*SHIRT, *out, "--draws", "1000000000", says=("draws is 1000000000, expected at most 10000",))
    refused(*SHIRT, *out, "--last", "1,2", says=("last is '1,2'", "as in 2,1"))
    refused(*SHIRT, *out, "--draws", "3", "--seed", str(2**63 - 2), says=("seed is 9223372036854775806, expected",))
    few = [*SHIRT, *out, "--methods", "head,offsets"]
    refused(*few, says=("--recipes is of CrossFit, which is not among --methods",))
    few = ["compare", "--model-dir", "model.keras", *ROWS, *out, "--methods", "Arachne,offsets"]
    refused(*few, "--step", "1", says=("--step is of CrossFit, which is not among --methods",))
    refused(*few[:-1], "head,WiSE-FT", "--optimiser", "DE", says=("--optimiser is of searches and head, WiSE-FT",))
    refused(*few, "--label-file", "x.json", says=("--label-file is of label-priorities, which is not among",))
    refused(
        *few, "--weights-dir", "data", says=("--weights-dir is of NeuRecover and the methods are Arachne, offsets",)
    )
    refused(*few, "--last", "3,1", says=("--last is of NeuRecover and the methods are Arachne, offsets",))
    refused(*few[:-1], "Arachne", "--folds", "3", says=("--folds is of CrossFit, head", "the methods are Arachne,"))
    refused(*SHIRT, *out, "--resume", "--overwrite", says=("expected one of them",))
    refused(*COMPARE, *out, "--labels", "Coat,Coat", says=("names a label twice",))
    refused(*SHIRT, *out, "--test-data", "data/val.h5", says=("are one file",))
    refused(*SHIRT, *out, "--target-layer", "conv2d", says=("is no weight of a Dense layer",))
    refused(*SHIRT, "--output-dir", "data", says=("something that is not a run is there already",))


def test_refusals_are_cheap(workspace: Path) -> None:
    """Words that cannot be meant are refused before anything is opened, in the order in which they are read."""
    script = (
        "import sys; from cli.main import run\n"
        f"words = {[*map(str, SHIRT), '--output-dir', 'run']}\n"
        "for more in sys.argv[1:]:\n"
        "    assert run([*words, *more.split()]) == 2\n"
        "assert not {'tensorflow', 'keras', 'ray', 'h5py'} & set(sys.modules)\n"
    )
    cases = {
        "--draws 0": "draws is 0, expected at least 1",
        "--rows 0": "rows is 0, expected at least 2",
        "--seed 9223372036854775807": "seed is 9223372036854775807, expected a whole number",
        "--methods head --model-dir none": "--recipes is of CrossFit, which is not among --methods",
        "--model-dir none": "none: no such file or folder, expected one for --model-dir",
        "--chunks none": "none: no such file or folder, expected one for --chunks",
        "--val-data data/val.h5/none": "data/val.h5/none: no such file or folder, expected one for --val-data",
        "--test-data none.h5": "none.h5: no such file or folder, expected one for --test-data",
        "--requirements none.toml": "none.toml: no such file or folder, expected one for --requirements",
        "--label-file none.json": "none.json: no such file or folder, expected one for --label-file",
        "--output-dir data": "data: something that is not a run is there already, expected a new name",
    }
    words = [sys.executable, "-c", script, *cases]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for line, says in zip(done.stderr.splitlines(), cases.values(), strict=True):
        assert line.startswith("error: ") and says in line
