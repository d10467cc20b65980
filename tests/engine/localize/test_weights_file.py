"""`weights.csv`, byte for byte as the toolkit writes it and in every form it is read in."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.localize.weights_file import write_weights
from engine.models.loss import TrainingLoss
from engine.targets.last_dense import find_target

POSITIONS = np.array([[3, 1], [0, 0], [11, 4]])


@pytest.fixture(scope="module")
def target():
    """Layer 1 of a Sequential model: a kernel of 12 inputs and 5 units."""
    model = keras.Sequential(
        [keras.Input((3, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(5, "softmax", name="last")]
    )
    loss = TrainingLoss("categorical_crossentropy", from_logits=False, stated=True)
    return find_target(model, loss, 5, Path("model.keras"))


def values(*numbers):
    return np.array(numbers, dtype=np.float32)


def test_the_bytes_after_localize(tmp_path):
    path = tmp_path / "new" / "weights.csv"
    write_weights(path, 13, POSITIONS, values(0.1, -1.5, 1e-8))
    assert path.read_bytes() == b"13,3,1,0.1\r\n13,0,0,-1.5\r\n13,11,4,1e-08\r\n"


def test_the_bytes_after_optimize_replace_the_file(tmp_path):
    path = tmp_path / "weights.csv"
    write_weights(path, 13, POSITIONS, values(0.1, 1.0, 2.0))
    write_weights(path, 1, POSITIONS[:2], values(0.1, 1.5e30), values(-0.0, 3.4028235e38))
    assert path.read_bytes() == b"1,3,1,0.1,-0.0\r\n1,0,0,1.5e+30,3.4028235e+38\r\n"
    assert [file.name for file in tmp_path.iterdir()] == ["weights.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.csv"
    write_weights(path, 13, POSITIONS, values(0.1, 1.0, 2.0))
    old = path.read_bytes()
    with pytest.raises(ValueError):
        write_weights(path, 13, POSITIONS, values(0.1, 1.0))
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["weights.csv"]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 4), *[st.floats(width=32, allow_nan=False)] * 2),
        unique_by=lambda row: row[:2],
        max_size=20,
    )
)
def test_round_trip(tmp_path_factory, target, rows):
    path = tmp_path_factory.mktemp("csv") / "weights.csv"
    index = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2)
    old = np.array([row[2] for row in rows], dtype=np.float32)
    new = np.array([row[3] for row in rows], dtype=np.float32)
    for repaired in (None, new):
        write_weights(path, target.number, index, old, repaired)
        found = target.read_localised(path.parent)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, index)
    lines = [line.split(",") for line in path.read_bytes().decode().split("\r\n")[:-1]]
    assert [np.float32(line[3]).tobytes() for line in lines] == [value.tobytes() for value in old]
    assert [np.float32(line[4]).tobytes() for line in lines] == [value.tobytes() for value in new]


@pytest.mark.parametrize(
    "text",
    [
        b"1,3,1,0.5\r\n1,0,0,0.25\r\n1,11,4,2.0\r\n",
        b"1,3,1,0.5\n1,0,0,0.25\n1,11,4,2.0",
        b"1,3,1\r\n1,0,0\r\n1,11,4\r\n",
        b"# layer, x, y, value\n1,3,1,0.5\n\n  # again\n1,0,0,0.25\n\n\n1,11,4,2.0\n\n",
        b"\xef\xbb\xbf1,3,1,0.5,0.75\r\n1,0,0,0.25,1e-08\r\n1,11,4,2.0,nan\r\n",
        b"0.5,1,3,1\r\n1e-08,1,0,0\r\n-2.0,1,11,4\r\n",
        b" 1, 3, 1, 0.5\n1, 0, 0, 0.25\n1, 11, 4, 2.0\n",
        b'"1","3","1","0.5"\n1,0,0,not read\n1,11,4,\n',
    ],
)
def test_every_form_is_read(tmp_path, target, text):
    path = tmp_path / "weights.csv"
    path.write_bytes(text)
    np.testing.assert_array_equal(target.read_localised(path.parent), POSITIONS)


@pytest.mark.parametrize("text", [b"", b"\r\n", b"# layer, i, j\n"])
def test_an_empty_file_names_no_weights(tmp_path, target, text):
    path = tmp_path / "weights.csv"
    path.write_bytes(text)
    found = target.read_localised(path.parent)
    assert found.shape == (0, 2)
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"layer,i,j,value\n1,3,1,0.5\n", "row 1 is 'layer,i,j,value', expected layer,i,j as whole numbers"),
        (b"1,3,1,0.5\n1,0.5,0,1\n", "row 2 is '1,0.5,0,1', expected layer,i,j as whole numbers"),
        (b"1,3\n", "row 1 is '1,3', expected layer,i,j as whole numbers"),
        (b"0.5,1,3,1,0.25\n", "row 1 is '0.5,1,3,1,0.25', expected layer,i,j as whole numbers"),
        (b"1;3;1;0.5\n", "row 1 is '1;3;1;0.5', expected layer,i,j as whole numbers"),
        (b"1,3,1,0.5\n2,0,0,1\n", r"row 2 is about layer 2, expected layer 1 \(last\)"),
        (b"1,12,0,0.5\n", r"row 1 is weight \(12, 0\), expected a position inside the kernel 12x5 of last"),
        (b"1,0,5,0.5\n", r"row 1 is weight \(0, 5\), expected a position inside the kernel 12x5 of last"),
        (b"1,-1,0,0.5\n", r"row 1 is weight \(-1, 0\), expected a position inside the kernel 12x5 of last"),
        (b"1,0,0,1\n\n1,2,2,1\n1,0,0,1\n", r"rows 1 and 4 are both weight \(0, 0\), expected one"),
        (b"\x89HDF\r\n\x1a\n\xff\xfe", "not comma-separated text, expected rows of layer,i,j,value"),
        (b"1,3,1," + b"5" * 200_000, "not comma-separated text, expected rows of layer,i,j,value"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, target, text, message):
    path = tmp_path / "weights.csv"
    path.write_bytes(text)
    with pytest.raises(InputError, match=message) as caught:
        target.read_localised(path.parent)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_who_writes_it(tmp_path, target):
    for path in (tmp_path / "weights.csv", tmp_path):
        with pytest.raises(InputError, match=r"no such file, expected the weights.csv that `localize` writes"):
            target.read_localised(path.parent)
