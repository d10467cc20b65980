"""Training of a network on an image set: rows are fed from HDF5, every epoch leaves a checkpoint, and the end a model.

`OUTPUT/model.keras` is the trained model and `OUTPUT/training.json` what it was trained with; `OUTPUT/logs` fills while
training runs: `model_check_points/weights.<epoch>-<val_loss>.weights.h5`, for `load_weights` of the same model, and
`tensor_boards/{train,validation}`. The same settings, data and seed give the same bytes in all of them on one kind of
hardware, but for TensorBoard's, which hold times.

The learning rate is 0.1^⌊epoch/10⌋ of the first one: it falls tenfold every ten epochs. eAI-Repair-Toolkit multiplies
the rate of the epoch before by that, which so falls tenfold in every epoch from the eleventh on, and a hundredfold from
the twenty-first. An optimizer with a schedule of its own, that of `base`, keeps it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from engine import backend
from engine.backend import keras
from engine.core.errors import InputError, WorkError, reason
from engine.core.files import remove, replace_file
from engine.core.progress import Progress, unseen
from engine.core.rng import generator
from engine.core.types import Float32, Int64
from engine.data.image_set import READ_ROWS, ImageReader, ImageSet, open_reader
from engine.models import hdf5, savedmodel
from engine.models.load import fingerprint_of, load_model
from engine.passes.batching import BATCH_ROWS
from engine.targets.model_runner import ModelRunner
from engine.training.architectures import foreign_layer

MODEL, FACTS = "model.keras", "training.json"
CHECKPOINTS, BOARDS = Path("logs/model_check_points"), Path("logs/tensor_boards")
BOARD_NAMES = ("train", "validation")
PATIENCE = 5
"""Epochs without a lower loss on the validation rows, after which training stops."""
DROP_EPOCHS, DROP = 10, 0.1

HELD_BYTES = 1 << 30
"""Images that are kept in memory, of the training and of the validation rows each. Of more rows so much is read at a
time, and shuffled; the order of the rows is a matter of this size and never of free memory."""

_SCRATCH = ".train-"
_PREFETCHED = 4
_SLACK = 1 << 20
"""Bytes that a file of weights may take beside them: names, the configuration."""
_DATE = (2025, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        epochs: at most.
        batch_rows: rows of one step.
        validation_split: share of the rows that are not trained on, above 0 and below 1.
        seed: chooses these rows and the order of the others; the weights to start from have their own in
            `architectures.build`.
    """

    epochs: int = 5
    batch_rows: int = 32
    validation_split: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that no training can have."""
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_rows)):
            if value < 1:
                raise InputError(f"{name} is {value}, expected at least 1")
        if not 0 < self.validation_split < 1:
            raise InputError(f"validation_split is {self.validation_split:g}, expected a share above 0 and below 1")


@dataclass(frozen=True)
class Epoch:
    """An epoch as Keras reports it; losses are means over rows, accuracies shares, the rate that of its last step."""

    number: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        epochs: those that ran.
        stopped: early, because the loss on the validation rows had not fallen for `PATIENCE` epochs.
        training, validation: rows that the saved model, loaded again, gets right, and all rows, of either kind.
        foreign: why loading the model needs leave to run code; None where it does not.
        files: what was written.
    """

    epochs: tuple[Epoch, ...]
    stopped: bool
    training: tuple[int, int]
    validation: tuple[int, int]
    foreign: str | None
    files: tuple[Path, ...]


