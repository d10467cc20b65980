"""Image sets: HDF5 files with the inputs of a model and one-hot `labels` (n, classes).

For a model with one input, `images` is a dataset (n, ...): pictures (n, h, w, c), series (n, T, d), token numbers
(n, T). For one with several, it is a group with a dataset (n, ...) for each, called as the model calls that input and
in the model's order; a row then travels as one vector (F,): the inputs flattened (C order), one after the other. The
order of a group is the order in which its datasets were made if the file keeps it (h5py's `track_order`), else that of
their names.

The sets are read in blocks of rows and never loaded whole, and opened without file locks so that read-only
shared file systems work. Datasets with other names (`image_ids`, …) are ignored, unless `read_ids` asks. Two optional
attributes of the file are ours: `label_names` (one string per class) and `preprocess` (how the pixels were made).
`engine.data.writer` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError, reason
from engine.core.hdf5 import check_stored, refuse_other_files
from engine.core.types import Float32, Int64

READ_ROWS = 1000  # rows of images that functions streaming a whole set hold at once
_LABEL_BLOCK_ROWS = 65_536
_NUMERIC_KINDS = "biuf"
# Compressed sets come in pieces of 1,000 rows; the default cache of 1 MiB would unpack one anew per read.
_CHUNK_CACHE_BYTES = 64 * 2**20
# Scattered rows closer together than this are read in one go.
_GAP_ROWS = 16
_IN_GROUP = "images/"
_EXACT = 2**24  # float32 holds all integers up to this one, and not the next
Inputs = tuple[tuple[str, tuple[int, ...]], ...]
"""Name and shape, without the axis of rows, of each input of a model that has several."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """What is known of an image set without its rows.

    Attributes:
        path: the HDF5 file, absolute.
        rows: their number n.
        image_shape: of a row as it travels: (height, width, channels) of pictures, (F,) for several inputs; (0, 0, 0)
            in a set without rows that stores no shape.
        classes: length of a one-hot row.
        labels: shape (n,), int64, class of each row.
        label_names: one name per class, or None where the file has none.
        preprocess: how the pixels were made (`engine.data.preprocess`), or None where the file does not say.
        inputs: where the set holds several inputs, name and shape of each; else empty.
    """

    path: Path
    rows: int
    image_shape: tuple[int, ...]
    classes: int
    labels: Int64
    label_names: tuple[str, ...] | None
    preprocess: str | None
    inputs: Inputs = ()


class ImageReader:
    """Rows of one image set while its file stays open; made by `open_reader`."""

    def __init__(self, image_set: ImageSet, file: Any) -> None:
        self._set = image_set
        images = file["images"]
        # By the name that messages use, in the order of the model.
        self._images = {name: images[name] for name, _ in image_set.inputs} if image_set.inputs else {"images": images}
        self._labels = file["labels"]

    @property
    def image_dtype(self) -> np.dtype[Any]:
        """Stored dtype of the images; for several inputs a structured one, with a field (...) for each."""
        if not self._set.inputs:
            dtype: np.dtype[Any] = self._images["images"].dtype
            return dtype
        return np.dtype([(name, self._images[name].dtype, shape) for name, shape in self._set.inputs])

    @property
    def label_dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self._labels.dtype
        return dtype

    def read(self, start: int, stop: int) -> Float32:
        return self._floats(start, stop, slice(None), np.arange(start, stop))

    def read_rows(self, indices: Int64) -> Float32:
        """The rows `indices` (m,), ascending with or without repeats, as float32 (m, ...)."""
        out = np.empty((len(indices), *self._set.image_shape), np.float32)
        for first, last in _runs(indices):
            run = indices[first:last]
            out[first:last] = self._floats(int(run[0]), int(run[-1]) + 1, run - run[0], run)
        return out

    def read_stored(self, start: int, stop: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Images of `image_dtype` and one-hot labels of rows [start, stop) as they are stored, not checked."""
        labels = self._load(self._labels, start, stop)
        if not self._set.inputs:
            return self._load(self._images["images"], start, stop), labels
        images = np.empty(stop - start, self.image_dtype)
        for name, dataset in self._images.items():
            images[name] = self._load(dataset, start, stop)
        return images, labels

    def _load(self, dataset: Any, start: int, stop: int) -> npt.NDArray[Any]:
        path = self._set.path
        if not 0 <= start <= stop <= self._set.rows:
            raise IndexError(f"rows {start}..{stop} of {path}, which has {self._set.rows}")
        try:
            return np.asarray(dataset[start:stop])
        except OSError as error:
            raise InputError(
                f"{path}: rows {start} to {stop} cannot be read ({reason(error)}), expected an undamaged HDF5 file"
            ) from error

    def _floats(self, start: int, stop: int, taken: slice | Int64, rows: Int64) -> Float32:
        """Those `taken` of the rows [start, stop), whose numbers in the file are `rows` (m,), as they travel."""
        parts = [
            self._checked(name, self._load(dataset, start, stop)[taken], rows) for name, dataset in self._images.items()
        ]
        if not self._set.inputs:
            return parts[0]
        return np.concatenate([part.reshape(len(rows), math.prod(part.shape[1:])) for part in parts], axis=1)

    def _checked(self, name: str, block: npt.NDArray[Any], rows: Int64) -> Float32:
        where = f" in {name!r}" if self._set.inputs else ""
        if block.dtype.kind in "iu" and block.dtype.itemsize > 2 and block.size:
            large = (block > _EXACT) | (block < -_EXACT)
            if large.any():
                place = np.unravel_index(int(large.argmax()), block.shape)
                raise InputError(
                    f"{self._set.path}: row {rows[place[0]]} has {block[place]}{where}, expected integers up to "
                    f"{_EXACT}, which are exact as float32"
                )
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported below
            images: Float32 = np.ascontiguousarray(block, np.float32)
        if not np.isfinite(images).all():
            bad = ~np.isfinite(images.reshape(len(images), -1)).all(axis=1)
            first = int(np.argmax(bad))
            what = "NaN" if np.isnan(images[first]).any() else "infinite (as float32)"
            numbers = "pixels" if is_pictures(self._set) else "numbers"
            raise InputError(
                f"{self._set.path}: row {rows[first]} has {numbers}{where} that are {what}, expected finite numbers"
            )
        return images


