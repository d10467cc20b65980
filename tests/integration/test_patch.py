from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest

from cluster.records.rows import patch_places, patches_batch
from cluster.records.schema import SCHEMAS
from cluster.records.store import RunRecords
from engine.models.load import load_model
from engine.patches.arrow import read_patch, read_placed, write_patch
from engine.patches.patch import NO_CHANGE, Patch, applied, tensors_patch
from tests.engine.patches.test_patch import patch_of, rows_of
from tests.engine.patches.test_save import content
from tests.integration.conftest import MODEL, SOURCES, Command, Refused, ok, weights_of

# Weight and flat index; each model has more kernels than its last one.
PLACES = {
    "model.keras": [("dense_1/kernel", 957), ("dense_1/kernel", 3), ("conv2d/bias", 15), ("conv2d_1/kernel", 4607)],
    "sequential.h5": [("dense/kernel", 179), ("dense/kernel", 0), ("conv2d/kernel", 17)],
    "sequential-savedmodel": [("dense/kernel", 179), ("dense/kernel", 0), ("conv2d/kernel", 17)],
}


def written(name: str, model: str, places: Sequence[tuple[str, int]], new: Sequence[float]) -> Patch:
    """Write a patch file that gives some places of a model new values; returns its patch."""
    old = weights_of(model)
    rows = [(weight, flat, old[weight].reshape(-1)[flat], to) for (weight, flat), to in zip(places, new, strict=True)]
    write_patch(Path(name), patch_of(rows), {weight: array.shape for weight, array in old.items()})
    return patch_of(rows)


def record_run(
    directory: str, jobs: dict[str, Patch], *, chosen: Sequence[str] = (), mode: str | None = None, done: bool = True
) -> None:
    """Records of a run on the shipped model; each job offers a second patch, of rank 1, that is not meant."""
    facts = {} if mode is None else {"mode": mode}
    records = RunRecords.create(Path(directory), facts, overwrite=False)
    shapes = {name: array.shape for name, array in weights_of("model.keras").items()}
    for job, patch in jobs.items():
        if job != "batch":
            row = {"job": job, "step": 1, "state": "done", "chosen": job in chosen}
            records.replace("jobs", job, [dict.fromkeys(SCHEMAS["jobs"].names) | row])
        offered = patches_batch({job: [(2.0, patch.new), (1.0, patch.new + 1)]}, patch_places(patch, shapes))
        records.write("patches", job, pa.Table.from_batches([offered]))
    if done:
        records.compact(facts)


@pytest.mark.parametrize("name", SOURCES)
def test_there_and_back(name: str, models: Path, command: Command) -> None:
    """A patch changes its places and nothing else, and what it did can be taken back bit for bit."""
    new = [0.1, -0.0, 1e-40, 3.0][: len(PLACES[name])]
    patch = written("do.arrow", name, PLACES[name], new)
    done = command("patch", "apply", "do.arrow", "--model-dir", name, "--output-dir", "there")
    assert (done.code, done.err) == (0, "")
    file = {"model.keras": "/model.keras", "sequential.h5": "/model.h5", "sequential-savedmodel": ""}[name]
    assert done.out == f"{len(patch)} weights changed\ncreated files:\nthere/repair{file}\n"
    before, after = weights_of(name), weights_of("there/repair")
    for path, array in before.items():
        assert after[path].tobytes() == applied(patch, path, array).tobytes()
    assert content(Path(name)) != content(Path(f"there/repair{file}"))

    done = command("patch", "revert", "do.arrow", "--output", "undo.arrow")
    assert (done.code, done.err, done.out) == (0, "", f"{len(patch)} weights\ncreated files:\nundo.arrow\n")
    undo = ["patch", "apply", "--model_dir=there/repair", "--output_dir=back", "undo.arrow"]
    ok(command(*undo))
    assert {path: array.tobytes() for path, array in weights_of("back/repair").items()} == {
        path: array.tobytes() for path, array in before.items()
    }
    back = Path(f"back/repair{file}")
    assert content(back) == content(Path(name))
    if name == "sequential.h5":
        assert back.read_bytes() == Path(name).read_bytes()
    if name == "model.keras":
        with zipfile.ZipFile(back) as new_file, zipfile.ZipFile(name) as old_file:
            assert {member: new_file.read(member) for member in new_file.namelist()} == {
                member: old_file.read(member) for member in old_file.namelist()
            }


