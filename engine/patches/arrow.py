"""Patches as files: an Arrow file with one row per weight, or the `weights.csv` of a repair."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from engine.core.errors import InputError
from engine.core.files import replace_file
from engine.core.types import Float32, Int64
from engine.patches.patch import Patch

if TYPE_CHECKING:
    from engine.models.load import LoadedModel


Shapes = Mapping[str, tuple[int, ...]]
"""The shape of every weight of a model, by path."""


def _field(name: str, kind: pa.DataType, text: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": text})


SCHEMA: pa.Schema = pa.schema(
    [
        _field("weight", pa.string(), "path of the weight, <layer>/<variable>"),
        _field("flat_index", pa.int64(), "position in the flattened weight, C order"),
        _field("index", pa.list_(pa.int64()), "position in the weight; for a kernel the i and j of weights.csv"),
        _field("old", pa.float32(), "value the patch was made against"),
        _field("new", pa.float32(), "value after repair"),
    ]
)
"""The columns of a patch file; the file carries the descriptions as field metadata."""


@dataclass(frozen=True, eq=False)
class PlacedPatch:
    """A patch that also says where in its weight each row stands, so that it can be written without the model.

    Attributes:
        patch: K rows.
        index: for each row the position in the weight, one number per axis.
    """

    patch: Patch
    index: tuple[tuple[int, ...], ...]


def place(patch: Patch, shapes: Shapes, source: str) -> PlacedPatch:
    """Find the position in its weight of every row.

    Args:
        patch: of a model.
        shapes: of that model's weights.
        source: where the patch comes from, for messages.

    Raises:
        InputError: a row is about no weight of the model or a place outside it.
    """
    index: list[tuple[int, ...]] = [()] * len(patch)
    for path, rows in patch.by_weight():
        if path not in shapes:
            raise InputError(f"{source}: changes {path!r}, expected a weight of the model")
        shape, flat = shapes[path], patch.flat_index[rows]
        size = math.prod(shape)
        if len(outside := flat[(flat < 0) | (flat >= size)]):
            raise InputError(f"{source}: has index {outside[0]} in {path!r}, expected 0 to {size - 1}")
        for row, position in zip(rows, _positions(flat, shape), strict=True):
            index[row] = position
    return PlacedPatch(patch, tuple(index))


def check_places(placed: PlacedPatch, shapes: Shapes, source: str) -> None:
    """Refuse a patch whose positions are not those of its flat indices in the model's weights.

    Args:
        placed: of a model.
        shapes: of that model's weights.
        source: where the patch comes from, for messages.

    Raises:
        InputError: that, or a row is about no weight of the model or a place outside it.
    """
    right = place(placed.patch, shapes, source).index
    for row, (found, expected) in enumerate(zip(placed.index, right, strict=True)):
        if found != expected:
            path, flat = placed.patch.weight[row], placed.patch.flat_index[row]
            raise InputError(
                f"{source}: row {row} has flat_index {flat} and index {list(found)} in {path!r}, "
                f"expected index {list(expected)} in the shape {shapes[path]}"
            )


def write_patch(path: Path, patch: Patch, shapes: Shapes) -> None:
    """Write a patch file.

    Args:
        path: replaced as a whole.
        patch: no weight twice, finite new values.
        shapes: of the weights of the model it is for.

    Raises:
        InputError: the patch does not fit the shapes, names a weight twice or has new values that are not finite.
    """
    write_placed(path, place(patch, shapes, str(path)))


def write_placed(path: Path, placed: PlacedPatch) -> None:
    """Write a patch file whose positions are known, see `write_patch`."""
    patch = placed.patch
    _check(placed, str(path))
    columns: list[Any] = [patch.weight, patch.flat_index, placed.index, patch.old, patch.new]
    table = pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )
    with (
        replace_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
    ):
        writer.write_table(table)


def read_patch(path: Path) -> Patch:
    """Read a patch file, see `read_placed`."""
    return read_placed(path).patch


def read_placed(path: Path) -> PlacedPatch:
    """Read a patch file with the position of every row.

    Raises:
        InputError: the file is missing or damaged, has other columns or types than `SCHEMA`, a missing value, a
            negative index, a weight twice or a new value that is not finite.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a patch")
    try:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as an Arrow file, expected a whole patch file") from error
    return placed_of_table(table, str(path))


