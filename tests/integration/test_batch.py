"""The command `batch`: exit codes, reports, resuming, and the refusal of everything that cannot work."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cluster.batch.run import run_recorded
from cluster.records.schema import OF_METHODS, SCHEMAS
from cluster.records.store import holds_run, read_facts, read_table
from engine.models.load import load_model
from engine.patches.arrow import read_patch
from tests.integration.conftest import Command, contents
from tests.support.batches import here, small_batch, write_rows
from tests.support.reader import Reader

Refused = Callable[..., str]

FILES = ["batch", "--method", "Arachne", "--model-dir", "model.keras", "--chunks", "chunks"]
FILES += ["--val-data", "val.h5", "--output-dir", "run"]
SMALL = ["--labels", "6", "--mode", "independent", "--num-particles", "8", "--num-iterations", "3", "--fronts", "1"]
SMALL += ["--positive-weights", "0.15x"]
BATCH = [*FILES, *SMALL, "--num-workers", "0", "--verbose", "0"]


def require(*tables: str) -> list[str]:
    Path("requirements.toml").write_text("".join(f"[[require]]\n{table}\n" for table in tables), encoding="utf-8")
    return ["--requirements", "requirements.toml"]


def states() -> Counter[str]:
    return Counter(read_table(Path("run"), "jobs")["state"].to_pylist())


def put(path: Path, content: bytes) -> None:
    """Replace a file that may be a hard link."""
    path.unlink()
    path.write_bytes(content)


# What is done to the last chunk, and what must be said of it.


def _text(path: Path) -> None:
    put(path, b"rows")


def _cut(path: Path) -> None:
    put(path, path.read_bytes()[: path.stat().st_size // 2])


def _gone(path: Path) -> None:
    path.unlink()


def _other_shape(path: Path) -> None:
    _write(path, lambda images, labels: (images[:, :16, :16], labels))


def _not_a_number(path: Path) -> None:
    def change(images: Any, labels: Any) -> Any:
        images[7, 0, 0, 0] = np.nan
        return images, labels

    _write(path, change)


def lose_label(path: Path, label: int) -> None:
    _write(path, lambda images, labels: [array[labels.argmax(axis=1) != label] for array in (images, labels)])


def _damaged_block(path: Path) -> None:
    """A block of pixels is overwritten: the file opens, and only reading that block finds out."""
    _write(path, lambda images, labels: (images, labels), compression="gzip", chunks=(40, 32, 32, 3))
    with h5py.File(path) as file:
        block = file["images"].id.get_chunk_info(5)
    with path.open("r+b") as content:
        content.seek(block.byte_offset)
        content.write(b"\xff" * block.size)


def _write(path: Path, change: Callable[[Any, Any], Any], **how: Any) -> None:
    with h5py.File(path) as file:
        images, labels = change(file["images"][...], file["labels"][...])
    path.unlink()
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, **how)
        file["labels"] = labels


DAMAGES = {
    "not HDF5": (_text, "is not an HDF5 file"),
    "cut short": (_cut, "is damaged or cut short"),
    "missing": (_gone, "does not exist"),
    "other shape": (_other_shape, "holds images of shape (16, 16, 3)"),
    "not a number": (_not_a_number, "row 7 has pixels that are NaN"),
    "damaged block": (_damaged_block, "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_damaged_chunk(damage: str, batchspace: Path, command: Command) -> None:
    """The others finish, it is named in the table and in what is printed, and 4 outranks 3."""
    harm, found = DAMAGES[damage]
    chunk = batchspace / "chunks" / "2"
    harm(chunk / "repair.h5")
    done = command(*BATCH, *require("label = 6\nmin_accuracy = 1.0"))
    assert done.code == 4, done.err
    rows = {row["job"]: row for row in read_table(Path("run"), "jobs").to_pylist()}
    assert Counter(row["state"] for row in rows.values()) == {"done": 3, "failed": 1}
    failed = rows["step1-chunk2-label6-w0.15x-s0"]
    assert (failed["state"], failed["chunk"]) == ("failed", str(chunk))
    assert str(chunk / "repair.h5") in failed["note"] and found in failed["note"]
    assert failed["note"] in done.out
    assert "1 failed" in done.out and "exit code 4" in done.out
    assert read_facts(Path("run"))["exit_code"] == 4
    assert Path("run/requirements-not-met.txt").exists()


def test_chunks_without_failures_are_counted(batchspace: Path, command: Command) -> None:
    done = command(*BATCH, "--labels", "4", "--seeds", "2")
    assert done.code == 0, done.err
    assert states() == {"done": 6, "skipped": 2}
    assert "2 skipped" in done.out
    (note,) = {row["note"] for row in read_table(Path("run"), "jobs").to_pylist() if row["state"] == "skipped"}
    assert note == "the model gets every row of label 4 right"


def test_requirements_met_and_not_met(batchspace: Path, command: Command) -> None:
    easy, hard = "label = 'Bag'\nmin_accuracy = 0.1", "label = 'Shirt'\nmin_accuracy = 1.0\nmin_gain = 1.0"
    done = command(*BATCH, "--test-data", "test.h5", *require(easy, hard))
    assert done.code == 3, done.err
    said = Path("run/requirements-not-met.txt").read_text(encoding="utf-8").splitlines()
    verdicts = read_table(Path("run"), "verdicts").to_pylist()
    assert [(row["split"], row["met"]) for row in verdicts] == [
        ("test", True), ("test", False), ("test", False),
        ("validation", True), ("validation", False), ("validation", False),
    ]  # fmt: skip
    asked = ["accuracy of 6 Shirt at least 100 %", "gain of 6 Shirt at least 100 points"] * 2
    for line, what, row in zip(sorted(said), asked, (*verdicts[1:3], *verdicts[4:]), strict=True):
        share = (row["count_after"] - (row["count_before"] if row["kind"] == "min_gain" else 0)) / row["total"]
        value = 100 * share
        assert line == f"{row['split']}: {what}: {value:.2f} %, missed by {100 - value:.2f} points"
    assert load_model(Path("run/repair")).classes == 10
    # Another run in its place, with requirements that are met, is not marked any more.
    done = command(*BATCH, "--test-data", "test.h5", "--overwrite", *require(easy))
    assert done.code == 0, done.err
    assert not Path("run/requirements-not-met.txt").exists()


def test_not_met_on_test_data_alone(batchspace: Path, command: Command) -> None:
    """Validation data chooses and test data judges: where both are given, the exit code is that of the test data."""
    with h5py.File("test.h5") as file:
        images, labels = file["images"][...], file["labels"][...]
    shirts = labels.argmax(axis=1) == 6
    labels[shirts] = np.eye(10, dtype=labels.dtype)[0]
    labels[np.flatnonzero(~shirts)[0]] = np.eye(10, dtype=labels.dtype)[6]
    Path("test.h5").unlink()
    with h5py.File("test.h5", "w") as file:
        file["images"], file["labels"] = images, labels
    done = command(*BATCH, "--test-data", "test.h5", *require("label = 6\nmin_accuracy = 0.3"))
    assert done.code == 3, done.err
    met = {row["split"]: row["met"] for row in read_table(Path("run"), "verdicts").to_pylist()}
    assert met == {"validation": True, "test": False}


def test_the_base_model_is_a_candidate(batchspace: Path, command: Command) -> None:
    """Where every patch on offer breaks what must not break, nothing is changed."""
    done = command(*BATCH, "--positive-weights", "0.01x", *require("label = '*'\nmax_drop = 0.0"))
    assert done.code == 0, done.err
    labels = read_table(Path("run"), "labels").to_pylist()
    broken: Counter[str] = Counter()
    for row in labels:
        if row["stage"] == "candidate":
            broken[row["job"]] += row["broken"]
    assert len(broken) == 4 and all(broken.values())
    assert len(read_patch(Path("run/patch.arrow"))) == 0
    assert Path("run/repair/model.keras").read_bytes() == Path("model.keras").read_bytes()
    assert all(row["repaired"] == row["broken"] == 0 for row in labels if row["stage"] == "repaired")
    assert "batch" not in read_table(Path("run"), "patches")["job"].to_pylist()
    assert read_facts(Path("run"))["notes"] == []  # it was chosen, not fallen back to


def test_a_chain_prints_its_iterations(batchspace: Path, command: Command) -> None:
    """The tutorial's table: correct, incorrect and accuracy of the labels under repair after each chunk."""
    done = command(*BATCH, "--mode", "chain", "--labels", "4,6", "--test-data", "test.h5")
    assert done.code == 0, done.err
    steps: dict[int, list[int]] = {}
    for row in read_table(Path("run"), "labels").to_pylist():
        if row["stage"] == "step" and row["split"] == "test" and row["label"] in (4, 6):
            counts = steps.setdefault(int(row["job"].removeprefix("step")), [0, 0])
            counts[0] += row["correct"]
            counts[1] += row["total"] - row["correct"]
    assert sorted(steps) == [0, 1, 2, 3, 4]
    printed = [line.replace("(base)", "").split() for line in done.out.splitlines()]
    for step, (right, wrong) in steps.items():
        assert [str(step), str(right), str(wrong), f"{100 * right / (right + wrong):.2f}"] in printed


