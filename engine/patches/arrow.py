"""Patches as files: an Arrow file with one row per weight or per whole tensor.

A file of version 1 has the columns of `SCHEMA`, one row per weight, and no version in its metadata. One of version 2
has those of `engine.patches.tensors.SCHEMA`, one row per tensor. A patch is written as version 2 exactly when it covers
each of its weights whole, in order (`engine.patches.tensors.whole_weights`): whole tensors beside single weights make
a file of version 1, and so do weights whose shape is not known because they come from such a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from engine.core.errors import InputError
from engine.core.files import replace_file
from engine.core.types import Int64
from engine.patches import tensors
from engine.patches.patch import Patch, merge_rows
from engine.patches.tensors import Shapes, whole_weights


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
    """A patch that also says where in its weight each row stands, so that it can be written without the model."""

    patch: Patch  # K rows
    index: pa.ListArray  # Arrow array list<int64> (K,), for each row the position in the weight, one number per axis
    # the shape of each weight that the patch is known to cover whole, see `whole_weights`
    whole: Shapes = field(default_factory=dict)


def place(patch: Patch, shapes: Shapes, source: str) -> PlacedPatch:
    """Find the position in its weight of every row."""
    for path, rows in patch.by_weight():
        if path not in shapes:
            raise InputError(f"{source}: changes {path!r}, expected a weight of the model")
        flat, size = patch.flat_index[rows], math.prod(shapes[path])
        if len(outside := flat[(flat < 0) | (flat >= size)]):
            raise InputError(f"{source}: has index {outside[0]} in {path!r}, expected 0 to {size - 1}")
    return PlacedPatch(patch, _positions(patch, shapes), whole_weights(patch, shapes))


def check_places(placed: PlacedPatch, shapes: Shapes, source: str) -> None:
    """Refuse a patch whose positions are not those of its flat indices in the model's weights."""
    for path, shape in placed.whole.items():
        if path in shapes and shapes[path] != shape:
            raise InputError(f"{source}: {path!r} has the shape {shape}, expected {shapes[path]} as in the model")
    patch = placed.patch
    right = place(patch, shapes, source).index
    (found, starts), (expected, right_starts) = _numbers(placed.index), _numbers(right)
    axes, right_axes = np.diff(starts), np.diff(right_starts)
    wrong = axes != right_axes
    for axis in range(axes.max(initial=0)):
        rows = np.flatnonzero((axes == right_axes) & (axes > axis))
        wrong[rows] |= found[starts[rows] + axis] != expected[right_starts[rows] + axis]
    if wrong.any():
        row = int(np.argmax(wrong))
        path, flat = patch.weight[row], patch.flat_index[row]
        raise InputError(
            f"{source}: row {row} has flat_index {flat} and index {placed.index[row].as_py()} in {path!r}, "
            f"expected index {right[row].as_py()} in the shape {shapes[path]}"
        )


