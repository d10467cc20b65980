"""Two image sets joined into one, as the toolkit's `merge_repair_data` makes it: float32 images and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.core.errors import InputError
from engine.core.files import remove
from engine.core.progress import Tick, ignore
from engine.data.image_set import READ_ROWS, ImageSet, open_image_set, open_reader
from engine.data.writer import float_dtype, write_image_set

NAME = "repair.h5"


def merge_image_sets(
    first: Path,
    second: Path,
    output_dir: Path,
    *,
    overwrite: bool = False,
    progress: Tick = ignore,
) -> int:
    """Write `<output_dir>/repair.h5` with the rows of the file `first`, then those of `second`; returns their number.

    Nothing else is left in the folder, as with the toolkit: targets of former rows would not fit. What is carried over
    besides images and labels are label names that one of the sets has, and preprocessing that both have. Rows are read
    in blocks.
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
                for start in range(0, images.rows, READ_ROWS):
                    stop = min(start + READ_ROWS, images.rows)
                    writer.append(reader.read(start, stop), one_hot[images.labels[start:stop]])
                    progress(stop - start)
    for path in other:
        remove(path)
    return rows


def _others(sets: list[ImageSet], output_dir: Path, overwrite: bool) -> list[Path]:
    """What has to leave the folder; refuses to delete what is read, and what nobody would expect to lose."""
    target = output_dir.resolve()
    for images in sets:
        # The folder as it is called, and where the file really is: either may be a link into the output folder.
        folder, file = images.path.parent.resolve(), images.path.resolve()
        if target in (folder, *folder.parents, *file.parents):
            raise InputError(f"{output_dir} would be replaced and holds {images.path}, expected another output folder")
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
