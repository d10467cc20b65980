"""Training of a network on an image set: rows are fed from HDF5, every epoch leaves a checkpoint, and the end a model.

The same settings, data and seed give the same bytes on one kind of hardware, but for those of TensorBoard. The learning
rate is 0.1^⌊epoch/10⌋ of the first one; the toolkit multiplies the rate of the epoch before by that. A schedule of the
optimizer (`base`) is kept.
"""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
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
from engine.core.types import Int64
from engine.data.image_set import ImageReader, ImageSet, open_reader, stretches
from engine.data.value_range import ValueRange, value_range
from engine.models import hdf5, keras2_writer, savedmodel
from engine.models.checkpoints import FOLDER as CHECKPOINTS
from engine.models.known_data import TRAINING_FACTS
from engine.models.load import Format, fingerprint_of, load_model
from engine.passes.classes import NotNumbersError
from engine.passes.sizes import BATCH_ROWS
from engine.targets.model_runner import ModelRunner
from engine.training.architectures import foreign_layer
from engine.training.feed import Feed

MODELS: dict[Format, str] = {"keras": "model.keras", "h5": "model.h5"}
FACTS = TRAINING_FACTS
BOARDS = Path("logs/tensor_boards")
BOARD_NAMES = ("train", "validation")
PATIENCE = 5  # epochs without a lower loss on the validation rows, after which training stops
DROP_EPOCHS, DROP = 10, 0.1

HELD_BYTES = 1 << 30
"""Images that are kept in memory, of the training and of the validation rows each. Of more rows so much is read at a
time, and shuffled; the order of the rows is a matter of this size and never of free memory."""

_SCRATCH = ".train-"
_SLACK = 1 << 20  # bytes that a file of weights may take beside them: names, the configuration
_DATE, _DATE_SAVED = (2025, 1, 1, 0, 0, 0), "2025-01-01@00:00:00"
_CHANGING = re.compile(r'(?<="shared_object_id": )\d+|(?<="date_saved": ")(?P<date>[^"]+)')
"""What in an archive differs from one saving of the same model to the next."""


@dataclass(frozen=True)
class TrainSettings:
    epochs: int = 5  # at most
    batch_rows: int = 32  # rows of one step
    validation_split: float = 0.2  # share of the rows that are not trained on, above 0 and below 1
    # chooses these rows and the order of the others; the weights to start from have their own in `architectures.build`
    seed: int = 0
    format: Format = "keras"  # of the model's file, a key of `MODELS`: `keras`, or `h5` as Keras 2 writes it

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_rows)):
            if value < 1:
                raise InputError(f"{name} is {value}, expected at least 1")
        if self.format not in MODELS:
            raise InputError(f"format is {self.format!r}, expected {' or '.join(MODELS)}")
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

    @property
    def checkpoint(self) -> str:
        return f"weights.{self.number:02d}-{self.val_loss:.2f}.weights.h5"


@dataclass(frozen=True)
class Trained:
    epochs: tuple[Epoch, ...]  # those that ran
    stopped: bool  # early, because the loss on the validation rows had not fallen for `PATIENCE` epochs
    # training, validation: rows that the saved model, loaded again, gets right, and all rows, of either kind
    training: tuple[int, int]
    validation: tuple[int, int]
    foreign: str | None  # why loading the model needs leave to run code; None where it does not
    files: tuple[Path, ...]  # what was written


def split_rows(rows: int, validation_split: float, seed: int) -> tuple[Int64, Int64]:
    count = round(rows * validation_split)
    if not 0 < count < rows:
        raise InputError(
            f"a validation_split of {validation_split:g} of {rows} rows leaves {rows - count} to train on and {count} "
            "to validate on, expected some of each"
        )
    order = generator(seed, "train", -1, "validation").permutation(rows)
    return np.sort(order[count:]), np.sort(order[:count])


def use_gpu(wanted: bool | None) -> str:
    """Choose where this process trains, before its first operation, and return it in words."""
    gpus = backend.gpu_count()
    if wanted and not gpus:
        found = f"a GPU is asked for and {backend.name} finds none"
        raise InputError(f"{found}, expected --gpu=False or a machine with one")
    if wanted is False:
        backend.hide_gpus()
    return "a GPU" if gpus and wanted is not False else "the CPU"


