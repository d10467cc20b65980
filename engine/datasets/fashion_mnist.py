"""Fashion-MNIST from its four IDX files to image sets.

The files carry their official names, with or without `.gz`. All official test images become `test.h5`, in order, so
that accuracies on it compare with published ones.
"""

from __future__ import annotations

import functools
import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.core.errors import InputError, reason
from engine.core.files import remove
from engine.core.types import Uint8
from engine.data.preprocess import check_method, preprocess_images
from engine.datasets.division import DEFAULT_RATIO, NAMES, Division, Ratio
from engine.datasets.splits import Layout, Split, Writing, is_ours, write_splits

if TYPE_CHECKING:
    from typing_extensions import Unpack

LABEL_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DEFAULT_PREPROCESS = "pad"
"""What the project's own models, and the models it was developed with, were trained on."""

_SIDE = 28
_GZIP_MAGIC = b"\x1f\x8b"


def prepare_fashion_mnist(
    input_dir: Path,
    output_dir: Path,
    *,
    data_ratio: Ratio = DEFAULT_RATIO,
    divide_rate: float | None = None,
    random_state: int | None = None,
    like_toolkit: bool = False,
    preprocess: str = DEFAULT_PREPROCESS,
    **how: Unpack[Writing],
) -> dict[str, int]:
    """Write train, val and repair from the training images and test from the test images; returns their rows.

    The training images are divided by `engine.datasets.division`. `test.h5` holds all test images in order,
    where its ratio is above 0 or `divide_rate` is given. Parts without rows are not written, and one left by an
    earlier `prepare` is removed. `images` are float32 (n, 32, 32, 3), `labels` one-hot uint8 (n, 10).
    """
    check_method(preprocess)
    division = Division(data_ratio, divide_rate, random_state, like_toolkit)
    if not input_dir.is_dir():
        raise InputError(f"{input_dir}: no such folder, expected one with the IDX files of Fashion-MNIST")

    def read(name: str) -> Split:
        images, labels = read_split(input_dir, name)
        return Split(images, labels.astype(np.int64))

    splits = division.splits(read("train"), read("t10k") if division.with_test else None)
    make = functools.partial(preprocess_images, method=preprocess)
    written = write_splits(output_dir, splits, Layout(LABEL_NAMES, preprocess), make, **how)
    for split in set(NAMES) - set(written):
        if is_ours(path := output_dir / f"{split}.h5"):
            remove(path)
    return written


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
    """Array of uint8 with `dimensions` axes from an IDX file, gzipped or plain."""
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
