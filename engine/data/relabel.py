"""Image sets with the same images and other labels: class numbers, or the group that holds the class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError, reason
from engine.core.files import replace_file
from engine.core.progress import Tick, ignore
from engine.core.types import Float64
from engine.data.image_set import READ_ROWS, ImageSet, open_reader
from engine.data.writer import create_images, put_images


def write_with_labels(
    image_set: ImageSet,
    labels: npt.NDArray[Any],
    path: Path,
    *,
    progress: Tick = ignore,
) -> None:
    """Write the images of a set, unchanged, with `labels` (n, ...) of any dtype; the file appears whole."""
    with (
        open_reader(image_set) as reader,
        replace_file(path) as temporary,
        h5py.File(temporary, "w", locking=False) as file,
    ):
        images = create_images(file, image_set.rows, image_set.image_shape, reader.image_dtype)
        file.create_dataset("labels", data=labels)
        if image_set.preprocess is not None:
            file.attrs["preprocess"] = image_set.preprocess
        for start in range(0, image_set.rows, READ_ROWS):
            stop = min(start + READ_ROWS, image_set.rows)
            put_images(images, start, reader.read_stored(start, stop)[0])
            progress(stop - start)


def read_groups(path: Path) -> list[list[int]]:
    """Groups of class numbers from a JSON file, such as `[[0, 2], [1, 3]]`."""
    expected = "expected a JSON list of lists of class numbers, each class in one of them"
    try:
        groups = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}), {expected}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({reason(error)}), {expected}") from error
    if not isinstance(groups, list) or not groups or not all(isinstance(group, list) for group in groups):
        raise InputError(f"{path} holds no list of lists, {expected}")
    members = [member for group in groups for member in group]
    for member in members:
        if not isinstance(member, int) or isinstance(member, bool) or member < 0:
            raise InputError(f"{path} has {member!r} in a group, {expected}")
    repeated = next((member for member in members if members.count(member) > 1), None)
    if repeated is not None:
        raise InputError(f"{path} names class {repeated} twice, {expected}")
    return groups


def group_labels(image_set: ImageSet, groups: Sequence[Sequence[int]], path: Path) -> Float64:
    """One-hot rows (n, groups) of the group that holds each row's class, all zero where none does."""
    highest = max((member for group in groups for member in group), default=-1)
    if highest >= image_set.classes:
        raise InputError(
            f"{path} names class {highest} and {image_set.path} has {image_set.classes} classes, expected 0 to "
            f"{image_set.classes - 1}"
        )
    table = np.zeros((image_set.classes, len(groups)))
    for column, group in enumerate(groups):
        table[list(group), column] = 1
    one_hot: Float64 = table[image_set.labels]
    return one_hot