def check_output(output_dir: Path, *, overwrite: bool, kind: Format = "keras") -> None:
    found = next(folder for folder in (output_dir, *output_dir.absolute().parents) if folder.exists())
    if not found.is_dir():
        raise InputError(f"{found} is a file, expected a folder, or none, for the trained model")
    if found != output_dir:
        return
    name = MODELS[kind]
    other = output_dir if savedmodel.is_savedmodel(output_dir) else None
    for path in sorted(output_dir.iterdir()):
        if path.name != name and path.is_file() and (zipfile.is_zipfile(path) or hdf5.is_hdf5_model(path)):
            other = other or path
    if other is not None:
        found_kind = "SavedModel" if other == output_dir else f"model or archive {other.name}"
        raise InputError(f"{output_dir}: holds the {found_kind}, expected an --output-dir for the trained model alone")
    if (output_dir / name).exists() and not (output_dir / FACTS).is_file() and not overwrite:
        raise InputError(f"{output_dir / name} was not made by train, expected another --output-dir or --overwrite")


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
    backend.tensorflow("training")  # writes for TensorBoard under any backend
    check_output(output_dir, overwrite=overwrite, kind=settings.format)
    name = MODELS[settings.format]
    if settings.format == "h5":
        keras2_writer.check_model(model)
    training_rows, validation_rows = split_rows(images.rows, settings.validation_split, settings.seed)
    with ExitStack() as stack:
        reader = stack.enter_context(open_reader(images))
        training = Feed(images, training_rows, reader, held_bytes)
        validation = Feed(images, validation_rows, reader, held_bytes)
        values = _look_through(images, reader, progress)
        try:
            _clear(output_dir)
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix=_SCRATCH, dir=output_dir)))
            epochs = _fit(model, training, validation, settings, output_dir, scratch, progress, on_epoch)
            _save(model, scratch / name, settings.format)
        except OSError as error:
            raise WorkError(
                f"{output_dir}: cannot be written ({reason(error)}); the checkpoints of finished epochs are whole"
            ) from error
        foreign = foreign_layer(model)
        saved = load_model(scratch / name, allow_custom_code=foreign is not None)
        runner = ModelRunner(saved.model, None)
        counts = [_correct(runner, feed, progress) for feed in (training, validation)]
        checkpoints = (output_dir / CHECKPOINTS / epoch.checkpoint for epoch in epochs)
        trained = Trained(
            epochs=tuple(epochs),
            stopped=len(epochs) < settings.epochs,
            training=counts[0],
            validation=counts[1],
            foreign=foreign,
            files=(output_dir / name, output_dir / FACTS, *checkpoints, output_dir / BOARDS),
        )
        (scratch / name).replace(output_dir / name)
    told = _facts(facts, images, values, settings, trained)
    with replace_file(output_dir / FACTS) as temporary:
        temporary.write_text(json.dumps(told, indent=4) + "\n", encoding="utf-8")
    return trained


def _look_through(images: ImageSet, reader: ImageReader, progress: Progress) -> ValueRange:
    """Every row, so that bad pixels are found while nothing has been written."""
    tick = progress("read", images.rows)
    ranges = []
    for start, stop in stretches(range(images.rows)):
        block = reader.read(start, stop)
        ranges.append(value_range(block))
        tick(len(block))
    return functools.reduce(ValueRange.joined, ranges)