def test_a_repaired_model_is_replaced_as_a_whole(models: Path, command: Command) -> None:
    for name in ("sequential.h5", "model.keras", "sequential-savedmodel"):
        written("do.arrow", name, PLACES[name], [1.0] * len(PLACES[name]))
        ok(command("patch", "apply", "--model-dir", name, "--output-dir", "out", "do.arrow", "--overwrite"))
        assert load_model(Path("out/repair")).format in name.replace("-", "")
        assert [path.name for path in Path("out").iterdir()] == ["repair"]


def test_rows_that_change_nothing_are_not_counted(models: Path, command: Command) -> None:
    same = float(weights_of("model.keras")["dense_1/kernel"].reshape(-1)[3])
    written("do.arrow", "model.keras", PLACES["model.keras"][:2], [1.0, same])
    done = command("patch", "apply", "do.arrow", "--model-dir", "model.keras", "--output-dir", "out")
    assert done.out.startswith("1 weights changed\n")


def test_the_weights_of_a_repair_applied_again(workspace: Path, command: Command) -> None:
    """The weights.csv and the run of `optimize` make the model that `optimize` saved, byte for byte."""
    here = ["--num-workers", "0", "--verbose", "0", "--num-particles", "20", "--num-iterations", "10"]
    repaired, weights = Path("data/negative/6/repair/model.keras"), "data/negative/6/weights.csv"
    made_for = ["--model-dir", "model.keras"]
    ok(command("optimize", *made_for, "--target-data-dir", "data/negative/6", "--run-dir", "run", *here))
    assert repaired.read_bytes() != Path("model.keras").read_bytes()
    for patch in (weights, "run"):
        ok(command("patch", "apply", patch, *made_for, "--output-dir", "again"))
        assert Path("again/repair/model.keras").read_bytes() == repaired.read_bytes()

    ok(command("patch", "revert", weights, *made_for, "--output", "undo.arrow"))
    ok(command("patch", "apply", "undo.arrow", "--model-dir", repaired, "--output-dir", "back"))
    assert content(Path("back/repair/model.keras")) == content(Path("model.keras"))
    done = command("patch", "apply", weights, "--model-dir", repaired, "--output-dir", "twice")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {weights}: row 1 has the value ")


def test_patches_of_a_run(models: Path, command: Command) -> None:
    """The batch's patch, the only chosen job's, or the job's that is named."""
    patches = [written("p.arrow", "model.keras", [("dense_1/kernel", 12)], [float(n)]) for n in range(3)]
    jobs = dict(zip("ab", patches, strict=False))
    record_run("batch", {**jobs, "batch": patches[2]}, chosen="a", mode="rounds")
    record_run("one", jobs, chosen="b")
    record_run("on", jobs, chosen="b", done=False)
    found = {"batch": 2, "batch:batch": 2, "batch:a": 0, "one": 1, "one:a": 0, "on:a": 0, "./one/:b": 1}
    for name, new in found.items():
        ok(command("patch", "revert", name, "--output", "undo.arrow", "--overwrite"))
        (row,) = rows_of(read_patch(Path("undo.arrow")))
        assert row[:3] == ("dense_1/kernel", 12, np.float32(new).view(np.uint32))
    ok(command("patch", "apply", "one", "--model-dir", "model.keras", "--output-dir", "out"))
    assert weights_of("out/repair")["dense_1/kernel"][1, 2] == 1


def test_a_batch_that_ended_with_the_model_as_it_was(models: Path, command: Command) -> None:
    """Its patch is empty, whatever a job in between had to offer."""
    record_run(
        "run", {"a": written("p.arrow", "model.keras", [("dense_1/kernel", 12)], [1.0])}, chosen="a", mode="chain"
    )
    done = command("patch", "apply", "run", "--model-dir", "model.keras", "--output-dir", "out")
    assert done.out == "0 weights changed\ncreated files:\nout/repair/model.keras\n"
    assert Path("out/repair/model.keras").read_bytes() == Path("model.keras").read_bytes()


