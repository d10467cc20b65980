"""A data set as its author states it: a function that gives pictures and labels. All that comes after it is ours.

`prepare image-folder` is one, and so is each that another package brings, see `engine.datasets.plugins`. The function
runs in the process of the command alone: workers get pixels or paths, and need nothing of the author's package.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError, WorkError, reason
from engine.core.names import in_words
from engine.core.parallel import ParallelMap, in_process
from engine.core.progress import Progress, unseen
from engine.core.types import Float32, Int64, Uint8
from engine.data.pictures import SUFFIXES, read_picture
from engine.data.preprocess import SIDE, check_method, preprocess_each, preprocess_images
from engine.datasets.division import DEFAULT_RATIO, Division, Ratio, check_ratio, cut, shuffled
from engine.datasets.splits import Layout, Split, write_splits

DEFAULT_PREPROCESS = "resize"
_KEPT_SIDES = 8  # a picture of many times the wanted side is first averaged down to this many
Images = Uint8 | Sequence[str | Path]
"""Pixels (n, h, w) or (n, h, w, 3) of one size, uint8, or the n paths of picture files of any sizes."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a data set consists of.

    Attributes:
        label_names: one for each class, in the order of the classes.
        images: all of them, or those to train with where there is a test set.
        labels: (n,) whole numbers from 0, classes.
        test_images, test_labels: of the data set's own test set, if it has one.
    """

    label_names: Sequence[str]
    images: Images
    labels: npt.ArrayLike
    test_images: Images | None = None
    test_labels: npt.ArrayLike | None = None


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        summary: what it is, in a sentence, for `--help`.
        read: gives its pictures from what `--input-dir` names, which may be a file, a folder or nothing. An
            `InputError` says what is wrong with them.
    """

    summary: str
    read: Callable[[Path], Pictures]

    def __post_init__(self) -> None:
        if not isinstance(self.summary, str) or not callable(self.read):
            raise InputError(
                f"a Dataset of {_kind(self.summary)} and {_kind(self.read)}, expected its summary, a text, and read, "
                "a function"
            )


@dataclass(frozen=True)
class PreparedDataset:
    rows: dict[str, int]  # of each split
    classes: int  # number of them
    with_ids: bool  # whether the splits have `image_ids`, as they have where the pictures came from files


def prepare_dataset(
    dataset: Dataset,
    input_dir: Path,
    output_dir: Path,
    *,
    name: str = "the data set",
    data_ratio: Ratio = DEFAULT_RATIO,
    random_state: int = 0,
    preprocess: str = DEFAULT_PREPROCESS,
    side: int = SIDE,
    overwrite: bool = False,
    spread: ParallelMap = in_process,
    progress: Progress = unseen,
) -> PreparedDataset:
    """Write the splits of a data set with a ratio above 0; splits of earlier calls stay.

    The pictures are shuffled by `random_state` and divided by `data_ratio`; no picture is lost. Where the data set has
    a test set, that is `test.h5`, whole and in its order, unless its ratio is 0, and the others are divided in the
    proportion of the other three. `images` are float32 (n, side, side, 3), `labels` one-hot uint8, `image_ids` the
    paths below `input_dir`, where the pictures came from files. `name` is what messages call the data set.

    Raises InputError for what does not fit `Pictures`, fewer than two classes, no pictures, unreadable ones, for
    padding one that is too large, whatever but WorkError, OSError and MemoryError `read` raises, an unknown
    preprocessing, a bad ratio, side or seed, and as `engine.datasets.splits.write_splits` does.
    """
    check_method(preprocess)
    if side < 1:
        raise InputError(f"side is {side}, expected at least 1")
    check_ratio(data_ratio)
    pictures = _read(dataset, input_dir, name)
    label_names = _label_names(pictures.label_names, name)
    check = functools.partial(
        _rows, classes=len(label_names), root=input_dir.absolute(), side=side if preprocess == "pad" else None
    )
    given = check(pictures.images, pictures.labels, name=name)
    if pictures.test_images is None:
        if pictures.test_labels is not None:
            raise InputError(f"{name} has test_labels and no test_images, expected both or neither")
        order = shuffled(len(given.labels), random_state)
        stretches = cut(len(given.labels), data_ratio, keep_all=True)
        splits = {split: given.some(order[stretch]) for split, stretch in stretches.items()}
    else:
        test = check(pictures.test_images, pictures.test_labels, name=f"{name}, test set")
        division = Division(data_ratio, None, random_state)
        splits = division.splits(given, test if division.with_test else None)
    with_ids = all(split.image_ids is not None for split in splits.values())
    rows = write_splits(
        output_dir,
        splits,
        Layout(label_names, preprocess, (side, side)),
        functools.partial(make_images, preprocess=preprocess, side=side),
        overwrite=overwrite,
        spread=spread,
        progress=progress,
    )
    return PreparedDataset(rows, len(label_names), with_ids)


