"""Make `cli/quickstart_data`: a subset of Fashion-MNIST and a small model that is weak at one label.

    python scripts/make_quickstart.py /usr/share/datasets/fashion-mnist [--checkpoints FOLDER]

The folder given holds the four IDX files of Fashion-MNIST. Written are IDX files of the same names:
`t10k` = the first 500 test images of each label, in order; `train` = training images 40,000 to 44,999. The
model is trained on training images 0 to 14,999, so it has seen none of them. Same machine and versions, same
bytes. With --checkpoints nothing but the weights after every epoch are written, if the model comes out as it is.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from engine.core.files import replace_file
from engine.data.preprocess import preprocess_images
from engine.datasets.fashion_mnist import LABEL_NAMES, read_split

OUTPUT = Path(__file__).resolve().parent.parent / "cli" / "quickstart_data"
TRAINING_ROWS = slice(0, 15_000)
REPAIR_ROWS = slice(40_000, 45_000)
TEST_ROWS_PER_LABEL = 500
SEED = 1
EPOCHS = 6

LICENSE_NOTE = """\
The files *-ubyte.gz are a subset of Fashion-MNIST, https://github.com/zalandoresearch/fashion-
mnist, and model.keras was trained on other images of it (scripts/make_quickstart.py).

The MIT License (MIT)

Copyright © 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the “Software”), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED “AS IS”, WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

Bytes = npt.NDArray[np.uint8]


def main() -> None:
    """Write the folder and print the model's accuracy per label on the images shipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input_dir", type=Path, help="folder with the four IDX files of Fashion-MNIST")
    parser.add_argument("--checkpoints", type=Path, metavar="FOLDER", help="write the weights after every epoch here")
    given = parser.parse_args()
    train_images, train_labels = read_split(given.input_dir, "train")
    if given.checkpoints is not None:
        write_checkpoints(train_images[TRAINING_ROWS], train_labels[TRAINING_ROWS], given.checkpoints)
        return
    test_images, test_labels = read_split(given.input_dir, "t10k")

    rows = first_of_each_label(test_labels, TEST_ROWS_PER_LABEL)
    test_images, test_labels = test_images[rows], test_labels[rows]
    write_split("t10k", test_images, test_labels)
    write_split("train", train_images[REPAIR_ROWS], train_labels[REPAIR_ROWS])

    model = train(train_images[TRAINING_ROWS], train_labels[TRAINING_ROWS])
    save(model, OUTPUT / "model.keras")
    with replace_file(OUTPUT / "LICENSE") as temporary:
        temporary.write_text(LICENSE_NOTE, encoding="utf-8")
    report(model, test_images, test_labels)


def first_of_each_label(labels: Bytes, count: int) -> npt.NDArray[np.intp]:
    """Row numbers, ascending, of the first `count` rows of every label."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(10)]))


def write_split(name: str, images: Bytes, labels: Bytes) -> None:
    """Write images (n, 28, 28) and labels (n,) as the two IDX files of a split, without time stamps."""
    for kind, array in ((f"images-idx{images.ndim}", images), (f"labels-idx{labels.ndim}", labels)):
        header = np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes()
        with replace_file(OUTPUT / f"{name}-{kind}-ubyte.gz") as temporary:
            temporary.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


def write_checkpoints(images: Bytes, labels: Bytes, folder: Path) -> None:
    """Train again, and leave the weights after every epoch in a folder, or none where the shipped model is another."""
    with tempfile.TemporaryDirectory() as temporary:
        model = train(
            images,
            labels,
            [keras.callbacks.ModelCheckpoint(f"{temporary}/{{epoch:02d}}.weights.h5", save_weights_only=True)],
        )
        shipped = keras.models.load_model(OUTPUT / "model.keras")
        if any((new != old).any() for new, old in zip(model.get_weights(), shipped.get_weights(), strict=True)):
            sys.exit("this machine, or these versions, train another model than the one shipped")
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(Path(temporary).iterdir()):
            shutil.copyfile(path, folder / path.name)


def train(images: Bytes, labels: Bytes, callbacks: Sequence[keras.callbacks.Callback] = ()) -> keras.Model:
    """A small CNN after a few epochs: good overall, not yet at shirts."""
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(48, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(96, activation="relu"),
            layers.Dense(len(LABEL_NAMES), activation="softmax"),
        ],
        name="quickstart",
    )
    model.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])
    one_hot = np.eye(len(LABEL_NAMES), dtype=np.float32)[labels]
    rows = preprocess_images(images, "pad")
    model.fit(rows, one_hot, batch_size=64, epochs=EPOCHS, verbose=2, callbacks=list(callbacks))
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])  # a new optimizer has no state to save
    return model


def save(model: keras.Model, path: Path) -> None:
    """Save as `.keras` without time of saving and addresses, so that the same weights make the same file."""
    with replace_file(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            members = {name: archive.read(name) for name in sorted(archive.namelist())}
        metadata = json.loads(members["metadata.json"])
        metadata["date_saved"] = "2025-01-01@00:00:00"
        members["metadata.json"] = json.dumps(metadata).encode()
        numbers: dict[str, str] = {}  # Keras numbers shared objects by their memory addresses
        members["config.json"] = re.sub(
            r'(?<="shared_object_id": )\d+',
            lambda match: numbers.setdefault(match[0], str(len(numbers) + 1)),
            members["config.json"].decode(),
        ).encode()
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name, (2025, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)


def report(model: keras.Model, images: Bytes, labels: Bytes) -> None:
    """Print the accuracy per label and the sizes of the files."""
    predicted = model.predict(preprocess_images(images, "pad"), batch_size=500, verbose=0).argmax(axis=1)
    for label, name in enumerate(LABEL_NAMES):
        right = predicted[labels == label] == label
        print(f"{label} {name:12} {right.sum():4} of {len(right)}  {right.mean():.1%}")
    print(f"overall        {(predicted == labels).sum():4} of {len(labels)}  {(predicted == labels).mean():.2%}")
    sizes = {path.name: path.stat().st_size for path in sorted(OUTPUT.iterdir())}
    print(f"{sum(sizes.values()):,} bytes: {sizes}")


if __name__ == "__main__":
    main()
