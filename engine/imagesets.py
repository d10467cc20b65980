"""Image sets: HDF5 files with datasets `images` (n, h, w, c) and one-hot `labels` (n, classes).

They are read in blocks of rows and never loaded whole, and opened without file locks so that read-only
shared file systems work. Datasets with other names (`image_ids`, …) are ignored. Two optional attributes of
the file are ours: `label_names` (one string per class) and `preprocess` (how the pixels were made).
`engine.imageset_writer` writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from engine.errors import InputError

BLOCK_ROWS = 1000
"""Rows of images that functions streaming a whole set hold at once."""

DIGEST_BYTES = 16

_LABEL_BLOCK_ROWS = 65_536
_NUMERIC_KINDS = "biuf"
# Compressed sets come in pieces of 1,000 rows; the default cache of 1 MiB would unpack one anew per read.
_CHUNK_CACHE_BYTES = 64 * 2**20
# Scattered rows closer together than this are read in one go.
_GAP_ROWS = 16

FloatImages = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """What is known of an image set without its pixels.

    Attributes:
        path: the HDF5 file, absolute.
        rows: number of images n.
        image_shape: (height, width, channels); (0, 0, 0) in a set without rows that stores no shape.
        classes: length of a one-hot row.
        labels: shape (n,), int64, class of each row.
        label_names: one name per class, or None where the file has none.
        preprocess: how the pixels were made (`engine.preprocess`), or None where the file does not say.
    """

    path: Path
    rows: int
    image_shape: tuple[int, int, int]
    classes: int
    labels: Indices
    label_names: tuple[str, ...] | None
    preprocess: str | None


class ImageReader:
    """Reads rows of one image set while its file stays open; made by `open_reader`."""

    def __init__(self, image_set: ImageSet, file: Any) -> None:
        """Wrap an open h5py file of `image_set`."""
        self._path = image_set.path
        self._rows = image_set.rows
        self._images = file["images"]
        self._labels = file["labels"]

    @property
    def image_dtype(self) -> np.dtype[Any]:
        """Stored dtype of the images."""
        dtype: np.dtype[Any] = self._images.dtype
        return dtype

    @property
    def label_dtype(self) -> np.dtype[Any]:
        """Stored dtype of the one-hot labels."""
        dtype: np.dtype[Any] = self._labels.dtype
        return dtype

    def read(self, start: int, stop: int) -> FloatImages:
        """Rows [start, stop) as float32 (m, h, w, c); InputError where a pixel is NaN or infinite."""
        return self._finite(self._load(self._images, start, stop), np.arange(start, stop))

    def read_rows(self, indices: Indices) -> FloatImages:
        """The rows `indices` (m,), ascending with or without repeats, as float32 (m, h, w, c)."""
        out = np.empty((len(indices), *self._images.shape[1:]), np.float32)
        for first, last in _runs(indices):
            run = indices[first:last]
            block = self._load(self._images, int(run[0]), int(run[-1]) + 1)
            out[first:last] = self._finite(block[run - run[0]], run)
        return out

    def read_stored(self, start: int, stop: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Images and one-hot labels of rows [start, stop) in their stored dtypes, pixels not checked."""
        return self._load(self._images, start, stop), self._load(self._labels, start, stop)

    def _load(self, dataset: Any, start: int, stop: int) -> npt.NDArray[Any]:
        if not 0 <= start <= stop <= self._rows:
            raise IndexError(f"rows {start}..{stop} of {self._path}, which has {self._rows}")
        try:
            return np.asarray(dataset[start:stop])
        except OSError as error:
            raise InputError(
                f"{self._path}: rows {start} to {stop} cannot be read ({_first_line(error)}); expected "
                "an undamaged HDF5 file"
            ) from error

    def _finite(self, block: npt.NDArray[Any], rows: Indices) -> FloatImages:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported below
            images: FloatImages = np.ascontiguousarray(block, np.float32)
        if not np.isfinite(images).all():
            bad = ~np.isfinite(images.reshape(len(images), -1)).all(axis=1)
            first = int(np.argmax(bad))
            what = "NaN" if np.isnan(images[first]).any() else "infinite (as float32)"
            raise InputError(f"{self._path}: row {rows[first]} has pixels that are {what}; expected finite numbers")
        return images


