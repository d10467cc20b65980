"""The images of an image set as picture files."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError
from engine.core.files import replace_directory
from engine.core.progress import Tick, ignore
from engine.core.types import Uint8
from engine.data.image_set import READ_ROWS, ImageSet, is_pictures, open_reader
from engine.data.pictures import encode_picture

FOLDER = "images"
FORMATS = ("ppm", "png")

_BLOCK_VALUES = 1 << 24
"""Values of pixels that are held at once."""

_OURS = re.compile(r"\d{8,}\.(ppm|png)")


def extract_images(
    image_set: ImageSet,
    output_dir: Path,
    *,
    kind: str = "ppm",
    overwrite: bool = False,
    progress: Tick = ignore,
) -> Path:
    """Write row k as `<output_dir>/images/<k with eight digits>.ppm`, or as `.png`; returns the folder.

    Pictures are RGB of 8 bits; grey images have three equal channels. Floats from 0 to 1 become round(255·x), integers
    from 0 to 255 stay. The folder is replaced, and appears when all pictures are in it. Rows are read in blocks.
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
        for start in range(0, image_set.rows, block):
            stop = min(start + block, image_set.rows)
            pixels = _pixels(reader.read_stored(start, stop)[0], start, image_set.path)
            for row, picture in enumerate(pixels, start):
                (new / f"{row:08d}.{kind}").write_bytes(encode_picture(picture, f".{kind}"))
            progress(stop - start)
    return folder


def _check_folder(folder: Path, source: Path, overwrite: bool) -> None:
    target = folder.resolve()
    if target in (*source.parent.resolve().parents, source.parent.resolve(), *source.resolve().parents):
        raise InputError(f"{folder} would be replaced and holds {source}, expected another output folder")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is not a folder, expected a folder of extracted pictures, or none")
    if not overwrite and folder.exists():
        other = next((path.name for path in sorted(folder.iterdir()) if not _OURS.fullmatch(path.name)), None)
        if other is not None:
            raise InputError(
                f"{folder} would be replaced and holds {other}, expected nothing but extracted pictures, or --overwrite"
            )


def _pixels(images: npt.NDArray[Any], first: int, path: Path) -> Uint8:
    """Images (m, h, w, c) of rows from `first` on as RGB bytes (m, h, w, 3)."""
    values = images if images.dtype.kind in "iu" else np.rint(255 * images.astype(np.float64))
    good = ((values >= 0) & (values <= 255)).reshape(len(values), -1).all(axis=1)  # NaN is neither
    if not good.all():
        row = int(np.argmin(good))
        highest = 255 if images.dtype.kind in "iu" else 1
        found = f"{images[row].min():g} to {images[row].max():g}"
        raise InputError(f"{path}: row {first + row} has pixels from {found}, expected numbers from 0 to {highest}")
    return np.broadcast_to(values.astype(np.uint8), (*images.shape[:3], 3))
