"""Small pictures of held-out images that a repair fixed or broke, as data URIs."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cli.run_report.rows import Row
from cli.run_report.words import begun
from engine.core.errors import InputError
from engine.core.types import Float32, Int64, Uint8
from engine.data.image_set import ImageSet, is_pictures, open_image_set, read_rows

_LONGEST_SIDE = 64  # pixels of a picture; larger images are averaged down


def pictures(
    rows: Row,
    afters: Mapping[str, Sequence[Int64]],
    chosen: Callable[[Int64], Int64],
    path: Path | None,
    started: str | None,
) -> tuple[dict[str, dict[str, Row]], str | None]:
    """Pictures of rows that models fixed and broke, by name and kind, and a note, such as why there are none.

    `rows` has `row`, `label` and `before`, each (n,); `afters` by name the classes (n,) of each draw; `chosen` gives
    the positions to show, from the number of draws (n,) in which each row is fixed, or broken.
    """
    counts = {name: _counts(rows, mine) for name, mine in afters.items()}
    shown = {name: {kind: chosen(count) for kind, count in of.items()} for name, of in counts.items()}
    wanted = [positions for of in shown.values() for positions in of.values()]
    if not wanted:
        return {}, None
    uris, note = _read(path, rows, np.unique(np.concatenate(wanted)), started)
    found = {
        name: {
            kind: Row(
                rows=int((count > 0).sum()),
                shown=[
                    _picture(rows, afters[name], kind, at, int(count[at]), uris[at])
                    for at in shown[name][kind].tolist()
                    if at in uris
                ],
            )
            for kind, count in of.items()
        }
        for name, of in counts.items()
    }
    return found, note


def spread(positions: Int64, labels: Int64, most: int) -> Int64:
    """At most `most` of the positions, taken from every label in turn, sorted by label."""
    mine = labels[positions]
    order = np.argsort(mine, kind="stable")
    _, first, counts = np.unique(mine[order], return_index=True, return_counts=True)
    turn = np.empty(len(positions), np.int64)
    turn[order] = np.arange(len(positions)) - np.repeat(first, counts)
    taken = np.argsort(turn, kind="stable")[:most]
    return positions[taken[np.lexsort((positions[taken], mine[taken]))]]


def to_bytes(images: Float32) -> Uint8:
    """Images (n, h, w, c) as bytes (n, h', w', 1 or 3), all on one scale.

    Values within 0 to 1, or else 0 to 255, keep that range; any other is stretched from the smallest to the largest.
    """
    channels = images.shape[3]
    shown = images[..., : 3 if channels >= 3 else 1].astype(np.float64)
    low, high = float(shown.min()), float(shown.max())
    if low >= 0:
        low, high = 0.0, 1.0 if high <= 1 else 255.0 if high <= 255 else high
    scaled = (_smaller(shown) - low) / (high - low if high > low else 1.0)
    pixels: Uint8 = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return pixels


def _counts(rows: Row, afters: Sequence[Int64]) -> dict[str, Int64]:
    """In how many draws each row (n,) is fixed and broken."""
    right = sum((after == rows.label for after in afters), start=np.zeros(len(rows.label), np.int64))
    was_right = rows.before == rows.label
    return {"fixed": np.where(was_right, 0, right), "broken": np.where(was_right, len(afters) - right, 0)}


def _picture(rows: Row, afters: Sequence[Int64], kind: str, at: int, draws: int, uri: str) -> Row:
    label = int(rows.label[at])
    classes = Counter(int(after[at]) for after in afters if (after[at] == label) == (kind == "fixed"))
    after = min(classes, key=lambda each: (-classes[each], each))
    return Row(row=int(rows.row[at]), label=label, before=int(rows.before[at]), after=after, draws=draws, uri=uri)


def _read(path: Path | None, rows: Row, wanted: Int64, started: str | None) -> tuple[dict[int, str], str | None]:
    try:
        images = _same_set(path, rows)
        shown = to_bytes(read_rows(images, rows.row[wanted])) if len(wanted) else ()
        return dict(zip(wanted.tolist(), map(_uri, shown), strict=True)), _written_later(images.path, started)
    except InputError as error:
        return {}, f"No pictures: {error}."


def _same_set(path: Path | None, rows: Row) -> ImageSet:
    """The image set, if it still has the rows that were measured."""
    if path is None:
        raise InputError("the run does not name its image set")
    images = open_image_set(path)
    if images.rows != len(rows.row) or not np.array_equal(images.labels[rows.row], rows.label):
        raise InputError(f"{path} has changed since, its labels are not those of the run")
    if not is_pictures(images):
        raise InputError(f"the rows of {path} have the shape {images.image_shape} and are none")
    return images


def _written_later(path: Path, started: str | None) -> str | None:
    if started is None or path.stat().st_mtime <= begun(started).timestamp() + 1:
        return None
    return f"{path} was written after the run had started: its pictures may not be those that were measured."


def _uri(pixels: Uint8) -> str:
    """A PNG of (h, w, 1) grey or (h, w, 3) RGB bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _smaller(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Means over squares of pixels; what is left over at the sides is cut off."""
    rows, height, width, channels = images.shape
    side = -(-max(height, width) // _LONGEST_SIDE)
    down, across = max(height // side, 1), max(width // side, 1)
    tall, wide = min(side, height), min(side, width)
    squares = images[:, : down * tall, : across * wide].reshape(rows, down, tall, across, wide, channels)
    smaller: npt.NDArray[Any] = squares.mean(axis=(2, 4))
    return smaller