def test_dry_run(batchspace: Path, command: Command) -> None:
    before = contents(batchspace)
    done = command(*BATCH, "--labels", "4,6", "--seeds", "3", "--mode", "rounds", "--max-rounds", "2", "--dry-run")
    assert done.code == 0, done.err
    lines = dict(line.split(": ", 1) for line in done.out.splitlines())
    assert lines["jobs"].startswith("24 in a step (4 chunks, 2 labels, 1 positive weights, 3 seeds;")
    assert lines["steps"] == "at most 2 (rounds)"
    assert lines["computing"].startswith("this process, ")
    assert lines["time"].startswith("at most ") and " s expected (" in lines["time"]
    assert re.search(r"from [1-9]\d* searches\)$", lines["time"])
    assert contents(batchspace) == before


@pytest.mark.parametrize(
    ("seconds", "particles", "says"),
    [
        (2.0, 4000, "nothing was measured: no search came to the end of its first iteration in 1 s"),
        (10.0, 4, r"expected \(start 0.0 s, each step .*; from [1-9]\d* (iterations?, no search ended|search)"),
    ],
)
def test_dry_run_keeps_to_its_time_whatever_a_task_costs(
    batchspace: Path, command: Command, monkeypatch: pytest.MonkeyPatch, seconds: float, particles: int, says: str
) -> None:
    monkeypatch.setattr("cluster.batch.estimate.BUDGET", seconds)
    before = contents(batchspace)
    words = [*FILES, "--target-layer", "conv2d", "--seeds", "3", "--num-workers", "0", "--verbose", "0", "--dry-run"]
    words += ["--num-particles", str(particles)]
    begun = time.monotonic()
    done = command(*words)
    assert time.monotonic() - begun < seconds + 15  # one call of the backend may last
    assert done.code == 0, done.err
    (said,) = (line for line in done.out.splitlines() if line.startswith("time: "))
    assert re.search(says, said), said
    assert contents(batchspace) == before