def test_a_run_of_which_one_patch_must_be_named(models: Path, refused: Refused, command: Command) -> None:
    patch = written("p.arrow", "model.keras", [("dense_1/kernel", 12)], [1.0])
    record_run("several", dict.fromkeys("abc", patch), chosen="ac")
    record_run("none", dict.fromkeys("abc", patch))
    record_run("many", dict.fromkeys([f"j{n:02d}" for n in range(12)], patch))
    record_run("on", dict.fromkeys("ab", patch), chosen="a", done=False)
    record_run("batch", dict.fromkeys("ab", patch), chosen="a", mode="rounds", done=False)
    record_run("empty", {"a": NO_CHANGE}, chosen="a")
    record_run("ended", {"a": patch, "batch": patch}, mode="rounds")
    revert = ["--output", "undo.arrow"]
    for name, says in {
        "several": "several: saved the patches of 2 jobs, expected RUN:JOB of a, c\n",
        "none": "none: saved the patches of 0 jobs, expected RUN:JOB of a, b, c\n",
        "many": "expected RUN:JOB of j00, j01, j02, j03, j04, j05, j06, j07, j08, j09 and 2 more\n",
        "on": "on: the run has not ended, expected RUN:JOB of a, b\n",
        "batch": "batch: the run has not ended, expected RUN:JOB of a, b\n",
        "batch:batch": "batch: holds no patch of a job 'batch', expected one of a, b\n",
        "ended:z": "ended: holds no patch of a job 'z', expected one of a, batch\n",
        "several:d": "several: holds no patch of a job 'd', expected one of a, b, c\n",
        "several:batch": "several: holds no patch of a job 'batch', expected one of a, b, c\n",
        "empty": "empty: holds no patch of a job 'a', expected one\n",
    }.items():
        refused("patch", "revert", name, *revert, says=(says,))
    file = Path("several:a")
    written("p.arrow", "model.keras", [("dense_1/kernel", 13)], [7.0])
    Path("p.arrow").rename(file)  # a file of that name goes first
    ok(command("patch", "revert", file, *revert))
    assert read_patch(Path("undo.arrow")).flat_index.tolist() == [13]


def test_records_that_cannot_be_read(models: Path, refused: Refused) -> None:
    patch = written("p.arrow", "model.keras", [("dense_1/kernel", 12)], [1.0])
    revert = ["--output", "undo.arrow"]
    records = "its records cannot be read, expected a whole run directory"
    for name, file, damage, says in (
        ("a", "patches.arrow", lambda whole: whole[:-100], records),
        ("b", "patches.arrow", lambda _: Path("p.arrow").read_bytes(), records),
        ("c", "jobs.arrow", lambda _: b"", records),
        ("d", "run.json", lambda _: b"{", "is damaged"),
    ):
        record_run(name, {"job": patch}, chosen=["job"])
        path = Path(name) / file
        path.write_bytes(damage(path.read_bytes()))
        refused("patch", "revert", name, *revert, says=(f"error: {name}", says))
    record_run("f", {"job": patch_of([("dense_1/kernel", 12, 1, np.nan)])}, chosen=["job"])
    refused("patch", "revert", "f", *revert, says=("f: job 'job': would set 'dense_1/kernel' at index 12 to nan",))
    Path("folder").mkdir()
    refused("patch", "revert", "folder", *revert, says=("folder: found no run.json, expected the directory of a run",))


def test_merging(models: Path, command: Command) -> None:
    """Patches of every kind; where two disagree, the first holds."""
    places = PLACES["model.keras"]
    written("one.arrow", "model.keras", places[:2], [1.0, 2.0])
    record_run("run", {"job": written("p.arrow", "model.keras", places[1:3], [3.0, 4.0])}, chosen=["job"])
    old = weights_of("model.keras")
    kernel = old["dense_1/kernel"]
    Path("weights.csv").write_text(f"8,95,7,{kernel[95, 7]!s},5.0\n8,0,0,{kernel[0, 0]!s},6.0\n")
    done = command(
        "patch", "merge", "one.arrow", "run", "weights.csv", "--model-dir", "model.keras", "--output", "a/m.arrow"
    )
    assert (done.code, done.err) == (0, "")
    assert done.out == "4 weights, on 2 of them the patches disagree\ncreated files:\na/m.arrow\n"
    expected = patch_of(
        [
            ("dense_1/kernel", 0, kernel[0, 0], 6.0),
            ("dense_1/kernel", 3, kernel[0, 3], 2.0),
            ("dense_1/kernel", 957, kernel[95, 7], 1.0),
            ("conv2d/bias", 15, old["conv2d/bias"][15], 4.0),
        ]
    )
    assert rows_of(read_patch(Path("a/m.arrow"))) == rows_of(expected)
    ok(command("patch", "apply", "a/m.arrow", "--model-dir", "model.keras", "--output-dir", "out"))
    after = weights_of("out/repair")
    assert (after["dense_1/kernel"][0, 0], after["conv2d/bias"][15]) == (6, 4)