def open_image_set(path: Path, *, allow_empty: bool = False) -> ImageSet:
    """Open an image set and check everything but its pixels.

    With `allow_empty`, a set of 0 rows is accepted, also one whose arrays have shape (0,), as `target` leaves
    it where there are no failures.

    Raises InputError for a file that is missing, not HDF5 or cut short, for `images` or `labels` missing or
    of a wrong shape or dtype, of unequal length or empty, and for labels that are not one-hot.
    """
    path = Path(path).absolute()
    with _open_file(path) as file:
        images, labels = _dataset(file, path, "images"), _dataset(file, path, "labels")
        if len(images) != len(labels):
            raise InputError(f"{path} has {len(images)} images and {len(labels)} labels; expected equal numbers")
        rows = len(images)
        if rows == 0 and not allow_empty:
            raise InputError(f"{path} has 0 rows; expected at least one image")
        if rows == 0 and images.ndim == 1:
            shape, classes = (0, 0, 0), 0
        else:
            if images.ndim != 4:
                raise InputError(f"{path}: images have shape {images.shape}; expected (rows, height, width, channels)")
            if labels.ndim != 2:
                raise InputError(f"{path}: labels have shape {labels.shape}; expected one-hot rows (rows, classes)")
            shape, classes = tuple(images.shape[1:]), int(labels.shape[1])
        return ImageSet(
            path=path,
            rows=rows,
            image_shape=shape,
            classes=classes,
            labels=_label_indices(labels, path),
            label_names=_label_names(file, path, classes),
            preprocess=_preprocess(file),
        )


@contextmanager
def open_reader(image_set: ImageSet) -> Iterator[ImageReader]:
    """Keep the file of an image set open for many reads."""
    with _open_file(image_set.path) as file:
        yield ImageReader(image_set, file)


def read_images(image_set: ImageSet, start: int, stop: int) -> FloatImages:
    """Rows [start, stop) as float32 (m, h, w, c); InputError where a pixel is NaN or infinite."""
    with open_reader(image_set) as reader:
        return reader.read(start, stop)


def read_rows(image_set: ImageSet, indices: Indices) -> FloatImages:
    """The rows `indices` (m,), int64 ascending, as float32 (m, h, w, c); raises as `read_images` does."""
    with open_reader(image_set) as reader:
        return reader.read_rows(indices)


