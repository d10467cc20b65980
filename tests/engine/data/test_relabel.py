"""Image sets with other labels, and the toolkit's labels.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from engine.core.errors import InputError
from engine.data.derived import group_labels, read_groups, write_with_labels
from engine.data.image_set import ImageSet, open_image_set
from engine.data.label_file import read_label_file, write_label_file


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["images"] = np.random.default_rng(0).random((1005, 2, 2, 3))
        file["labels"] = np.eye(4, dtype=np.uint8)[np.arange(1005) * 3 % 4]
        file.attrs["label_names"] = ["a", "b", "c", "d"]
        file.attrs["preprocess"] = "pad"
    return open_image_set(tmp_path / "train.h5")


def test_other_labels_same_images(images: ImageSet, tmp_path: Path) -> None:
    ticks: list[int] = []
    write_with_labels(images, images.labels, tmp_path / "new" / "train.h5", progress=ticks.append)
    with h5py.File(images.path) as old, h5py.File(tmp_path / "new" / "train.h5") as new:
        assert new["images"].dtype == np.float64
        assert np.array_equal(old["images"][...], new["images"][...])
        assert (new["labels"].dtype, new["labels"].shape) == (np.int64, (1005,))
        assert np.array_equal(new["labels"][...], old["labels"][...].argmax(axis=1))
        assert dict(new.attrs) == {"preprocess": "pad"}
    assert ticks == [1000, 5]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["train.h5"]


def test_other_labels_same_inputs(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        group = file.create_group("images", track_order=True)
        group["b"], group["a"] = np.arange(6, dtype=np.int16).reshape(3, 2), np.arange(3.0).reshape(3, 1, 1)
        file["labels"] = np.eye(3)
    write_with_labels(open_image_set(tmp_path / "old.h5"), np.arange(3), tmp_path / "new.h5")
    with h5py.File(tmp_path / "old.h5") as old, h5py.File(tmp_path / "new.h5") as new:
        assert list(new["images"]) == ["b", "a"]
        for name in "ab":
            assert new["images"][name].dtype == old["images"][name].dtype
            assert np.array_equal(new["images"][name][...], old["images"][name][...])


def test_groups(images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "groups.json"
    path.write_text("[[0, 3], [1], []]")
    labels = group_labels(images, read_groups(path), path)
    assert (labels.dtype, labels.shape) == (np.float64, (1005, 3))
    expected = {0: [1, 0, 0], 1: [0, 1, 0], 2: [0, 0, 0], 3: [1, 0, 0]}  # none of the groups holds 2
    assert labels.tolist() == [expected[label] for label in images.labels.tolist()]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[0], ", "is not JSON"),
        ("{}", "holds no list of lists"),
        ("[]", "holds no list of lists"),
        ("[0, 1]", "holds no list of lists"),
        ('[["car"]]', "has 'car' in a group"),
        ("[[true]]", "has True in a group"),
        ("[[-1]]", "has -1 in a group"),
        ("[[0, 1], [1]]", "names class 1 twice"),
        ("[[0, 4]]", "names class 4 and"),
        ("\udcff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
    ids=range(11),
)
def test_groups_that_are_none(text: str, says: str, images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "groups.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=rf"groups.json {re.escape(says)}.*, expected"):
        group_labels(images, read_groups(path), path)
    with pytest.raises(InputError, match="cannot be read"):
        read_groups(tmp_path / "missing.json")


def test_label_file(tmp_path: Path) -> None:
    """The toolkit's layout: an array of pairs, indent 4, no line end at the end."""
    path = tmp_path / "labels.json"
    text = json.dumps([["10", {"repair_priority": 1, "weights": [[1, 2, 3]]}], ["2", {}]], indent=4)
    path.write_text(text)
    entries = read_label_file(path)
    assert entries == {10: {"repair_priority": 1, "weights": [[1, 2, 3]]}, 2: {}}
    write_label_file(path, entries)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "[1]", '[["a", {}]]', '[["1"]]', '[["1", 2]]', '[["1", {}], [1, {}]]', '[["-1", {}]]', "\udcff"],
)
def test_label_file_that_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"labels.json .*, expected \[\[label"):
        read_label_file(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_label_file(tmp_path / "missing.json")
