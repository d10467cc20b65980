"""`optimize` and `batch` with methods of the registry: models saved, measured, resumed; exit codes and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.records.store import comparable, read_facts, read_table
from engine.models.load import load_model
from engine.models.weight_paths import weight_variables
from engine.patches.arrow import read_patch
from tests.integration.conftest import Command, contents
from tests.integration.test_batch import lose_label

Refused = Callable[..., str]

HERE = ["--num-workers", "0"]
HELD_OUT = ["--val-data", "data/val.h5", "--test-data", "data/test.h5"]
OPTIMIZE = ["optimize", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6", *HERE]
BATCH = ["batch", "--model-dir", "model.keras", "--chunks", "data", "--labels", "6", *HERE]


@pytest.mark.parametrize("method", ["offsets", "Arachne-v2", "WiSE-FT"])
def test_optimize_saves_what_the_method_found(method: str, workspace: Path, command: Command) -> None:
    few = ["--num-particles", "8", "--num-iterations", "4"] if method == "Arachne-v2" else HELD_OUT
    words = [*OPTIMIZE, "--method", method, *few, "--seeds", "2", "--output-dir", "out", "--run-dir", "run"]
    done = command(*words)
    assert done.code == 0, done.err
    base, saved = (weight_variables(load_model(Path(name)).model) for name in ("model.keras", "out/repair"))
    file = Path("run/patch.arrow")
    assert file.read_bytes() == Path("out/patch.arrow").read_bytes()
    changed = {path for path, value in saved.items() if (np.asarray(value) != np.asarray(base[path])).any()}
    assert changed == set(read_patch(file).weight) and (len(changed) == 1 or method == "WiSE-FT")
    jobs = read_table(Path("run"), "jobs").to_pylist()
    assert [job["job"] for job in jobs] == [f"{method}-s0", f"{method}-s1"]
    assert [job["chosen"] for job in jobs].count(True) == 1 and all(job["state"] == "done" for job in jobs)
    if method == "offsets":
        measured = [row for row in read_table(Path("run"), "labels").to_pylist() if row["split"] == "test"]
        assert sum(row["total"] for row in measured if row["stage"] == "repaired") == 120
        assert "test rows, before and after (model loaded again)" in done.out
    assert str(Path("out/patch.arrow")) in done.out

    # The run stands for its patch.
    shown = [command("patch", "show", name).out for name in ("run", file)]
    assert shown[0] == shown[1] and "weights change" in shown[0]
    assert command("patch", "apply", "run", "--model-dir", "model.keras", "--output-dir", "again").code == 0
    made = weight_variables(load_model(Path("again/repair")).model)
    assert all(np.asarray(made[path]).tobytes() == np.asarray(value).tobytes() for path, value in saved.items())
    merged = command("patch", "merge", "run", file, "--output", "both.arrow")
    assert (merged.code, merged.err) == (0, "")
    assert command("patch", "show", "both.arrow").out == shown[0]
    job = command("patch", "show", f"run:{method}-s0")
    assert job.code == 2 and f"a run of {method} has one patch and none of a job '{method}-s0'" in job.err


def test_what_validation_refuses_leaves_the_model_as_it_is(workspace: Path, command: Command) -> None:
    Path("goals.toml").write_text('[[require]]\nlabel = "*"\nmax_drop = 0.0\n', encoding="utf-8")
    words = [*OPTIMIZE, "--method", "head", *HELD_OUT, "--requirements", "goals.toml", "--folds", "2"]
    done = command(*words, "--output-dir", "out", "--run-dir", "run")
    assert done.code in (0, 3), done.err
    told = "head keeps the baseline model, which keeps more on rows of validation"
    assert (told in done.out) == (not Path("out/patch.arrow").exists())
    assert Path("out/repair/model.keras").is_file()


def test_a_batch_pools_chunks_and_goes_on(workspace: Path, command: Command) -> None:
    words = [*BATCH, "--method", "offsets", *HELD_OUT, "--folds", "2", "--output-dir"]
    first = command(*words, "one")
    assert first.code == 0, first.err
    again = command(*words, "one", "--resume")
    assert again.code == 0 and again.out == first.out
    other = command(*words, "two")
    assert other.code == 0
    assert Path("one/patch.arrow").read_bytes() == Path("two/patch.arrow").read_bytes()
    for name in ("outcomes", "labels", "verdicts", "predictions"):
        mine, theirs = (comparable(read_table(Path(run), name)).to_pylist() for run in ("one", "two"))
        assert mine == theirs and mine
    facts = read_facts(Path("one"))
    assert facts["method"] == "offsets" and facts["state"] == "done" and facts["exit_code"] == 0


def test_a_batch_that_prints_results_alone(workspace: Path, command: Command) -> None:
    """As one of CrossFit; a single repair of `optimize` prints nothing then."""
    done = command(*BATCH, "--method", "offsets", "--verbose", "0", "--output-dir", "run")
    assert (done.code, done.err) == (0, "") and "created files:" in done.out
    words = [*OPTIMIZE, "--method", "offsets", "--verbose", "0", "--output-dir", "out", "--run-dir", "one"]
    done = command(*words)
    assert (done.code, done.err, done.out) == (0, "", "")


def test_requirements_that_are_not_met_are_said(workspace: Path, command: Command) -> None:
    Path("goals.toml").write_text('[[require]]\nlabel = "Shirt"\nmin_gain = 0.9\n', encoding="utf-8")
    done = command(*BATCH, "--method", "offsets", *HELD_OUT, "--requirements", "goals.toml", "--output-dir", "run")
    assert done.code == 3, done.err
    assert "missed by" in Path("run/requirements-not-met.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["offsets", "CrossFit"])
def test_held_out_rows_that_tell_nothing_of_the_label(method: str, workspace: Path, command: Command) -> None:
    lose_label(Path("data/test.h5"), 6)
    few = ["--recipes", "2:1:epochs=1", "--folds", "2", "--num-iterations", "2"] if method == "CrossFit" else []
    for words in ([*OPTIMIZE, "--run-dir", "run", "--output-dir", "out"], [*BATCH, "--output-dir", "batch"]):
        done = command(*words, "--method", method, *few, *HELD_OUT)
        assert done.code == 0, done.err
        lines = [line for line in done.err.splitlines() if line.startswith("warning: ")]
        assert len(lines) == 1, done.err
        assert lines[0].endswith("test.h5 has no rows of label 6, under repair: test rows tell nothing of it")


def test_a_method_that_cannot_run_says_why(workspace: Path, command: Command) -> None:
    Path("none").mkdir()
    before = contents(workspace)
    for words in ([*OPTIMIZE, "--run-dir", "run"], BATCH):
        for more, why in (
            ([], "NeuRecover compares checkpoints of the training and 0 are known, expected two (--weights-dir)"),
            (["--weights-dir", "none"], "none: found no checkpoint (.hdf5, .h5, .keras), expected those of at least"),
        ):
            done = command(*words, "--method", "NeuRecover", "--output-dir", "out", *more)
            assert done.code == 2, done.err
            assert done.err.splitlines()[-1].startswith(f"error: {why}")
    assert contents(workspace) == before


def test_a_seed_that_fails(workspace: Path, command: Command, luck: str) -> None:
    done = command(*OPTIMIZE, "--method", luck, "--seeds", "2", "--output-dir", "out", "--run-dir", "run")
    assert done.code == read_facts(Path("run"))["exit_code"] == 4, done.err
    assert [job["state"] for job in read_table(Path("run"), "jobs").to_pylist()] == ["done", "failed"]
    assert Path("out/patch.arrow").is_file()
    assert read_facts(Path("run"))["identity"]["foreign methods"]["Luck of mine"].startswith("some-luck 1.0, ")
    words = [*OPTIMIZE, "--method", luck, "--seeds", "2", "--output-dir", "out", "--run-dir", "run", "--resume"]
    assert command(*words).code == 4
    module = workspace.parent / "site" / "some_luck.py"
    module.write_text(module.read_text(encoding="utf-8") + "# better\n", encoding="utf-8")
    other = command(*words)
    assert other.code == 2 and "was begun with foreign methods" in other.err


def test_priorities_tell_their_file_what_was_found(workspace: Path, command: Command) -> None:
    labels = Path("data/negative/labels.json")
    entries = dict(json.loads(labels.read_text()))
    assert "weights" not in entries["6"]
    for label, entry in entries.items():
        entry["repair_priority"] = int(label == "6")
    labels.unlink()  # which has a second name elsewhere
    labels.write_text(json.dumps(list(entries.items())))
    few = ["--num-particles", "6", "--num-iterations", "3", "--output-dir", "out", "--run-dir", "run"]
    done = command(*OPTIMIZE, "--method", "label-priorities", "--label-file", labels, *few)
    assert done.code == 0, done.err
    entry = dict(json.loads(labels.read_text()))["6"]
    base, saved = (
        np.asarray(load_model(Path(name)).model.get_layer("dense_1").kernel) for name in ("model.keras", "out/repair")
    )
    places = [tuple(place[1:]) for place in entry["weights"]]
    assert places == sorted(zip(*map(np.ndarray.tolist, np.nonzero(base != saved)), strict=True)) and places
    assert [np.float32(value) for value in entry["repaired_values"]] == [saved[place] for place in places]


def test_refusals(workspace: Path, refused: Refused) -> None:
    refused(*OPTIMIZE, "--method", "arachnid", says=("there is no method 'arachnid'",))
    refused(*OPTIMIZE, "--method", "tail", "--recipes", "1", says=("--recipes is of CrossFit and the method is tail",))
    refused(
        *OPTIMIZE,
        "--method",
        "tail",
        "--num-input-pos-sampled",
        "2",
        says=("--num-input-pos-sampled is of Arachne and the method is tail",),
    )
    refused(*OPTIMIZE, "--method", "tail", "--optimiser", "DE", says=("--optimiser means nothing to tail, which does",))
    refused(*OPTIMIZE, "--method", "offsets", "--optimiser", "DE", "--bound", "2", says=("--bound means nothing to",))
    refused(
        *(*OPTIMIZE, "--method", "Arachne-v2", "--velocity-phi", "5"),
        says=("--velocity-phi is of PSO and Arachne-v2 searches by DE, expected --optimiser too",),
    )
    refused(*OPTIMIZE, "--method", "CrossFit", "--weights-dir", "data", says=("--weights-dir is of NeuRecover",))
    for words in ([*OPTIMIZE, "--method", "offsets"], [*BATCH, "--method", "offsets", "--output-dir", "run"]):
        refused(*words, "--seeds", "0", says=("seeds is 0, expected at least 1",))
        refused(*words, "--seeds", "1000000000", says=("seeds is 1000000000, expected at most 10000",))
        refused(*words, "--model-dir", "none", says=("none: no such file or folder, expected one for --model-dir",))
        refused(*words, "--requirements", "no.toml", says=("no.toml: no such file or folder, expected one for",))
    used = "data: something that is not a run is there already, expected a new name"
    refused(*OPTIMIZE, "--method", "offsets", "--run-dir", "data", says=(used,))
    part = ["--output-dir", "run", "--part", "1/2"]
    refused(*BATCH, "--method", "tail", *part, says=("--part is of Arachne and CrossFit and the method is tail",))
    refused(*OPTIMIZE, "--method", "tail", "--part", "1/2", says=("--part is of CrossFit and the method is tail",))
    refused(*BATCH, "--method", "tail", "--output-dir", "run", "--dry-run", says=("--dry-run is of Arachne",))
    refused(*BATCH, "--method", "tail", "--output-dir", "run", "--separate", says=("--separate is of CrossFit",))
    refused(*OPTIMIZE, "--method", "tail", "--num-particles", "9", says=("--num-particles means nothing to tail",))
    refused(*OPTIMIZE, "--method", "tail", "--label-file", "x.json", says=("--label-file is of label-priorities",))
    refused(*OPTIMIZE, "--method", "tail", "--weights-dir", "data", says=("of NeuRecover and the method is tail",))
    refused(*OPTIMIZE, "--method", "head", "--last", "2,1", says=("--last is of NeuRecover and the method is head",))
    refused(
        *(*OPTIMIZE, "--method", "Arachne-v2", "--folds", "2"),
        says=("--folds is of CrossFit, head, tail, WiSE-FT, offsets and the method is Arachne-v2",),
    )
    refused(
        *(*OPTIMIZE, "--method", "NeuRecover", "--last", "3,1"),
        says=("--last is given and logs/model_check_points is no folder, expected --weights-dir too",),
    )
    refused(*OPTIMIZE, "--method", "tail", "--resume", says=("expected its --run-dir",))
