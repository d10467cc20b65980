"""The localised weights and, after a search, their new values, in the folder of the negative inputs.

`weights.csv` is the toolkit's file, for kernels of Dense layers; `weights.arrow`, a patch file, names any weight of a
model. Of a deep target both are written where both can say it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.core.errors import InputError
from engine.core.files import replace_file
from engine.core.types import Float32, Int64
from engine.data.label_file import read_label_file, write_label_file
from engine.patches.arrow import read_patch
from engine.patches.patch import Patch

if TYPE_CHECKING:
    from engine.models.load import LoadedModel

CSV, ARROW = "weights.csv", "weights.arrow"

FRONT = "pareto_front.png"  # the chart that Arachne leaves beside them


def localised_paths(folder: Path) -> list[str]:
    """The paths of the weights that a folder's `weights.arrow` is about; none where it has no such file."""
    return list(dict.fromkeys(read_patch(folder / ARROW).weight)) if (folder / ARROW).is_file() else []


def write_weights(
    path: Path, layer: int | Int64, index: Int64, value: Float32, repaired: Float32 | None = None
) -> None:
    """Write `layer,i,j,value` or `layer,i,j,value,repaired` rows: no header, CRLF, shortest float32 text.

    `layer` is the toolkit's number of the layer of each weight (K,).
    """
    columns = [[str(x) for x in values] for values in (value, repaired) if values is not None]
    with replace_file(path) as temporary, temporary.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file)
        layers = np.broadcast_to(layer, len(index)).tolist()
        for number, (i, j), *values in zip(layers, index.tolist(), *columns, strict=True):
            writer.writerow([number, i, j, *values])


def read_rows(path: Path) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Number and layer, i, j of every row; each place once.

    LF, a `#` header, blank lines, any row order and the toolkit's merged form (`value,layer,i,j`) are accepted.
    """
    found: dict[tuple[int, int, int], int] = {}
    for number, row in _rows(path, "layer,i,j,value", "localize"):
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


def _rows(path: Path, columns: str, writer: str) -> list[tuple[int, list[str]]]:
    """Number, from 1, and cells of every row that is neither blank nor a comment."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the weights.csv that `{writer}` writes")
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path}: not comma-separated text, expected rows of {columns}") from None
    return [(n, row) for n, row in enumerate(rows, start=1) if row and not row[0].lstrip().startswith("#")]


def check_inside(path: Path, row: int, place: tuple[int, int], shape: tuple[int, ...], name: str) -> None:
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


def patch_of_weights_csv(path: Path, model: LoadedModel) -> Patch:
    """Read the `layer,i,j,value,repaired` rows that `optimize` and the toolkit write, as a patch of a model.

    (i, j) is a position in the layer's first weight, as in the toolkit.
    """
    kernels: dict[int, tuple[str, Float32]] = {}
    found: dict[tuple[str, int], tuple[int, np.float32, np.float32]] = {}
    for number, row in _rows(path, "layer,i,j,value,repaired", "optimize"):
        where = f"{path}: row {number}"
        try:
            layer, i, j = map(int, row[:3])
            with np.errstate(over="ignore"):  # infinity is refused below
                value, repaired = map(np.float32, row[3:])
        except ValueError:
            raise InputError(
                f"{where} is {','.join(row)!r}, expected layer,i,j,value,repaired as `optimize` writes"
            ) from None
        if layer not in kernels:
            kernels[layer] = _first_weight(model, layer, where)
        weight, kernel = kernels[layer]
        rows, units = kernel.shape
        if not (0 <= i < rows and 0 <= j < units):
            raise InputError(f"{where} is weight ({i}, {j}), expected a position inside {rows}x{units} of {weight!r}")
        if value.tobytes() != kernel[i, j].tobytes():
            raise InputError(
                f"{where} has the value {value!s} for ({i}, {j}) of {weight!r}, expected {kernel[i, j]!s} as in "
                f"{model.path}"
            )
        if not np.isfinite(repaired):
            raise InputError(f"{where} would set ({i}, {j}) of {weight!r} to {repaired!s}, expected a finite value")
        key = (weight, i * units + j)
        if key in found:
            first = found[key][0]
            raise InputError(f"{path}: rows {first} and {number} are both ({i}, {j}) of {weight!r}, expected one")
        found[key] = number, value, repaired
    old, new = (np.array([row[column] for row in found.values()], np.float32) for column in (1, 2))
    return Patch(tuple(weight for weight, _ in found), np.array([flat for _, flat in found], np.int64), old, new)


def _first_weight(model: LoadedModel, layer: int, where: str) -> tuple[str, Float32]:
    # TensorFlow takes seconds, and a patch file can be read without.
    from engine.models.weight_paths import weight_variables

    layers = model.model.layers
    if not 0 <= layer < len(layers):
        raise InputError(f"{where} is about layer {layer}, expected 0 to {len(layers) - 1} as in {model.path}")
    for first in layers[layer].weights[:1]:
        for path, variable in weight_variables(model.model).items():
            if variable is first and len(variable.shape) == 2 and variable.dtype == "float32":
                return path, np.asarray(variable)
    raise InputError(
        f"{where} is about layer {layer} ({layers[layer].name}), expected a layer whose first weight is a matrix of "
        "float32"
    )


def write_repaired_labels(path: Path, weights: Path, labels: Sequence[int]) -> None:
    """Write a `weights.csv` with new values into the entries of some labels of a `labels.json`, where there are any.

    They get `weights`, as [layer, i, j], and in the same order `repaired_values`, float32 as text; all else stays.
    """
    places = [list(place) for _, place in read_rows(weights)]
    with weights.open(newline="", encoding="ascii") as file:
        values = [row[-1] for row in csv.reader(file)]
    entries = read_label_file(path)
    for label in labels:
        if label in entries:
            entries[label] |= {"weights": places, "repaired_values": values}
    write_label_file(path, entries)
