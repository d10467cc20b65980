"""`batch --method CrossFit`: rows of all chunks pooled, labels together or on their own, exit codes, resuming."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cluster.records.store import read_facts, read_table
from engine.methods import mixtures
from engine.models.load import load_model
from engine.models.weight_paths import weight_variables
from engine.patches.arrow import read_patch
from tests.integration.conftest import Command, contents
from tests.support.batches import CHUNKS, HELD_OUT_ROWS, differences

Refused = Callable[..., str]

HERE = ["--num-workers", "0", "--verbose", "0"]
SMALL = ["--recipes", "2:1:epochs=2", "--folds", "2", "--num-particles", "8", "--num-iterations", "5"]
SMALL += ["--target-layer", "dense_1"]
FILES = ["batch", "--method", "CrossFit", "--model-dir", "model.keras", "--chunks", "chunks"]
BATCH = [*FILES, *SMALL, *HERE]
REQUIRED = ["--requirements", "requirements.toml"]
SHIRT = [*BATCH, "--labels", "6", *REQUIRED]
EASY = 'confidence = 0.6\n[[require]]\nlabel = "*"\nmax_drop = 0.1\n'
HARD = 'confidence = 0.9\n[[require]]\nlabel = "Shirt"\nmin_gain = 0.9\n[[require]]\nmax_drop = 0.01\n'


def write(path: Path, images: Any, labels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with h5py.File(path, "w") as file, h5py.File("chunks/0/repair.h5") as other:
        file["images"], file["labels"] = images, labels
        file.attrs.update(other.attrs)


def rows_of(path: Path) -> tuple[Any, Any]:
    with h5py.File(path) as file:
        return file["images"][...], file["labels"][...]


def require(text: str) -> None:
    Path("requirements.toml").write_text(text, encoding="utf-8")


def pooled(root: Path) -> tuple[Any, Any]:
    sets = [rows_of(root / "chunks" / str(number) / "repair.h5") for number in range(CHUNKS)]
    images, labels = zip(*sets, strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.fixture(scope="module")
def right(repairsets: Path) -> Any:
    """Which rows of all chunks the model as it is gets right, without the code under test."""
    images, labels = pooled(repairsets)
    model = load_model(repairsets / "model.keras").model
    return model.predict(images, verbose=0).argmax(axis=1) == labels.argmax(axis=1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crossfit") / "run"


@pytest.fixture
def finished(batchspace: Path, command: Command, kept: Path) -> Path:
    """A finished repair of label 6 to easy requirements in `run`, made once."""
    require(EASY)
    if not kept.exists():
        done = command(*SHIRT, "--output-dir", "run")
        assert done.code == 0, done.err
        shutil.copytree("run", kept)
    else:
        shutil.copytree(kept, "run")
    return batchspace


def test_a_run_is_said_and_recorded(finished: Path) -> None:
    names = {path.name for path in Path("run").iterdir()}
    assert names >= {"run.json", "patch.arrow", "repair", "tunings.arrow", "promises.arrow", "frontier.arrow"}
    assert "requirements-not-met.txt" not in names
    facts = read_facts(Path("run"))
    told = [facts[name] for name in ("state", "method", "labels", "promised", "confidence", "exit_code")]
    assert told == ["done", "CrossFit", [6], True, 0.6, 0]
    before, after = (load_model(Path(name)).model for name in ("model.keras", "run/repair"))
    same = [np.array_equal(*pair) for pair in zip(before.get_weights(), after.get_weights(), strict=True)]
    assert same == [True] * (len(same) - 2) + [False, False]


def test_rows_of_all_chunks_are_as_those_of_one(finished: Path, command: Command) -> None:
    images, labels = pooled(Path())
    write(Path("joined/0/repair.h5"), images, labels)
    done = command(*SHIRT, "--chunks", "joined", "--output-dir", "one", "--num-workers", "1")
    assert done.code == 0, done.err
    assert differences(Path("run"), Path("one")) == []
    assert len(read_patch(Path("run/patch.arrow")))
    places = [{row["where"] for row in read_table(Path(run), "tunings").to_pylist()} for run in ("run", "one")]
    assert places == [{"process"}, {"worker"}]


def test_any_layer(batchspace: Path, command: Command, refused: Refused) -> None:
    require(EASY)
    words = [*SHIRT, "--target-layer", "conv2d_1"]
    words.remove("dense_1")
    words.remove("--target-layer")
    done = command(*words, "--output-dir", "run")
    assert done.code == 0, done.err
    before, after = (weight_variables(load_model(Path(name)).model) for name in ("model.keras", "run/repair"))
    changed = [path for path in before if not np.array_equal(np.asarray(before[path]), np.asarray(after[path]))]
    assert changed == ["conv2d_1/kernel", "conv2d_1/bias", "dense_1/bias"]
    assert list(read_patch(Path("run/patch.arrow")).paths) == changed
    assert read_facts(Path("run"))["target"] == {path: list(before[path].shape) for path in changed}
    dry = command(*words, "--output-dir", "dry", "--dry-run")
    assert dry.code == 0 and re.search(r"time: .* expected \(start .*tunings .*search", dry.out), dry.out + dry.err
    assert not Path("dry").exists()
    offsets = ["offsets" if word == "CrossFit" else word for word in words if word not in ("--recipes", SMALL[1])]
    found = "conv2d_1/kernel is no weight of a Dense layer behind which only Dense layers follow"
    refused(*offsets, "--output-dir", "other", says=(found,))


def test_labels_together_and_not_met_on_test_data(batchspace: Path, command: Command) -> None:
    """One mixture for all labels named, by name and number; without a method it is CrossFit, which is said.

    What is promised and does not hold on test data ends with 3.
    """
    require("confidence = 0.6\n[[require]]\nmin_accuracy = 0.5\n")
    images, labels = rows_of(Path("test.h5"))
    write(Path("test.h5"), images, np.roll(labels, 1, axis=1))
    words = [word for word in BATCH if word not in ("--method", "CrossFit")]
    done = command(*words, "--labels", "Coat,6", "--test-data", "test.h5", *REQUIRED, "--output-dir", "run")
    assert done.code == 3, done.err
    assert done.err == "method CrossFit, as none was given (--method Arachne is the other)\n"
    facts = read_facts(Path("run"))
    assert [facts[name] for name in ("labels", "promised", "exit_code")] == [[4, 6], True, 3]
    assert len(read_table(Path("run"), "tunings")) == 2
    assert re.search(r"CrossFit of .*4 Coat.*6 Shirt: ", done.out)
    (line,) = Path("run/requirements-not-met.txt").read_text(encoding="utf-8").splitlines()
    assert line.startswith("test: accuracy of all labels together at least 50 %: ")


def test_each_label_on_its_own(finished: Path, command: Command) -> None:
    words = [*BATCH, *REQUIRED, "--labels", "4,6", "--separate", "--output-dir", "all"]
    shutil.copytree("run", "all/label-6")
    before = contents(Path("all/label-6"))
    done = command(*words, "--resume")
    assert done.code == 0, done.err
    assert contents(Path("all/label-6")) == before
    assert {path.name for path in Path("all").iterdir()} == {"label-4", "label-6"}
    assert [read_facts(Path(f"all/label-{label}"))["labels"] for label in (4, 6)] == [[4], [6]]
    places = [re.search(text, done.out) for text in (r"CrossFit of .*4 Coat", r"label-4\n", r"label-6\n")]
    assert all(places) and places == sorted(places, key=lambda place: place.start() if place else 0)
    assert load_model(Path("all/label-4/repair")).classes == 10
    for more, found in (([], "label-4: a run is there already"), (["--output-dir", "run"], "run: a run is there")):
        again = command(*words, *more)
        assert again.code == 2 and found in again.err, again.err


def test_all_labels_with_failures_and_not_promised(batchspace: Path, command: Command, right: Any) -> None:
    images, labels = pooled(Path())
    failing = sorted(set(labels[~right].argmax(axis=1).tolist()) & {0, 5, 6})
    keep = right | np.isin(labels.argmax(axis=1), failing)
    write(Path("some/0/repair.h5"), images[keep], labels[keep])
    require(HARD)
    words = [*BATCH, *REQUIRED, "--chunks", "some", "--val-data", "val.h5", "--output-dir", "run"]
    done = command(*words)
    assert done.code == 3, done.err
    assert "not promised" in done.out
    facts = read_facts(Path("run"))
    told = [facts[name] for name in ("labels", "promised", "confidence", "exit_code")]
    assert told == [failing, False, 0.9, 3] and len(failing) > 1
    (rows,) = {row["rows"] for row in read_table(Path("run"), "promises").to_pylist() if row["label"] == -1}
    assert rows == keep.sum() + HELD_OUT_ROWS
    promise, *others = Path("run/requirements-not-met.txt").read_text(encoding="utf-8").splitlines()
    assert promise == "promise: all requirements together have a chance of 0.0 %, asked were 90 %"
    assert others[0].startswith("validation: gain of 6 Shirt at least 90 points: ")
    before = contents(Path("run"))
    assert command(*words, "--resume").code == 3
    assert contents(Path("run")) == before


def test_nothing_to_repair(batchspace: Path, command: Command, right: Any) -> None:
    images, labels = pooled(Path())
    write(Path("right/0/repair.h5"), images[right], labels[right])
    words = [*BATCH, "--chunks", "right"]
    require(HARD)
    done = command(*words, "--output-dir", "run", *REQUIRED)
    assert done.code == 3, done.err
    assert "the model gets every row right, it is copied unchanged" in done.out
    assert "not promised: " in done.out
    assert Path("run/repair/model.keras").read_bytes() == Path("model.keras").read_bytes()
    assert not Path("run/patch.arrow").exists()
    assert command(*words, "--output-dir", "run", "--overwrite").code == 0
    alone = command(*words, "--separate", "--output-dir", "each")
    assert (alone.code, Path("each").exists()) == (0, False), alone.err


def test_optimize_ends_with_the_same_code(workspace: Path, command: Command) -> None:
    words = ["optimize", "--method", "CrossFit", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6"]
    require(HARD)
    done = command(*words, *SMALL, *HERE, *REQUIRED, "--output-dir", "out", "--run-dir", "run")
    assert (done.code, read_facts(Path("run"))["exit_code"]) == (3, 3), done.err


@pytest.mark.parametrize("where", ["cluster.records.values.pack", "cluster.runs.ledger.pack"])
def test_resumed_after_an_interruption(
    where: str, finished: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.compute.compute.SEGMENT_SECONDS", 0.0)
    module, _, name = where.rpartition(".")
    work = getattr(__import__(module, fromlist=[name]), name)
    calls = []

    def interrupt(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return work(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(where, interrupt)
        assert command(*SHIRT, "--output-dir", "again").code == 130
    assert read_facts(Path("again"))["state"] == "interrupted"
    done = command(*SHIRT, "--output-dir", "again", "--resume")
    assert done.code == 0, done.err
    assert differences(Path("run"), Path("again")) == []
    found = {row["where"] for row in read_table(Path("again"), "tunings").to_pylist()}
    assert "checkpoint" in found


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "error: memory ran out (no message), expected less at once or a machine with more\n"),
        (ZeroDivisionError("by nothing"), "error: ZeroDivisionError: by nothing (--debug shows where)\n"),
    ],
)
def test_what_is_no_bad_input_is_not_told_as_such(
    error: Exception, says: str, batchspace: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single repair tells of what went wrong inside of its work as it came, and goes on once that is mended."""

    def broken(*_: Any, **__: Any) -> Any:
        raise error

    require(EASY)
    with monkeypatch.context() as patched:
        patched.setattr(mixtures, "tune", broken)
        done = command(*SHIRT, "--output-dir", "broken")
    assert done.code == 1 and done.err.endswith(says)
    assert read_facts(Path("broken"))["state"] == "failed"
    assert command(*SHIRT, "--output-dir", "broken", "--resume").code in (0, 3)


