"""Patch files: what is in them, byte-safe round trips, `weights.csv` as a patch, and every refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.localize.weights_file import patch_of_weights_csv, write_weights
from engine.models.load import LoadedModel, load_model, shapes_of
from engine.models.weight_paths import weight_variables
from engine.patches.arrow import (
    SCHEMA,
    PlacedPatch,
    check_places,
    place,
    read_patch,
    read_placed,
    write_patch,
    write_placed,
)
from engine.patches.patch import NO_CHANGE, Patch
from tests.engine.patches.test_patch import WORDS, patch_of, rows_of

LEGACY = Path(__file__).parents[2] / "data" / "legacy"
SHAPES = {"conv/kernel": (2, 3, 1, 4), "scale": (), "dense/bias": (3,), "dense/kernel": (4, 3)}
PATCH = patch_of(
    [("dense/kernel", 7, 0.1, -1.5), ("conv/kernel", 23, 3, 4), ("scale", 0, -0.0, 0), ("dense/bias", 2, 1, 1)]
)
INDEX = [[2, 1], [1, 2, 0, 3], [], [2]]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """A Functional model: `head` is a model inside it, `logits` a Dense of 6 inputs and 10 units, number 8."""
    return load_model(LEGACY / "functional-savedmodel")


def columns() -> dict[str, Any]:
    """The columns of a file with `PATCH`."""
    return {
        "weight": pa.array(PATCH.weight),
        "flat_index": pa.array(PATCH.flat_index),
        "index": lists(INDEX),
        "old": pa.array(PATCH.old),
        "new": pa.array(PATCH.new),
    }


def lists(index: Sequence[Sequence[int]]) -> pa.Array:
    return pa.array(index, pa.list_(pa.int64()))


def write_table(path: Path, arrays: dict[str, Any], schema: pa.Schema | None = None) -> None:
    names = list(arrays) if schema is None else None
    table = pa.Table.from_arrays(list(arrays.values()), names=names, schema=schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def test_the_columns_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "patch.arrow"
    write_patch(path, PATCH, SHAPES)
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.schema.types == [pa.string(), pa.int64(), pa.list_(pa.int64()), pa.float32(), pa.float32()]
    assert all(field.metadata[b"description"] for field in table.schema)
    assert table.to_pydict() == {
        "weight": list(PATCH.weight),
        "flat_index": [7, 23, 0, 2],
        "index": INDEX,
        "old": [float(np.float32(0.1)), 3, 0, 1],
        "new": [-1.5, 4, 0, 1],
    }
    assert [entry.name for entry in path.parent.iterdir()] == ["patch.arrow"]


@settings(max_examples=40)
@given(st.data())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    sides = st.lists(st.integers(1, 5), max_size=4).map(tuple)
    shapes = data.draw(st.dictionaries(st.text("aé/ \n", min_size=1, max_size=4), sides, max_size=3))
    places = [(path, flat) for path, shape in shapes.items() for flat in range(int(np.prod(shape)))]
    keys = data.draw(st.lists(st.sampled_from(places), unique=True, max_size=9)) if places else []
    old = data.draw(st.lists(WORDS, min_size=len(keys), max_size=len(keys)))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    new = data.draw(st.lists(finite, min_size=len(keys), max_size=len(keys)))
    patch = Patch(
        tuple(path for path, _ in keys),
        np.array([flat for _, flat in keys], np.int64),
        np.array(old, np.uint32).view(np.float32),
        np.array(new, np.float32),
    )
    path = tmp_path_factory.mktemp("patch") / "p.arrow"
    write_patch(path, patch, shapes)
    assert rows_of(read_patch(path)) == rows_of(patch)
    placed = read_placed(path)
    for (weight, flat), index in zip(keys, placed.index.to_pylist(), strict=True):
        assert np.arange(np.prod(shapes[weight])).reshape(shapes[weight])[tuple(index)] == flat
    check_places(placed, shapes, "p")
    first = path.read_bytes()
    write_placed(path, placed)
    assert path.read_bytes() == first
    touched = dict.fromkeys(weight for weight, _ in keys)
    whole = keys == [key for weight in touched for key in places if key[0] == weight]
    assert (placed.whole == {weight: shapes[weight] for weight in touched}) if whole else not placed.whole
    if not (whole and keys):  # version 1, as it was when there was no other
        plain = [pa.array(values) for values in (patch.weight, patch.flat_index, patch.old, patch.new)]
        index = lists([np.unravel_index(flat, shapes[weight]) if shapes[weight] else () for weight, flat in keys])
        arrays = [plain[0].cast(pa.string()), plain[1], index, *plain[2:]]
        write_table(path, dict(zip(SCHEMA.names, arrays, strict=True)), SCHEMA)
        assert path.read_bytes() == first
    for array in (placed.patch.flat_index, placed.patch.old, placed.patch.new):
        assert array.flags.writeable


def test_columns_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "p.arrow"
    write_table(path, dict(reversed(columns().items())))
    placed = read_placed(path)
    assert rows_of(placed.patch) == rows_of(PATCH)
    assert placed.index.to_pylist() == INDEX


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("conv/bias", 0, 1, 2)], "changes 'conv/bias', expected a weight of the model"),
        ([("dense/kernel", 12, 1, 2)], "has index 12 in 'dense/kernel', expected 0 to 11"),
        ([("dense/kernel", -1, 1, 2)], "has index -1 in 'dense/kernel', expected 0 to 11"),
        ([("scale", 1, 1, 2)], "has index 1 in 'scale', expected 0 to 0"),
        ([("dense/bias", 1, 1, np.inf)], "would set 'dense/bias' at index 1 to inf, expected a finite value"),
        ([("dense/bias", 1, 1, np.nan)], "would set 'dense/bias' at index 1 to nan, expected a finite value"),
        (
            [("dense/bias", 1, 1, 2), ("scale", 0, 1, 2), ("dense/bias", 1, 1, 3)],
            "rows 0 and 2 are both 'dense/bias'",
        ),
    ],
)
def test_what_is_not_written(rows: list[Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.arrow"
    write_patch(path, PATCH, SHAPES)
    old = path.read_bytes()
    with pytest.raises(InputError) as caught:
        write_patch(path, patch_of(rows), SHAPES)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert path.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


def replaced(name: str, values: Any) -> Callable[[dict[str, Any]], None]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = values

    return change


FLOATS = [float(value) for value in PATCH.new]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("old"), "has 0 columns 'old', expected one"),
        (lambda arrays: arrays.pop("index"), "has 0 columns 'index', expected one"),
        (replaced("job", pa.array("abcd")), "has a column 'job', expected only weight, flat_index, index, old, new"),
        (replaced("new", pa.array(FLOATS)), "column 'new' is of type double, expected float"),
        (replaced("flat_index", pa.array([7, 23, 0, 2], pa.int32())), "column 'flat_index' is of type int32, expected"),
        (replaced("weight", pa.array([b"a"] * 4)), "column 'weight' is of type binary, expected string"),
        (replaced("index", pa.array([7, 23, 0, 2])), "column 'index' is of type int64, expected list<"),
        (replaced("weight", pa.array(["a", None, "b", None])), "column 'weight' has 2 missing values, expected none"),
        (replaced("old", pa.array([None, *FLOATS[1:]], pa.float32())), "column 'old' has 1 missing values"),
        (replaced("index", pa.array([[2, None], [1, 2, 0, 3], [], [2]])), "column 'index' has 1 missing values"),
        (replaced("index", pa.array([None, [1, 2, 0, 3], [], [2]])), "column 'index' has 1 missing values"),
        (
            replaced("flat_index", pa.array([7, 23, -1, 2])),
            "row 2 has flat_index -1 and index [], expected none",
        ),
        (
            replaced("index", pa.array([[2, 1], [1, -2, 0, 3], [], [2]])),
            "row 1 has flat_index 23 and index [1, -2, 0,",
        ),
        (
            replaced("new", pa.array([1, 2, np.nan, 3], pa.float32())),
            "would set 'scale' at index 0 to nan, expected",
        ),
        (replaced("new", pa.array([-np.inf, 2, 2, 3], pa.float32())), "would set 'dense/kernel' at index 7 to -inf"),
    ],
)
def test_files_that_are_no_patch(change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    path, arrays = tmp_path / "p.arrow", columns()
    change(arrays)
    write_table(path, arrays)
    with pytest.raises(InputError) as caught:
        read_patch(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.take([0, 1, 1]), "rows 1 and 2 are both 'conv/kernel' at index 23, expected one"),
        (lambda table: table.append_column("new", table["new"]), "has 2 columns 'new', expected one"),
    ],
)
def test_what_is_there_twice(change: Callable[[pa.Table], pa.Table], message: str, tmp_path: Path) -> None:
    path, table = tmp_path / "p.arrow", change(pa.Table.from_pydict(columns()))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match=rf"p\.arrow: {message}"):
        read_patch(path)


def test_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path / "p.arrow", tmp_path):
        with pytest.raises(InputError, match="no such file, expected a patch"):
            read_patch(path)


def test_a_file_cut_short_or_damaged_is_refused_or_a_patch(tmp_path: Path) -> None:
    """Never another error: every length, and every byte turned over."""
    path = tmp_path / "p.arrow"
    write_patch(path, PATCH, SHAPES)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="expected a whole patch file"):
            read_patch(path)
    refused = 0
    for place_ in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place_] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read_patch(path)
        except InputError:
            refused += 1
    assert refused > 100


def test_positions_that_are_not_those_of_the_flat_indices() -> None:
    check_places(PlacedPatch(PATCH, lists(INDEX)), SHAPES, "p")
    for index in ([1, 2], [2, 1, 0], []):
        with pytest.raises(InputError) as caught:
            check_places(PlacedPatch(PATCH, lists([index, *INDEX[1:]])), SHAPES, "p")
        assert str(caught.value) == (
            f"p: row 0 has flat_index 7 and index {index} in 'dense/kernel', expected index [2, 1] in the shape (4, 3)"
        )
    assert place(NO_CHANGE, {}, "p").index.to_pylist() == []


def kernel_of(model: LoadedModel, path: str) -> np.ndarray:
    return np.array(weight_variables(model.model)[path])


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), unique=True, max_size=12),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=12, max_size=12),
)
def test_what_optimize_writes_is_a_patch(
    tmp_path_factory: pytest.TempPathFactory, model: LoadedModel, index: list[tuple[int, int]], numbers: list[float]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "weights.csv"
    kernel, positions = kernel_of(model, "logits/kernel"), np.array(index, np.int64).reshape(-1, 2)
    old, new = kernel[positions[:, 0], positions[:, 1]], np.array(numbers[: len(index)], np.float32)
    write_weights(path, 8, positions, old, new)
    patch = patch_of_weights_csv(path, model)
    expected = Patch(("logits/kernel",) * len(index), positions @ [10, 1], old, new)
    assert rows_of(patch) == rows_of(expected)
    assert place(patch, shapes_of(model), "p").index.to_pylist() == list(map(list, index))


def test_rows_of_several_layers_comments_and_spaces(model: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "weights.csv"
    logits, inner = kernel_of(model, "logits/kernel"), kernel_of(model, "head/dense_1/kernel")
    rows = f"8,5,9,{logits[5, 9]!s},0.5\n\n 7, 0, 1, {inner[0, 1]!s}, -0.0\n"
    path.write_text(f"# größer: layer, i, j, value, repaired\n{rows}", encoding="utf-8-sig")
    patch = patch_of_weights_csv(path, model)
    assert rows_of(patch) == rows_of(
        patch_of([("logits/kernel", 59, logits[5, 9], 0.5), ("head/dense_1/kernel", 1, inner[0, 1], -0.0)])
    )


@pytest.mark.parametrize("text", ["", "\r\n", "# layer, i, j\n"])
def test_a_csv_without_rows_changes_nothing(text: str, model: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "weights.csv"
    path.write_text(text)
    assert len(patch_of_weights_csv(path, model)) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8,5,9,{v},1\n8,0,0,0.5\n", "row 2 is '8,0,0,0.5', expected layer,i,j,value,repaired as `optimize` writes"),
        ("8,5,9,{v},1,2\n", "row 1 is '8,5,9,{v},1,2', expected layer,i,j,value,repaired"),
        ("layer,i,j,value,repaired\n", "row 1 is 'layer,i,j,value,repaired', expected layer,i,j"),
        ("8,5,9,{v},\n", "row 1 is '8,5,9,{v},', expected layer,i,j,value,repaired"),
        ("8,5.5,9,{v},1\n", "row 1 is '8,5.5,9,{v},1', expected"),
        ("9,5,9,{v},1\n", "row 1 is about layer 9, expected 0 to 8 as in {m}"),
        ("-1,5,9,{v},1\n", "row 1 is about layer -1, expected 0 to 8 as in {m}"),
        (
            "0,5,9,{v},1\n",
            "row 1 is about layer 0 (images), expected a layer whose first weight is a matrix",
        ),
        ("1,0,0,{v},1\n", "row 1 is about layer 1 (stem), expected a layer whose first weight is a matrix of float32"),
        ("8,6,0,{v},1\n", "row 1 is weight (6, 0), expected a position inside 6x10 of 'logits/kernel'"),
        ("8,0,10,{v},1\n", "row 1 is weight (0, 10), expected a position inside 6x10 of 'logits/kernel'"),
        ("8,-1,0,{v},1\n", "row 1 is weight (-1, 0), expected a position inside 6x10 of 'logits/kernel'"),
        ("8,5,9,{v},1\n\n8,5,9,{v},1\n", "rows 1 and 3 are both (5, 9) of 'logits/kernel', expected one"),
        ("8,5,9,0.125,1\n", "row 1 has the value 0.125 for (5, 9) of 'logits/kernel', expected {v} as in {m}"),
        ("8,5,9,{v},inf\n", "row 1 would set (5, 9) of 'logits/kernel' to inf, expected a finite value"),
        ("8,5,9,{v},nan\n", "row 1 would set (5, 9) of 'logits/kernel' to nan, expected a finite value"),
        ("8,5,9,{v},1e39\n", "row 1 would set (5, 9) of 'logits/kernel' to inf, expected a finite value"),
        (b"\x89HDF\xff\xfe", "not comma-separated text, expected rows of layer,i,j,value,repaired"),
        ("8,5,9,{v}," + "5" * 200_000, "not comma-separated text"),
        (None, "no such file, expected the weights.csv that `optimize` writes"),
    ],
)
def test_csv_that_is_no_patch(text: str | bytes | None, message: str, model: LoadedModel, tmp_path: Path) -> None:
    path, value = tmp_path / "weights.csv", kernel_of(model, "logits/kernel")[5, 9]
    if isinstance(text, bytes):
        path.write_bytes(text)
    elif text is not None:
        path.write_text(text.replace("{v}", str(value)))
    with pytest.raises(InputError) as caught:
        patch_of_weights_csv(path, model)
    assert str(caught.value).startswith(f"{path}: {message}".replace("{v}", str(value)).replace("{m}", str(model.path)))
    assert "\n" not in str(caught.value)
