"""`weights.csv`: the localised weights and, after a search, their new values, as the toolkit reads and writes them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.files import replace_file
from engine.head import TargetLayer

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def write_weights(path: Path, layer: int, index: Int64, value: Float32, repaired: Float32 | None = None) -> None:
    """Write `layer,i,j,value` or `layer,i,j,value,repaired` rows: no header, CRLF, shortest float32 text.

    Args:
        path: replaced as a whole.
        layer: the toolkit's number of the layer.
        index: (K, 2) int64, kernel positions.
        value, repaired: (K,) float32.
    """
    columns: list[Sequence[object]] = [[str(x) for x in value]]
    if repaired is not None:
        columns.append([str(x) for x in repaired])
    with replace_file(path) as temporary, temporary.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file)
        for (i, j), *values in zip(index.tolist(), *columns, strict=True):
            writer.writerow([layer, i, j, *values])


def read_weights(path: Path, target: TargetLayer) -> Int64:
    """Read the positions (K, 2) of the weights to search; values are taken from the model, never from the file.

    LF, a `#` header, blank lines, any row order and the toolkit's merged form (`value,layer,i,j`) are accepted.

    Raises:
        InputError: missing file, a row that is not numbers, another layer than the target, a position outside its
            kernel, or a position given twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the weights.csv that `localize` writes")
    shape = tuple(target.layer.kernel.shape)
    found: dict[tuple[int, int], int] = {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path}: not comma-separated text, expected rows of layer,i,j,value") from None
    for number, row in enumerate(rows, start=1):
        if not row or row[0].lstrip().startswith("#"):
            continue
        try:
            layer, i, j = _position(row)
        except ValueError:
            raise InputError(
                f"{path}: row {number} is {','.join(row)!r}, expected layer,i,j as whole numbers"
            ) from None
        if layer != target.number:
            raise InputError(
                f"{path}: row {number} is about layer {layer}, expected layer {target.number} ({target.layer.name})"
            )
        if not (0 <= i < shape[0] and 0 <= j < shape[1]):
            raise InputError(
                f"{path}: row {number} is weight ({i}, {j}), expected a position inside the kernel "
                f"{shape[0]}x{shape[1]} of {target.layer.name}"
            )
        if (i, j) in found:
            raise InputError(f"{path}: rows {found[i, j]} and {number} are both weight ({i}, {j}), expected one")
        found[i, j] = number
    return np.array(list(found), dtype=np.int64).reshape(-1, 2)


def _position(row: list[str]) -> tuple[int, int, int]:
    try:
        first, second, third = row[:3]
        return int(first), int(second), int(third)
    except ValueError:
        _, layer, i, j = row
        return int(layer), int(i), int(j)