def merge_placed(several: Sequence[PlacedPatch]) -> PlacedPatch:
    """The union of patches, see `engine.patches.patch.merge`; a weight that one of them covers whole stays whole."""
    shapes: dict[str, tuple[int, ...]] = {}
    for placed in several:
        for path, shape in placed.whole.items():
            if shapes.setdefault(path, shape) != shape:
                raise InputError(
                    f"{path!r} has the shape {shapes[path]} in one patch and {shape} in another, expected patches of "
                    "one model"
                )
    patch, rows = merge_rows([placed.patch for placed in several], shapes)
    whole = whole_weights(patch, shapes)
    for path, shape in shapes.items():
        if path not in whole:
            raise InputError(
                f"{path!r} has the shape {shape} in one patch and places outside it in another, expected patches of "
                "one model"
            )
    index = pa.concat_arrays([*(placed.index for placed in several), pa.array([], SCHEMA.field("index").type)])
    return PlacedPatch(patch, index.take(pa.array(rows)), whole)


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
    if len(patch) and len(placed.whole) == len(patch.paths):
        schema, columns = tensors.SCHEMA, tensors.tensor_columns(patch, placed.whole)
    else:
        values = [pa.array(column) for column in (patch.flat_index, patch.old, patch.new)]
        schema, columns = SCHEMA, [pa.array(patch.weight, pa.string()), values[0], placed.index, *values[1:]]
    with (
        replace_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def read_patch(path: Path) -> Patch:
    """Read a patch file, see `read_placed`."""
    return read_placed(path).patch


def read_placed(path: Path) -> PlacedPatch:
    """Read a patch file, of either version, with the position of every row."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a patch")
    try:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        table.validate(full=True)
        _ = table.column_names  # damaged ones are no text
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as an Arrow file, expected a whole patch file") from error
    version = (table.schema.metadata or {}).get(b"version")
    if version is None:
        return placed_of_table(table, str(path))
    if version != tensors.VERSION:
        raise InputError(f"{path}: is a patch file of version {version.decode(errors='replace')!r}, expected 2 or none")
    patch, shapes = tensors.patch_of_tensors(_columns(table, tensors.SCHEMA, str(path)), str(path))
    placed = PlacedPatch(patch, _positions(patch, shapes), shapes)
    _check(placed, str(path))
    return placed


def placed_of_table(table: pa.Table, source: str) -> PlacedPatch:
    """The patch in a table with the columns of `SCHEMA`, in any order."""
    columns = _columns(table, SCHEMA, source)
    names = columns["weight"].dictionary_encode()
    paths = names.dictionary.to_pylist()
    patch = Patch(
        tuple(map(paths.__getitem__, names.indices.to_pylist())),
        *(columns[name].to_numpy(zero_copy_only=False).copy() for name in ("flat_index", "old", "new")),
    )
    placed = PlacedPatch(patch, _list_array(*_numbers(columns["index"])))
    _check(placed, source)
    return placed


def _columns(table: pa.Table, schema: pa.Schema, source: str) -> dict[str, pa.Array]:
    """The columns of a table, in one piece and without missing values; there must be those of the schema alone."""
    for name in schema.names:
        if table.column_names.count(name) != 1:
            raise InputError(f"{source}: has {table.column_names.count(name)} columns {name!r}, expected one")
    for name in table.column_names:
        if name not in schema.names:
            raise InputError(f"{source}: has a column {name!r}, expected only {', '.join(schema.names)}")
    columns = {}
    for item in schema:
        column = table.column(item.name).combine_chunks()
        if column.type != item.type:
            raise InputError(f"{source}: column {item.name!r} is of type {column.type}, expected {item.type}")
        nulls = column.null_count + (column.flatten().null_count if pa.types.is_list(item.type) else 0)
        if nulls:
            raise InputError(f"{source}: column {item.name!r} has {nulls} missing values, expected none")
        columns[item.name] = column
    return columns


def _positions(patch: Patch, shapes: Shapes) -> pa.ListArray:
    """The position in its weight of each of K rows, list<int64> (K,); each is a place in it."""
    axes = np.array([len(shapes[path]) for path in patch.paths], np.int64)[patch.part]
    starts = np.concatenate([[0], np.cumsum(axes)])
    numbers = np.empty(starts[-1], np.int64)
    for path, rows in patch.by_weight():
        if shapes[path]:  # np.unravel_index takes no array without
            for axis, places in enumerate(np.unravel_index(patch.flat_index[rows], shapes[path])):
                numbers[starts[rows] + axis] = places
    return _list_array(numbers, starts)


def _numbers(index: pa.ListArray) -> tuple[Int64, Int64]:
    """All numbers of K lists, and (K + 1,) where in them each list starts, with the end of the last."""
    starts = index.offsets.to_numpy().astype(np.int64)
    return index.flatten().to_numpy(), starts - starts[0]


def _list_array(numbers: Int64, starts: Int64) -> pa.ListArray:
    """The inverse of `_numbers`."""
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(numbers))


def _check(placed: PlacedPatch, source: str) -> None:
    """Refuse what no patch file may hold."""
    patch = placed.patch
    numbers, starts = _numbers(placed.index)
    below = np.concatenate(
        [np.flatnonzero(patch.flat_index < 0), np.searchsorted(starts, np.flatnonzero(numbers < 0), "right") - 1]
    )
    if len(below):
        row = int(below.min())
        raise InputError(
            f"{source}: row {row} has flat_index {patch.flat_index[row]} and index {placed.index[row].as_py()}, "
            "expected none below 0"
        )
    wrong = np.flatnonzero(~np.isfinite(patch.new))
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"{source}: would set {patch.weight[row]!r} at index {patch.flat_index[row]} to {patch.new[row]!s}, "
            "expected a finite value"
        )
    if twice := patch.first_twice():
        raise InputError(
            f"{source}: rows {twice[0]} and {twice[1]} are both {patch.weight[twice[0]]!r} at index "
            f"{patch.flat_index[twice[0]]}, expected one"
        )