def test_the_difference_of_two_models(models: Path, command: Command) -> None:
    patch = written("do.arrow", "sequential-savedmodel", [("dense/kernel", 171), ("conv2d/kernel", 17)], [0.5, -2.0])
    ok(command("patch", "apply", "do.arrow", "--model-dir", "sequential-savedmodel", "--output-dir", "out"))
    diff = ["patch", "diff", "--model-dir", "sequential-savedmodel", "--other-model-dir"]
    done = command(*diff, "sequential-savedmodel", "--output", "none.arrow")
    assert (done.code, done.err, done.out) == (0, "", "0 weights differ\ncreated files:\nnone.arrow\n")
    assert len(read_patch(Path("none.arrow"))) == 0

    done = command(*diff, "out/repair", "--output", "diff.arrow")
    assert (done.code, done.err) == (0, "")
    first, header, line, *rows, created, file = done.out.splitlines()
    assert (first, created, file) == ("2 weights differ", "created files:", "diff.arrow")
    assert header.split() == ["weight", "index", "old", "new", "change"]
    assert set(line) == {"-", " "}
    old = patch.old
    assert [row.split() for row in rows] == [
        ["conv2d/kernel", "2,2,0,1", str(old[1]), "-2.0", f"{-2 - float(old[1]):+.6g}"],
        ["dense/kernel", "17,1", str(old[0]), "0.5", f"{0.5 - float(old[0]):+.6g}"],
    ]
    found = read_patch(Path("diff.arrow"))
    assert rows_of(found) == sorted(rows_of(patch))
    ok(command("patch", "apply", "diff.arrow", "--model-dir", "sequential-savedmodel", "--output-dir", "two"))
    assert content(Path("two/repair")) == content(Path("out/repair"))


def test_the_difference_of_two_formats_and_many_weights(models: Path, command: Command) -> None:
    written("do.arrow", "sequential.h5", [("dense/kernel", flat) for flat in range(43)], [9.0] * 43)
    ok(command("patch", "apply", "do.arrow", "--model-dir", "sequential.h5", "--output-dir", "out"))
    load_model(Path("sequential.h5")).model.save("same.keras")
    for model in ("sequential.h5", "same.keras"):
        done = ok(command("patch", "diff", "--model-dir", model, "--other-model-dir", "out/repair"))
        lines = done.out.splitlines()
        assert lines[0] == "43 weights differ"
        assert lines[-1] == "… and 3 more"
        assert len(lines) == 1 + 2 + 40 + 1


def test_models_that_no_patch_lies_between(models: Path, refused: Refused, command: Command) -> None:
    first = load_model(Path("sequential.h5")).model
    for name, units in (("wide.keras", 20), ("same.keras", 10)):
        layers = [
            keras.layers.Conv2D(2, 3, name="conv2d"),
            keras.layers.Flatten(),
            keras.layers.Dense(units, name="dense"),
        ]
        keras.Sequential([keras.Input(first.input_shape[1:]), *layers]).save(name)
    keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, name="out")]).save(
        "o.keras"
    )
    diff = ["patch", "diff", "--model-dir", "wide.keras", "--other-model-dir"]
    refused(*diff, "same.keras", says=("error: same.keras: 'dense/kernel' has the shape ", "as in wide.keras"))
    refused(*diff, "o.keras", says=("error: o.keras: has no weight 'conv2d/kernel', expected it as in wide.keras",))
    other = ["patch", "diff", "--model-dir", "o.keras", "--other-model-dir", "wide.keras"]
    refused(*other, says=("error: wide.keras: has no weight 'out/kernel', expected it as in o.keras",))
    more = keras.models.load_model("o.keras")
    more.add(keras.layers.Dense(10, name="last"))
    more.save("more.keras")
    longer = ["patch", "diff", "--model-dir", "o.keras", "--other-model-dir", "more.keras"]
    refused(*longer, says=("error: o.keras: has no weight 'last/kernel', expected it as in more.keras",))
    refused(*diff, "nowhere", says=("nowhere: no such file or folder",))

    for name, step in (("a.keras", 1), ("b.keras", 2)):
        layer = keras.layers.Dense(
            3, dtype="float16", name="half", kernel_initializer=keras.initializers.Constant(step)
        )
        keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(dtype="float16"), layer]).save(name)
    half = ["patch", "diff", "--model-dir", "a.keras", "--other-model-dir"]
    assert command(*half, "a.keras").out == "0 weights differ\n"
    refused(*half, "b.keras", says=("'half/kernel': found values of type float16, expected float32 to be patched",))


