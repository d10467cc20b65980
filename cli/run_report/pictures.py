"""Small pictures of held-out images that a repair fixed or broke, as data URIs."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cli.run_report.data import HELD_OUT, PredictionsView
from engine.core.errors import InputError
from engine.core.types import Float32, Int64, Uint8
from engine.data.image_set import ImageSet, is_pictures, open_image_set, read_rows

_MOST = 40
"""Pictures of one kind."""

_LONGEST_SIDE = 64
"""Pixels of a picture; larger images are averaged down."""


@dataclass(frozen=True)
class Picture:
    """An image of a row whose class was fixed or broken; `uri` is a PNG as data URI."""

    row: int
    label: int
    before: int
    after: int
    uri: str


@dataclass(frozen=True, eq=False)
class Pictures:
    """What there is to show of a held-out set.

    Attributes:
        split: test or validation.
        fixed, broken: pictures by true label and row.
        fixed_rows, broken_rows: how many rows there are of each kind.
        note: why there are no pictures, or what to think of them; None where all is well.
    """

    split: str
    fixed: tuple[Picture, ...]
    broken: tuple[Picture, ...]
    fixed_rows: int
    broken_rows: int
    note: str | None


def pictures(
    predictions: Mapping[str, PredictionsView], held_out: Mapping[str, Path], started: str | None
) -> Pictures | None:
    """Pictures of the test rows, or else of the validation rows, that were fixed and broken; None without any rows.

    Where there are many, some of every label are taken. `started`, the ISO time of the run's start, tells whether the
    file was written later.
    """
    split = next((name for name in HELD_OUT if name in predictions), None)
    if split is None:
        return None
    found = predictions[split]
    was_right, is_right = found.before == found.label, found.after == found.label
    fixed, broken = np.flatnonzero(~was_right & is_right), np.flatnonzero(was_right & ~is_right)
    shown = {"fixed": _spread(fixed, found.label), "broken": _spread(broken, found.label)}
    uris, note = read_pictures(
        held_out.get(split), found.row, found.label, np.unique(np.concatenate(list(shown.values()))), started
    )
    made = {
        kind: tuple(
            Picture(int(found.row[at]), int(found.label[at]), int(found.before[at]), int(found.after[at]), uris[at])
            for at in positions.tolist()
            if at in uris
        )
        for kind, positions in shown.items()
    }
    return Pictures(split, made["fixed"], made["broken"], len(fixed), len(broken), note)


def read_pictures(
    path: Path | None, row: Int64, label: Int64, wanted: Int64, started: str | None
) -> tuple[dict[int, str], str | None]:
    """Pictures as data URIs by position, and why there are none or what to think of them.

    Args:
        path: of the image set; None where the run names none.
        row, label: (n,) all rows that were measured, and their true classes.
        wanted: (k,) positions among them.
        started: ISO time of the run's start.
    """
    try:
        images = _same_set(path, row, label)
        uris = dict(zip(wanted.tolist(), _uris(read_rows(images, row[wanted])), strict=True))
        return uris, _written_later(images.path, started)
    except InputError as error:
        return {}, f"No pictures: {error}."


def png(pixels: Uint8) -> bytes:
    """A PNG of (h, w, 1) grey or (h, w, 3) RGB bytes."""
    height, width, channels = pixels.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each line starts with its filter, 0 for none
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def to_bytes(images: Float32) -> Uint8:
    """Images (n, h, w, c) of any range as bytes (n, h', w', 1 or 3), all on one scale.

    Values within 0 to 1, or else 0 to 255, keep that range; any other is stretched from the smallest to the largest.
    Of other numbers of channels than 1 and 3 the first three, or the first, are shown.
    """
    channels = images.shape[3]
    shown = images[..., : 3 if channels >= 3 else 1].astype(np.float64)
    low, high = float(shown.min()), float(shown.max())
    if low >= 0:
        low, high = 0.0, 1.0 if high <= 1 else 255.0 if high <= 255 else high
    scaled = (_smaller(shown) - low) / (high - low if high > low else 1.0)
    pixels: Uint8 = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return pixels


def _spread(positions: Int64, labels: Int64) -> Int64:
    """At most `_MOST` of the positions, taken from every label in turn, sorted by label."""
    mine = labels[positions]
    order = np.argsort(mine, kind="stable")
    _, first, counts = np.unique(mine[order], return_index=True, return_counts=True)
    turn = np.empty(len(positions), np.int64)
    turn[order] = np.arange(len(positions)) - np.repeat(first, counts)
    taken = np.argsort(turn, kind="stable")[:_MOST]
    return positions[taken[np.lexsort((positions[taken], mine[taken]))]]


def _same_set(path: Path | None, row: Int64, label: Int64) -> ImageSet:
    """The image set, if it still has the rows that were measured."""
    if path is None:
        raise InputError("the run does not name its image set")
    images = open_image_set(path)
    same = images.rows == len(row) and np.array_equal(images.labels[row], label)
    if not same:
        raise InputError(f"{path} has changed since, its labels are not those of the run")
    if not is_pictures(images):
        raise InputError(f"the rows of {path} have the shape {images.image_shape} and are none")
    return images


def _written_later(path: Path, started: str | None) -> str | None:
    if started is None:
        return None
    begun = datetime.fromisoformat(started.replace("Z", "+00:00")).timestamp()  # Python 3.10 knows no Z
    if path.stat().st_mtime <= begun + 1:
        return None
    return f"{path} was written after the run had started: its pictures may not be those that were measured."


def _uris(images: Float32) -> list[str]:
    if not len(images):
        return []
    return ["data:image/png;base64," + base64.b64encode(png(image)).decode() for image in to_bytes(images)]


def _smaller(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mean over squares of pixels, so that no side is longer than `_LONGEST_SIDE`; what is left over is cut off."""
    rows, height, width, channels = images.shape
    side = -(-max(height, width) // _LONGEST_SIDE)
    down, across = max(height // side, 1), max(width // side, 1)
    tall, wide = min(side, height), min(side, width)
    squares = images[:, : down * tall, : across * wide].reshape(rows, down, tall, across, wide, channels)
    smaller: npt.NDArray[Any] = squares.mean(axis=(2, 4))
    return smaller
