from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.core.errors import InputError, WorkError
from engine.core.rng import generator
from engine.data.image_set import READ_ROWS, ImageReader, ImageSet, open_image_set, open_reader
from engine.data.writer import write_image_set
from engine.models.load import load_model
from engine.training.feed import Feed, shuffled_places
from engine.training.train import CHECKPOINTS, Epoch, Trained, TrainSettings, check_output, split_rows, train, use_gpu

CLASSES, SHAPE = 3, (4, 5, 2)
NAMES = ("car", "bus", "pedestrian")


def write(path: Path, rows: int, seed: int = 0, **settings: Any) -> ImageSet:
    """Images whose class shows in their brightness; pixel (0, 0, 0) is the number of the row over 1,000."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, rows)
    images = (random.random((rows, *SHAPE)) * 0.4 + labels[:, None, None, None] * 0.3).astype(np.float32)
    images[:, 0, 0, 0] = np.arange(rows) / 1000
    with write_image_set(path, rows=rows, image_shape=SHAPE, classes=CLASSES, **settings) as writer:
        writer.append(images, np.eye(CLASSES, dtype=np.uint8)[labels])
    return open_image_set(path)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return write(tmp_path_factory.mktemp("images") / "train.h5", 150, label_names=NAMES, preprocess="pad")


@functools.cache
def shared() -> tuple[Any, list[np.ndarray]]:
    """One Dense layer with softmax, whose training is easy to follow, and its weights to start from."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(CLASSES, activation="softmax")]
    model = keras.Sequential([keras.Input(SHAPE), *layers])
    model.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model, model.get_weights()


def linear(rate: float = 0.1) -> Any:
    """The same model every time, so that it is compiled once, as it was at first."""
    model, weights = shared()
    model.set_weights(weights)
    model.optimizer.learning_rate = rate
    model.optimizer.iterations.assign(0)
    return model


