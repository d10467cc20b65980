"""`weights.csv`, byte for byte as the toolkit writes it and in every form it is read in, and `labels.json`."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.data.label_file import read_priorities
from engine.localize.weights_file import write_repaired_labels, write_weights
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


def labels_file(folder: Path, **entries: object) -> Path:
    path = folder / "labels.json"
    path.write_text(json.dumps([[label.removeprefix("l"), entry] for label, entry in entries.items()], indent=4))
    return path


def test_what_was_found_stands_beside_what_was_there(tmp_path: Path) -> None:
    path = labels_file(
        tmp_path, l6={"repair_priority": 2, "score": 1.5, "weights": [[1, 1, 1]]}, l4={"repair_priority": 0}
    )
    index, new = np.array([[3, 1], [0, 2]]), np.array([0.1, -2.5], np.float32)
    write_weights(tmp_path / "weights.csv", 8, index, np.zeros(2, np.float32), new)
    write_repaired_labels(path, tmp_path / "weights.csv", [6, 9])
    six = {"repair_priority": 2, "score": 1.5, "weights": [[8, 3, 1], [8, 0, 2]], "repaired_values": ["0.1", "-2.5"]}
    assert path.read_text() == json.dumps([["6", six], ["4", {"repair_priority": 0}]], indent=4)
    assert [np.float32(value) for value in six["repaired_values"]] == new.tolist()


def test_priorities(tmp_path: Path) -> None:
    path = labels_file(tmp_path, l6={"repair_priority": 2, "prevent_degradation": 0.5}, l4={"repair_priority": 0})
    assert read_priorities(path, "repair_priority", 10) == ((6, 2.0), (4, 0.0))
    assert read_priorities(path, "prevent_degradation", 10) == ((6, 0.5), (4, 0.0))


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"repair_priority": 0}, "gives no label a repair_priority above 0, expected at least one"),
        ({"success": 97}, "gives no label a repair_priority above 0"),
        ({"repair_priority": "2"}, 'has repair_priority = "2" of label 6, expected a number from 0'),
        ({"repair_priority": True}, "has repair_priority = true of label 6"),
        ({"repair_priority": -1}, "has repair_priority = -1 of label 6"),
        ({"repair_priority": float("nan")}, "has repair_priority = NaN of label 6"),
        ({"repair_priority": 10**400}, "has repair_priority = 1000"),
        ({"repair_priority": None}, "has repair_priority = null of label 6"),
    ],
)
def test_what_is_no_priority(entry: dict[str, object], found: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=found):
        read_priorities(labels_file(tmp_path, l6=entry), "repair_priority", 10)


def test_labels_that_the_data_has_not(tmp_path: Path) -> None:
    path = labels_file(tmp_path, l10={"repair_priority": 1})
    with pytest.raises(InputError, match="has an entry of label 10, expected labels from 0 to 9"):
        read_priorities(path, "repair_priority", 10)
