"""The localised weights and, after a search, their new values, in the folder of the negative inputs.

`weights.csv` is the toolkit's file, for kernels of Dense layers; `weights.arrow`, a patch file, names any weight of a
model. Of a deep target both are written where both can say it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.core.errors import InputError
from engine.core.files import replace_file
from engine.core.types import Float32, Int64
from engine.patches.arrow import read_patch

CSV, ARROW = "weights.csv", "weights.arrow"

FRONT = "pareto_front.png"
"""The chart that Arachne leaves beside them."""


def localised_paths(folder: Path) -> list[str]:
    """The paths of the weights that a folder's `weights.arrow` is about; none where it has no such file."""
    return list(dict.fromkeys(read_patch(folder / ARROW).weight)) if (folder / ARROW).is_file() else []


def write_weights(
    path: Path, layer: int | Int64, index: Int64, value: Float32, repaired: Float32 | None = None
) -> None:
    """Write `layer,i,j,value` or `layer,i,j,value,repaired` rows: no header, CRLF, shortest float32 text.

    `layer` is the toolkit's number of the layer of each weight (K,).
    """
    columns: list[Sequence[object]] = [[str(x) for x in value]]
    if repaired is not None:
        columns.append([str(x) for x in repaired])
    with replace_file(path) as temporary, temporary.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file)
        layers = np.broadcast_to(layer, len(index)).tolist()
        for number, (i, j), *values in zip(layers, index.tolist(), *columns, strict=True):
            writer.writerow([number, i, j, *values])


def read_rows(path: Path) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Number and layer, i, j of every row; each place once.

    LF, a `#` header, blank lines, any row order and the toolkit's merged form (`value,layer,i,j`) are accepted.

    Raises:
        InputError: missing file, a row that is not numbers, or a position given twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the weights.csv that `localize` writes")
    found: dict[tuple[int, int, int], int] = {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path}: not comma-separated text, expected rows of layer,i,j,value") from None
    for number, row in enumerate(rows, start=1):
        if not row or row[0].lstrip().startswith("#"):
            continue
        try:
            place = _position(row)
        except ValueError:
            raise InputError(
                f"{path}: row {number} is {','.join(row)!r}, expected layer,i,j as whole numbers"
            ) from None
        yield number, place
        if place in found:
            raise InputError(
                f"{path}: rows {found[place]} and {number} are both weight ({place[1]}, {place[2]}), expected one"
            )
        found[place] = number


def check_inside(path: Path, row: int, place: tuple[int, int], shape: tuple[int, ...], name: str) -> None:
    """Raise InputError unless a row's (i, j) is a place in a kernel of this shape."""
    if not (0 <= place[0] < shape[0] and 0 <= place[1] < shape[1]):
        raise InputError(
            f"{path}: row {row} is weight {place}, "
            f"expected a position inside the kernel {shape[0]}x{shape[1]} of {name}"
        )


def _position(row: list[str]) -> tuple[int, int, int]:
    try:
        first, second, third = row[:3]
        return int(first), int(second), int(third)
    except ValueError:
        _, layer, i, j = row
        return int(layer), int(i), int(j)
