"""Bad input: exit code 2, one sentence that names file, found and expected, and nothing half-written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.main import main
from engine import backend
from tests.integration.conftest import HERE, MODEL, SHIPPED, Command, Refused, contents, ok, read_set, rewrite_set

SMALL = ["--num-particles", "6", "--num-iterations", "2"]
NEGATIVES = ["--target-data-dir", "data/negative/6"]

TEST = ["test", *MODEL, "--data-dir", "data", *HERE]
TARGET = ["target", *MODEL, "--data-dir", "data", *HERE]
LOCALIZE = ["localize", *MODEL, *NEGATIVES, *HERE]
OPTIMIZE = ["optimize", *MODEL, *NEGATIVES, *SMALL, "--run-dir", "run", *HERE]
CHART = ["utils", "draw_radar_chart", *MODEL, "--data-dir", "data", "--output-dir", "charts", *HERE]

READERS: dict[str, tuple[list[str], str]] = {
    "test": (TEST, "data/test.h5"),
    "target": (TARGET, "data/repair.h5"),
    "localize": (LOCALIZE, "data/negative/6/repair.h5"),
    "chart": (CHART, "data/test.h5"),
    "split": (["split", "data/repair.h5"], "data/repair.h5"),
    "negatives": (OPTIMIZE, "data/negative/6/repair.h5"),
    "positives": (OPTIMIZE, "data/positive/repair.h5"),
    "validation": ([*OPTIMIZE, "--val-data", "data/val.h5"], "data/val.h5"),
    "held-out test": ([*OPTIMIZE, "--test-data", "data/test.h5"], "data/test.h5"),
}
"""Commands and the image set that each of them reads."""


def _put(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _cut(path: Path) -> None:
    _put(path, path.read_bytes()[: path.stat().st_size // 2])


def rewriting(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda path: rewrite_set(path, change)


def _set(name: str, place: Any, value: Any) -> Callable[[Path], None]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name][place] = value

    return rewriting(change)


def _only(name: str, part: Any) -> Callable[[Path], None]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = arrays[name][part]

    return rewriting(change)


# What is done to the file, and what the sentence must say of it.
UNREADABLE = {
    "truncated": (_cut, "is damaged or cut short"),
    "two ones": (_set("labels", 2, 1), "row 2 of labels is [1 1 1 1 1 1 1 1 1 1]"),
    "not HDF5": (lambda path: _put(path, b"rows"), "is not an HDF5 file"),
    "no images": (rewriting(lambda arrays: arrays.pop("images")), 'no dataset "images"'),
    "no labels": (rewriting(lambda arrays: arrays.pop("labels")), 'no dataset "labels"'),
    "unequal": (_only("labels", slice(1, None)), "expected equal numbers"),
    "no one": (_set("labels", 2, 0), "row 2 of labels is [0 0 0 0 0 0 0 0 0 0]"),
}
UNFIT = {
    "NaN": (_set("images", (3, 4, 5, 0), np.nan), "row 3 has pixels that are NaN"),
    "shape": (_only("images", (slice(None), slice(16), slice(16))), "images of shape (16, 16, 3)"),
    "infinite": (_set("images", (3, 4, 5, 0), np.inf), "row 3 has pixels that are infinite"),
    "channels": (_only("images", (..., slice(1))), "images of shape (32, 32, 1)"),
    "not pictures": (
        _only("images", (slice(None), 0)),
        "rows of shape (32, 3), the model model.keras expects (32, 32, 3)",
    ),
    "more classes": (
        rewriting(lambda arrays: arrays.update(labels=np.pad(arrays["labels"], ((0, 0), (0, 3))))),
        "labels 13 classes, the model model.keras has 10",
    ),
}


def each(defects: Mapping[str, Any], first: str, readers: Iterable[str]) -> list[tuple[str, str]]:
    """Every defect for one command, and two of them, which are found in other places, for all that read so."""
    most = [(reader, defect) for reader in readers for defect in list(defects)[:2] if reader != first]
    return [*((first, defect) for defect in defects), *most]


@pytest.mark.parametrize(("reader", "defect"), each(UNREADABLE, "test", READERS))
def test_unreadable_image_set(reader: str, defect: str, workspace: Path, refused: Refused) -> None:
    words, file = READERS[reader]
    damage, found = UNREADABLE[defect]
    damage(workspace / file)
    refused(*words, says=(str(workspace / file), found))


@pytest.mark.parametrize(("reader", "defect"), each(UNFIT, "target", [name for name in READERS if name != "split"]))
def test_image_set_that_does_not_fit(reader: str, defect: str, workspace: Path, refused: Refused) -> None:
    words, file = READERS[reader]
    damage, found = UNFIT[defect]
    damage(workspace / file)
    refused(*words, says=(str(workspace / file), found))


@pytest.mark.parametrize("reader", [name for name in READERS if name not in ("localize", "negatives")])
def test_missing_image_set(reader: str, workspace: Path, refused: Refused) -> None:
    words, file = READERS[reader]
    (workspace / file).unlink()
    folder = str((workspace / file).parent) if reader == "positives" else str(workspace / file)
    refused(*words, says=(folder,))


@pytest.mark.parametrize("reader", ["test", "target", "chart", "split", "validation", "held-out test"])
def test_empty_image_set(reader: str, workspace: Path, refused: Refused) -> None:
    words, file = READERS[reader]
    rewrite_set(workspace / file, lambda arrays: arrays.update({name: array[:0] for name, array in arrays.items()}))
    refused(*words, says=(str(workspace / file), "has 0 rows", "expected at least one image"))


def test_validation_rows_without_a_failure_of_the_label(workspace: Path, refused: Refused) -> None:
    file = workspace / "data" / "val.h5"
    others = np.flatnonzero(read_set(file)[1] != 6)
    rewrite_set(file, lambda arrays: arrays.update({name: array[others] for name, array in arrays.items()}))
    refused(*OPTIMIZE, "--val-data", "data/val.h5", says=("data/val.h5: 0 failures of the label",))


@pytest.mark.parametrize("words", [TEST, TARGET, LOCALIZE, OPTIMIZE, CHART], ids=lambda words: words[0])
def test_missing_model(words: list[str], workspace: Path, refused: Refused) -> None:
    (workspace / "model.keras").unlink()
    refused(*words, says=("model.keras: no such file or folder",))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (_cut, "damaged or cut short"),
        (lambda path: _put(path, b"weights"), "a file of an unknown format"),
        (lambda path: _put(path, b""), "a file of an unknown format"),
    ],
    ids=["truncated", "text", "empty"],
)
def test_damaged_model(damage: Callable[[Path], Any], found: str, workspace: Path, refused: Refused) -> None:
    damage(workspace / "model.keras")
    refused(*TARGET, says=("model.keras: ", found))


def test_folder_without_one_model(workspace: Path, refused: Refused) -> None:
    refused("test", "--model-dir", "data/negative", *TEST[3:], says=("data/negative: found no model",))
    shutil.copy("model.keras", "data/negative/one.keras")
    shutil.copy("model.keras", "data/negative/two.keras")
    refused("test", "--model-dir", "data/negative", *TEST[3:], says=("found one.keras, two.keras", "exactly one"))


@pytest.mark.parametrize(
    ("number", "found"),
    [
        ("9", "found layer number 9, expected 0 to 8"),
        ("-10", "found layer number -10, expected 0 to 8"),
        ("6", "target layer 6 (flatten, Flatten) has no weights, expected all or layers of conv2d, conv2d_1"),
        ("flatten/*", "target layer flatten/* (flatten, Flatten) has no weights"),
        ("dense/scale", "target layer dense/scale is no weight of dense (Dense)"),
        ("nothing", "target layer nothing is no layer of the model, expected all or layers of conv2d, conv2d_1"),
        ("conv2d,nothing", "target layer nothing is no layer of the model"),
    ],
)
def test_target_layer(number: str, found: str, workspace: Path, refused: Refused) -> None:
    for words in (LOCALIZE, OPTIMIZE):
        refused(*words, "--target-layer", number, says=("model", found))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"6,0,0,0.5\r\n", "row 1 is about layer 6, expected layer 8 (dense_1)"),
        (b"0,0,0,0.5\r\n8,0,0,0.5\r\n", "row 1 is about layer 0, expected layer 8 (dense_1)"),
        (b"8,0,0,0.5\r\n8,96,0,0.5\r\n", "row 2 is weight (96, 0), expected a position inside the kernel 96x10"),
        (b"8,0,10,0.5\r\n", "row 1 is weight (0, 10)"),
        (b"8,-1,0,0.5\r\n", "row 1 is weight (-1, 0)"),
        (b"8,0,0,0.5\r\n8,1,0,0.5\r\n8,0,0,0.5\r\n", "rows 1 and 3 are both weight (0, 0)"),
        (b"layer,i,j,value\r\n8,0,0,0.5\r\n", "row 1 is 'layer,i,j,value', expected layer,i,j as whole numbers"),
        (b"8,0.5,0,0.5\r\n", "row 1 is '8,0.5,0,0.5'"),
        (b"8,0\r\n", "row 1 is '8,0'"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "not comma-separated text"),
        (None, "no such file, expected the weights.csv that `localize` writes"),
    ],
)
def test_weights_that_do_not_fit(content: bytes | None, found: str, workspace: Path, refused: Refused) -> None:
    weights = workspace / "data" / "negative" / "6" / "weights.csv"
    weights.unlink()
    if content is not None:
        weights.write_bytes(content)
    refused(*OPTIMIZE, "--method", "Arachne", says=(f"{weights}: ", found))


def test_more_particles_than_memory(workspace: Path, refused: Refused) -> None:
    message = refused(*OPTIMIZE, "--num-particles", 10**12, says=("for 1000000000000 particles", "GiB are free"))
    fit = int(message.rpartition("expected at most ")[2].split()[0])
    assert 1000 < fit < 10**12


def test_more_seeds_than_memory(workspace: Path, refused: Refused) -> None:
    refused(*OPTIMIZE, "--seeds", 10**9, says=("for 1000000000 searches of ", "GiB are free", "at most", " searches"))
    refused(*OPTIMIZE, "--seeds", 2**63, says=("seeds is 9223372036854775808, expected a whole number of 64 bits",))


def test_more_rows_than_memory(workspace: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "free_memory", lambda: 20 << 20)
    refused(*OPTIMIZE, says=("the search needs", "20.0 MiB are free, expected"))


def test_negatives_that_are_none(workspace: Path, refused: Refused) -> None:
    for words in (LOCALIZE, OPTIMIZE):
        numbered = [word.replace("negative/6", "negative/12") for word in words]
        refused(*numbered, says=("12 no label of", "expected 0 to 9"))
    shutil.rmtree("data/negative")
    for words in (LOCALIZE, OPTIMIZE):
        refused(*words, says=(f"{workspace}/data/negative",))


def test_label_without_failures(workspace: Path, command: Command) -> None:
    before = contents(workspace)
    words = [word.replace("negative/6", "negative/9") for word in (*LOCALIZE, *OPTIMIZE)]
    done = command(*words[: len(LOCALIZE)], "--verbose", "1")
    assert (done.code, done.err) == (0, "")
    assert "negative/9: the label has no failures, there is nothing to localize" in done.out
    assert contents(workspace) == before
    done = ok(command(*words[len(LOCALIZE) :], "--method", "Arachne", "--verbose", "1"))
    assert "negative/9: the label has no failures, the model is copied unchanged" in done.out
    assert "weights.csv" not in done.out
    copied = Path("data/negative/9/repair/model.keras")
    assert copied.read_bytes() == Path("model.keras").read_bytes()
    added = {path for path in contents(workspace) if path not in before and not path.startswith("run")}
    assert added == {"data/negative/9", "data/negative/9/repair", str(copied)}


def test_output_that_is_not_ours(workspace: Path, refused: Refused, command: Command) -> None:
    notes = Path("out/repair/notes.txt")
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    words = [*OPTIMIZE, "--output-dir", "out"]
    refused(*words, says=("out/repair holds no repaired model", "--overwrite"))
    refused(*words, "--overwrite=False", says=("out/repair holds no repaired model",))
    refused(*OPTIMIZE, "--output-dir", "model.keras", says=("model.keras is a file, expected a folder",))
    ok(command(*words, "--overwrite"))
    assert sorted(path.name for path in notes.parent.iterdir()) == ["model.keras", "repaired.json"]


def test_input_model_as_output(workspace: Path, refused: Refused) -> None:
    Path("out/repair").mkdir(parents=True)
    Path("model.keras").rename("out/repair/model.keras")
    for extra in ([], ["--overwrite"]):
        words = ["optimize", "--model-dir", "out/repair", *OPTIMIZE[3:], "--output-dir", "out", *extra]
        refused(*words, says=("out/repair holds the model to repair, expected another --output-dir",))


def test_run_directory_that_exists(workspace: Path, refused: Refused, command: Command) -> None:
    ok(command(*OPTIMIZE))
    refused(*OPTIMIZE, says=("run: a run is there already", "--overwrite"))
    ok(command(*OPTIMIZE, "--overwrite"))
    for extra in ([], ["--overwrite"]):
        refused(*OPTIMIZE, "--run-dir", "data", *extra, says=("something that is not a run",))
        refused(*OPTIMIZE, "--run-dir", "model.keras", *extra, says=("something that is not a run",))


@pytest.mark.parametrize("tree", ["positive", "negative"])
def test_targets_of_another_layout(tree: str, workspace: Path, refused: Refused, command: Command) -> None:
    folder = workspace / "data" / tree
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    refused(*TARGET, says=(f"{folder} was not made by target", "--overwrite"))
    ok(command(*TARGET, "--overwrite=True"))
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "labels.json").is_file()


def test_image_sets_that_are_not_ours(workspace: Path, refused: Refused, command: Command) -> None:
    rewrite_set(workspace / "data" / "test.h5", lambda arrays: None)
    words = ["prepare", "fashion-mnist", "--input-dir", SHIPPED, "--output-dir", "data"]
    refused(*words, says=("data/test.h5 exists and was not made by prepare", "--overwrite"))
    split = ["split", "data/repair.h5", "--chunks", "2"]
    ok(command(*split))
    refused(*split, says=("data/repairsets/0 exists", "--overwrite"))


def test_raw_data(workspace: Path, refused: Refused) -> None:
    words = ["prepare", "fashion-mnist", "--output-dir", "new", "--input-dir"]
    refused(*words, "nowhere", says=("nowhere: no such folder", "IDX files"))
    refused(*words, "data", says=("data has no train-images-idx3-ubyte.gz",))
    refused(*words, SHIPPED, "--data-ratio", "0.5,0.5,0.5,0", says=("sums to 1.5", "expected a sum of 1"))
    raw = workspace / "raw"
    shutil.copytree(SHIPPED, raw)
    _cut(raw / "t10k-images-idx3-ubyte.gz")
    refused(*words, "raw", says=("raw/t10k-images-idx3-ubyte.gz cannot be read", "expected a whole gzip"))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([*TEST, "--num-workers", "-1"], "num_workers is -1, expected 0 (this process) or more"),
        ([*TEST, "--spread-rows"], "num_workers is 0, expected at least 1 worker"),
        ([*TEST, "--batch-size", "0"], "batch_size is 0"),
        ([*TEST, "--gpus-per-worker", "-0.5"], "gpus_per_worker is -0.5"),
        ([*TEST, "--gpus-per-worker", "nan"], "gpus_per_worker is nan"),
        ([*TEST, "--gpus-per-worker", "inf"], "gpus_per_worker is inf"),
        ([*TEST, "--address", "auto"], "num_workers is 0 (this process) and address is 'auto'"),
        ([*TEST, "--verbose", "-5"], "verbose is -5, expected 0 or more"),
        ([*LOCALIZE, "--num-grad", "0"], "num_grad is 0"),
        ([*CHART, "--min-lim", "100"], "radial limits 100 and 100"),
        (["split", "data/repair.h5", "--chunk-size", "0"], "chunk size 0"),
        ([*OPTIMIZE, "--tiles"], "num_workers is 0, expected at least 1 worker"),
        ([*OPTIMIZE, "--num-particles", "0"], "num_particles is 0"),
        ([*OPTIMIZE, "--num-iterations", "0"], "num_iterations is 0"),
        ([*OPTIMIZE, "--min-iteration-range", "0"], "min_iteration_range is 0"),
        ([*OPTIMIZE, "--num-input-pos-sampled", "0"], "num_input_pos_sampled is 0"),
        ([*OPTIMIZE, "--tile-particles", "0"], "tile_particles is 0"),
        ([*OPTIMIZE, "--tile-rows", "-5"], "tile_rows is -5"),
        ([*OPTIMIZE, "--velocity-phi", "4"], "velocity_phi is 4.0, expected more than 4"),
        ([*OPTIMIZE, "--velocity-phi", "nan"], "velocity_phi is nan"),
        ([*OPTIMIZE, "--velocity-phi", "inf"], "velocity_phi is inf"),
        ([*OPTIMIZE, "--positive-weight", "-1"], "positive_weight is -1.0"),
        ([*OPTIMIZE, "--positive-weight", "nan"], "positive_weight is nan"),
        ([*OPTIMIZE, "--seeds", "0"], "seeds is 0"),
        ([*OPTIMIZE, "--seeds", "-3"], "seeds is -3"),
        ([*OPTIMIZE, "--seed", str(2**63)], f"seed is {2**63}, expected a whole number of 64 bits"),
        ([*OPTIMIZE, *["--positive-inputs-dir", "data/positive"] * 2], "2 positive folders for 1 negative ones"),
        ([*OPTIMIZE, *NEGATIVES], "give the same search"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_options(words: list[str], found: str, workspace: Path, refused: Refused) -> None:
    refused(*words, says=(found,))


@pytest.mark.parametrize(
    "words",
    [
        ["optimize", *MODEL, "--target-data-dir"],
        ["test", *MODEL, "--no-such-option"],
        ["test", *MODEL, "--num-workers", "two"],
        ["localize", *MODEL, *NEGATIVES, "--method", "Other"],
        ["prepare", "fashion-mnist", "--input-dir", "data", "--data-ratio", "all"],
        ["prepare", "--dataset"],
        ["prepare", "--dataset=mnist"],
        ["prepare", "bdd-objects", "--input-dir"],
        ["create_category_dir"],
        ["utils", "draw_radar_chart", *MODEL],
        ["mend"],
    ],
    ids=lambda words: words[-1],
)
def test_words_that_are_no_command_line(words: list[str], workspace: Path, command: Command) -> None:
    before = contents(workspace)
    done = command(*words)
    assert (done.code, done.out) == (2, "")
    assert "Error: " in done.err
    assert "Traceback" not in done.err
    assert contents(workspace) == before


def test_debug_shows_where(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*OPTIMIZE, "--seeds", "0", "--debug"])
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("error: seeds is 0, expected at least 1\n")


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1' (Connection refused)"),
        ("ray://127.0.0.1:1", "no Ray cluster answers at 'ray://127.0.0.1:1' (Connection refused)"),
        ("nonsense", "no Ray cluster answers at 'nonsense'"),
    ],
)
def test_address_where_no_ray_answers(address: str, found: str, workspace: Path, refused: Refused) -> None:
    refused("test", *MODEL, "--data-dir", "data", "--verbose", "0", "--address", address, says=(found,))


def test_more_gpus_than_there_are(workspace: Path, refused: Refused) -> None:
    words = ["test", *MODEL, "--data-dir", "data", "--verbose", "0", "--num-workers", "2", "--gpus-per-worker", "1000"]
    refused(*words, says=("2 workers with 1000 GPUs each need 2000 GPUs and the cluster has",))


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["optimise"], "optimize"),
        (["Localize"], "localize"),
        (["create-category-dirs"], "create-category-dir"),
        (["utils", "draw_radar"], "draw_radar_chart"),
        (["utils", "merge-repair-dat"], "merge_repair_data"),
        (["prepare", "cifar10"], "cifar-10"),
        (["patch", "aply"], "apply"),
    ],
)
def test_misspelt_commands(words: list[str], meant: str, command: Command) -> None:
    done = command(*words)
    assert done.code == 2
    assert done.err.endswith(f"Error: No such command '{words[-1]}' (did you mean '{meant}'?).\n")
    assert done.out == ""


def test_a_command_like_no_other(command: Command) -> None:
    done = command("qq\x1b[31m")
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith("Error: No such command 'qq\\x1b[31m'.\n")


def test_misspelt_layers(workspace: Path, refused: Refused) -> None:
    localize = ["localize", "--model-dir", "model.keras", "--target-data-dir", "data/negative/6", *HERE]
    says = "target layer Conv2D_1 is no layer of the model (did you mean 'conv2d_1'?), expected all or layers of conv2d"
    refused(*localize, "--target-layer", "Conv2D_1", says=(says,))
    says = "target layer dense_1/kernl is no weight of dense_1 (Dense) (did you mean 'dense_1/kernel'?), expected all"
    refused(*localize, "--target-layer", "dense_1/kernl", says=(says,))
    for number in ("9" * 5000, "--5"):
        refused(*localize, f"--target-layer={number}", says=("is no layer of the model, expected all or layers of",))


def test_misspelt_labels(workspace: Path, refused: Refused) -> None:
    listed = (
        "expected one of T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot, or an"
    )
    Path("goals.toml").write_text('[[require]]\nlabel = "shirt"\nmin_accuracy = 0.5\n')
    test = ["test", "--model-dir", "model.keras", "--data-dir", "data", "--requirements", "goals.toml", *HERE]
    refused(*test, says=("label = 'shirt' (did you mean 'Shirt'?), ", listed))
    batch = ["batch", "--method", "Arachne", *MODEL, "--chunks", "data", "--val-data", "data/val.h5", "--output-dir=o"]
    refused(*batch, "--labels", "sneakers", *HERE, says=("labels has 'sneakers' (did you mean 'Sneaker'?), ", listed))
    overlay = ["utils", "overlay_bubble_chart", "--model-dir", "model.keras", "--model-dir-overlay", "model.keras"]
    says = ("target_label is Ankle Boot (did you mean 'Ankle boot'?), ", listed)
    refused(*overlay, "--data-dir", "data", "--target-label", "Ankle Boot", *HERE, says=says)
