"""`prepare image-folder`: anybody's pictures, one folder per class.

Classes are the folders in alphabetical order, hidden ones left out, and their names are the label names; files that do
not end like a picture are left out as well.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.core.errors import InputError
from engine.core.parallel import ParallelMap, in_process
from engine.core.progress import Progress, unseen
from engine.core.types import Float32, Uint8
from engine.data.pictures import SUFFIXES, read_picture
from engine.data.preprocess import METHODS, SIDE, preprocess_each
from engine.datasets.splits import DEFAULT_RATIO, Layout, Ratio, Split, check_ratio, cut, shuffled, write_splits

DEFAULT_PREPROCESS = "resize"

_KEPT_SIDES = 8
"""A picture of many times the wanted side is first averaged down to this many."""


def prepare_image_folder(
    input_dir: Path,
    output_dir: Path,
    *,
    data_ratio: Ratio = DEFAULT_RATIO,
    random_state: int = 0,
    preprocess: str = DEFAULT_PREPROCESS,
    side: int = SIDE,
    overwrite: bool = False,
    spread: ParallelMap = in_process,
    progress: Progress = unseen,
) -> dict[str, int]:
    """Write the splits with a ratio above 0 and return their rows; splits of earlier calls stay.

    The pictures of all classes, sorted by class and name, are shuffled by `random_state` and divided by
    `data_ratio`; no picture is lost. `images` are float32 (n, side, side, 3), `labels` one-hot uint8, `image_ids`
    class and file name.

    Raises InputError for fewer than two classes, a class without pictures, unreadable ones, for padding one that is
    too large, a bad ratio, and as `engine.datasets.splits.write_splits` does.
    """
    if preprocess not in METHODS:
        raise InputError(f"preprocess method {preprocess}, expected one of {', '.join(METHODS)}")
    if side < 1:
        raise InputError(f"side is {side}, expected at least 1")
    check_ratio(data_ratio)
    root, classes = input_dir.absolute(), class_names(input_dir)
    files: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        pictures = sorted(path for path in (root / name).iterdir() if path.suffix.lower() in SUFFIXES)
        if not pictures:
            raise InputError(f"{input_dir / name} has no picture, expected at least one ({', '.join(SUFFIXES)})")
        files += pictures
        labels += [number] * len(pictures)
    order = shuffled(len(files), random_state)
    splits = {
        split: Split(
            sources=[str(files[row]) for row in order[rows]],
            labels=np.array(labels)[order[rows]],
            image_ids=[files[row].relative_to(root).as_posix() for row in order[rows]],
        )
        for split, rows in cut(len(files), data_ratio, keep_all=True).items()
    }
    stamps = [(str(path), (status := path.stat()).st_size, status.st_mtime_ns) for path in files]
    sources = hashlib.sha256(repr(stamps).encode("utf-8", "surrogateescape")).hexdigest()
    return write_splits(
        output_dir,
        splits,
        Layout(classes, preprocess, (side, side)),
        functools.partial(prepare_pictures, preprocess=preprocess, side=side),
        job={"ratio": data_ratio, "random_state": random_state, "sources": sources},
        overwrite=overwrite,
        spread=spread,
        progress=progress,
    )


def class_names(input_dir: Path) -> tuple[str, ...]:
    """Names of the classes in order; InputError where there are not two."""
    if not input_dir.is_dir():
        raise InputError(f"{input_dir}: no such folder, expected one with a folder per class")
    names = sorted(path.name for path in input_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{input_dir} has {len(names)} folders, expected one for each of at least two classes")
    return tuple(names)


def prepare_pictures(paths: Sequence[str], *, preprocess: str, side: int) -> Float32:
    """Float32 (n, side, side, 3) of the pictures in some files.

    Unless they are padded, pictures whose shorter side is 16 times `side` or more are first averaged over squares of
    whole pixels, to at least 8 times; then they are stretched to the square.
    Raises FileNotFoundError for a missing file, InputError for one that is unreadable or too large to pad.
    """
    at_most = None if preprocess == "pad" else _KEPT_SIDES * side

    def read(path: str) -> Uint8:
        picture = read_picture(Path(path), at_most=at_most)
        if preprocess == "pad" and max(picture.shape[:2]) > side:
            height, width = picture.shape[:2]
            raise InputError(f"{path} is {height}×{width}; padding needs at most {side}×{side}, expected a smaller one")
        return picture

    return preprocess_each(map(read, paths), preprocess, (side, side))
