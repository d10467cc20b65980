"""What `utils` makes out of image sets: two joined, the same images with other labels, and picture files."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError
from engine.core.files import remove, replace_directory
from engine.core.progress import Tick, ignore
from engine.core.types import Float64, Uint8
from engine.data.image_set import READ_ROWS, ImageSet, is_pictures, open_image_set, open_reader, stretches
from engine.data.label_file import read_json
from engine.data.pictures import encode_picture
from engine.data.writer import float_dtype, write_image_set

NAME = "repair.h5"

FOLDER = "images"
FORMATS = ("ppm", "png")
_BLOCK_VALUES = 1 << 24  # values of pixels that are held at once
_OURS = re.compile(r"\d{8,}\.(ppm|png)")


def merge_image_sets(
    first: Path, second: Path, output_dir: Path, *, overwrite: bool = False, progress: Tick = ignore
) -> int:
    """Write `<output_dir>/repair.h5` with the rows of both, in float32, and nothing else; returns their number.

    Targets of former rows would not fit, so other files leave the folder. Label names that one set has,
    and preprocessing that both have, are kept.
    """
    sets = [open_image_set(path, allow_empty=True) for path in (first, second)]
    other = _others(sets, output_dir, overwrite)
    filled = [images for images in sets if images.rows]
    if not filled:
        raise InputError(f"{sets[0].path} and {sets[1].path} have 0 rows, expected at least one image")
    if len(filled) == 2:
        _check_alike(*filled)
    rows = sum(images.rows for images in filled)
    ways = {images.preprocess for images in filled}
    with write_image_set(
        output_dir / NAME,
        rows=rows,
        image_shape=filled[0].image_shape,
        classes=filled[0].classes,
        image_dtype=float_dtype(filled[0]),
        label_dtype=np.float32,
        label_names=next((images.label_names for images in filled if images.label_names), None),
        preprocess=ways.pop() if len(ways) == 1 else None,
    ) as writer:
        for images in filled:
            one_hot = np.eye(images.classes, dtype=np.float32)
            with open_reader(images) as reader:
                for start, stop in stretches(range(images.rows)):
                    writer.append(reader.read(start, stop), one_hot[images.labels[start:stop]])
                    progress(stop - start)
    for path in other:
        remove(path)
    return rows


def _others(sets: list[ImageSet], output_dir: Path, overwrite: bool) -> list[Path]:
    """What has to leave the folder; refuses to delete what is read, and what nobody would expect to lose."""
    for images in sets:
        _check_kept(output_dir, images.path)
    if not output_dir.exists():
        return []
    if not output_dir.is_dir():
        raise InputError(f"{output_dir} is not a folder, expected a folder to write into, or none")
    other = sorted(path for path in output_dir.iterdir() if path.name != NAME)
    if other and not overwrite:
        raise InputError(
            f"{output_dir} would be replaced and holds {other[0].name}, expected a folder with nothing but {NAME}, or "
            "--overwrite"
        )
    return other


def _check_alike(first: ImageSet, second: ImageSet) -> None:
    for what, mine, other in (
        ("images of shape", first.image_shape, second.image_shape),
        ("inputs", first.inputs, second.inputs),
        ("labels of so many classes:", first.classes, second.classes),
        ("preprocessing", first.preprocess, second.preprocess),
    ):
        if mine != other and mine is not None and other is not None:
            raise InputError(f"{first.path} has {what} {mine} and {second.path} {other}, expected the same")
    for label, (mine, other) in enumerate(zip(first.label_names or (), second.label_names or (), strict=False)):
        if mine != other:
            raise InputError(
                f"{first.path} calls label {label} {mine!r} and {second.path} {other!r}, expected the same names"
            )


def write_with_labels(image_set: ImageSet, labels: npt.NDArray[Any], path: Path, *, progress: Tick = ignore) -> None:
    """`labels` are (n,) or (n, c) of any dtype."""
    with (
        open_reader(image_set) as reader,
        write_image_set(
            path,
            rows=image_set.rows,
            image_shape=image_set.image_shape,
            classes=labels.shape[1] if labels.ndim == 2 else None,
            image_dtype=reader.image_dtype,
            label_dtype=labels.dtype,
            preprocess=image_set.preprocess,
        ) as writer,
    ):
        for start, stop in stretches(range(image_set.rows)):
            writer.append(reader.read_stored(start, stop)[0], labels[start:stop])
            progress(stop - start)


def read_groups(path: Path) -> list[list[int]]:
    """Groups of class numbers from JSON such as `[[0, 2], [1, 3]]`."""
    expected = "expected a JSON list of lists of class numbers, each class in one of them"
    groups = read_json(path, expected)
    if not isinstance(groups, list) or not groups or not all(isinstance(group, list) for group in groups):
        raise InputError(f"{path} holds no list of lists, {expected}")
    members = [member for group in groups for member in group]
    for member in members:
        if not isinstance(member, int) or isinstance(member, bool) or member < 0:
            raise InputError(f"{path} has {member!r} in a group, {expected}")
    repeated = next((member for member in members if members.count(member) > 1), None)
    if repeated is not None:
        raise InputError(f"{path} names class {repeated} twice, {expected}")
    return list(groups)


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


def extract_images(
    image_set: ImageSet, output_dir: Path, *, kind: str = "ppm", overwrite: bool = False, progress: Tick = ignore
) -> Path:
    """Write row k as `<output_dir>/images/<k with eight digits>.ppm`, or as `.png`; returns the folder.

    RGB of 8 bits: floats become round(255·x), integers stay, grey images have three equal channels.
    """
    if kind not in FORMATS:
        raise ValueError(f"kind {kind!r}, expected one of {', '.join(FORMATS)}")
    if not is_pictures(image_set):
        raise InputError(
            f"{image_set.path} has rows of shape {image_set.image_shape}, which are no pictures, expected (height, "
            "width, channels)"
        )
    if image_set.image_shape[2] not in (1, 3):
        raise InputError(f"{image_set.path} has images of shape {image_set.image_shape}, expected 1 or 3 channels")
    folder = output_dir / FOLDER
    _check_folder(folder, image_set.path, overwrite)
    block = max(1, min(READ_ROWS, _BLOCK_VALUES // math.prod(image_set.image_shape)))
    with replace_directory(folder) as new, open_reader(image_set) as reader:
        for start, stop in stretches(range(image_set.rows), block):
            pixels = _pixels(reader.read_stored(start, stop)[0], start, image_set.path)
            for row, picture in enumerate(pixels, start):
                (new / f"{row:08d}.{kind}").write_bytes(encode_picture(picture, f".{kind}"))
            progress(stop - start)
    return folder


def _check_folder(folder: Path, source: Path, overwrite: bool) -> None:
    _check_kept(folder, source)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is not a folder, expected a folder of extracted pictures, or none")
    if not overwrite and folder.exists():
        other = next((path.name for path in sorted(folder.iterdir()) if not _OURS.fullmatch(path.name)), None)
        if other is not None:
            raise InputError(
                f"{folder} would be replaced and holds {other}, expected nothing but extracted pictures, or --overwrite"
            )


def _pixels(images: npt.NDArray[Any], first: int, path: Path) -> Uint8:
    values = images if images.dtype.kind in "iu" else np.rint(255 * images.astype(np.float64))
    good = ((values >= 0) & (values <= 255)).reshape(len(values), -1).all(axis=1)  # NaN is neither
    if not good.all():
        row = int(np.argmin(good))
        highest = 255 if images.dtype.kind in "iu" else 1
        found = f"{images[row].min():g} to {images[row].max():g}"
        raise InputError(f"{path}: row {first + row} has pixels from {found}, expected numbers from 0 to {highest}")
    return np.broadcast_to(values.astype(np.uint8), (*images.shape[:3], 3))


def _check_kept(folder: Path, source: Path) -> None:
    """Refuse to replace a folder that holds what is read."""
    # The folder as it is called, and where the file really is: either may be a link into the output folder.
    parent, file = source.parent.resolve(), source.resolve()
    if folder.resolve() in (parent, *parent.parents, *file.parents):
        raise InputError(f"{folder} would be replaced and holds {source}, expected another output folder")
