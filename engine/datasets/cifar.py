"""CIFAR-10 from `cifar-10-python.tar.gz`, or from the folder in it.

Its batches are pickles, read without executing anything: the names with which NumPy 1 stored an array are given to
stand-ins, any other name is refused.
"""

from __future__ import annotations

import functools
import io
import pickle
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.errors import InputError, reason
from engine.core.types import Int64, Uint8
from engine.datasets.division import Official, prepare_official
from engine.datasets.splits import Split

LABEL_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"

_TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_LARGEST = 128 << 20


def read_cifar(source: Path, with_test: bool) -> tuple[Split, Split | None]:
    """Training and test rows; `toolkit` equalises the V histogram of their pictures, `resize` only scales to [0, 1]."""
    batches = read_batches(source, [*_TRAINING, _TEST] if with_test else list(_TRAINING))
    images, labels = (np.concatenate(parts) for parts in zip(*(batches[name] for name in _TRAINING), strict=True))
    return Split(images, labels), Split(*batches[_TEST]) if with_test else None


prepare_cifar = functools.partial(prepare_official, Official(LABEL_NAMES, read_cifar))


def read_batches(source: Path, names: list[str]) -> dict[str, tuple[Uint8, Int64]]:
    for folder in (source / FOLDER, source):
        if (folder / names[0]).is_file():
            return {name: parse_batch(_read_file(folder / name), str(folder / name)) for name in names}
    archive = source / ARCHIVE if source.is_dir() else source
    if not archive.is_file():
        raise InputError(f"{source} has no {ARCHIVE} and no {FOLDER}, expected the files of CIFAR-10 for Python")
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|*") as members:
            for member in members:
                name = member.name.rpartition("/")[2]
                if name in names and member.isfile() and member.size <= _LARGEST:
                    contents[name] = members.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{archive} cannot be read ({reason(error)}), expected the tar.gz of CIFAR-10 for Python"
        ) from error
    for name in names:
        if name not in contents:
            raise InputError(f"{archive} has no {name}, expected the tar.gz of CIFAR-10 for Python")
    return {name: parse_batch(contents[name], f"{archive}/{name}") for name in names}


def parse_batch(content: bytes, name: str) -> tuple[Uint8, Int64]:
    try:
        batch = _Reader(io.BytesIO(content), encoding="bytes").load()
    except InputError as error:
        raise InputError(f"{name} {error}, expected a batch of CIFAR-10") from None
    except Exception as error:  # damaged pickles raise almost anything
        raise InputError(
            f"{name} is no pickle that can be read ({reason(error)}), expected a batch of CIFAR-10"
        ) from error
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise InputError(f"{name} has no data and labels, expected a batch of CIFAR-10")
    data, labels = batch[b"data"], batch[b"labels"]
    pixels = data.pixels() if isinstance(data, _Array) else None
    if pixels is None or len(pixels) % _PIXELS or not pixels:
        raise InputError(f"{name}: data is no array of bytes (n, {_PIXELS}), expected a batch of CIFAR-10")
    count = len(pixels) // _PIXELS
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise InputError(f"{name}: labels are no numbers from 0 to 9, expected a batch of CIFAR-10")
    if len(labels) != count:
        raise InputError(f"{name} has {count} images and {len(labels)} labels, expected equal numbers")
    planes = np.frombuffer(pixels, np.uint8).reshape(count, 3, _SIDE, _SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), np.array(labels, np.int64)


class _Array:
    """Stands in for `numpy.ndarray`: keeps its state, (version, shape, dtype, column order, bytes)."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> bytes | None:
        """Of an array (n, 3072) of bytes in row order, else None."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, dtype, by_column, content = self.state
        right = (
            isinstance(dtype, _Dtype)
            and dtype.code in {b"u1", "u1"}
            and not by_column
            and isinstance(content, bytes)
            and shape == (len(content) // _PIXELS, _PIXELS)
            and len(content) % _PIXELS == 0
        )
        return content if right else None


@dataclass
class _Dtype:
    code: Any = None
    align: Any = None
    copy: Any = None

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like say nothing of bytes."""


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Reader(pickle.Unpickler):
    """Finds nothing but the stand-ins."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _STAND_INS[module_name, global_name]
        except KeyError:
            raise InputError(f"names {module_name}.{global_name}, which would be called") from None


def _read_file(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path} is missing, expected the files of CIFAR-10 for Python")
    return path.read_bytes()