def open_image_set(path: Path, *, allow_empty: bool = False) -> ImageSet:
    """Open an image set and check everything but the numbers in its rows.

    With `allow_empty`, a set of 0 rows is accepted, also one whose arrays have shape (0,), as `target` leaves
    it where there are no failures.

    Raises InputError for a file that is missing, not HDF5 or cut short, for `images` or `labels` missing or
    of a wrong shape or dtype, of unequal length or empty, and for labels that are not one-hot.
    """
    path = Path(path).absolute()
    with _open_file(path) as file:
        images, labels = _images(file, path), _dataset(file, path, "labels")
        rows = len(labels)
        for name, dataset in images.items():
            if len(dataset) != rows:
                raise InputError(f"{path} has {len(dataset)} {name} and {rows} labels, expected equal numbers")
        if rows == 0 and not allow_empty:
            raise InputError(f"{path} has 0 rows, expected at least one image")
        grouped = "images" not in images
        inputs: Inputs = ()
        shape: tuple[int, ...]
        if rows == 0 and not grouped and images["images"].ndim == 1:
            shape, classes = (0, 0, 0), 0
        else:
            for name, dataset in images.items():
                if dataset.ndim < 2:
                    raise InputError(
                        f"{path}: {name} have shape {dataset.shape}, expected (rows, height, width, channels), or rows "
                        "of any other shape"
                    )
            if labels.ndim != 2:
                raise InputError(f"{path}: labels have shape {labels.shape}, expected one-hot rows (rows, classes)")
            classes = int(labels.shape[1])
            if grouped:
                inputs = tuple((name.removeprefix(_IN_GROUP), dataset.shape[1:]) for name, dataset in images.items())
                shape = (sum(math.prod(input_shape) for _, input_shape in inputs),)
            else:
                shape = tuple(images["images"].shape[1:])
        return ImageSet(
            path=path,
            rows=rows,
            image_shape=shape,
            classes=classes,
            labels=_label_indices(labels, path),
            label_names=_label_names(file, path, classes),
            preprocess=_preprocess(file),
            inputs=inputs,
        )