def test_resumed_with_another_option(finished: Path, refused: Refused) -> None:
    changed = {
        "settings folds 2 and this command has 3": ["--folds", "3"],
        'chunks ["0", "1", "2", "3"] and this command has ["0"]': ["--chunks", "chunks/0"],
        "held-out data validation nothing and this command has": ["--val-data", "val.h5"],
    }
    for text, words in changed.items():
        refused(*SHIRT, "--output-dir", "run", "--resume", *words, says=(text,))


def test_chunks_that_cannot_be_read(finished: Path, command: Command) -> None:
    """One is no HDF5, one is found out while it is read: they are told and left out, and the exit code is 4."""
    images, labels = rows_of(Path("chunks/1/repair.h5"))
    images[7, 0, 0, 0] = np.nan
    write(Path("chunks/4/repair.h5"), images, labels)
    Path("chunks/5").mkdir()
    Path("chunks/5/repair.h5").write_bytes(b"rows")
    done = command(*SHIRT, "--output-dir", "left")
    assert done.code == 4, done.err
    for number, found in ((4, "row 7 has pixels that are NaN"), (5, "is not an HDF5 file")):
        assert re.search(rf"^left out: .*chunks/{number}/repair.h5.*{found}", done.out, re.MULTILINE), done.out
    failed = [row for row in read_table(Path("left"), "jobs").to_pylist() if row["state"] == "failed"]
    assert sorted(Path(row["chunk"]).name for row in failed) == ["4", "5"]
    assert read_facts(Path("left"))["exit_code"] == 4
    assert Path("left/patch.arrow").read_bytes() == Path("run/patch.arrow").read_bytes()  # of the others