def test_patches_that_do_not_fit_the_model(models: Path, command: Command, refused: Refused) -> None:
    apply = ["patch", "apply", "--model-dir", "model.keras", "--output-dir", "out"]
    kernel = weights_of("model.keras")["dense_1/kernel"]
    shapes: dict[str, Any] = {"dense_1/kernel": (96, 10), "dense_9/kernel": (96, 10), "conv2d/bias": (96, 10)}
    for weight, flat, shape, says in (
        ("dense_1/kernel", 12, (96, 10), f"'dense_1/kernel' at index 12 is {kernel[1, 2]!s}, expected 0.5 as when"),
        ("dense_9/kernel", 12, (96, 10), "changes 'dense_9/kernel', expected a weight of the model"),
        ("conv2d/bias", 16, (96, 10), "has index 16 in 'conv2d/bias', expected 0 to 15"),
        (
            "dense_1/kernel",
            12,
            (10, 96),
            "row 0 has flat_index 12 and index [0, 12] in 'dense_1/kernel', expected index",
        ),
    ):
        write_patch(Path("p.arrow"), patch_of([(weight, flat, 0.5, 1)]), shapes | {weight: shape})
        refused(*apply, "p.arrow", says=("error: p.arrow", says))
    Path("weights.csv").write_text("8,1,2,0.5,1.0\n")
    refused(
        *apply, "weights.csv", says=("weights.csv: row 1 has the value 0.5 for (1, 2) of 'dense_1/kernel', expected",)
    )

    written("p.arrow", "model.keras", [("dense_1/kernel", 12)], [1.0])
    ok(command(*apply, "p.arrow"))
    again = ["patch", "apply", "--model-dir", "out/repair", "--output-dir", "twice", "p.arrow"]
    refused(*again, says=("error: p.arrow does not fit out/repair/model.keras: 'dense_1/kernel' at index 12 is 1.0",))


def test_places_that_nothing_is_written_to(models: Path, command: Command, refused: Refused) -> None:
    written("p.arrow", "model.keras", [("dense_1/kernel", 12)], [1.0])
    Path("mine/repair").mkdir(parents=True)
    Path("mine/repair/notes.txt").write_text("mine")
    apply = ["patch", "apply", "p.arrow", "--model-dir", "model.keras", "--output-dir"]
    refused(*apply, "mine", says=("mine/repair holds no repaired model", "--overwrite"))
    refused(*apply, "p.arrow", says=("p.arrow is a file, expected a folder",))
    ok(command(*apply, "out"))
    own = ["patch", "apply", "p.arrow", "--model-dir", "out/repair", "--output-dir", "out", "--overwrite"]
    refused(*own, says=("out/repair holds the model to repair, expected another --output-dir",))

    Path("folder.arrow").mkdir()
    same = ["--model-dir", "model.keras", "--other-model-dir", "model.keras"]
    for words in (["revert", "p.arrow"], ["merge", "p.arrow", "p.arrow"], ["diff", *same]):
        for output, says in {
            "p.arrow": "p.arrow: exists already, expected a new name or --overwrite",
            "folder.arrow": "folder.arrow: is a folder, expected a file or none",
            "undo.csv": "undo.csv: found the name of no patch file, expected one that ends in .arrow",
            "p.arrow/undo.arrow": "p.arrow: is a file, expected a folder, or none, for p.arrow/undo.arrow",
        }.items():
            refused("patch", *words, "--output", output, says=(says,))
    ok(command("patch", "revert", "p.arrow", "--output", "p.arrow", "--overwrite=True"))
    assert read_patch(Path("p.arrow")).old.tolist() == [1.0]