def _clear(output_dir: Path) -> None:
    """Logs of an earlier training would mix with those to come."""
    folders = [output_dir / CHECKPOINTS, *(output_dir / BOARDS / name for name in BOARD_NAMES)]
    for folder, pattern in zip(folders, ("weights.*.weights.h5", "events.*", "events.*"), strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(pattern):
            remove(path)
    for path in output_dir.glob(f"{_SCRATCH}*"):
        remove(path)


def _fit(
    model: Any,
    training: Feed,
    validation: Feed,
    settings: TrainSettings,
    output_dir: Path,
    scratch: Path,
    progress: Progress,
    on_epoch: Callable[[Epoch], None],
) -> list[Epoch]:
    tick = progress("train", settings.epochs * len(training.rows))
    epochs: list[Epoch] = []
    summary = backend.tensorflow("training").summary
    boards = [summary.create_file_writer(str(output_dir / BOARDS / name)) for name in BOARD_NAMES]

    def epoch_begin(number: int, logs: Any) -> None:
        training.deal(settings.batch_rows, generator(settings.seed, "train", -1, "order", number))

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
        # Keras' ModelCheckpoint would leave half a file when it is interrupted.
        _check_room(model, scratch, copies=1)
        model.save_weights(str(scratch / epoch.checkpoint))
        (scratch / epoch.checkpoint).replace(output_dir / CHECKPOINTS / epoch.checkpoint)
        epochs.append(epoch)
        _show(boards, epoch)
        on_epoch(epoch)

    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=PATIENCE),
        keras.callbacks.LambdaCallback(epoch_begin, epoch_end, on_train_batch_end=batch_end),
    ]
    first = model.optimizer.get_config()["learning_rate"]
    if isinstance(first, float):  # and not a schedule
        rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: first * DROP ** (epoch // DROP_EPOCHS))
        callbacks.insert(0, rate)
    epoch_begin(0, None)  # Keras looks at the first batches before it begins
    model.fit(
        training,
        validation_data=validation,
        epochs=settings.epochs,
        callbacks=callbacks,
        shuffle=False,  # the feed has done it
        verbose=0,
    )
    for board in boards:
        board.close()
    return epochs


def _show(boards: list[Any], epoch: Epoch) -> None:
    """With the names that Keras gives its values. Its own callback needs the package of TensorBoard to write."""
    tf = backend.tensorflow("training")
    scalar = tf.compat.v1.SummaryMetadata(data_class="DATA_CLASS_SCALAR")
    scalar.plugin_data.plugin_name = "scalars"
    values = {"epoch_loss": epoch.loss, "epoch_accuracy": epoch.accuracy, "epoch_learning_rate": epoch.learning_rate}
    held_out = {"epoch_loss": epoch.val_loss, "epoch_accuracy": epoch.val_accuracy}
    for board, shown in zip(boards, (values, held_out), strict=True):
        with board.as_default(step=epoch.number - 1):  # and written out at its end
            for tag, value in shown.items():
                tf.summary.write(tag, tf.constant(value, tf.float32), metadata=scalar)


def _check_room(model: Any, folder: Path, copies: int) -> None:
    """Raise OSError where a disk has no room for a model: HDF5 may crash when it fills up under an open file."""
    variables = [*model.variables, *model.optimizer.variables]
    size = _SLACK + sum(math.prod(variable.shape) * np.dtype(variable.dtype).itemsize for variable in variables)
    if shutil.disk_usage(folder).free < copies * size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _save(model: Any, path: Path, kind: Format) -> None:
    """Save without the time of saving and memory addresses, so that equal models are equal files."""
    _check_room(model, path.parent, copies=2)
    if kind == "h5":
        keras2_writer.write_model(model, path)
        return
    raw = path.with_name(f"raw-{path.name}")
    model.save(str(raw))
    numbers: dict[str, str] = {}  # Keras tells objects that are used twice by their addresses

    def same(match: re.Match[str]) -> str:
        return _DATE_SAVED if match["date"] else numbers.setdefault(match[0], str(len(numbers) + 1))

    with zipfile.ZipFile(raw) as archive, zipfile.ZipFile(path, "w") as target:
        for name in sorted(archive.namelist()):
            member = zipfile.ZipInfo(name, _DATE)
            if name in ("metadata.json", hdf5.CONFIG_MEMBER):
                target.writestr(member, _CHANGING.sub(same, archive.read(name).decode()))
                continue
            member.file_size = archive.getinfo(name).file_size  # tells whether large offsets are needed
            with archive.open(name) as content, target.open(member, "w") as copy:
                shutil.copyfileobj(content, copy, 1 << 20)
    raw.unlink()


def _correct(runner: ModelRunner, feed: Feed, progress: Progress) -> tuple[int, int]:
    tick = progress("measure", len(feed.rows))
    correct = done = 0
    feed.deal(BATCH_ROWS)
    for images, one_hot in map(feed.__getitem__, range(len(feed))):
        try:
            predicted = runner.predict(images)
        except NotNumbersError as error:
            raise WorkError(
                f"the trained model gives row {feed.rows[done + error.row]} outputs that are NaN or infinite; "
                "try a lower learning rate"
            ) from error
        correct += int((predicted == one_hot.argmax(axis=1)).sum())
        done += len(images)
        tick(len(images))
    return correct, len(feed.rows)


def _facts(
    facts: Mapping[str, Any], images: ImageSet, values: ValueRange, settings: TrainSettings, trained: Trained
) -> dict[str, Any]:
    """No times, so that the same training gives the same file."""
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
            "values": [values.low, values.high],
        },
        "epochs": [asdict(epoch) for epoch in trained.epochs],
        "correct": {"training": list(trained.training), "validation": list(trained.validation)},
        "fingerprint": fingerprint_of(trained.files[0], settings.format),
    }