def test_dry_run(batchspace: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(batchspace)
    words = [*BATCH, "--labels", "6", "--output-dir", "run"]
    done = command(*words, "--val-data", "val.h5", "--dry-run")
    assert done.code == 0, done.err
    lines = dict(line.split(": ", 1) for line in done.out.splitlines())
    assert lines["rows"] == f"{len(pooled(Path())[0])} of 4 chunks"
    assert lines["tunings"] == "2 (1 recipe in 2 folds)"
    assert lines["search"] == "5 iterations of 8 mixtures"
    assert re.match(r"at most [\d.]+ GiB in one process: ", lines["memory"])
    assert re.fullmatch(r"[\d.]+ s expected \(start .*, rows .*, of each repair tunings .*, search .*\)", lines["time"])
    monkeypatch.setattr("engine.backend.free_memory", lambda: 1 << 20)
    monkeypatch.setattr("cluster.batch.estimate.BUDGET", 0.001)
    done = command(*words, "--separate", "--labels", "all", "--dry-run")
    assert "tunings: 2 (1 recipe in 2 folds), in at most 10 repairs of one label" in done.out
    assert "time: nothing was measured: " in done.out
    assert re.search(r"^without --dry-run this is refused: the repair needs .*, expected ", done.out, re.MULTILINE)
    assert command(*words).code == 2
    assert contents(batchspace) == before


OF_ARACHNE = ("mode=chain", "max-rounds=2", "merge=search", "positive-weights=1", "offers=1", "num-grad=9", "fronts=2")
OF_ARACHNE += ("forward-impact=mean", "num-input-pos-sampled=9")
OF_CROSSFIT = ("recipes=2", "folds=3", "step=1", "promise-rows=9", "separate")


@pytest.mark.parametrize("word", [*OF_ARACHNE, *OF_CROSSFIT])
def test_options_of_the_other_method(word: str, batchspace: Path, refused: Refused) -> None:
    own, method = ("Arachne", "CrossFit") if word in OF_ARACHNE else ("CrossFit", "Arachne")
    words = ["--val-data", "val.h5", "--output-dir", "run", "--method", method, f"--{word}", *HERE]
    flag = f"--{word.partition('=')[0]}"
    refused(
        *FILES, *words, says=(f"{flag} is of {own}", f" and the method is {method}, expected one without the other")
    )


def test_bad_input(batchspace: Path, refused: Refused) -> None:
    require("[[require]]\nlabel = 4\nmax_drop = 0.1\n")
    shutil.copytree("chunks/3", "without/0")  # a label less
    cases: list[tuple[list[str], str]] = [
        (["--positive-inputs-dir", "chunks/0"], "--positive-inputs-dir has rows that were picked"),
        (["--val-data", "chunks/0/repair.h5"], "are one file, expected rows that no search sees"),
        (["--chunks", "without", *REQUIRED], 'without has no rows to judge "drop of 4'),
        (["--chunks", "without", "--labels", "4,6"], "no repair row has label 4, which is to be repaired"),
        (["--labels", "6,Shirt"], "names a label twice"),
        (["--folds", "1"], "folds are 1, expected at least 2"),
        (["--recipes", "2:x"], "recipe '2:x' cannot be read"),
        (["--step", "2"], "step is 2, expected 0"),
        (["--target-layer", "conv9"], "target layer conv9 is no layer of the model"),
        (["--resume", "--overwrite"], "--resume goes on with a run and --overwrite"),
    ]
    for words, found in cases:
        refused(*BATCH, "--output-dir", "run", *words, says=(found,))
    words = [*FILES, "--method", "Arachne", *HERE, "--output-dir", "run"]
    refused(*words, says=("--val-data is missing and the method is Arachne, expected rows that choose",))


def test_a_run_keeps_its_patch_wherever_it_goes(finished: Path, command: Command) -> None:
    """Its tables have the mixture alone, so the patch lies beside them."""
    shown = command("patch", "show", "run")
    assert shown.code == 0 and "dense_1/kernel" in shown.out, shown.err
    Path("run").rename("moved")
    assert command("patch", "show", "moved").out.replace("moved", "run") == shown.out
    job = command("patch", "show", "moved:crossfit")
    assert (job.code, job.out) == (2, "")
    assert "a run of CrossFit has one patch and none of a job 'crossfit'" in job.err


def test_validation_rows_that_tunings_saw_do_not_judge(batchspace: Path, command: Command) -> None:
    require(EASY)
    chunks = [word for word in SHIRT if word != "--test-data"]
    command(*chunks, "--output-dir", "alone")
    repair = next(Path(SHIRT[SHIRT.index("--chunks") + 1]).glob("*/repair.h5"))
    words = [*chunks, "--val-data", repair, "--allow-shared-rows", "True", "--output-dir", "shared"]
    assert command(*words).code in (0, 3)
    rows = [[row["rows"] for row in read_table(Path(name), "promises").to_pylist()] for name in ("alone", "shared")]
    assert rows[0] == rows[1]