@contextmanager
def open_reader(image_set: ImageSet) -> Iterator[ImageReader]:
    with _open_file(image_set.path) as file:
        yield ImageReader(image_set, file)


def read_images(image_set: ImageSet, start: int, stop: int) -> Float32:
    """Rows [start, stop) as float32 (m, ...); raises as `ImageReader.read` does."""
    with open_reader(image_set) as reader:
        return reader.read(start, stop)


def read_rows(image_set: ImageSet, indices: Int64) -> Float32:
    with open_reader(image_set) as reader:
        return reader.read_rows(indices)


def read_ids(image_set: ImageSet, name: str) -> list[str]:
    """The n texts of another dataset of the file, such as `image_ids`; InputError where there are none."""
    path = image_set.path
    with _open_file(path) as file:
        dataset = _item(file, path, name)
        texts = isinstance(dataset, h5py.Dataset) and h5py.check_string_dtype(dataset.dtype) is not None
        if not texts or dataset.shape != (image_set.rows,):
            raise InputError(f'{path} has no dataset "{name}" with a text for each row, expected one')
        check_stored(dataset, path.stat().st_size, str(path))
        try:
            return [text.decode() for text in dataset[:]]
        except (OSError, UnicodeError) as error:
            raise InputError(f'{path}: "{name}" cannot be read ({reason(error)}), expected texts') from error


def is_pictures(image_set: ImageSet) -> bool:
    return len(image_set.image_shape) == 3


def check_fits_model(
    image_set: ImageSet, input_shape: tuple[int | None, ...], classes: int, model_path: Path, inputs: Inputs = ()
) -> None:
    """`input_shape` has None for any size; `inputs` are those of a model that has several."""
    if image_set.inputs != inputs:
        expected = _described(inputs) if inputs else f"one dataset of rows of shape {tuple(input_shape)}"
        order = ""
        if sorted(image_set.inputs) == sorted(inputs):
            order = " in this order (h5py keeps the order of a group that was made with track_order=True)"
        found = _described(image_set.inputs) if image_set.inputs else f"rows of shape {image_set.image_shape}"
        raise InputError(f"{image_set.path} holds {found}, the model {model_path} expects {expected}{order}")
    have = image_set.image_shape
    fits = len(input_shape) == len(have) and all(
        want is None or want == size for want, size in zip(input_shape, have, strict=True)
    )
    if not fits:
        what = "images" if is_pictures(image_set) else "rows"
        raise InputError(
            f"{image_set.path} holds {what} of shape {have}, the model {model_path} expects {tuple(input_shape)}"
        )
    if image_set.classes != classes:
        raise InputError(
            f"{image_set.path} labels {image_set.classes} classes, the model {model_path} has {classes}, "
            "expected as many"
        )


def read_blocks(image_set: ImageSet) -> Iterator[Float32]:
    if image_set.rows:
        with open_reader(image_set) as reader:
            for start, stop in stretches(range(image_set.rows)):
                yield reader.read(start, stop)


def stretches(rows: range, size: int = READ_ROWS) -> Iterator[tuple[int, int]]:
    """Cut a range of rows into stretches [start, stop) of at most `size`."""
    for start in rows[::size]:
        yield start, min(start + size, rows.stop)