class Feed:
    """Some rows of an image set, in batches; those that fit into `held_bytes` are kept in memory as float32."""

    def __init__(self, images: ImageSet, rows: Int64, reader: ImageReader, held_bytes: int) -> None:
        """Nothing is read yet; `rows` (n,) are ascending."""
        self.rows = rows
        self.labels = images.labels[rows]
        self._one_hot = np.eye(images.classes, dtype=np.float32)
        self._reader = reader
        row_bytes = 4 * math.prod(images.image_shape)
        self._pool_rows = max(1, held_bytes // row_bytes)
        self._held: Float32 | None = None
        if len(rows) <= self._pool_rows:
            self._held = np.empty((len(rows), *images.image_shape), np.float32)

    def offer(self, start: int, block: Float32) -> None:
        """Keep what is wanted of the rows from `start` on, `block` (m, h, w, c)."""
        if self._held is not None:
            first, last = np.searchsorted(self.rows, [start, start + len(block)])
            self._held[first:last] = block[self.rows[first:last] - start]

    def in_order(self, batch_rows: int) -> Iterator[tuple[Float32, Float32]]:
        """Batches of images (m, h, w, c) and one-hot labels (m, classes) in the order of the file."""
        for start in range(0, len(self.rows), batch_rows):
            chosen = np.arange(start, min(start + batch_rows, len(self.rows)))
            images = self._reader.read_rows(self.rows[chosen]) if self._held is None else self._held[chosen]
            yield images, self._one_hot[self.labels[chosen]]

    def shuffled(self, batch_rows: int, random: np.random.Generator) -> Iterator[tuple[Float32, Float32]]:
        """Batches of all rows in a random order; the last may be smaller."""
        for pool in shuffled_pools(self.rows, max(1, self._pool_rows // batch_rows) * batch_rows, random):
            chosen = np.sort(pool)
            images = self._reader.read_rows(self.rows[chosen]) if self._held is None else self._held
            places = np.searchsorted(chosen, pool)
            for start in range(0, len(pool), batch_rows):
                batch = slice(start, start + batch_rows)
                yield images[places[batch]], self._one_hot[self.labels[pool[batch]]]
            del images  # before the next pool is read


def shuffled_pools(rows: Int64, pool_rows: int, random: np.random.Generator) -> Iterator[Int64]:
    """Cut the places in `rows` (n,), ascending, into pools of at most `pool_rows`, which together hold each once.

    The stretches of `READ_ROWS` rows of the file come in random order; so many as make a pool are shuffled together.
    A file is so read in long pieces, and those that `READ_ROWS` packs together are unpacked once. A single pool is in
    any order.
    """
    ends = np.searchsorted(rows, np.arange(READ_ROWS, rows[-1] + 1, READ_ROWS))
    blocks = np.split(np.arange(len(rows)), ends)
    order = np.concatenate([blocks[number] for number in random.permutation(len(blocks))])
    for start in range(0, len(rows), pool_rows):
        yield random.permutation(order[start : start + pool_rows])


def split_rows(rows: int, validation_split: float, seed: int) -> tuple[Int64, Int64]:
    """Row numbers to train on and to validate on, each ascending; round(rows · validation_split) are the latter.

    Raises:
        InputError: either would have no row.
    """
    count = round(rows * validation_split)
    if not 0 < count < rows:
        raise InputError(
            f"a validation_split of {validation_split:g} of {rows} rows leaves {rows - count} to train on and {count} "
            "to validate on, expected some of each"
        )
    order = generator(seed, "train", -1, "validation").permutation(rows)
    return np.sort(order[count:]), np.sort(order[:count])


def use_gpu(wanted: bool | None) -> str:
    """Choose where this process trains, before its first operation, and return it in words.

    None takes a GPU where there is one. Raises InputError where one is wanted and there is none.
    """
    gpus = backend.gpu_count()
    if wanted and not gpus:
        found = f"a GPU is asked for and {backend.name} finds none"
        raise InputError(f"{found}, expected --gpu=False or a machine with one")
    if wanted is False:
        backend.hide_gpus()
    return "a GPU" if gpus and wanted is not False else "the CPU"


def check_output(output_dir: Path, *, overwrite: bool) -> None:
    """Refuse a folder that a trained model cannot go to.

    A model that `train` made is replaced without `overwrite`, as `optimize` replaces a repaired one.

    Raises:
        InputError: no folder; it holds another model, beside which this one could not be told; or a model.keras that
            `train` did not make, without `overwrite`.
    """
    found = next(folder for folder in (output_dir, *output_dir.absolute().parents) if folder.exists())
    if not found.is_dir():
        raise InputError(f"{found} is a file, expected a folder, or none, for the trained model")
    if found != output_dir:
        return
    other = output_dir if savedmodel.is_savedmodel(output_dir) else None
    for path in sorted(output_dir.iterdir()):
        if path.name != MODEL and path.is_file() and (zipfile.is_zipfile(path) or hdf5.is_hdf5_model(path)):
            other = other or path
    if other is not None:
        kind = "SavedModel" if other == output_dir else f"model or archive {other.name}"
        raise InputError(f"{output_dir}: holds the {kind}, expected an --output-dir for the trained model alone")
    if (output_dir / MODEL).exists() and not (output_dir / FACTS).is_file() and not overwrite:
        raise InputError(f"{output_dir / MODEL} was not made by train, expected another --output-dir or --overwrite")


def train(
    model: Any,
    images: ImageSet,
    output_dir: Path,
    settings: TrainSettings,
    *,
    facts: Mapping[str, Any],
    overwrite: bool = False,
    progress: Progress = unseen,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    held_bytes: int = HELD_BYTES,
) -> Trained:
    """Train a compiled model, save it, load it again and measure that.

    An interruption leaves the checkpoints of the epochs that ended, each whole, and whatever model was there before.

    Args:
        model: see `architectures.build`.
        images: with the model's image shape and number of classes.
        output_dir: made where it is missing, see `check_output`.
        settings: how to train.
        facts: what else to note in `training.json`.
        overwrite: see `check_output`.
        progress: of reading, training and measuring.
        on_epoch: called after every epoch.
        held_bytes: see `HELD_BYTES`.

    Raises:
        InputError: see `check_output` and `split_rows`; or an image cannot be read or has no finite numbers; or
            TensorFlow is not installed. Nothing has been written.
        WorkError: the loss is not finite any more, or a file cannot be written.
    """
    _tensorflow()
    check_output(output_dir, overwrite=overwrite)
    training_rows, validation_rows = split_rows(images.rows, settings.validation_split, settings.seed)
    with ExitStack() as stack:
        reader = stack.enter_context(open_reader(images))
        training = Feed(images, training_rows, reader, held_bytes)
        validation = Feed(images, validation_rows, reader, held_bytes)
        _read_once(images, reader, (training, validation), progress)
        try:
            _clear(output_dir)
            epochs, files = _fit(model, training, validation, settings, output_dir, progress, on_epoch)
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix=_SCRATCH, dir=output_dir)))
            _save(model, scratch / MODEL)
        except OSError as error:
            raise WorkError(
                f"{output_dir}: cannot be written ({reason(error)}); the checkpoints of finished epochs are whole"
            ) from error
        foreign = foreign_layer(model)
        saved = load_model(scratch / MODEL, allow_custom_code=foreign is not None)
        runner = ModelRunner(saved.model, None)
        counts = [_correct(runner, feed, progress) for feed in (training, validation)]
        trained = Trained(
            epochs=tuple(epochs),
            stopped=len(epochs) < settings.epochs,
            training=counts[0],
            validation=counts[1],
            foreign=foreign,
            files=(output_dir / MODEL, output_dir / FACTS, *files, output_dir / BOARDS),
        )
        (scratch / MODEL).replace(output_dir / MODEL)
    with replace_file(output_dir / FACTS) as temporary:
        temporary.write_text(json.dumps(_facts(facts, images, settings, trained), indent=4) + "\n", encoding="utf-8")
    return trained


