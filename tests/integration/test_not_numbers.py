"""Models whose outputs are not numbers: refused with the first such row, in every command; nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from cli.main import run
from engine.data.writer import write_image_set
from engine.models.load import load_model
from tests.integration.conftest import HERE, MODEL, Command, Refused, contents, ok
from tests.integration.test_bad_input import LOCALIZE, NEGATIVES, OPTIMIZE, READERS, SMALL, TARGET, TEST

ROWS = 120
LARGE = 3e38

EVALUATE = ["evaluate", *MODEL, *NEGATIVES, *SMALL, "--num-runs", "1", "--output-dir", "evaluated", *HERE]
ALL = {
    **{name: given for name, given in READERS.items() if name != "split"},
    "evaluate negatives": (EVALUATE, "data/negative/6/repair.h5"),
    "evaluate positives": (EVALUATE, "data/positive/repair.h5"),
    "evaluate validation": ([*EVALUATE, "--val-data", "data/val.h5"], "data/val.h5"),
    "evaluate test": ([*EVALUATE, "--test-data", "data/test.h5"], "data/test.h5"),
}
BATCH = ["batch", "--method", "Arachne", *MODEL, "--chunks", "chunks", "--labels", "6"]
BATCH += ["--val-data", "data/val.h5", "--output-dir", "run"]
BATCH += ["--num-particles", "6", "--num-iterations", "2", "--max-rounds", "1", "--positive-weights", "0.15x", *HERE]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.keras`, of one layer, targets of `data/repair.h5`, which it gets half wrong, held-out rows and chunks."""
    root = tmp_path_factory.mktemp("linear")
    random = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((2, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    model.layers[-1].set_weights([random.uniform(-1, 1, (6, 10)), np.zeros(10)])
    model.compile(loss="categorical_crossentropy")
    model.save(root / "model.keras")
    for name in ("data/repair", "data/val", "data/test", "chunks/0/repair", "chunks/1/repair"):
        images = random.uniform(0, 1, (ROWS, 2, 3, 1)).astype(np.float32)
        labels = np.where(np.arange(ROWS) % 2, np.asarray(model(images)).argmax(axis=1), 6)
        with write_image_set(root / f"{name}.h5", rows=ROWS, image_shape=(2, 3, 1), classes=10) as writer:
            writer.append(images, np.eye(10, dtype=np.uint8)[labels])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert run(TARGET) == run([*LOCALIZE, "--fronts", "3"]) == 0
    return root


@pytest.fixture
def linear(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "work"
    shutil.copytree(made, root)
    monkeypatch.chdir(root)
    return root


def overflow(path: Path, *rows: int) -> None:
    """Give rows numbers that are finite, and so large that the logits of the model are not."""
    with h5py.File(path, "r+") as file:
        for row in rows:
            file["images"][row] = LARGE


@pytest.mark.parametrize("reader", ALL)
def test_a_row_with_outputs_that_are_not_numbers(reader: str, linear: Path, refused: Refused) -> None:
    words, file = ALL[reader]
    overflow(linear / file, 5, 3, 7)
    refused(
        *words, says=(f"{linear / file}: the model model.keras gives row 3 outputs that are NaN or infinite, expected",)
    )


@pytest.mark.parametrize("words", [TEST, TARGET, LOCALIZE, OPTIMIZE], ids=lambda words: str(words[0]))
def test_a_model_that_gives_no_numbers_at_all(words: list[str], linear: Path, refused: Refused) -> None:
    model = keras.saving.load_model("model.keras")
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, np.where(np.arange(10) == 3, np.nan, bias)])
    model.save("model.keras")
    refused(*words, says=("the model model.keras gives row 0 outputs that are NaN or infinite, expected numbers",))


def test_impossible_classes_are_numbers(linear: Path, command: Command, refused: Refused) -> None:
    """Minus infinity, where a model says that a class cannot be, has a softmax; plus infinity has none."""
    model = keras.saving.load_model("model.keras")
    kernel, bias = model.layers[-1].get_weights()
    for name, value in (("impossible", -np.inf), ("certain", np.inf)):
        model.layers[-1].set_weights([kernel, np.where(np.arange(10) == 3, value, bias)])
        model.save(f"{name}.keras")
    for words in (TEST, LOCALIZE):
        ok(command(*words, "--model-dir", "impossible.keras"))
        says = "the model certain.keras gives row 0 outputs that are NaN or infinite"
        refused(*words, "--model-dir", "certain.keras", says=(says,))


def test_which_of_two_models_is_told(linear: Path, command: Command, refused: Refused) -> None:
    Path("goals.toml").write_text("[[require]]\nmin_accuracy = 0.1\n")
    model = keras.saving.load_model("model.keras")
    model.layers[-1].set_weights([model.layers[-1].get_weights()[0], np.full(10, np.nan)])
    model.save("base.keras")
    words = [*TEST, "--base-model-dir", "base.keras", "--requirements", "goals.toml"]
    refused(*words, says=("data/test.h5: the model base.keras gives row 0 outputs that are NaN or infinite",))


@pytest.mark.parametrize(
    ("file", "more"),
    [
        ("data/val.h5", []),
        ("data/test.h5", ["--test-data", "data/test.h5"]),
        ("data/positive/repair.h5", ["--positive-inputs-dir", "data/positive"]),
    ],
)
def test_rows_of_a_batch_beside_its_chunks(file: str, more: list[str], linear: Path, command: Command) -> None:
    overflow(linear / file, 11)
    before = contents(linear)
    done = command(*BATCH, *more)
    assert (done.code, done.out) == (2, "")
    found = f"{linear / file}: the model model.keras gives row 11 outputs that are NaN or infinite, expected numbers"
    assert done.err.splitlines()[-1] == f"error: {found}"
    assert contents(linear) == before


def test_a_chunk_of_a_batch_fails_alone(linear: Path, command: Command) -> None:
    overflow(linear / "chunks/1/repair.h5", 40, 30)
    done = command(*BATCH)
    assert done.code == 4, done.err
    assert (
        f"{linear}/chunks/1/repair.h5: the model model.keras gives row 30 outputs that are NaN or infinite" in done.out
    )


def test_a_repaired_model_that_gives_no_numbers_is_not_kept(linear: Path, command: Command) -> None:
    """The row of the test data is so large that the model as it is gives a finite logit, and the repaired one not."""
    optimize = [*OPTIMIZE, "--num-particles", "20", "--num-iterations", "8", "--overwrite"]
    ok(command(*optimize, "--output-dir", "first"))
    models = [load_model(path).model for path in (Path("model.keras"), Path("first/repair"))]
    old, new = (model.layers[-1].get_weights()[0].max(axis=1) for model in models)
    feature = int(np.argmax(new / np.maximum(old, 1)))
    assert new[feature] > 1.05 * max(old[feature], 1)

    with h5py.File("data/test.h5", "r+") as file:
        row = np.zeros(6, np.float32)
        row[feature] = 3.3e38 / max(old[feature], 1)
        file["images"][9] = row.reshape(2, 3, 1)
    done = command(*optimize, "--test-data", "data/test.h5", "--output-dir", "again")
    assert done.code == 1, done.err
    assert (
        f"the repaired model gives row 9 of {linear}/data/test.h5 outputs that are NaN or infinite, so it is not kept"
        in done.err
    )
    assert not Path("again/repair").exists()
    words = [*EVALUATE, "--num-particles", "20", "--num-iterations", "8", "--fronts", "3", "--test-data"]
    done = command(*words, "data/test.h5")
    assert done.code == 1, done.err
    assert [path.name for path in Path("evaluated").iterdir()] == [".evaluate.unfinished"]