def make_images(sources: Uint8 | Sequence[str], *, preprocess: str, side: int) -> Float32:
    """Pictures in files that are many times too large are averaged over squares of pixels first, unless padded."""
    if isinstance(sources, np.ndarray):
        return preprocess_images(sources, preprocess, (side, side))
    at_most = None if preprocess == "pad" else _KEPT_SIDES * side

    def read(path: str) -> Uint8:
        picture = read_picture(Path(path), at_most=at_most)
        if preprocess == "pad":
            _check_padding(picture.shape[:2], side, path)
        return picture

    return preprocess_each(map(read, sources), preprocess, (side, side))


def _read(dataset: Dataset, input_dir: Path, name: str) -> Pictures:
    try:
        pictures = dataset.read(input_dir)
    except (InputError, WorkError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{name} cannot be read from {input_dir} ({type(error).__name__}: {reason(error)}), expected what its "
            "author describes"
        ) from error
    if not isinstance(pictures, Pictures):
        raise InputError(f"{name} gives {_kind(pictures)}, expected engine.Pictures")
    return pictures


def _label_names(names: Any, name: str) -> tuple[str, ...]:
    known = None if isinstance(names, str) or not isinstance(names, Sequence) else tuple(names)
    if known is None or not all(isinstance(label, str) for label in known):
        raise InputError(f"{name}: label_names are {_kind(names)}, expected a text for each class")
    if len(known) < 2:
        raise InputError(f"{name} has {len(known)} label_names, expected one for each of at least two classes")
    for number, label in enumerate(known):
        if label in known[:number]:
            raise InputError(f"{name} has the label name {in_words(label)} twice, expected names that differ")
    return known


def _rows(images: Any, labels: Any, *, classes: int, root: Path, side: int | None, name: str) -> Split:
    """`side` is what images are padded to, if they are."""
    ids = None
    sources: Uint8 | list[str]
    if isinstance(images, np.ndarray):
        sources = np.asarray(images)  # workers need not know a kind of array that the author's package has
        grey, colour = sources.ndim == 3, sources.ndim == 4 and sources.shape[3] == 3
        if sources.dtype != np.uint8 or not (grey or colour) or 0 in sources.shape[1:]:
            raise InputError(
                f"{name}: images are {sources.dtype} {sources.shape}, expected uint8 (n, h, w) or (n, h, w, 3), or "
                "paths of pictures"
            )
        if side is not None:
            _check_padding(sources.shape[1:3], side, f"{name}: an image")
    elif isinstance(images, Sequence) and not isinstance(images, str | bytes):
        for image in images:
            if not isinstance(image, str | Path):
                raise InputError(
                    f"{name}: images are {_kind(images)} with {_kind(image)}, expected an array of all, or paths of "
                    "pictures"
                )
        paths = [Path(image).absolute() for image in images]
        sources = [str(path) for path in paths]
        ids = [(path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in paths]
    else:
        raise InputError(f"{name}: images are {_kind(images)}, expected an array of all, or paths of pictures")
    if len(sources) == 0:
        raise InputError(f"{name} has 0 images, expected at least one")
    return Split(sources, _labels(labels, len(sources), classes, name), ids)


def _labels(labels: Any, count: int, classes: int, name: str) -> Int64:
    try:
        found = np.asarray(labels)
    except ValueError:  # lists of several lengths
        found = np.empty((count, 0))
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise InputError(
            f"{name}: labels are {found.dtype} {found.shape}, expected whole numbers ({count},), one for each image"
        )
    if len(found) != count:
        raise InputError(f"{name} has {len(found)} labels, expected {count}, one for each image")
    if (wrong := (found < 0) | (found >= classes)).any():
        row = int(wrong.argmax())
        raise InputError(f"{name}: label {row} is {found[row]}, expected 0 to {classes - 1}")
    return found.astype(np.int64)


def _check_padding(shape: tuple[int, ...], side: int, what: str) -> None:
    if max(shape) > side:
        height, width = shape
        raise InputError(f"{what} is {height}×{width}; padding needs at most {side}×{side}, expected a smaller one")


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def read_image_folder(input_dir: Path) -> Pictures:
    """One folder per class, hidden ones left out; sorted by class and name."""
    if not input_dir.is_dir():
        raise InputError(f"{input_dir}: no such folder, expected one with a folder per class")
    classes = sorted(path.name for path in input_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise InputError(f"{input_dir} has {len(classes)} folders, expected one for each of at least two classes")
    files: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        pictures = sorted(path for path in (input_dir / name).iterdir() if path.suffix.lower() in SUFFIXES)
        if not pictures:
            raise InputError(f"{input_dir / name} has no picture, expected at least one ({', '.join(SUFFIXES)})")
        files += pictures
        labels += [number] * len(pictures)
    return Pictures(classes, files, labels)


IMAGE_FOLDER = Dataset("Your own pictures.", read_image_folder)