def _tensorflow() -> Any:
    """TensorFlow, which feeds any backend with batches and writes for TensorBoard."""
    return backend.tensorflow("training")


def _read_once(images: ImageSet, reader: ImageReader, feeds: tuple[Feed, Feed], progress: Progress) -> None:
    """Read every row, so that bad pixels are found while nothing has been written, and keep what is to be kept."""
    tick = progress("read", images.rows)
    for start in range(0, images.rows, READ_ROWS):
        block = reader.read(start, min(start + READ_ROWS, images.rows))
        for feed in feeds:
            feed.offer(start, block)
        tick(len(block))


def _clear(output_dir: Path) -> None:
    """Remove the logs of an earlier training, which would mix with those to come."""
    folders = [output_dir / CHECKPOINTS, *(output_dir / BOARDS / name for name in BOARD_NAMES)]
    for folder, pattern in zip(folders, ("weights.*.weights.h5", "events.*", "events.*"), strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        for path in (*folder.glob(pattern), *folder.glob(f"{_SCRATCH}*")):
            remove(path)
    for path in output_dir.glob(f"{_SCRATCH}*"):
        remove(path)


def _fit(
    model: Any,
    training: Feed,
    validation: Feed,
    settings: TrainSettings,
    output_dir: Path,
    progress: Progress,
    on_epoch: Callable[[Epoch], None],
) -> tuple[list[Epoch], list[Path]]:
    """Run the epochs; returns them and their checkpoints."""
    tick = progress("train", settings.epochs * len(training.rows))
    epochs: list[Epoch] = []
    files: list[Path] = []
    tf = _tensorflow()
    boards = [tf.summary.create_file_writer(str(output_dir / BOARDS / name)) for name in BOARD_NAMES]

    def batches() -> Iterator[tuple[Float32, Float32]]:
        return training.shuffled(settings.batch_rows, generator(settings.seed, "train", -1, "order", len(epochs)))

    def batch_end(batch: int, logs: Any) -> None:
        tick(min(settings.batch_rows, len(training.rows) - batch * settings.batch_rows))

    def epoch_end(number: int, logs: Mapping[str, float]) -> None:
        values = {key: float(logs[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
        if not all(map(math.isfinite, values.values())):
            raise WorkError(
                f"epoch {number + 1} ended with a loss of {values['loss']:g} in training and {values['val_loss']:g} in "
                "validation; try a lower learning rate"
            )
        epoch = Epoch(number + 1, **values, learning_rate=float(model.optimizer.learning_rate))
        files.append(_checkpoint(model, output_dir / CHECKPOINTS, epoch))
        epochs.append(epoch)
        _show(boards, epoch)
        on_epoch(epoch)

    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=PATIENCE),
        keras.callbacks.LambdaCallback(on_epoch_end=epoch_end, on_train_batch_end=batch_end),
    ]
    first = model.optimizer.get_config()["learning_rate"]
    if isinstance(first, float):  # and not a schedule
        callbacks.insert(
            0, keras.callbacks.LearningRateScheduler(lambda epoch, _: first * DROP ** (epoch // DROP_EPOCHS))
        )
    model.fit(
        _dataset(batches, model, len(training.rows), settings.batch_rows),
        epochs=settings.epochs,
        validation_data=_dataset(lambda: validation.in_order(BATCH_ROWS), model, len(validation.rows), BATCH_ROWS),
        callbacks=callbacks,
        shuffle=False,  # the feed has done it
        verbose=0,
    )
    for board in boards:
        board.close()
    return epochs, files


def _show(boards: list[Any], epoch: Epoch) -> None:
    """Write an epoch for TensorBoard, with the names that Keras gives its values.

    Keras' own callback needs the package of TensorBoard to write; TensorFlow alone can do that too.
    """
    tf = _tensorflow()
    scalar = tf.compat.v1.SummaryMetadata(data_class="DATA_CLASS_SCALAR")
    scalar.plugin_data.plugin_name = "scalars"
    values = {"epoch_loss": epoch.loss, "epoch_accuracy": epoch.accuracy, "epoch_learning_rate": epoch.learning_rate}
    held_out = {"epoch_loss": epoch.val_loss, "epoch_accuracy": epoch.val_accuracy}
    for board, shown in zip(boards, (values, held_out), strict=True):
        with board.as_default(step=epoch.number - 1):  # and written out at its end
            for tag, value in shown.items():
                tf.summary.write(tag, tf.constant(value, tf.float32), metadata=scalar)


def _dataset(batches: Callable[[], Iterator[Any]], model: Any, rows: int, batch_rows: int) -> Any:
    """Batches as TensorFlow takes them: made ahead in a thread while the model computes."""
    tf = _tensorflow()
    shapes = (model.input_shape, model.output_shape)
    signature = tuple(tf.TensorSpec((None, *shape[1:]), tf.float32) for shape in shapes)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-rows // batch_rows))).prefetch(_PREFETCHED)


def _checkpoint(model: Any, folder: Path, epoch: Epoch) -> Path:
    path = folder / f"weights.{epoch.number:02d}-{epoch.val_loss:.2f}.weights.h5"
    _check_room(model, folder, copies=1)
    with TemporaryDirectory(prefix=_SCRATCH, dir=folder) as scratch:
        model.save_weights(str(Path(scratch) / path.name))
        (Path(scratch) / path.name).replace(path)
    return path


def _check_room(model: Any, folder: Path, copies: int) -> None:
    """Raise OSError where a disk has no room for a model: HDF5 may crash when it fills up under an open file."""
    variables = [*model.variables, *model.optimizer.variables]
    size = _SLACK + sum(math.prod(variable.shape) * np.dtype(variable.dtype).itemsize for variable in variables)
    if shutil.disk_usage(folder).free < copies * size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _save(model: Any, path: Path) -> None:
    """Save as `.keras` without the time of saving and memory addresses, so that equal models are equal files."""
    _check_room(model, path.parent, copies=2)
    raw = path.with_name(f"raw-{path.name}")
    model.save(str(raw))
    numbers: dict[str, str] = {}  # Keras tells objects that are used twice by their addresses

    def number(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], str(len(numbers) + 1))

    with zipfile.ZipFile(raw) as archive, zipfile.ZipFile(path, "w") as target:
        for name in sorted(archive.namelist()):
            member = zipfile.ZipInfo(name, _DATE)
            if name == "metadata.json":
                metadata = json.loads(archive.read(name)) | {"date_saved": "2025-01-01@00:00:00"}
                target.writestr(member, json.dumps(metadata))
            elif name == hdf5.CONFIG_MEMBER:
                config = archive.read(name).decode()
                target.writestr(member, re.sub(r'(?<="shared_object_id": )\d+', number, config))
            else:
                member.file_size = archive.getinfo(name).file_size  # tells whether large offsets are needed
                with archive.open(name) as content, target.open(member, "w") as copy:
                    shutil.copyfileobj(content, copy, 1 << 20)
    raw.unlink()


def _correct(runner: ModelRunner, feed: Feed, progress: Progress) -> tuple[int, int]:
    """Rows that a model gets right, and all."""
    tick = progress("measure", len(feed.rows))
    correct = 0
    for images, one_hot in feed.in_order(BATCH_ROWS):
        correct += int((runner.predict(images) == one_hot.argmax(axis=1)).sum())
        tick(len(images))
    return correct, len(feed.rows)


def _facts(facts: Mapping[str, Any], images: ImageSet, settings: TrainSettings, trained: Trained) -> dict[str, Any]:
    """What `training.json` says; no times, so that the same training gives the same file."""
    return {
        **facts,
        "settings": asdict(settings),
        "data": {
            "path": str(images.path),
            "rows": images.rows,
            "image_shape": list(images.image_shape),
            "classes": images.classes,
            "label_names": None if images.label_names is None else list(images.label_names),
            "preprocess": images.preprocess,
        },
        "epochs": [asdict(epoch) for epoch in trained.epochs],
        "correct": {"training": list(trained.training), "validation": list(trained.validation)},
        "fingerprint": fingerprint_of(trained.files[0], "keras"),
    }