def test_dry_run_of_more_searches_than_memory_has_room_for(batchspace: Path, command: Command) -> None:
    """The plan is not listed, which would take the memory of the machine: it takes no longer than a short one."""
    done = command(*BATCH, "--labels", "6", "--seeds", str(10**9), "--dry-run")
    assert done.code == 0, done.err
    assert done.out.startswith("jobs: 4000000000 in a step")
    assert " h " in done.out and " expected (start" in done.out, done.out
    assert "memory: without --dry-run this is refused: 1000000000 seeds make 4000000000 searches" in done.out


def test_dry_run_without_failures(batchspace: Path, command: Command) -> None:
    for number in (0, 1, 2):
        shutil.rmtree(f"chunks/{number}")
    done = command(*BATCH, "--labels", "4", "--dry-run")  # of which the last chunk has no row
    assert done.code == 0, done.err
    assert done.out.endswith(
        "time: nothing was measured: the model gets every row of these labels right, or no chunk could be read to its "
        "end\n"
    )


def test_a_label_that_cannot_be_kept_is_warned_of(batchspace: Path, command: Command) -> None:
    """Before any work: here there is none."""
    for number in (0, 1, 2):
        shutil.rmtree(f"chunks/{number}")
    words = [*BATCH, *require("label = 4\nmin_accuracy = 0.5"), "--dry-run"]
    done = command(*words)
    assert done.code == 0
    assert done.err.startswith('warning: no repair row has label 4, so no search can keep to "accuracy of 4 Coat')
    write_rows(batchspace / "more" / "repair.h5", slice(0, 200))
    assert command(*words, "--positive-inputs-dir", "more").err == ""


