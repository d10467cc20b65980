"""Fashion-MNIST from its four IDX files, with or without `.gz`."""

from __future__ import annotations

import functools
import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from engine.core.errors import InputError, reason
from engine.core.types import Uint8
from engine.data.preprocess import METHODS
from engine.datasets.division import Official, prepare_official
from engine.datasets.splits import Split

LABEL_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DEFAULT_PREPROCESS = "pad"  # what the project's own models, and the models it was developed with, were trained on
_SIDE = 28
_GZIP_MAGIC = b"\x1f\x8b"


def read_fashion_mnist(input_dir: Path, with_test: bool) -> tuple[Split, Split | None]:
    if not input_dir.is_dir():
        raise InputError(f"{input_dir}: no such folder, expected one with the IDX files of Fashion-MNIST")

    def read(name: str) -> Split:
        images, labels = read_split(input_dir, name)
        return Split(images, labels.astype(np.int64))

    return read("train"), read("t10k") if with_test else None


FASHION_MNIST = Official(LABEL_NAMES, read_fashion_mnist, METHODS, DEFAULT_PREPROCESS, alone=True)
prepare_fashion_mnist = functools.partial(prepare_official, FASHION_MNIST)


def read_split(input_dir: Path, split: str) -> tuple[Uint8, Uint8]:
    """Images (n, 28, 28) and labels (n,) of `train` or `t10k`."""
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
