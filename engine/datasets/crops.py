"""The crops of some scenes, cut and written: what workers do for `engine.datasets.category_dir`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.core.types import Uint8
from engine.data.pictures import decode_picture, encode_picture, read_picture
from engine.datasets.bdd import Box, Frame, square_crop

NO_AREA = "no area"
"""Why a box was skipped: it has none, or is smaller than a pixel."""

OUTSIDE = "outside the image"
"""Why a box was skipped: nothing of it is in the image, or it reaches out so that no pixel of its crop is."""


REMOVED = "removed"
"""Folder of a category's crops that were set aside."""


@dataclass(frozen=True)
class CropSettings:
    min_area: int = 0  # those of fewer pixels are removed
    remove_occluded: bool = False  # remove_occluded, remove_truncated: so are those of boxes labelled so
    remove_truncated: bool = False
    clamp: bool = False  # see `engine.datasets.bdd.square_crop`


@dataclass(frozen=True)
class Crop:
    category: str  # folder it is in
    name: str  # of the file
    removed: bool  # whether it is in the folder's `removed`
    # mean over its pixels, as the file gives them back, of the largest channel, 0 to 255; 0 if removed
    value_mean: float
    area: int  # number of its pixels


@dataclass(frozen=True)
class SceneCrops:
    frame: str
    crops: tuple[Crop, ...]
    skipped: tuple[tuple[str, str, str], ...]


def crop_scenes(frames: Sequence[Frame], *, image_dir: Path, into: Path, settings: CropSettings) -> list[SceneCrops]:
    return [_crop_scene(frame, read_picture(image_dir / frame.name), into, settings) for frame in frames]


def crop_name(box: Box, frame: Frame) -> str:
    return f"{box.name}_{frame.name}"


def _crop_scene(frame: Frame, image: Uint8, into: Path, settings: CropSettings) -> SceneCrops:
    height, width = image.shape[:2]
    crops, skipped = [], []
    for box in frame.boxes or ():
        rows, columns = square_crop(box, height, width, clamp=settings.clamp)
        pixels = image[rows, columns]
        reason = None
        if box.empty or (int(box.x1), int(box.y1)) == (int(box.x2), int(box.y2)):
            reason = NO_AREA
        elif not box.overlaps(height, width) or pixels.size == 0:
            reason = OUTSIDE
        if reason is None:
            crops.append(_crop(box, frame, pixels, into, settings))
        else:
            skipped.append((box.name, box.category, reason))
    return SceneCrops(frame.name, tuple(crops), tuple(skipped))


def _crop(box: Box, frame: Frame, pixels: Uint8, into: Path, settings: CropSettings) -> Crop:
    name = crop_name(box, frame)
    content = encode_picture(pixels, Path(name).suffix)
    area = pixels.shape[0] * pixels.shape[1]
    removed = (
        (settings.remove_occluded and box.occluded)
        or (settings.remove_truncated and box.truncated)
        or area < settings.min_area
    )
    _write(into, [box.category, REMOVED] if removed else [box.category], name, content)
    # Of the file, as eAI-Repair-Toolkit lists it: JPEG moves the mean a little.
    value_mean = 0.0 if removed else _value_mean(decode_picture(content, name))
    return Crop(box.category, name, removed, value_mean, area)


def _value_mean(pixels: Uint8) -> float:
    """Two maxima of whole planes: a reduction over three values is slow."""
    return float(np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2]).mean())


def _write(into: Path, folders: Sequence[str], name: str, content: bytes) -> None:
    """Write a file; folders are made, but not `into`: where that is missing, no file of ours belongs."""
    path = into.joinpath(*folders, name)
    try:
        path.write_bytes(content)
    except FileNotFoundError:
        folder = into
        for folder_name in folders:
            folder /= folder_name
            folder.mkdir(exist_ok=True)
        path.write_bytes(content)
