"""Writing image sets block by block; each file appears whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from engine.core.files import replace_file
from engine.core.progress import Tick, ignore
from engine.data.image_set import ImageReader, ImageSet, stretches


class ImageSetWriter:
    """Made by `write_image_set`."""

    def __init__(self, images: dict[str, Any], labels: Any) -> None:
        self._images, self._labels = images, labels
        self._next = 0
        self.rows_written = 0

    def append(self, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        self.write(self._next, images, labels)
        self._next += len(images)

    def write(self, start: int, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        """Images (m, ...), as they are stored or as they travel, and labels."""
        rows, first = slice(start, start + len(images)), 0
        for name, dataset in self._images.items():
            if not name:
                dataset[rows] = images
            elif images.dtype.names is not None:
                dataset[rows] = images[name]
            else:
                size = math.prod(dataset.shape[1:])
                dataset[rows] = images[:, first : first + size].reshape(-1, *dataset.shape[1:])
                first += size
        self._labels[rows] = labels
        self.rows_written += len(images)


@contextmanager
def write_image_set(
    path: Path,
    *,
    rows: int,
    image_shape: tuple[int, ...],
    classes: int | None,
    image_dtype: npt.DTypeLike = np.float32,
    label_dtype: npt.DTypeLike = np.uint8,
    label_names: tuple[str, ...] | None = None,
    preprocess: str | None = None,
) -> Iterator[ImageSetWriter]:
    """The file appears when the body has filled every row; contiguous and uncompressed.

    A structured `image_dtype` makes a group with a dataset for each field. Labels are (rows,) where `classes` is None.
    """
    with replace_file(path) as temporary:
        with h5py.File(temporary, "w", locking=False) as file:
            images = _create_images(file, rows, image_shape, np.dtype(image_dtype))
            labels = file.create_dataset("labels", (rows,) if classes is None else (rows, classes), label_dtype)
            write_attributes(file, label_names, preprocess)
            writer = ImageSetWriter(images, labels)
            yield writer
        if writer.rows_written != rows:
            raise ValueError(f"{path}: {writer.rows_written} of {rows} rows were written")


def _create_images(file: Any, rows: int, image_shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Any]:
    if dtype.names is None:
        return {"": file.create_dataset("images", (rows, *image_shape), dtype)}
    group = file.create_group("images", track_order=True)
    return {name: group.create_dataset(name, (rows, *dtype[name].shape), dtype[name].base) for name in dtype.names}


def float_dtype(image_set: ImageSet) -> np.dtype[Any]:
    if not image_set.inputs:
        return np.dtype(np.float32)
    return np.dtype([(name, np.float32, shape) for name, shape in image_set.inputs])


def write_empty_image_set(
    path: Path, *, label_names: tuple[str, ...] | None = None, preprocess: str | None = None
) -> None:
    """Write the set without rows that the toolkit makes: `images` and `labels` of shape (0,), float64."""
    with replace_file(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        file.create_dataset("images", (0,), np.float64)
        file.create_dataset("labels", (0,), np.float64)
        write_attributes(file, label_names, preprocess)


def copy_rows(image_set: ImageSet, reader: ImageReader, rows: range, path: Path, progress: Tick = ignore) -> None:
    with write_image_set(path, rows=len(rows), **layout_of(image_set, reader)) as writer:
        for start, stop in stretches(rows):
            writer.append(*reader.read_stored(start, stop))
            progress(stop - start)


def layout_of(image_set: ImageSet, reader: ImageReader) -> dict[str, Any]:
    """The keywords of `write_image_set`, other than `rows`, for a set like this one."""
    return {
        "image_shape": image_set.image_shape,
        "classes": image_set.classes,
        "image_dtype": reader.image_dtype,
        "label_dtype": reader.label_dtype,
        "label_names": image_set.label_names,
        "preprocess": image_set.preprocess,
    }


def write_attributes(file: Any, label_names: tuple[str, ...] | None, preprocess: str | None) -> None:
    if label_names is not None:
        file.attrs.create("label_names", list(label_names), dtype=h5py.string_dtype())
    if preprocess is not None:
        file.attrs["preprocess"] = preprocess