def check_fits_model(image_set: ImageSet, input_shape: tuple[int | None, ...], classes: int, model_path: Path) -> None:
    """Raise InputError unless the images have `input_shape` (None = any size) and `classes` classes."""
    fits = len(input_shape) == 3 and all(
        want is None or want == have for want, have in zip(input_shape, image_set.image_shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"{image_set.path} holds images of shape {image_set.image_shape}; the model {model_path} expects "
            f"{tuple(input_shape)}"
        )
    if image_set.classes != classes:
        raise InputError(
            f"{image_set.path} labels {image_set.classes} classes; the model {model_path} has {classes}, "
            "expected as many"
        )


def content_fingerprint(image_set: ImageSet) -> str:
    """SHA-256 (hex) of the shape, the labels and the images as float32, however the file stores them.

    Raises InputError where a pixel is NaN or infinite.
    """
    digests = []
    if image_set.rows:
        with open_reader(image_set) as reader:
            starts = range(0, image_set.rows, BLOCK_ROWS)
            digests = [row_digests(reader.read(start, min(start + BLOCK_ROWS, image_set.rows))) for start in starts]
    return rows_fingerprint(image_set.image_shape, image_set.classes, image_set.labels, digests)


def row_digests(images: FloatImages) -> npt.NDArray[np.uint8]:
    """Digest (m, 16) of the pixels of each row of images (m, h, w, c)."""
    pixels = np.ascontiguousarray(images.reshape(len(images), -1), "<f4")
    digests = [hashlib.blake2b(row.data, digest_size=DIGEST_BYTES).digest() for row in pixels]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def rows_fingerprint(
    shape: tuple[int, ...], classes: int, labels: Indices, digests: Sequence[npt.NDArray[np.uint8]]
) -> str:
    """SHA-256 (hex) of rows with labels (n,), from the digests of their pixels, in blocks (m, 16)."""
    digest = hashlib.sha256(repr((len(labels), tuple(shape), classes)).encode())
    digest.update(labels.astype("<i8").tobytes())
    for block in digests:
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


@contextmanager
def _open_file(path: Path) -> Iterator[Any]:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {found}; expected an HDF5 file with images and labels")
    try:
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except OSError as error:
        found = "is damaged or cut short" if h5py.is_hdf5(path) else "is not an HDF5 file"
        raise InputError(
            f"{path} {found} ({_first_line(error)}); expected an HDF5 file with images and labels"
        ) from error
    with file:
        yield file


def _dataset(file: Any, path: Path, name: str) -> Any:
    try:
        dataset = file.get(name)
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(f'{path}: "{name}" cannot be read ({_first_line(error)}); expected a dataset') from error
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim == 0:
        raise InputError(
            f'{path} has no dataset "{name}"; expected "images" (rows, height, width, channels) and "labels" '
            "(rows, classes)"
        )
    if dataset.dtype.kind not in _NUMERIC_KINDS:
        raise InputError(f'{path}: "{name}" holds {dataset.dtype}; expected numbers')
    return dataset


def _label_indices(labels: Any, path: Path) -> Indices:
    """Class of each one-hot row, shape (n,), int64."""
    indices = np.empty(len(labels), np.int64)
    for start in range(0, len(labels), _LABEL_BLOCK_ROWS):
        try:
            block = np.asarray(labels[start : start + _LABEL_BLOCK_ROWS])
        except OSError as error:
            raise InputError(f"{path}: labels cannot be read ({_first_line(error)}); expected one-hot rows") from error
        good = ((block != 0).sum(axis=1) == 1) & ((block == 1).sum(axis=1) == 1)
        if not good.all():
            row = int(np.argmin(good))
            raise InputError(
                f"{path}: row {start + row} of labels is {_short(block[row])}; expected one-hot (a "
                "single 1, the rest 0)"
            )
        indices[start : start + len(block)] = block.argmax(axis=1)
    return indices


def _label_names(file: Any, path: Path, classes: int) -> tuple[str, ...] | None:
    stored = file.attrs.get("label_names")
    if stored is None:
        return None
    names = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in np.atleast_1d(stored))
    if classes and len(names) != classes:
        raise InputError(f"{path} names {len(names)} labels; expected one name for each of {classes} classes")
    return names


def _preprocess(file: Any) -> str | None:
    stored = file.attrs.get("preprocess")
    return stored if isinstance(stored, str) else None


def _runs(indices: Indices) -> Iterator[tuple[int, int]]:
    """Cut ascending row numbers into stretches [first, last) worth reading in one go."""
    if np.any(np.diff(indices) < 0):
        raise ValueError("row numbers are not ascending")
    rows = indices.tolist()
    first = 0
    for k in range(1, len(rows) + 1):
        if k == len(rows) or rows[k] - rows[k - 1] > _GAP_ROWS or rows[k] - rows[first] >= BLOCK_ROWS:
            yield first, k
            first = k


def _short(row: npt.NDArray[Any]) -> str:
    return np.array2string(row, threshold=12, edgeitems=4, separator=" ", max_line_width=1000)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