def placed_of_table(table: pa.Table, source: str) -> PlacedPatch:
    """The patch in a table with the columns of `SCHEMA`, in any order.

    Args:
        table: its rows.
        source: where it comes from, for messages.

    Raises:
        InputError: see `read_placed`.
    """
    for name in SCHEMA.names:
        if table.column_names.count(name) != 1:
            raise InputError(f"{source}: has {table.column_names.count(name)} columns {name!r}, expected one")
    for name in table.column_names:
        if name not in SCHEMA.names:
            raise InputError(f"{source}: has a column {name!r}, expected only {', '.join(SCHEMA.names)}")
    columns = {}
    for field in SCHEMA:
        column = table.column(field.name).combine_chunks()
        if column.type != field.type:
            raise InputError(f"{source}: column {field.name!r} is of type {column.type}, expected {field.type}")
        nulls = column.null_count + (column.flatten().null_count if pa.types.is_list(field.type) else 0)
        if nulls:
            raise InputError(f"{source}: column {field.name!r} has {nulls} missing values, expected none")
        columns[field.name] = column
    patch = Patch(
        tuple(columns["weight"].to_pylist()),
        *(columns[name].to_numpy(zero_copy_only=False).copy() for name in ("flat_index", "old", "new")),
    )
    placed = PlacedPatch(patch, tuple(map(tuple, columns["index"].to_pylist())))
    _check(placed, source)
    return placed


def patch_of_weights_csv(path: Path, model: LoadedModel) -> Patch:
    """Read the `layer,i,j,value,repaired` rows that `optimize` and the toolkit write, as a patch of a model.

    (i, j) is a position in the layer's first weight, as in the toolkit. LF, a `#` header and blank lines are accepted.

    Raises:
        InputError: a missing file, a row without repaired value or that is not numbers, a layer without a
            two-dimensional first weight, a position outside it or given twice, a repaired value that is not finite,
            or a value that is not the model's bit for bit.
    """
    kernels: dict[int, tuple[str, Float32]] = {}
    found: dict[tuple[str, int], int] = {}
    old: list[np.float32] = []
    new: list[np.float32] = []
    for number, row in _csv_rows(path):
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
            raise InputError(f"{path}: rows {found[key]} and {number} are both ({i}, {j}) of {weight!r}, expected one")
        found[key] = number
        old.append(kernel[i, j])
        new.append(repaired)
    return Patch(
        tuple(weight for weight, _ in found),
        np.array([flat for _, flat in found], np.int64),
        np.array(old, np.float32),
        np.array(new, np.float32),
    )


def _csv_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Number, from 1, and cells of every row that is neither blank nor a comment."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the weights.csv that `optimize` writes")
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path}: not comma-separated text, expected rows of layer,i,j,value,repaired") from None
    return [(n, row) for n, row in enumerate(rows, start=1) if row and not row[0].lstrip().startswith("#")]


def _first_weight(model: LoadedModel, layer: int, where: str) -> tuple[str, Float32]:
    """Path and values (inputs, units) of the first weight of the layer with the toolkit's number."""
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


def _positions(flat: Int64, shape: Sequence[int]) -> list[tuple[int, ...]]:
    if not shape:  # np.unravel_index takes no array then
        return [()] * len(flat)
    return list(zip(*(axis.tolist() for axis in np.unravel_index(flat, shape)), strict=True))


def _check(placed: PlacedPatch, source: str) -> None:
    """Refuse what no patch file may hold."""
    patch = placed.patch
    for row, (flat, index) in enumerate(zip(patch.flat_index.tolist(), placed.index, strict=True)):
        if flat < 0 or min(index, default=0) < 0:
            raise InputError(
                f"{source}: row {row} has flat_index {flat} and index {list(index)}, expected none below 0"
            )
    wrong = np.flatnonzero(~np.isfinite(patch.new))
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"{source}: would set {patch.weight[row]!r} at index {patch.flat_index[row]} to {patch.new[row]!s}, "
            "expected a finite value"
        )
    first: dict[tuple[str, int], int] = {}
    for row, key in enumerate(zip(patch.weight, patch.flat_index.tolist(), strict=True)):
        if first.setdefault(key, row) != row:
            raise InputError(
                f"{source}: rows {first[key]} and {row} are both {key[0]!r} at index {key[1]}, expected one"
            )