@contextmanager
def _open_file(path: Path) -> Iterator[Any]:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {found}, expected an HDF5 file with images and labels")
    try:
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except OSError as error:
        found = "is damaged or cut short" if h5py.is_hdf5(path) else "is not an HDF5 file"
        raise InputError(f"{path} {found} ({reason(error)}), expected an HDF5 file with images and labels") from error
    with file:
        try:
            refuse_other_files(file, str(path))
        except (OSError, RuntimeError, KeyError) as error:
            raise InputError(f"{path} is damaged ({reason(error)}), expected a whole HDF5 file") from error
        yield file


def _images(file: Any, path: Path) -> dict[str, Any]:
    group = _item(file, path, "images")
    if not isinstance(group, h5py.Group):
        return {"images": _dataset(file, path, "images")}
    names = list(group)
    if not names:
        raise InputError(f'{path} has an empty group "images", expected a dataset for each input of the model')
    return {f"{_IN_GROUP}{name}": _dataset(file, path, f"{_IN_GROUP}{name}") for name in names}


def _dataset(file: Any, path: Path, name: str) -> Any:
    dataset = _item(file, path, name)
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim == 0:
        raise InputError(
            f'{path} has no dataset "{name}", expected "images" (rows, height, width, channels), or rows of another '
            'shape, and "labels" (rows, classes)'
        )
    if dataset.dtype.kind not in _NUMERIC_KINDS:
        raise InputError(f'{path}: "{name}" holds {dataset.dtype}, expected numbers')
    check_stored(dataset, path.stat().st_size, str(path))
    return dataset


def _item(file: Any, path: Path, name: str) -> Any:
    try:
        return file.get(name)
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(f'{path}: "{name}" cannot be read ({reason(error)}), expected a dataset') from error


def _label_indices(labels: Any, path: Path) -> Int64:
    indices = np.empty(len(labels), np.int64)
    for start in range(0, len(labels), _LABEL_BLOCK_ROWS):
        try:
            block = np.asarray(labels[start : start + _LABEL_BLOCK_ROWS])
        except OSError as error:
            raise InputError(f"{path}: labels cannot be read ({reason(error)}), expected one-hot rows") from error
        good = ((block != 0).sum(axis=1) == 1) & ((block == 1).sum(axis=1) == 1)
        if not good.all():
            row = int(np.argmin(good))
            raise InputError(
                f"{path}: row {start + row} of labels is {_short(block[row])}, expected one-hot (a "
                "single 1, the rest 0)"
            )
        indices[start : start + len(block)] = block.argmax(axis=1)
    return indices


def _label_names(file: Any, path: Path, classes: int) -> tuple[str, ...] | None:
    try:
        stored = file.attrs.get("label_names")
        if stored is None:
            return None
        names = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in np.atleast_1d(stored))
        "".join(names).encode()  # h5py lets bytes that are no UTF-8 through in disguise
    except UnicodeError:
        raise InputError(f"{path} has label_names that are no UTF-8 text, expected one name for each class") from None
    except (OSError, RuntimeError, TypeError) as error:
        raise InputError(f"{path}: label_names cannot be read ({reason(error)}), expected one each") from error
    if classes and len(names) != classes:
        raise InputError(f"{path} names {len(names)} labels, expected one name for each of {classes} classes")
    return names


def _preprocess(file: Any) -> str | None:
    stored = file.attrs.get("preprocess")
    return stored if isinstance(stored, str) else None


def _runs(indices: Int64) -> Iterator[tuple[int, int]]:
    """Stretches [first, last) of ascending row numbers that are worth reading in one go."""
    if np.any(np.diff(indices) < 0):
        raise ValueError("row numbers are not ascending")
    rows = indices.tolist()
    first = 0
    for k in range(1, len(rows) + 1):
        if k == len(rows) or rows[k] - rows[k - 1] > _GAP_ROWS or rows[k] - rows[first] >= READ_ROWS:
            yield first, k
            first = k


def _described(inputs: Inputs) -> str:
    return "the inputs " + ", ".join(f"{name} {shape}" for name, shape in inputs)


def _short(row: npt.NDArray[Any]) -> str:
    return np.array2string(row, threshold=12, edgeitems=4, separator=" ", max_line_width=1000)