def test_what_was_read_and_what_a_run_found_stay(models: Path, refused: Refused) -> None:
    """Whatever is to be overwritten; a run's patch and tables are files of the same ending."""
    patch = written("p.arrow", "model.keras", [("dense_1/kernel", 12)], [1.0])
    written("other.arrow", "model.keras", [("dense_1/kernel", 13)], [1.0])
    Path("link.arrow").symlink_to("p.arrow")
    record_run("run", {"job": patch}, chosen=["job"])
    record_run("begun", {"job": patch}, chosen=["job"], done=False)
    same = ["--model-dir", "model.keras", "--other-model-dir", "model.keras"]
    for name in ("p.arrow", "./p.arrow", "link.arrow"):
        merge = ["patch", "merge", "other.arrow", "p.arrow", "--overwrite", "--output", name]
        refused(*merge, says=("p.arrow: " if name == "./p.arrow" else f"{name}: ", "is one of the patches to merge"))
    for words in (["merge", "p.arrow", "run"], ["revert", "run"], ["diff", *same]):
        for name in ("run/jobs.arrow", "run/new.arrow", "begun/patches/job-00000.arrow"):
            says = (f"{name}: ", "is the folder of a run, expected another place")
            refused("patch", *words, "--overwrite", "--output", name, says=says)
    apply = ["patch", "apply", "p.arrow", "--model-dir", "model.keras", "--output-dir", "run"]
    refused(*apply, says=("is the folder of a run, expected another place",))


def test_words_that_name_no_patch(models: Path, refused: Refused) -> None:
    written("p.arrow", "model.keras", [("dense_1/kernel", 12)], [1.0])
    Path("cut.arrow").write_bytes(Path("p.arrow").read_bytes()[:-9])
    Path("weights.csv").write_text("8,1,2,0.5,1.0\n")
    output = ["--output", "new.arrow"]
    for name, says in {
        "nowhere": "nowhere: no such file or folder, expected a patch file, a weights.csv, a run or RUN:JOB",
        "nowhere:job": "nowhere:job: no such file or folder",
        "cut.arrow": "cut.arrow: cannot be read as an Arrow file, expected a whole patch file",
        "model.keras": "model.keras: cannot be read as an Arrow file, expected a whole patch file",
        "weights.csv": "weights.csv: names weights by the number of their layer, expected --model-dir beside it",
    }.items():
        refused("patch", "revert", name, *output, says=(f"error: {says}",))
        refused("patch", "merge", "p.arrow", name, *output, says=(f"error: {says}",))
    refused("patch", "merge", "p.arrow", *output, says=("p.arrow: found one patch, expected at least two to merge",))


def test_patches_of_different_models_are_not_merged(models: Path, refused: Refused) -> None:
    written("a.arrow", "model.keras", [("dense_1/kernel", 12)], [1.0])
    write_patch(Path("b.arrow"), patch_of([("dense_1/kernel", 12, 0.5, 1)]), {"dense_1/kernel": (96, 10)})
    says = "when patch 1 was made and 0.5 when patch 2 was, expected patches of one"
    refused(
        "patch", "merge", "a.arrow", "b.arrow", "--output=m.arrow", says=("'dense_1/kernel' at index 12 was ", says)
    )


