from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from zipfile import ZipFile

import h5py
import numpy as np
import pytest

from cli.main import run
from engine.models.load import load_model
from tests.integration.conftest import SCRIPT, Command, Done, Refused, contents, ok, stop
from tests.support.batches import write_rows

ROWS = 120
TRAIN = ("train", "--model=base", "--data-dir", "data", "--verbose", "0")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/train.h5`: shipped images of Fashion-MNIST with the names of their labels."""
    root = tmp_path_factory.mktemp("dataset")
    write_rows(root / "data" / "train.h5", slice(0, ROWS))
    return root


@pytest.fixture
def place(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(dataset, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A folder with a model trained by the command in this process, and how that ended."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    words = ["train", "--model", "base", "--data-dir", dataset / "data", "--output-dir", folder, "--epochs", "2"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*map(str, words), "--seed", "7", "--verbose", "2"])
    return folder, Done(code, out.getvalue(), err.getvalue())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_printed_and_written(trained: tuple[Path, Done]) -> None:
    folder, done = trained
    assert done.code == 0, done.err
    right = correct(done.out)
    facts = json.loads((folder / "training.json").read_text())
    assert facts["correct"] == {"training": [right[0], 96], "validation": [right[1], 24]}
    lines = done.out.splitlines()
    assert lines[2:5] == ["created files:", f"{folder}/model.keras", f"{folder}/training.json"]
    for number, line in enumerate(lines[5:7], start=1):
        name = rf"weights\.0{number}-\d\.\d\d\.weights\.h5"
        assert re.fullmatch(f"{folder}/logs/model_check_points/{name}", line)
    assert lines[7:] == [f"{folder}/logs/tensor_boards"]
    assert all(Path(line).exists() for line in lines[3:])
    assert sorted(path.name for path in Path(lines[7]).iterdir()) == ["train", "validation"]

    assert "conv2d (Conv2D)" in done.err
    assert "base: 554794 weights, trained on " in done.err
    for number, rate in ((1, 0.01 * 1e-6 ** (3 / 10_000)), (2, 0.01 * 1e-6 ** (6 / 10_000))):  # three steps each
        values = r"loss \d\.\d{4}, accuracy [\d.]+%, val_loss \d\.\d{4}, val_accuracy [\d.]+%, learning rate"
        assert re.search(rf"^epoch {number} of 2: {values} {rate:.3g}$", done.err, re.MULTILINE)


def correct(out: str) -> list[int]:
    """Rows that the model gets right, of training and validation, as the command prints them."""
    found = []
    for kind, rows, line in zip(("training", "validation"), (96, 24), out.splitlines(), strict=False):
        match = re.fullmatch(rf"accuracy on {kind} rows: ([0-9.]+)% \((\d+) of {rows}\)", line)
        assert match is not None and match[1] == f"{100 * int(match[2]) / rows:.2f}"
        found.append(int(match[2]))
    return found


def test_a_trained_model_is_read_by_every_command(trained: tuple[Path, Done], place: Path, command: Command) -> None:
    folder, done = trained
    right = sum(correct(done.out))
    here = ["--num-workers", "0", "--verbose", "0"]
    tested = command("test", "--model-dir", folder, "--data-dir", "data", "--target-data", "train.h5", *here)
    assert tested.out.startswith(f"accuracy: {100 * right / ROWS:.2f}%\nloss: ")
    Path("data/repair.h5").hardlink_to("data/train.h5")
    targets = command("target", "--model-dir", folder, "--data-dir", "data", *here)
    assert targets.out == f"positive: {right} of {ROWS} rows, negative: {ROWS - right}\n"
    negatives = next(path for path in sorted(Path("data/negative").iterdir()) if path.is_dir())
    ok(command("localize", "--model-dir", folder, "--target-data-dir", negatives, "--num-grad", "9", *here))
    assert {line.split(",")[0] for line in (negatives / "weights.csv").read_text().splitlines()} == {"15"}
    search = ["--num-particles", "4", "--num-iterations", "2", "--run-dir", "run"]
    ok(command("optimize", "--model-dir", folder, "--target-data-dir", negatives, *search, *here))
    assert load_model(negatives / "repair").classes == 10


def test_the_same_command_again(trained: tuple[Path, Done], dataset: Path, place: Path) -> None:
    """In another process, with another order of hashes: same output, same files but for TensorBoard's."""
    folder, done = trained
    data = dataset / "data"
    words = ["--model=base", f"--data_dir={data}", "--output_dir=again", "--epochs=2", "--seed=7", "--verbose=0"]
    environment = {**os.environ, "PYTHONHASHSEED": "11"}
    again = subprocess.run([SCRIPT, "train", *words], capture_output=True, text=True, check=False, env=environment)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == done.out.replace(str(folder), "again")
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "events." not in path.name]
    assert len(names) == 4
    for name in names:
        assert digest(folder / name) == digest("again" / name), name


def test_toolkit_spelling_and_a_network_of_keras(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its learning rate is 0, so it stops after the first epoch and as many more as patience lasts."""
    monkeypatch.setattr("engine.training.train.PATIENCE", 1)
    settings = {
        "model": "VGG16",
        "optimizer": ["SGD", {"learning_rate": 0.0}],
        "augmentation": [["RandomFlip", {"mode": "horizontal"}]],
        "layers": [["Flatten", {}], ["Dense", {"units": 8, "activation": "relu"}]],
    }
    Path("settings.json").write_text(json.dumps(settings))
    write_rows(Path("small/some.h5"), slice(0, 8))
    words = ["--model=keras_app", "--model_settings=settings.json", "--weights=none", "--epochs=30", "--gpu=False"]
    words += ["--data_dir=small", "--target_data=some.h5", "--output_dir=small", "--validation_split=0.25"]
    words += ["--random_state=3", "--batch_size=4", "--overwrite=False"]
    done = ok(command("train", *words))
    assert "of 6)\naccuracy on validation rows: " in done.out and "of 2)\n" in done.out
    assert "trained on the CPU" in done.err
    assert "epoch 2 of 30" in done.err and "epoch 3" not in done.err
    assert "stopped: val_loss has not fallen for 1 epochs" in done.err
    assert sorted(path.name for path in Path("small").iterdir()) == ["logs", "model.keras", "some.h5", "training.json"]
    facts = json.loads(Path("small/training.json").read_text())
    assert facts["model"] == {"name": "VGG16", "weights": "none", **{k: settings[k] for k in settings if k != "model"}}
    assert facts["settings"] == {"epochs": 30, "batch_rows": 4, "validation_split": 0.25, "seed": 3, "format": "keras"}
    assert facts["data"]["label_names"][6] == "Shirt"
    layers = load_model(Path("small")).model.layers
    assert [type(layer).__name__ for layer in (*layers[:3], *layers[-3:])] == [
        *("InputLayer", "Sequential", "Conv2D"),
        *("Flatten", "Dense", "Dense"),
    ]


def test_ctrl_c(place: Path) -> None:
    checkpoints = Path("model/logs/model_check_points")
    words = [*TRAIN, "--output-dir", "model", "--epochs", "500"]
    done = stop(words, signal.SIGINT, lambda: len(list(checkpoints.glob("weights.*"))) >= 2)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nerror: interrupted\n")
    assert [path.name for path in Path("model").iterdir()] == ["logs"]
    found = list(checkpoints.iterdir())
    assert len(found) >= 2
    for path in found:
        assert path.name.endswith(".weights.h5") and not path.name.startswith(".")
        with h5py.File(path) as file:
            assert file["layers/dense_1/vars/0"].shape == (512, 10)


BAD = {
    "unknown": (["--model", "Mobilenet_v2"], ("model is 'Mobilenet_v2' (did you mean 'MobileNetV2'?)",)),
    "no settings": (["--model", "keras_app"], ("--model-settings",)),
    "settings": (["--model", "keras_app", "--model-settings", "bad.json"], ("bad.json: is not JSON",)),
    "weights": (["--model", "vgg16", "--weights", "nowhere.h5"], ("nowhere.h5",)),
    "epochs": (["--epochs", "0"], ("epochs is 0",)),
    "split": (["--validation-split", "1.5"], ("validation_split is 1.5",)),
    "seed": (["--seed", "-1"], ("seed is -1",)),
    "no data": (["--target-data", "other.h5"], ("other.h5 does not exist",)),
    "bad pixel": (["--target-data", "nan.h5"], ("nan.h5: row 7 has pixels that are NaN",)),
    "output is a file": (["--output-dir", "bad.json"], ("bad.json is a file",)),
    "other model": (["--output-dir", "taken"], ("holds the model or archive old.zip",)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(place: Path, refused: Refused, case: str) -> None:
    Path("bad.json").write_text("{model: VGG16}")
    Path("taken").mkdir()
    with ZipFile("taken/old.zip", "w") as archive:
        archive.writestr("config.json", "{}")
    with h5py.File("data/nan.h5", "w") as file:
        file["images"] = np.zeros((120, 32, 32, 3), np.float32)
        file["labels"] = np.eye(10, dtype=np.uint8)[np.arange(120) % 10]
        file["images"][7, 0, 0, 0] = np.nan
    words, says = BAD[case]
    model = [] if "--model" in words else ["--model", "base"]
    refused("train", *model, "--data-dir", "data", "--verbose", "0", *words, says=says)


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_gpu_where_there_is_none(place: Path, refused: Refused) -> None:
    refused(*TRAIN, "--gpu=True", says=("a GPU is asked for", "--gpu=False"))
    refused(*TRAIN, "--gpu", says=("a GPU is asked for",))


def test_a_file_for_tensorflow_of_keras_2(
    trained: tuple[Path, Done], place: Path, command: Command, refused: Refused
) -> None:
    """The same training, in the other file; see `tests/engine/models/test_keras2_writer.py` for its form."""
    words = ["train", "--model=base", "--data-dir", "data", "--format", "h5", "--verbose", "0"]
    refused(*words, "--output-dir", trained[0], says=("model.keras", "--output-dir"))
    done = command(*words, "--output-dir", "old", "--epochs", "2", "--seed", "7")
    assert done.out == trained[1].out[trained[1].out.index("accuracy") :].replace(str(trained[0]), "old").replace(
        "old/model.keras", "old/model.h5"
    )
    old, new = load_model(Path("old")), load_model(trained[0])
    with h5py.File("data/train.h5") as file:
        np.testing.assert_array_equal(old.model(file["images"][:50]), new.model(file["images"][:50]))
    facts = json.loads(Path("old/training.json").read_text())
    assert facts["fingerprint"] == old.fingerprint and facts["settings"]["format"] == "h5"


def test_networks_that_keras_2_lacks(place: Path, command: Command) -> None:
    with h5py.File("data/train.h5") as file, h5py.File("data/colour.h5", "w") as colour:
        colour["images"] = np.repeat(np.pad(file["images"][:20], ((0, 0), (2, 2), (2, 2), (0, 0))), 3, axis=3)
        colour["labels"] = file["labels"][:20]
    words = ["train", "--model=MobileNetV3Small", "--weights=none", "--data-dir=data", "--target-data=colour.h5"]
    done = command(*words, "--output-dir=old", "--format=h5")
    assert (done.code, done.out) == (2, "") and not Path("old").exists()
    assert done.err.endswith("'hard_silu', which Keras 2 does not have, expected --format keras\n")


def test_download_that_fails(place: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(place / "keras"))
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    before = contents(place / "data")
    done = command("train", "--model", "MobileNetV2", "--data-dir", "data", "--output-dir", "model")
    assert done.code == 1
    assert done.out == ""
    assert "error: the ImageNet weights of MobileNetV2 cannot be downloaded" in done.err
    assert "--weights none" in done.err and "--weights FILE" in done.err
    assert not Path("model").exists() and contents(place / "data") == before
