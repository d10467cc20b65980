"""Patches of whole tensors: version 2 of the file, its refusals, and unions with other patches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine.core.errors import InputError
from engine.patches.arrow import (
    check_places,
    merge_placed,
    place,
    read_patch,
    read_placed,
    write_patch,
    write_placed,
)
from engine.patches.patch import Patch, applied, compose, conflicts, patch_between, revert, tensors_patch
from engine.patches.tensors import SCHEMA, TensorChange, tensor_changes
from tests.engine.patches.test_patch import NAN, WORDS, patch_of, rows_of

SHAPES = {"dense/kernel": (2, 3), "scale": (), "conv/kernel": (2, 1, 1, 2)}
OLD = {
    "dense/kernel": np.array([[0, -0.0, 1], [NAN, np.inf, 2]], np.float32),
    "scale": np.array(5, np.float32),
    "conv/kernel": np.array([1, 2, 3, 4], np.float32).reshape(2, 1, 1, 2),
}
NEW = {
    "dense/kernel": np.array([[0, 0.0, 4], [1, 2, 2]], np.float32),
    "scale": np.array(5, np.float32),
    "conv/kernel": OLD["conv/kernel"] + np.array([3, 0, 0, -4], np.float32).reshape(2, 1, 1, 2),
}
PATCH = tensors_patch(OLD, NEW)


def table_of(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def version_of(path: Path) -> bytes | None:
    return (table_of(path).schema.metadata or {}).get(b"version")


def test_the_rows_of_whole_tensors() -> None:
    assert PATCH.weight == ("dense/kernel",) * 6 + ("scale",) + ("conv/kernel",) * 4
    assert PATCH.flat_index.tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 1, 2, 3]
    assert PATCH.old.tobytes() == b"".join(array.tobytes() for array in OLD.values())
    assert PATCH.new.tobytes() == b"".join(array.tobytes() for array in NEW.values())
    turned = tensors_patch({"a": OLD["dense/kernel"].T}, {"a": NEW["dense/kernel"].T})
    assert turned.old.tobytes() == OLD["dense/kernel"].T.tobytes()
    assert len(tensors_patch({}, {})) == len(tensors_patch(*[{"a": np.empty((0, 3), np.float32)}] * 2)) == 0


def test_weights_that_make_no_patch() -> None:
    array = np.zeros((2, 3), np.float32)
    for old, new, says in (
        ({"b": array, "a": array}, {"b": array}, "'a': found only old values, expected old and new ones"),
        ({}, {"a": array}, "'a': found only new values, expected old and new ones"),
        ({"a": array}, {"a": array.T}, "'a': found the shapes (2, 3) and (3, 2), expected one"),
        ({"a": array}, {"a": array.astype(np.float64)}, "'a': found values of type float64, expected float32 to be"),
        ({"a": array.astype(np.float16)}, {"a": array}, "'a': found values of type float16, expected float32 to be"),
    ):
        with pytest.raises(InputError) as caught:
            tensors_patch(old, new)
        assert str(caught.value).startswith(says)


def test_the_columns_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "p.arrow"
    write_patch(path, PATCH, SHAPES)
    table = table_of(path)
    assert table.schema.metadata == {b"version": b"2"}
    assert all(item.metadata[b"description"] for item in table.schema)
    assert table.to_pydict() == {
        "weight": list(SHAPES),
        "shape": [[2, 3], [], [2, 1, 1, 2]],
        "old_sha256": [hashlib.sha256(array.astype("<f4").tobytes()).hexdigest() for array in OLD.values()],
        "old": [array.astype("<f4").tobytes() for array in OLD.values()],
        "new": [array.astype("<f4").tobytes() for array in NEW.values()],
    }


@settings(max_examples=40)
@given(st.data())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Of some whole tensors, and of their patch taken back where its values allow that."""
    paths = data.draw(st.lists(st.text("aé/ \n", max_size=4), min_size=1, max_size=3, unique=True))
    shapes = {path: data.draw(arrays.array_shapes(min_dims=0, max_dims=4, max_side=3)) for path in paths}
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    old = {path: data.draw(arrays.arrays(np.uint32, shape, elements=WORDS)) for path, shape in shapes.items()}
    new = {path: data.draw(arrays.arrays(np.float32, shape, elements=numbers)) for path, shape in shapes.items()}
    patch = tensors_patch({path: np.asarray(words).view(np.float32) for path, words in old.items()}, new)
    path = tmp_path_factory.mktemp("patch") / "p.arrow"
    write_patch(path, patch, shapes)
    assert version_of(path) == b"2"
    placed = read_placed(path)
    assert rows_of(placed.patch) == rows_of(patch)
    assert placed.whole == shapes
    assert placed.index.equals(place(patch, shapes, "p").index)
    check_places(placed, shapes, "p")
    first = path.read_bytes()
    write_placed(path, placed)
    assert path.read_bytes() == first
    for array in (placed.patch.flat_index, placed.patch.old, placed.patch.new):
        assert array.flags.writeable
    if np.isfinite(patch.old).all():
        write_patch(path, revert(placed.patch), shapes)
        assert rows_of(revert(read_patch(path))) == rows_of(patch)


