"""Commands on rows that are no pictures: token numbers, several inputs, and a subclassed model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from cli.run_report.pictures import pictures
from cli.run_report.rows import Row
from engine.data.image_set import open_image_set
from tests.integration.conftest import HERE, Command, ok
from tests.support import nets

ROWS, CLASSES, LENGTH = 90, 3, 6


@dataclass(frozen=True)
class Given:
    """A model on disk, its rows, and the classes (n,) that it predicts for them."""

    root: Path
    labels: np.ndarray
    predicted: np.ndarray
    leave: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return ("--model-dir", str(self.root / "model.keras"), *self.leave, *HERE)


def _text() -> Any:
    start = keras.Input((LENGTH,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(50, 8, mask_zero=True)(start)
    x = keras.layers.Bidirectional(keras.layers.LSTM(6))(x)
    return keras.Model(start, keras.layers.Dense(CLASSES, activation="softmax")(x))


def _several() -> Any:
    """Two inputs, in an order that is not that of their names."""
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    series = keras.Input((4, 2), name="series")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(50, 8)(tokens))
    x = keras.layers.Concatenate()([x, keras.layers.GRU(5)(series)])
    return keras.Model([tokens, series], keras.layers.Dense(CLASSES, activation="softmax")(x))


def _subclassed() -> Any:
    model = nets.Words()
    model(np.zeros((1, LENGTH), np.float32))
    return model


MAKE: dict[str, Callable[[], Any]] = {"text": _text, "several": _several, "subclassed": _subclassed}


@pytest.fixture(scope="module", params=MAKE)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Given:
    root = tmp_path_factory.mktemp(request.param)
    keras.utils.set_random_seed(3)
    model = MAKE[request.param]()
    model.set_weights([weight * 4 if weight.ndim > 1 else weight for weight in model.get_weights()])
    random = np.random.default_rng(5)
    tokens = random.integers(0, 20, (ROWS, LENGTH))
    series = random.normal(size=(ROWS, 4, 2)).astype(np.float32)
    inputs = [tokens, series] if request.param == "several" else tokens
    shares = np.asarray(model(inputs))
    bias = model.layers[-1].bias
    bias.assign(bias - np.log(shares).mean(axis=0))  # no class is predicted for all rows
    predicted = np.asarray(model(inputs)).argmax(axis=1)
    labels = np.where(random.random(ROWS) < 0.6, predicted, random.integers(0, CLASSES, ROWS))
    assert len(np.unique(predicted)) > 1
    model.compile("sgd", "categorical_crossentropy")
    model.save(root / "model.keras")
    with h5py.File(root / "repair.h5", "w") as file:
        if request.param == "several":
            group = file.create_group("images", track_order=True)
            group["tokens"], group["series"] = inputs
        else:
            file["images"] = tokens
        file["labels"] = np.eye(CLASSES, dtype=np.uint8)[labels]
    return Given(root, labels, predicted, ("--allow-custom-code",) if request.param == "subclassed" else ())


@pytest.fixture
def given(made: Given, tmp_path: Path) -> Given:
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    return replace(made, root=tmp_path)


def test_rows_are_split_divided_and_measured(given: Given, command: Command) -> None:
    root, right = given.root, given.labels == given.predicted
    done = command("split", root / "repair.h5", "--chunk-size", 60)
    assert (done.code, done.out.count("repair.h5")) == (0, 2)
    for chunk, rows in (("0", slice(0, 60)), ("1", slice(60, 90))):
        folder = root / "repairsets" / chunk
        done = command("target", *given.words, "--data-dir", folder)
        correct, total = right[rows].sum(), len(right[rows])
        expected = f"positive: {correct} of {total} rows, negative: {total - correct}\n"
        assert (done.code, done.out) == (0, expected), done.err
        found = open_image_set(folder / "negative" / "repair.h5")
        assert found.inputs == open_image_set(root / "repair.h5").inputs
        done = command("test", *given.words, "--data-dir", folder / "negative", "--target-data", "repair.h5")
        assert (done.code, done.out.splitlines()[0]) == (0, "accuracy: 0.00%"), done.err
    done = ok(command("test", *given.words, "--data-dir", root, "--target-data", "repair", "--per-label"))
    assert done.out.startswith(f"accuracy: {100 * right.mean():.2f}%\n")
    for label in range(CLASSES):
        mine = right[given.labels == label]
        line = next(row for row in done.out.splitlines() if row.split()[0] == str(label))
        assert line.split()[1:3] == [str(mine.sum()), str((~mine).sum())]


def test_rows_that_do_not_fit_are_refused(given: Given, command: Command) -> None:
    with h5py.File(given.root / "other.h5", "w") as file:
        file["images"], file["labels"] = np.zeros((2, LENGTH + 1)), np.eye(CLASSES)[:2]
    for words in (("test",), ("target", "--data-dir", given.root / "other.h5")):
        done = command(*words, *given.words, *(("--data-dir", given.root / "other.h5") if words == ("test",) else ()))
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert f"other.h5 holds rows of shape ({LENGTH + 1},), the model " in done.err
    assert not (given.root / "negative").exists()


def test_commands_that_need_pictures(given: Given, command: Command) -> None:
    done = command("utils", "extract_images", "--input-dir", given.root, "--output-dir", given.root / "out")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "which are no pictures, expected (height, width, channels)" in done.err
    done = command("train", "--model", "base", "--data-dir", given.root, "--target-data", "repair.h5")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "base: cannot be built for images of shape" in done.err
    rows = Row(row=np.arange(ROWS), label=given.labels, before=given.predicted)
    shown, note = pictures(rows, {"": [given.labels]}, np.flatnonzero, given.root / "repair.h5", None)
    fixed, broken = shown[""]["fixed"], shown[""]["broken"]
    assert (fixed.shown, fixed.rows) == ([], int((given.labels != given.predicted).sum()))
    assert (broken.shown, broken.rows) == ([], 0)
    shape = open_image_set(given.root / "repair.h5").image_shape
    assert note == f"No pictures: the rows of {given.root / 'repair.h5'} have the shape {shape} and are none."


def test_a_subclassed_model_is_refused_without_leave(tmp_path: Path, command: Command) -> None:
    _subclassed().save(tmp_path / "model.keras")
    with h5py.File(tmp_path / "test.h5", "w") as file:
        file["images"], file["labels"] = np.zeros((2, LENGTH)), np.eye(CLASSES)[:2]
    done = command("test", "--model-dir", tmp_path / "model.keras", "--data-dir", tmp_path, *HERE)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "'Words', expected a Sequential or Functional model (pass --allow-custom-code if you trust" in done.err
