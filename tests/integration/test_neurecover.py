from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from engine.models.load import load_model
from engine.patches.arrow import read_patch
from tests.integration.conftest import MODEL, Command, Refused, ok, read_set, weights_of

SHIRT, CHECKPOINTS = Path("data/negative/6"), Path("logs/model_check_points")
HERE = ("--num-workers", "0", "--verbose", "1")
LOCALIZE = ("localize", "--method", "NeuRecover", *MODEL, "--target-data-dir", SHIRT, *HERE)


@pytest.fixture(scope="module")
def epochs(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """Checkpoints 98, 99 and 100: the last is the model, which its last epoch made worse for shirts."""
    folder = tmp_path_factory.mktemp("epochs")
    model = keras.saving.load_model(prepared / "model.keras", compile=False)
    model.save_weights(folder / "weights.100-0.30.weights.h5")
    rng = np.random.default_rng(0)
    for layer in ("dense", "dense_1"):
        kernel = np.array(model.get_layer(layer).kernel)
        model.get_layer(layer).kernel.assign(kernel + rng.normal(0, 0.3 * kernel.std(), kernel.shape))
    bias = np.array(model.get_layer("dense_1").bias)
    model.get_layer("dense_1").bias.assign(bias + 0.5 * (np.arange(len(bias)) == 6))
    for epoch in (98, 99):
        model.save_weights(folder / f"weights.{epoch}-0.31.weights.h5")
    return folder


@pytest.fixture
def beside(workspace: Path, epochs: Path) -> Path:
    CHECKPOINTS.mkdir(parents=True)
    for path in epochs.iterdir():
        shutil.copy(path, CHECKPOINTS)
    return workspace


def counts() -> tuple[int, int]:
    """Rows of the negative and positive inputs that the last epoch broke and repaired, by Keras' own model."""
    sets = (read_set(folder / "repair.h5") for folder in (SHIRT, Path("data/positive")))
    images, labels = map(np.concatenate, zip(*sets, strict=True))
    model = keras.saving.load_model("model.keras", compile=False)
    right = []
    for name in ("weights.99-0.31", "weights.100-0.30"):
        model.load_weights(CHECKPOINTS / f"{name}.weights.h5")
        right.append(np.asarray(model(images)).argmax(axis=1) == labels)
    return int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())


def test_localised_searched_and_saved(beside: Path, command: Command) -> None:
    assert (SHIRT / "pareto_front.png").is_file()  # of the weights that are there
    done = command(*LOCALIZE)
    assert not (SHIRT / "pareto_front.png").exists()
    assert done.code == 0, done.err
    assert "warning" not in done.err  # the last checkpoint is the model
    found = re.search(r"broke (\d+) of (\d+) inputs and repaired (\d+)", done.err)
    assert found and (int(found[1]), int(found[3])) == counts() and int(found[1]) > 0
    model, before = load_model(Path("model.keras")).model, weights_of("model.keras")
    numbers = {model.layers.index(model.get_layer(name)): name for name in ("dense", "dense_1")}
    patch = read_patch(SHIRT / "weights.arrow")
    with (SHIRT / "weights.csv").open(newline="") as file:
        rows = [(int(layer), int(i), int(j), float(value)) for layer, i, j, value in csv.reader(file)]
    assert {numbers[layer] for layer, *_ in rows} == {"dense", "dense_1"}
    for (layer, i, j, value), path, flat in zip(rows, patch.weight, patch.flat_index, strict=True):
        assert path == f"{numbers[layer]}/kernel"
        assert before[path][i, j] == before[path].flat[flat] == np.float32(value)
    assert f"localized {len(rows)} of " in done.out
    assert str(SHIRT / "weights.csv") in done.out and "pareto_front.png" not in done.out

    # The toolkit's own file, of three columns, over two layers.
    (SHIRT / "weights.arrow").unlink()
    (SHIRT / "weights.csv").write_text("".join(f"{layer},{i},{j}\r\n" for layer, i, j, _ in rows), newline="")
    few = ("--num-particles", "12", "--num-iterations", "4", "--run-dir", "run")
    done = ok(command("optimize", *MODEL, "--method", "Arachne", "--target-data-dir", SHIRT, *few, *HERE))
    after = weights_of(SHIRT / "repair")
    places = {path: set() for path in before}
    for layer, i, j, _ in rows:
        places[f"{numbers[layer]}/kernel"].add((i, j))
    changed = {path: set(zip(*np.nonzero(after[path] != before[path]), strict=True)) for path in before}
    assert all(changed[path] <= places[path] for path in before)
    assert changed["dense/kernel"] and changed["dense_1/kernel"]


@pytest.mark.slow
def test_one_layer_and_a_last_checkpoint_that_is_not_the_model(beside: Path, command: Command) -> None:
    model = keras.saving.load_model("model.keras", compile=False)
    kernel = model.get_layer("dense").kernel
    kernel.assign(np.array(kernel) * np.float32(1.0001))
    model.save_weights(CHECKPOINTS / "weights.101.weights.h5")
    done = ok(command(*LOCALIZE, "--target-layer", "-1", "--last", "4", "--weights-dir", CHECKPOINTS))
    (warning,) = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert "weights.101.weights.h5 is not the model model.keras: 1 of " in warning
    assert "the first of them 'dense/kernel'; weights are blamed as they are in the model" in warning
    assert (SHIRT / "weights.csv").is_file() and not (SHIRT / "weights.arrow").exists()


def test_what_is_refused(beside: Path, command: Command, refused: Refused) -> None:
    refused(*LOCALIZE, "--num-grad", "5", says=("--num-grad is of Arachne and the method is NeuRecover",))
    arachne = ("localize", *MODEL, "--target-data-dir", SHIRT, *HERE)
    refused(*arachne, "--last", "2", says=("--last is of NeuRecover and the method is Arachne",))
    for text in ("two", "1,2,3", "-1", "", "1", "1,2", "3,3"):
        refused(*LOCALIZE, "--last", text, says=(f"last is {text!r}, expected K,L",))
    refused(*LOCALIZE, "--last", "9", says=("checkpoints 9 and 1 from the end are asked for, expected two of 3",))
    refused(*LOCALIZE, "--weights-dir", "none", says=("none: no such folder",))
    refused(*LOCALIZE, "--weights-dir", "data", says=(".h5: found no epoch in the name",))
    alike = command(*LOCALIZE, "--last", "3,2")
    assert alike.code == 2 and " 0 were right at the earlier checkpoint " in alike.err
    last = CHECKPOINTS / "weights.100-0.30.weights.h5"
    last.write_bytes(last.read_bytes()[:3000])
    refused(*LOCALIZE, says=(f"{last}: damaged HDF5 file",))


def test_no_failures(beside: Path, command: Command) -> None:
    shutil.rmtree(SHIRT)
    done = command(*LOCALIZE)
    assert done.code == 0 and "the label has no failures, there is nothing to localize" in done.out