def test_more_positive_inputs(batchspace: Path, command: Command) -> None:
    write_rows(batchspace / "one" / "repair.h5", slice(4000, 4200))
    write_rows(batchspace / "two" / "repair.h5", slice(4200, 4300), without=4)
    assert command(*BATCH, "--labels", "4").code == 0
    before = {row["job"]: row["positives"] for row in read_table(Path("run"), "jobs").to_pylist()}
    more = ["--positive-inputs-dir", "one", "--positive-inputs-dir", "two"]
    assert command(*BATCH, "--labels", "4", *more, "--overwrite").code == 0
    right = sum(count_right(Path("model.keras"), Path(name) / "repair.h5") for name in ("one", "two"))
    rows = [row for row in read_table(Path("run"), "jobs").to_pylist() if row["state"] == "done"]
    assert {row["job"]: row["positives"] - before[row["job"]] for row in rows} == {row["job"]: right for row in rows}


def count_right(model: Path, rows: Path) -> int:
    with h5py.File(rows) as file:
        images, labels = file["images"][...], file["labels"][...]
    return int((load_model(model).model.predict(images, verbose=0).argmax(axis=1) == labels.argmax(axis=1)).sum())


def test_a_finished_run_stays_as_it_is(batchspace: Path, command: Command) -> None:
    done = command(*BATCH, "--resume", "--verbose", "1", *require("label = 6\nmin_accuracy = 1.0"))
    assert done.code == 3, done.err
    assert "run holds no run yet: this is its start" in done.err
    before = contents(batchspace)
    again = command(*BATCH, "--resume", "--requirements", "requirements.toml")
    assert (again.code, again.out) == (3, done.out)
    assert contents(batchspace) == before


def test_overwriting_leaves_nothing_of_the_run_before(batchspace: Path, command: Command) -> None:
    assert command(*BATCH, *require("label = 6\nmin_accuracy = 1.0")).code == 3
    Path("run/.repair.tmp-0123456789ab").mkdir()
    assert Path("run/repair/model.keras").exists()

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with here() as compute, pytest.raises(KeyboardInterrupt):
        run_recorded(small_batch(batchspace, Path("run").absolute()), compute, overwrite=True, on_jobs=interrupt)
    assert {path.name for path in Path("run").iterdir()} == {"labels", "run.json"}
    assert read_facts(Path("run"))["state"] == "interrupted"


@pytest.fixture
def finished(batchspace: Path, command: Command, repairsets: Path) -> Path:
    """A finished run in `run`, made once and linked."""
    kept = repairsets.parent / "finished-run"
    if not kept.exists():
        assert command(*BATCH).code == 0
        shutil.copytree("run", kept, copy_function=shutil.copy)
    else:
        shutil.copytree(kept, "run", copy_function=shutil.copy)
    return batchspace


