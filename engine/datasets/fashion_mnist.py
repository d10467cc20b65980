"""Fashion-MNIST from its four IDX files to image sets.

The files carry their official names, with or without `.gz`. Of the official training images, `prepare` makes
`train.h5`, `val.h5` and `repair.h5`; the official test images become `test.h5`, in order and all of them, so
that accuracies on it compare with published ones.
"""

from __future__ import annotations

import gzip
import math
import zlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from engine.core.errors import InputError, reason
from engine.core.files import remove
from engine.core.progress import Tick, ignore
from engine.core.types import Uint8
from engine.data.image_set import READ_ROWS
from engine.data.preprocess import METHODS, preprocess_images
from engine.data.writer import write_image_set
from engine.datasets.official_splits import divide_training
from engine.datasets.splits import DEFAULT_RATIO, NAMES, Ratio, check_ratio, is_ours, shuffled

LABEL_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEFAULT_PREPROCESS = "pad"
"""What the project's own models, and the models it was developed with, were trained on."""

_SIDE = 28
_GZIP_MAGIC = b"\x1f\x8b"


def prepare_fashion_mnist(
    input_dir: Path,
    output_dir: Path,
    *,
    data_ratio: Ratio = DEFAULT_RATIO,
    random_state: int | None = None,
    preprocess: str = DEFAULT_PREPROCESS,
    overwrite: bool = False,
    progress: Tick = ignore,
) -> dict[str, int]:
    """Write `train.h5`, `val.h5`, `test.h5` and `repair.h5` and return the rows of each split written.

    `data_ratio` is (train, val, test, repair) and sums to 1. The official training images are divided among
    train, val and repair in the proportion of their three ratios, after shuffling with
    `numpy.random.default_rng(random_state)`, or in file order where that is None; the last of them with a
    ratio above 0 takes what rounding leaves, so no image is lost. `test.h5` holds all official test images,
    in order, where the test ratio is above 0; its size follows from the data set, not from the ratio. Parts
    without rows are not written, and one left by an earlier `prepare` is removed.

    `images` are float32 (n, 32, 32, 3), `labels` one-hot uint8 (n, 10); label names and preprocessing are
    stored as attributes. All splits appear together or none does. `progress` is called with the number of rows
    just written.

    Raises InputError for bad IDX files, bad ratios, an unknown preprocessing, and for a split whose file
    exists without our `preprocess` attribute unless `overwrite`.
    """
    if preprocess not in METHODS:
        raise InputError(f"preprocess method {preprocess}, expected one of {', '.join(METHODS)}")
    check_ratio(data_ratio)
    files = {split: output_dir / f"{split}.h5" for split in NAMES}
    train_images, train_labels = read_split(input_dir, "train")
    count = len(train_images)
    order = np.arange(count) if random_state is None else shuffled(count, random_state)
    splits = divide_training(order, data_ratio)
    sources = {split: (train_images, train_labels, rows) for split, rows in splits.items()}
    if data_ratio[2] > 0:
        test_images, test_labels = read_split(input_dir, "t10k")
        sources["test"] = (test_images, test_labels, np.arange(len(test_images)))
    for split in sources:
        if files[split].exists() and not overwrite and not is_ours(files[split]):
            raise InputError(
                f"{files[split]} exists and was not made by prepare, expected another folder or --overwrite"
            )
    with ExitStack() as stack:
        for split, (images, labels, rows) in sources.items():
            writer = stack.enter_context(
                write_image_set(
                    files[split],
                    rows=len(rows),
                    image_shape=(32, 32, 3),
                    classes=len(LABEL_NAMES),
                    label_names=LABEL_NAMES,
                    preprocess=preprocess,
                )
            )
            for start in range(0, len(rows), READ_ROWS):
                block = rows[start : start + READ_ROWS]
                one_hot = np.eye(len(LABEL_NAMES), dtype=np.uint8)[labels[block]]
                writer.append(preprocess_images(images[block], preprocess), one_hot)
                progress(len(block))
    for split in set(NAMES) - set(sources):
        if files[split].exists() and is_ours(files[split]):
            remove(files[split])
    return {split: len(sources[split][2]) for split in NAMES if split in sources}


def read_split(input_dir: Path, split: str) -> tuple[Uint8, Uint8]:
    """Images (n, 28, 28) and labels (n,), uint8, of `split` `train` or `t10k`; InputError for bad files."""
    image_path = _find(input_dir, f"{split}-images-idx3-ubyte")
    label_path = _find(input_dir, f"{split}-labels-idx1-ubyte")
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if images.shape[1:] != (_SIDE, _SIDE):
        height, width = images.shape[1:]
        raise InputError(f"{image_path} holds images of {height}×{width}, expected {_SIDE}×{_SIDE}")
    if len(images) != len(labels):
        raise InputError(f"{label_path} has {len(labels)} labels, expected {len(images)} as in {image_path.name}")
    if len(images) == 0:
        raise InputError(f"{image_path} has 0 images, expected at least one")
    if labels.max() >= len(LABEL_NAMES):
        row = int(np.argmax(labels >= len(LABEL_NAMES)))
        raise InputError(f"{label_path}: label {row} is {labels[row]}, expected 0 to {len(LABEL_NAMES) - 1}")
    return images, labels


def read_idx(path: Path, dimensions: int) -> Uint8:
    """Array of uint8 with `dimensions` axes from an IDX file, gzipped or plain; raises InputError."""
    try:
        content = path.read_bytes()
        if content[:2] == _GZIP_MAGIC:
            content = gzip.decompress(content)
        elif path.suffix == ".gz":
            raise InputError(f"{path} starts with bytes {content[:2].hex() or 'none'}, expected a gzip file")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}), expected a whole gzip or IDX file") from error
    magic, header = 0x0800 + dimensions, 4 * (1 + dimensions)
    found = int.from_bytes(content[:4], "big")
    if len(content) < header or found != magic:
        raise InputError(f"{path} starts with IDX magic {found:#010x}, expected {magic:#010x}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, 4))
    if len(content) - header != math.prod(shape):
        raise InputError(
            f"{path} holds {len(content) - header} bytes of data, expected {math.prod(shape)} by its header"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(input_dir: Path, name: str) -> Path:
    for path in (input_dir / f"{name}.gz", input_dir / name):
        if path.is_file():
            return path
    raise InputError(f"{input_dir} has no {name}.gz, expected the four IDX files of Fashion-MNIST there")