def deep(seed: int = 0) -> Any:
    """A network with everything random that training may hold."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    parts = [layers.RandomFlip(), layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), layers.Flatten()]
    parts += [layers.Dropout(0.3), layers.Dense(CLASSES, activation="softmax")]
    model = keras.Sequential([keras.Input(SHAPE), *parts])
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def run(model: Any, images: ImageSet, folder: Path, settings: TrainSettings, **more: Any) -> Trained:
    return train(model, images, folder, settings, facts={"model": {"name": "test"}}, **more)


@contextmanager
def feed_of(images: ImageSet, rows: np.ndarray, held_bytes: int = 1 << 30) -> Iterator[Feed]:
    with open_reader(images) as reader:
        yield Feed(images, rows, reader, held_bytes)


def dealt(
    feed: Feed, batch_rows: int, random: np.random.Generator | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    feed.deal(batch_rows, random)
    return [feed[index] for index in range(len(feed))]


def numbers(batch: np.ndarray) -> list[int]:
    """The rows that a batch holds, see `write`."""
    return [int(number) for number in np.rint(batch[:, 0, 0, 0] * 1000)]


# Rows


@pytest.mark.parametrize(("rows", "pool"), [(1, 32), (1000, 5000), (5000, 5000), (7003, 2048), (12_345, 64)])
def test_pools_hold_every_place_once_and_in_disorder(rows: int, pool: int) -> None:
    kept = np.flatnonzero(np.random.default_rng(0).random(rows) < 0.8) if rows > 1 else np.array([0])
    order = shuffled_places(kept, pool, np.random.default_rng(1))
    pools = np.split(order, range(pool, len(order), pool))
    np.testing.assert_array_equal(np.sort(order), np.arange(len(kept)))
    if rows > 1:
        assert (np.diff(order) == 1).mean() < 0.1
        other = shuffled_places(kept, pool, np.random.default_rng(2))
        assert (order == other).mean() < 0.1
    if len(pools) > 1:
        first = kept[order] // READ_ROWS
        assert (np.diff(first[np.sort(np.unique(first, return_index=True)[1])]) < 0).any()  # stretches in disorder
    # A stretch of the file is in one pool, or in the two or more that it takes to hold it.
    blocks = -(-rows // READ_ROWS)
    assert sum(len(np.unique(kept[places] // READ_ROWS)) for places in pools) <= blocks + len(pools) - 1


def test_split_of_rows() -> None:
    for rows, share, wanted in ((150, 0.2, 30), (7, 0.5, 4), (1000, 0.3333, 333)):
        training, validation = split_rows(rows, share, seed=4)
        assert len(validation) == wanted
        np.testing.assert_array_equal(np.sort(np.concatenate([training, validation])), np.arange(rows))
        assert (np.diff(training) > 0).all() and (np.diff(validation) > 0).all()
    again = split_rows(1000, 0.3333, 4)[1].tolist()
    other = split_rows(1000, 0.3333, 5)[1].tolist()
    assert again == validation.tolist() != other
    assert validation.max() > 900 and validation.min() < 100  # from everywhere
    for rows, share in ((1, 0.2), (10, 0.01), (10, 0.99)):
        with pytest.raises(InputError, match="expected some of each"):
            split_rows(rows, share, seed=0)


@pytest.mark.parametrize("held_bytes", [1 << 30, 5000, 1])
def test_rows_in_order_and_shuffled(images: ImageSet, held_bytes: int) -> None:
    rows = np.arange(3, 150, 2)
    stored = np.asarray(h5py.File(images.path)["images"])
    with feed_of(images, rows, held_bytes) as feed:
        batches = dealt(feed, 16)
        assert [len(batch) for batch, _ in batches] == [16, 16, 16, 16, 10]
        np.testing.assert_array_equal(np.concatenate([batch for batch, _ in batches]), stored[rows])
        labels = np.concatenate([one_hot for _, one_hot in batches])
        np.testing.assert_array_equal(labels, np.eye(CLASSES)[images.labels[rows]])
        assert {batch.dtype for pair in batches for batch in pair} == {np.dtype(np.float32)}
        seen: list[int] = []
        for batch, one_hot in dealt(feed, 16, np.random.default_rng(0)):
            assert len(batch) == 16 or len(seen) == 64
            found = numbers(batch)
            np.testing.assert_array_equal(batch, stored[found])
            np.testing.assert_array_equal(one_hot.argmax(axis=1), images.labels[found])
            seen += found
        assert sorted(seen) == rows.tolist() != seen


def test_rows_that_do_not_fit_into_memory_are_read_in_pools(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read_rows = ImageReader.read_rows

    def counting(self: ImageReader, indices: Any) -> Any:
        asked.append(len(indices))
        return read_rows(self, indices)

    monkeypatch.setattr(ImageReader, "read_rows", counting)
    row_bytes = 4 * math.prod(SHAPE)
    with feed_of(images, np.arange(150), 160 * row_bytes) as feed:
        for seed in range(3):
            assert len(dealt(feed, 16, np.random.default_rng(seed))) == 10
        assert len(dealt(feed, 100)) == 2  # that are more than a pool, and still there
        assert asked == [150]
    asked.clear()
    with feed_of(images, np.arange(150), 50 * row_bytes) as feed:
        for seed in range(2):
            assert len(dealt(feed, 16, np.random.default_rng(seed))) == 10
        assert asked == [48, 48, 48, 6] * 2


def test_stored_types_and_compression_do_not_matter(images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "packed.h5"
    with h5py.File(images.path) as source, h5py.File(path, "w") as packed:
        wide = np.asarray(source["images"]).astype(np.float64)
        packed.create_dataset("images", data=wide, chunks=(40, *SHAPE), compression="gzip")
        packed.create_dataset("labels", data=np.asarray(source["labels"]).astype(np.float32))
    counts = [
        run(linear(), image_set, tmp_path / f"{number}-{held}", TrainSettings(epochs=2), held_bytes=held).epochs
        for held in (1 << 30, 1000)
        for number, image_set in enumerate((images, open_image_set(path)))
    ]
    assert counts[0] == counts[1] != counts[2] == counts[3]
    assert (tmp_path / "0-1000" / "model.keras").read_bytes() == (tmp_path / "1-1000" / "model.keras").read_bytes()


# What is computed


def test_training_is_gradient_descent_on_the_rows_in_their_order(images: ImageSet, tmp_path: Path) -> None:
    """Two epochs of softmax regression by NumPy: W ← W − 0.1 · mean over the batch of xᵀ(p − y)."""
    settings = TrainSettings(epochs=2, batch_rows=16, validation_split=0.3, seed=9)
    model = linear()
    kernel, bias = (weight.astype(np.float64) for weight in model.get_weights())
    training, validation = split_rows(images.rows, 0.3, 9)

    def forward(batch: np.ndarray) -> np.ndarray:
        logits = batch.reshape(len(batch), -1).astype(np.float64) @ kernel + bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    expected = []
    with feed_of(images, training) as feed, feed_of(images, validation) as held_out:
        for epoch in range(2):
            losses, right = [], []
            for batch, one_hot in dealt(feed, 16, generator(9, "train", -1, "order", epoch)):
                scores = forward(batch)
                losses += (-np.log((scores * one_hot).sum(axis=1))).tolist()
                right += (scores.argmax(axis=1) == one_hot.argmax(axis=1)).tolist()
                kernel -= 0.1 * batch.reshape(len(batch), -1).T @ (scores - one_hot) / len(batch)
                bias -= 0.1 * (scores - one_hot).mean(axis=0)
            ((batch, one_hot),) = dealt(held_out, 1000)
            scores = forward(batch)
            val_loss = -np.log((scores * one_hot).sum(axis=1)).mean()
            val_right = scores.argmax(axis=1) == one_hot.argmax(axis=1)
            expected.append([np.mean(losses), np.mean(right), val_loss, val_right.mean()])

    trained = run(model, images, tmp_path, settings)
    found = [
        [measured.loss, measured.accuracy, measured.val_loss, measured.val_accuracy] for measured in trained.epochs
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    saved = load_model(tmp_path / "model.keras").model
    for one, two in zip(saved.get_weights(), (kernel, bias), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    assert trained.validation == (int(val_right.sum()), 45)
    stored = np.asarray(h5py.File(images.path)["images"])[training]
    assert trained.training == (int((forward(stored).argmax(axis=1) == images.labels[training]).sum()), 105)


def test_learning_rate_falls_tenfold_every_ten_epochs(images: ImageSet, tmp_path: Path) -> None:
    trained = run(linear(0.01), images, tmp_path, TrainSettings(epochs=22))
    rates = [epoch.learning_rate for epoch in trained.epochs]
    np.testing.assert_allclose(rates, [0.01] * 10 + [0.001] * 10 + [0.0001] * 2, rtol=1e-6)


def test_a_schedule_of_the_optimizer_is_left_alone(images: ImageSet, tmp_path: Path) -> None:
    decay = keras.optimizers.schedules.ExponentialDecay(0.01, 100, 0.5)
    model = keras.models.clone_model(shared()[0])
    model.compile(keras.optimizers.SGD(decay), "categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    trained = run(model, images, tmp_path, TrainSettings(epochs=12))
    steps = 4 * np.arange(1, 13)  # 120 rows in batches of 32
    np.testing.assert_allclose(
        [epoch.learning_rate for epoch in trained.epochs], 0.01 * 0.5 ** (steps / 100), rtol=1e-5
    )


def test_training_stops_early(images: ImageSet, tmp_path: Path) -> None:
    trained = run(linear(0.0), images, tmp_path, TrainSettings(epochs=20))
    assert [epoch.number for epoch in trained.epochs] == [1, 2, 3, 4, 5, 6]  # the first and five without gain
    assert trained.stopped
    assert not run(linear(), images, tmp_path, TrainSettings(epochs=3)).stopped


def test_same_seed_same_bytes(images: ImageSet, tmp_path: Path) -> None:
    def files(name: str, model: Any, seed: int) -> dict[str, bytes]:
        run(model, images, tmp_path / name, TrainSettings(epochs=2, seed=seed))
        return {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file() and not path.name.startswith("events.")
        }

    first, again = files("first", deep(), 3), files("again", deep(), 3)
    assert len(first) == 4
    assert first == again
    first, other = files("seed 3", linear(), 3), files("seed 4", linear(), 4)
    assert first["model.keras"] != other["model.keras"]  # of the same weights to start from


def test_loss_that_is_no_number(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"epoch 1 ended with a loss of .*; try a lower learning rate"):
        run(linear(1e38), images, tmp_path, TrainSettings())
    assert not list(tmp_path.rglob("*.keras")) and not list(tmp_path.rglob("*.h5"))


# What is written


def test_files(images: ImageSet, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    trained = run(deep(), images, folder, TrainSettings(epochs=3))
    names = [f"weights.{epoch.number:02d}-{epoch.val_loss:.2f}.weights.h5" for epoch in trained.epochs]
    assert sorted(path.name for path in (folder / CHECKPOINTS).iterdir()) == names
    assert trained.files == (
        folder / "model.keras",
        folder / "training.json",
        *(folder / CHECKPOINTS / name for name in names),
        folder / "logs" / "tensor_boards",
    )
    assert sorted(path.name for path in folder.iterdir()) == ["logs", "model.keras", "training.json"]
    loaded = load_model(folder)
    assert (loaded.loss.name, loaded.loss.stated) == ("categorical_crossentropy", True)
    fresh = deep(seed=8)
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.load_weights(folder / CHECKPOINTS / names[-1])
    for one, two in zip(fresh.get_weights(), loaded.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    fresh.load_weights(folder / CHECKPOINTS / names[0])
    assert not np.array_equal(fresh.get_weights()[0], loaded.model.get_weights()[0])
    keras.saving.load_model(folder / "model.keras").evaluate(np.zeros((1, *SHAPE)), np.eye(3)[:1], verbose=0)

    facts = json.loads((folder / "training.json").read_text())
    assert facts["model"] == {"name": "test"}
    assert facts["data"]["label_names"] == list(NAMES)
    assert facts["data"]["preprocess"] == "pad"
    assert facts["settings"] == {"epochs": 3, "batch_rows": 32, "validation_split": 0.2, "seed": 0, "format": "keras"}
    assert [Epoch(**epoch) for epoch in facts["epochs"]] == list(trained.epochs)
    assert facts["correct"] == {"training": list(trained.training), "validation": list(trained.validation)}
    assert facts["fingerprint"] == loaded.fingerprint


def test_tensorboard_shows_every_epoch(images: ImageSet, tmp_path: Path) -> None:
    seen = []

    def look(_: Epoch) -> None:
        seen.append(len(scalars(tmp_path / "logs" / "tensor_boards" / "train")["epoch_loss"]))

    trained = run(linear(), images, tmp_path, TrainSettings(epochs=3), on_epoch=look)
    assert seen == [1, 2, 3]  # while training goes on
    for kind, key in (("train", "loss"), ("validation", "val_loss")):
        found = scalars(tmp_path / "logs" / "tensor_boards" / kind)
        np.testing.assert_allclose(found["epoch_loss"], [getattr(epoch, key) for epoch in trained.epochs], rtol=1e-6)
        assert len(found["epoch_accuracy"]) == 3


def scalars(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    (path,) = folder.iterdir()
    for record in tf.data.TFRecordDataset(str(path)):
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
            found.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    return found


def test_training_again_replaces_what_training_wrote(images: ImageSet, tmp_path: Path) -> None:
    run(linear(), images, tmp_path, TrainSettings(epochs=3))
    kept = tmp_path / CHECKPOINTS / "weights.09-0.10.hdf5"
    kept.write_bytes(b"of somebody else")
    left = tmp_path / ".train-killed"
    left.mkdir()
    before = (tmp_path / "model.keras").read_bytes()
    trained = run(linear(0.2), images, tmp_path, TrainSettings(epochs=2))
    assert (tmp_path / "model.keras").read_bytes() != before
    assert sorted((tmp_path / CHECKPOINTS).iterdir()) == sorted([kept, *trained.files[2:4]])
    assert len(scalars(tmp_path / "logs" / "tensor_boards" / "train")["epoch_loss"]) == 2


def test_folders_for_a_model(images: ImageSet, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    check_output(folder, overwrite=False)
    folder.mkdir()
    (folder / "train.h5").symlink_to(images.path)
    check_output(folder, overwrite=False)
    linear().save(folder / "model.keras")
    with pytest.raises(InputError, match="was not made by train, expected another --output-dir or --overwrite"):
        check_output(folder, overwrite=False)
    check_output(folder, overwrite=True)
    (folder / "training.json").write_text("{}")
    check_output(folder, overwrite=False)
    (folder / "model.keras").rename(folder / "other.keras")
    with pytest.raises(InputError, match=r"holds the model or archive other\.keras"):
        check_output(folder, overwrite=True)
    (folder / "other.keras").unlink()
    (folder / "saved_model.pb").touch()
    with pytest.raises(InputError, match="holds the SavedModel"):
        check_output(folder, overwrite=True)
    for path in (folder / "saved_model.pb", folder / "saved_model.pb" / "below"):
        with pytest.raises(InputError, match=r"saved_model\.pb is a file, expected a folder"):
            check_output(path, overwrite=True)


# What goes wrong


def models_in(root: Path) -> list[str]:
    """All files but those of TensorBoard."""
    return [str(path) for path in root.rglob("*") if path.is_file() and "events" not in path.name]


def stop_after(epochs: int) -> Callable[[Epoch], None]:
    def stop(epoch: Epoch) -> None:
        if epoch.number == epochs:
            raise KeyboardInterrupt

    return stop


def test_interruption_leaves_whole_checkpoints_and_the_model_before(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(linear(), images, tmp_path, TrainSettings(), on_epoch=stop_after(2))
    assert len(list((tmp_path / CHECKPOINTS).glob("weights.0[12]-*.weights.h5"))) == 2
    assert len(models_in(tmp_path)) == 2
    assert len(scalars(tmp_path / "logs" / "tensor_boards" / "train")["epoch_loss"]) == 2
    run(linear(), images, tmp_path, TrainSettings(epochs=3))
    before = {name: (tmp_path / name).read_bytes() for name in ("model.keras", "training.json")}
    with pytest.raises(KeyboardInterrupt):
        run(linear(0.3), images, tmp_path, TrainSettings(), on_epoch=stop_after(1))
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert len(list((tmp_path / CHECKPOINTS).iterdir())) == 1


@pytest.mark.parametrize("method", ["save_weights", "save"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_nothing_is_half_written(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException
) -> None:
    model = linear()

    def fail(path: Any, *_: Any, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr(model, method, fail)
    with pytest.raises((KeyboardInterrupt, WorkError)) as raised:
        run(model, images, tmp_path, TrainSettings(epochs=2))
    if isinstance(error, OSError):
        assert f"{tmp_path}: cannot be written (" in str(raised.value) and "No space left" in str(raised.value)
    assert len(models_in(tmp_path)) == (0 if method == "save_weights" else 2)
    assert not any(".train-" in str(path) for path in tmp_path.rglob("*"))


def test_full_disk_is_seen_before_a_file_is_begun(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = linear()
    weights = 4 * (40 * 3 + 3) + 2 * 4  # and two numbers of the optimizer
    for free, left in ((weights, 0), (weights + (1 << 20) + 99, 2)):  # room for a checkpoint, not for saving twice
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))  # noqa: B023
        with pytest.raises(WorkError, match="No space left on device"):
            run(model, images, tmp_path, TrainSettings(epochs=2))
        assert len(models_in(tmp_path)) == left


def test_interruption_while_the_saved_model_is_measured(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.training.train.load_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(linear(), images, tmp_path, TrainSettings(epochs=1))
    assert not [name for name in models_in(tmp_path) if "/logs/" not in name]


def test_a_bad_pixel_is_found_before_anything_is_written(tmp_path: Path) -> None:
    write(tmp_path / "train.h5", 60)
    with h5py.File(tmp_path / "train.h5", "r+") as file:
        file["images"][59, 1, 1, 1] = np.nan
    folder = tmp_path / "model"
    with pytest.raises(InputError, match=r"train\.h5: row 59 has pixels that are NaN"):
        run(linear(), open_image_set(tmp_path / "train.h5"), folder, TrainSettings(), held_bytes=1)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"batch_rows": 0}, "batch_size is 0, expected at least 1"),
        ({"validation_split": 0.0}, "validation_split is 0, expected a share above 0 and below 1"),
        ({"validation_split": 1.0}, "validation_split is 1, expected"),
        ({"validation_split": float("nan")}, "validation_split is nan, expected"),
        ({"format": "savedmodel"}, "format is 'savedmodel', expected keras or h5"),
    ],
)
def test_settings_no_training_can_have(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TrainSettings(**settings)


def test_a_gpu_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.backend.gpu_count", lambda: 0)
    with pytest.raises(InputError, match="a GPU is asked for and tensorflow finds none, expected --gpu=False"):
        use_gpu(True)
    assert use_gpu(None) == use_gpu(False) == "the CPU"
    monkeypatch.setattr("engine.backend.gpu_count", lambda: 1)
    assert use_gpu(None) == use_gpu(True) == "a GPU"
    assert use_gpu(False) == "the CPU"


def test_one_row_of_each_kind_is_enough(tmp_path: Path) -> None:
    trained = run(linear(), write(tmp_path / "train.h5", 2), tmp_path / "model", TrainSettings(validation_split=0.5))
    assert (trained.training[1], trained.validation[1]) == (1, 1)