CHANGED = {
    "seeds": (["--seeds", "2"], "seeds [0] and this command has [0, 1]"),
    "first seed": (["--seed", "5"], "seeds [0] and this command has [5]"),
    "iterations": (["--num-iterations", "4"], "settings num_iterations 3 and this command has 4"),
    "particles": (["--num-particles", "9"], "settings swarm num_particles 8 and this command has 9"),
    "optimiser": (["--optimiser", "random"], 'settings swarm optimiser "PSO" and this command has "random"'),
    "tile rows": (["--tile-rows", "100"], "settings tiling rows nothing and this command has 100"),
    "mode": (["--mode", "chain"], 'mode "independent" and this command has "chain"'),
    "labels": (["--labels", "4"], "labels [6] and this command has [4]"),
    "weights": (["--positive-weights", "100"], 'positive weights ["0.15x"] and this command has ["100"]'),
    "offers": (["--offers", "1"], "offers 3 and this command has 1"),
    "num grad": (["--num-grad", "9"], "num grad nothing and this command has 9"),
    "fronts": (["--fronts", "2"], "fronts 1 and this command has 2"),
    "batch size": (["--batch-size", "64"], "batch size 256 and this command has 64"),
    "test data": (["--test-data", "test.h5"], "data test data nothing and this command has "),
    "positives": (["--positive-inputs-dir", "chunks/0"], "data positive inputs 0 nothing and this command has "),
    "model": (["--model-dir", "run/repair", "--output-dir", "run"], "is the model to repair"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_resume_after_a_changed_option(change: str, finished: Path, refused: Refused) -> None:
    words, found = CHANGED[change]
    refused(*BATCH, *words, "--resume", says=(found,))


def _replace_chunk(root: Path) -> None:
    put(root / "chunks" / "1" / "repair.h5", (root / "chunks" / "0" / "repair.h5").read_bytes())


def _replace_model(root: Path) -> None:
    put(root / "model.keras", (root / "run" / "repair" / "model.keras").read_bytes())


def _replace_validation(root: Path) -> None:
    put(root / "val.h5", (root / "test.h5").read_bytes())


def _add_chunk(root: Path) -> None:
    shutil.copytree(root / "chunks" / "0", root / "chunks" / "4")


def _remove_chunk(root: Path) -> None:
    shutil.rmtree(root / "chunks" / "3")


def _require(root: Path) -> None:
    require("label = 6\nmin_accuracy = 0.5")


def _facts(**changes: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "run" / "run.json"
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["identity"] |= changes
        put(path, json.dumps(facts).encode())

    return change


REPLACED = {
    "chunk": (_replace_chunk, [], "data chunk 1 "),
    "added chunk": (_add_chunk, [], "data chunk 4 nothing"),
    "removed chunk": (_remove_chunk, [], "data chunk 3 "),
    "model": (_replace_model, [], "begun with model "),
    "validation data": (_replace_validation, [], "data validation data "),
    "requirements": (_require, ["--requirements", "requirements.toml"], "begun with requirements "),
    "hardware": (_facts(hardware="abacus"), [], 'begun with hardware "abacus"'),
    "versions": (_facts(versions={"numpy": "0.1"}), [], "versions "),
}


@pytest.mark.parametrize("change", REPLACED)
def test_resume_after_another_change(change: str, finished: Path, refused: Refused) -> None:
    apply, words, found = REPLACED[change]
    apply(finished)
    refused(*BATCH, *words, "--resume", says=(str(finished / "run"), found))


def _folder(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).mkdir()


def _file(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text("mine", encoding="utf-8")  # type: ignore[return-value]


def _all_damaged(root: Path) -> None:
    for chunk in (root / "chunks").iterdir():
        put(chunk / "repair.h5", b"rows")


def _without_label_4(root: Path) -> None:
    (root / "val.h5").unlink()
    write_rows(root / "val.h5", slice(0, 100), without=4)
    require("label = 4\nmax_drop = 0.1")


def _own_files(root: Path) -> None:
    (root / "run").mkdir()
    (root / "run" / "notes.txt").write_text("mine", encoding="utf-8")


def _validation(harm: Callable[[Path], None], name: str = "val.h5") -> Callable[[Path], None]:
    return lambda root: harm(root / name)


def _confidence(root: Path) -> None:
    (root / "requirements.toml").write_text("confidence = 0.95\n[[require]]\nmax_drop = 0.1\n", encoding="utf-8")


def _requirements(*tables: str) -> Callable[[Path], None]:
    return lambda root: require(*tables)  # type: ignore[return-value]


def _nothing(root: Path) -> None:
    return None


REQUIRED = ["--requirements", "requirements.toml"]
TEST = ["--test-data", "test.h5"]
BAD: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "no chunks folder": (_nothing, ["--chunks", "nowhere"], "nowhere: no such folder"),
    "chunks is a file": (_nothing, ["--chunks", "val.h5"], "val.h5: is a file"),
    "no chunk": (_folder("empty"), ["--chunks", "empty"], "empty: found no chunk"),
    "every chunk damaged": (_all_damaged, [], "chunks/0/repair.h5 is not an HDF5 file"),
    "unknown name": (_nothing, ["--labels", "Shrit"], "labels has 'Shrit'"),
    "weight in words": (_nothing, ["--positive-weights", "100,much"], "positive_weights has 'much'"),
    "no seed": (_nothing, ["--seeds", "0"], "seeds is 0"),
    "large seed": (_nothing, ["--seed", str(2**63)], "seed is 9223372036854775808"),
    "no round": (_nothing, ["--max-rounds", "0"], "max_rounds is 0"),
    "rounds of another mode": (
        _nothing,
        ["--max-rounds", "5"],
        "max_rounds is 5 and mode is independent, expected mode rounds with it",
    ),
    "a merge of another mode": (_nothing, ["--merge", "search"], "merge is search and mode is independent, which"),
    "no offer": (_nothing, ["--offers", "0"], "offers is 0"),
    "no weight to localise": (_nothing, ["--num-grad", "0"], "num_grad is 0"),
    "no front": (_nothing, ["--fronts", "0"], "fronts is 0"),
    "more searches than memory has room for": (_nothing, ["--seeds", str(10**12)], "in a step, whose results take"),
    "more workers than memory carries": (_nothing, ["--num-workers", str(10**18)], "are no faster"),
    "no particle": (_nothing, ["--num-particles", "0"], "num_particles is 0"),
    "no iteration": (_nothing, ["--num-iterations", "0"], "num_iterations is 0"),
    "no model": (_nothing, ["--model-dir", "nowhere"], "nowhere"),
    "wrong layer": (_nothing, ["--target-layer", "6"], "target layer 6 (flatten, Flatten) has no weights"),
    "no validation data": (_nothing, ["--val-data", "nowhere.h5"], "nowhere.h5 does not exist"),
    "damaged validation data": (_validation(_cut), [], "val.h5 is damaged or cut short"),
    "validation data of another shape": (_validation(_other_shape), [], "val.h5 holds images of shape (16, 16, 3)"),
    "validation data not a number": (_validation(_not_a_number), [], "val.h5: row 7 has pixels that are NaN"),
    "no test data": (_nothing, ["--test-data", "nowhere.h5"], "nowhere.h5 does not exist"),
    "test data of another shape": (_validation(_other_shape, "test.h5"), TEST, "test.h5 holds images of shape"),
    "test data not a number": (_validation(_not_a_number, "test.h5"), TEST, "test.h5: row 7 has pixels"),
    "no rows of a required label": (_without_label_4, REQUIRED, "val.h5 has no rows to judge"),
    "no positive inputs": (_nothing, ["--positive-inputs-dir", "nowhere"], "nowhere does not exist"),
    "positive inputs without rows file": (_folder("empty"), ["--positive-inputs-dir", "empty"], "has no repair.h5"),
    "positive inputs not a number": (
        _validation(_not_a_number, "chunks/0/repair.h5"),
        ["--positive-inputs-dir", "chunks/0"],
        "row 7 has pixels that are NaN",
    ),
    "resume and overwrite": (_nothing, ["--resume", "--overwrite"], "--resume goes on with a run and --overwrite"),
    "output is no run": (_own_files, [], "run: something that is not a run is there already"),
    "output is no run, overwrite": (_own_files, ["--overwrite"], "something that is not a run is there already"),
    "output is no run, resume": (_own_files, ["--resume"], "something that is not a run is there already"),
    "output is a file": (_file("run"), [], "run: something that is not a run is there already"),
    "no requirements": (_nothing, ["--requirements", "nowhere.toml"], "nowhere.toml cannot be read"),
    "requirement of an unknown label": (_requirements("label = 'Hat'\nmin_accuracy = 0.5"), REQUIRED, "label = 'Hat'"),
    "requirement with an unknown key": (_requirements("label = 6\nmin_precision = 0.5"), REQUIRED, "'min_precision'"),
    "requirements that contradict each other": (
        _requirements("label = 6\nmin_accuracy = 0.7", "label = 'Shirt'\nmin_accuracy = 0.8"),
        REQUIRED,
        "states min_accuracy of 6 Shirt as 0.8, [[require]] 1 as 0.7",
    ),
    "requirements with a confidence": (
        _confidence,
        REQUIRED,
        "requirements.toml states confidence = 0.95, which only --method CrossFit uses, expected none",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, batchspace: Path, refused: Refused) -> None:
    prepare, words, found = BAD[case]
    prepare(batchspace)
    refused(*BATCH, *words, says=(found,))


def test_a_run_is_not_replaced_unasked(finished: Path, refused: Refused) -> None:
    refused(*BATCH, says=("run: a run is there already", "--overwrite"))


def test_a_run_of_another_command_is_not_resumed(finished: Path, refused: Refused) -> None:
    path = finished / "run" / "run.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    del facts["identity"]
    put(path, json.dumps(facts).encode())
    refused(*BATCH, "--resume", says=(str(finished / "run"),))


def test_the_model_to_repair_is_not_replaced(finished: Path, refused: Refused) -> None:
    """Nor anything beside it: the folder `repair` is replaced as a whole."""
    (finished / "run" / "repair" / "model.keras").rename("run/repair/mine.keras")
    for name in ("run/repair/mine.keras", "run/repair"):
        refused(*BATCH, "--model-dir", name, "--overwrite", says=("mine.keras", "another --output-dir"))


# More searches in a task than are evaluated at once, so that they end one after the other.
LONG = [*BATCH, "--labels", "4,6", "--seeds", "6", "--num-iterations", "6", "--min-iteration-range", "2"]


def test_a_reader_at_every_moment(batchspace: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run directory changes where a file takes its place or goes: before and after each of these it is looked at."""
    monkeypatch.setattr("cluster.compute.compute.SEGMENT_SECONDS", 0.0)
    reader = Reader(batchspace / "run")
    looks = 0

    def watched(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal looks
            result = change(*arguments, **options)
            if holds_run(reader.directory):
                reader.look()
                looks += 1
            return result

        return call

    for owner, name in ((Path, "replace"), (Path, "rename"), (os, "unlink"), (os, "rmdir")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    done = command(*LONG, "--labels", "6", "--seeds", "5", "--num-iterations", "3")
    assert done.code == 0, done.err
    assert len(reader.done) == 20 and looks > 100


def test_finished_tables_load_elsewhere(finished: Path) -> None:
    import duckdb
    import pandas
    import polars

    for name in sorted(SCHEMAS.keys() - OF_METHODS):
        rows = read_table(Path("run"), name)
        path = Path("run") / f"{name}.arrow"
        assert len(rows) == len(pandas.read_feather(path)) == polars.read_ipc(path).height
        assert duckdb.sql("select count(*) from rows").fetchall() == [(len(rows),)]
    jobs = read_table(Path("run"), "jobs")
    fitness = sum(jobs["fitness"].to_pylist())
    assert pandas.read_feather("run/jobs.arrow")["fitness"].sum() == pytest.approx(fitness)
    assert polars.read_ipc("run/jobs.arrow")["fitness"].sum() == pytest.approx(fitness)
    assert duckdb.sql("select sum(fitness) from jobs").fetchall()[0][0] == pytest.approx(fitness)