def test_patches_without_a_model_need_no_tensorflow(models: Path) -> None:
    """`revert` and `merge` of patch files and runs answer at once."""
    record_run("run", {"job": written("p.arrow", "model.keras", [("dense_1/kernel", 12)], [1.0])}, chosen=["job"])
    script = (
        "import sys; from cli.main import run\n"
        "assert run(['patch', 'revert', 'run', '--output', 'u.arrow']) == 0\n"
        "assert run(['patch', 'merge', 'p.arrow', 'run:job', '--output', 'm.arrow']) == 0\n"
        "assert not {'tensorflow', 'keras', 'ray'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def tensors() -> Patch:
    """Write tensors.arrow, all of the last layer anew; the first value of its kernel stays."""
    old = {path: array for path, array in weights_of("model.keras").items() if path.startswith("dense_1/")}
    new = {path: array + np.float32(2) for path, array in old.items()}
    new["dense_1/kernel"][0, 0] = old["dense_1/kernel"][0, 0]
    patch = tensors_patch(old, new)
    write_patch(Path("tensors.arrow"), patch, {path: array.shape for path, array in old.items()})
    return patch


def test_whole_tensors(models: Path, command: Command, refused: Refused) -> None:
    """Applied, refused where stale, shown, found again as a difference and taken back."""
    patch, before = tensors(), weights_of("model.keras")
    rows, columns, count = 96, 10, 970
    assert len(patch) == count
    apply = ["patch", "apply", *MODEL, "--output-dir"]
    done = command(*apply, "there", "tensors.arrow")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{count - 1} weights changed\n")
    after = weights_of("there/repair")
    for path, array in before.items():
        assert after[path].tobytes() == applied(patch, path, array).tobytes()
    again = ["patch", "apply", "--model-dir", "there/repair", "--output-dir"]
    refused(*again, "twice", "tensors.arrow", says=("error: tensors.arrow does not fit there/repair", "at index 1 is "))

    shown = command("patch", "show", "tensors.arrow")
    assert (shown.code, shown.err) == (0, "")
    first, header, _, kernel, bias = shown.out.splitlines()
    assert first == f"{count - 1} weights change"
    assert header.split() == ["weight", "shape", "changed", "largest", "change", "RMS", "change"]
    path, shape, changed, largest, rms = kernel.split()
    assert (path, shape, changed) == ("dense_1/kernel", f"{rows}x{columns}", str(rows * columns - 1))
    assert float(largest) == pytest.approx(2)
    assert float(rms) == pytest.approx(2 * np.sqrt(1 - 1 / (rows * columns)), rel=1e-5)
    assert bias.split()[:3] == ["dense_1/bias", str(columns), str(columns)]
    found = command("patch", "diff", *MODEL, "--other-model-dir", "there/repair", "--output", "d.arrow")
    _, *lines = shown.out.splitlines()
    assert found.out.splitlines() == [f"{count - 1} weights differ", *lines, "created files:", "d.arrow"]
    assert Path("d.arrow").read_bytes() == Path("tensors.arrow").read_bytes()

    done = command("patch", "revert", "tensors.arrow", "--output", "undo.arrow")
    assert done.out == f"{count} weights\ncreated files:\nundo.arrow\n"
    ok(command(*again, "back", "undo.arrow"))
    assert content(Path("back/repair/model.keras")) == content(Path("model.keras"))


def test_whole_tensors_and_single_weights(models: Path, command: Command, refused: Refused) -> None:
    """A union of both, also taken back; what a tensor of another shape is told."""
    patch = tensors()
    written("one.arrow", "model.keras", [("dense_1/kernel", 0), ("dense_1/kernel", 7)], [3.0, 4.0])
    written("two.arrow", "model.keras", [("conv2d/bias", flat) for flat in range(11)], [3.0] * 11)
    merge = ["patch", "merge", "tensors.arrow"]
    done = command(*merge, "one.arrow", "--output", "whole.arrow")
    assert done.out.startswith("970 weights, on 1 of them the patches disagree\n")
    placed = read_placed(Path("whole.arrow"))
    assert placed.whole == {"dense_1/kernel": (96, 10), "dense_1/bias": (10,)}
    assert placed.patch.new[[0, 7]].tolist() == [3, patch.new[7]]

    done = command(*merge, "two.arrow", "--output", "mixed.arrow")
    assert done.out.startswith("981 weights, on 0 of them the patches disagree\n")
    assert not read_placed(Path("mixed.arrow")).whole
    assert len(command("patch", "show", "mixed.arrow").out.splitlines()) == 1 + 2 + 40 + 1
    ok(command("patch", "revert", "mixed.arrow", "--output", "undo.arrow"))
    ok(command("patch", "apply", "mixed.arrow", "--model-dir", "model.keras", "--output-dir", "out"))
    ok(command("patch", "apply", "undo.arrow", "--model-dir", "out/repair", "--output-dir", "back"))
    assert content(Path("back/repair/model.keras")) == content(Path("model.keras"))
    found = command("patch", "diff", "--model-dir", "model.keras", "--other-model-dir", "out/repair")
    assert [line.split()[0] for line in found.out.splitlines()] == [
        *("980", "weight", "--------------", "conv2d/bias", "dense_1/kernel", "dense_1/bias")
    ]

    write_patch(Path("turned.arrow"), patch, {"dense_1/kernel": (10, 96), "dense_1/bias": (10,)})
    says = "turned.arrow: 'dense_1/kernel' has the shape (10, 96), expected (96, 10) as in the model"
    refused("patch", "apply", "turned.arrow", "--model-dir", "model.keras", "--output-dir", "no", says=(says,))
    says = "'dense_1/kernel' has the shape (96, 10) in one patch and (10, 96) in another, expected patches of one model"
    refused(*merge, "turned.arrow", "--output", "no.arrow", says=(says,))