KEYS = st.permutations([("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0)])


@settings(max_examples=60)
@given(KEYS | st.just([("b", 0), ("a", 0), ("a", 1), ("a", 2), ("a", 3)]), st.integers(0, 5))
def test_version_2_is_for_tensors_whole_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, keys: list[tuple[str, int]], count: int
) -> None:
    """The order of rows is never lost: `localize` puts them by blame."""
    path, patch = tmp_path_factory.mktemp("patch") / "p.arrow", patch_of([(*key, 1, 2) for key in keys[:count]])
    write_patch(path, patch, {"a": (2, 2), "b": ()})
    assert rows_of(read_patch(path)) == rows_of(patch)
    order = [name for name, _ in keys[:count]]
    tensors = {"a": [("a", flat) for flat in range(4)], "b": [("b", 0)]}
    whole = keys[:count] == [key for name in dict.fromkeys(order) for key in tensors[name]]
    assert version_of(path) == (b"2" if whole and count else None)


def changed(row: int, **values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[row].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(0, old_sha256="0" * 64), "the old values of 'dense/kernel' have the SHA-256 "),
        (changed(1, old=b"\0\0\0\0"), "the old values of 'scale' have the SHA-256 df3f6198"),
        (changed(0, shape=[3, 3]), "'dense/kernel' has 24 bytes of old values, expected 36 for the shape [3, 3]"),
        (changed(0, shape=[]), "'dense/kernel' has 24 bytes of old values, expected 4 for the shape []"),
        (changed(0, shape=[-2, -3]), "'dense/kernel' has the shape [-2, -3], expected no size below 1"),
        (changed(1, shape=[0], old=b"", new=b""), "'scale' has the shape [0], expected no size below 1"),
        (changed(1, shape=[2**62, 4]), "'scale' has 4 bytes of old values, expected 73786976294838206464 for"),
        (changed(2, old=b"\0" * 15), "'conv/kernel' has 15 bytes of old values, expected 16 for the shape [2, 1"),
        (changed(2, new=b"\0" * 20), "'conv/kernel' has 20 bytes of new values, expected 16 for the shape [2, 1"),
        (changed(2, weight="scale"), "rows 1 and 2 are both 'scale', expected one"),
        (changed(1, new=NAN.tobytes()), "would set 'scale' at index 0 to nan, expected a finite value"),
        (
            changed(2, new=np.array([1, 2, 3, -np.inf], "<f4").tobytes()),
            "would set 'conv/kernel' at index 3 to -inf, expected a finite value",
        ),
        (changed(0, shape=[2, None]), "column 'shape' has 1 missing values, expected none"),
        (changed(0, old_sha256=None, old=None), "column 'old_sha256' has 1 missing values, expected none"),
    ],
)
def test_rows_that_are_no_tensors(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.arrow"
    write_patch(path, PATCH, SHAPES)
    rows = table_of(path).to_pylist()
    change(rows)
    write_table(path, pa.Table.from_pylist(rows, SCHEMA))
    refused(path, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda table: table.replace_schema_metadata({"version": "3"}),
            "is a patch file of version '3', expected 2 or",
        ),
        (lambda table: table.replace_schema_metadata({"version": b"\xff"}), "is a patch file of version '\ufffd', exp"),
        (lambda table: table.replace_schema_metadata(None), "has 0 columns 'flat_index', expected one"),
        (
            lambda table: table.append_column("job", pa.array("abc")),
            "has a column 'job', expected only weight, shape, old_sha256, old, new",
        ),
    ],
)
def test_tables_that_are_no_patch(change: Callable[[pa.Table], pa.Table], message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.arrow"
    write_patch(path, PATCH, SHAPES)
    write_table(path, change(table_of(path)))
    refused(path, message)


def write_table(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def refused(path: Path, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_patch(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_rows_in_several_batches(tmp_path: Path) -> None:
    path = tmp_path / "p.arrow"
    write_patch(path, PATCH, SHAPES)
    table = table_of(path)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    assert rows_of(read_patch(path)) == rows_of(PATCH)
    write_table(path, table.slice(0, 0))
    assert len(read_patch(path)) == 0


def test_a_file_cut_short_or_damaged_is_refused_or_a_patch(tmp_path: Path) -> None:
    """Never another error; a byte of an old value turned over is always found."""
    path = tmp_path / "p.arrow"
    write_patch(path, PATCH, SHAPES)
    whole = path.read_bytes()
    for length in range(0, len(whole), 9):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="expected a whole patch file"):
            read_patch(path)
    old = whole.index(OLD["dense/kernel"].tobytes())
    values = set(range(old, old + 4 * 11))
    refusals = set()
    for spot in sorted(values | set(range(0, len(whole), 4))):
        damaged = bytearray(whole)
        damaged[spot] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read_patch(path)
        except InputError:
            refusals.add(spot)
    assert refusals >= values


def test_the_shape_is_that_of_the_model() -> None:
    placed = place(PATCH, SHAPES, "p")
    for path, shape in (("dense/kernel", (3, 2)), ("scale", (1,))):
        with pytest.raises(InputError) as caught:
            check_places(placed, {**SHAPES, path: shape}, "p")
        assert str(caught.value) == f"p: {path!r} has the shape {SHAPES[path]}, expected {shape} as in the model"
    with pytest.raises(InputError, match="p: changes 'scale', expected a weight of the model"):
        check_places(placed, {path: shape for path, shape in SHAPES.items() if path != "scale"}, "p")


def test_what_changes_in_a_tensor() -> None:
    kernel, scale, conv = tensor_changes(PATCH, SHAPES)
    assert (kernel.weight, kernel.shape, kernel.changed) == ("dense/kernel", (2, 3), 4)
    assert np.isnan(kernel.largest), "an old value is NaN"
    assert scale == TensorChange("scale", (), 0, 0.0, 0.0)
    assert conv == TensorChange("conv/kernel", (2, 1, 1, 2), 2, 4.0, 2.5)  # sqrt((9 + 16) / 4)
    assert tensor_changes(PATCH, {"scale": ()}) == [scale]


ONE, TWO = np.array([1, 2, 3, 4], np.float32), np.array([5, 2, 3, 6], np.float32)
OTHER = patch_between("b", np.zeros(5, np.float32), np.array([0, 0, 0, 7, 0], np.float32))


def test_unions_with_whole_tensors(tmp_path: Path) -> None:
    """A whole tensor keeps its values that stay; single weights of another make a file of version 1."""
    shapes = {"a": (2, 2), "b": (5,)}
    whole = place(tensors_patch({"a": ONE}, {"a": TWO}), shapes, "p")
    same = place(patch_of([("a", 1, 2, 9), ("a", 0, 1, 8)]), shapes, "p")
    other = place(OTHER, shapes, "p")
    path = tmp_path / "p.arrow"
    for several, first, version in (
        ([whole, whole], [5, 2, 3, 6], b"2"),
        ([whole, same], [5, 9, 3, 6], b"2"),
        ([same, whole], [8, 9, 3, 6], b"2"),
        ([whole, other], [5, 2, 3, 6], None),
        ([other, same, whole], [8, 9, 3, 6], None),
    ):
        merged = merge_placed(several)
        write_placed(path, merged)
        assert version_of(path) == version
        assert applied(read_patch(path), "a", ONE).tolist() == first
        assert np.count_nonzero(np.asarray(merged.patch.weight) == "a") == 4
        assert len(merged.patch) == 4 + (other in several)
        check_places(read_placed(path), shapes, "p")
        assert set(merged.whole) == {"a"}
    assert conflicts([whole.patch, same.patch]) == 1, "place 0 alone: the whole tensor leaves place 1 as it is"
    assert len(merge_placed([]).patch) == 0
    back = compose(whole.patch, revert(whole.patch))
    assert len(back) == 0


def test_single_weights_of_files_merge_as_before(tmp_path: Path) -> None:
    """Bit for bit what the union of their patches makes, whatever has been read."""
    shapes = {"a": (2, 2), "b": (5,)}
    names = [tmp_path / f"{name}.arrow" for name in "pqrs"]
    write_patch(names[0], patch_of([("b", 4, 1, 2), ("a", 3, 1, 2)]), shapes)
    write_patch(names[1], patch_of([("a", 3, 1, 5), ("a", 1, 0, 3), ("b", 0, 6, 6)]), shapes)
    write_placed(names[2], merge_placed([read_placed(name) for name in names[:2]]))
    write_patch(names[3], patch_of([("b", 4, 1, 2), ("a", 1, 0, 3), ("a", 3, 1, 2)]), shapes)
    assert names[2].read_bytes() == names[3].read_bytes()


def test_unions_that_are_of_no_model() -> None:
    def placed(shape: tuple[int, ...], patch: Patch) -> Any:
        return place(patch, {"a": shape}, "p")

    tensor = tensors_patch({"a": ONE}, {"a": TWO})
    with pytest.raises(InputError, match=r"^'a' has the shape \(2, 2\) in one patch and \(4,\) in another, expected"):
        merge_placed([placed((2, 2), tensor), placed((4,), tensor)])
    with pytest.raises(InputError, match=r"^'a' has the shape \(2, 2\) in one patch and places outside it in another"):
        merge_placed([placed((2, 2), tensor), placed((5,), patch_of([("a", 4, 1, 2)]))])
    with pytest.raises(InputError, match=r"^'a' at index 1 was 2\.0 when patch 1 was made and 9\.0 when patch 2 was"):
        merge_placed([placed((2, 2), tensor), placed((2, 2), patch_of([("a", 1, 9, 2)]))])
