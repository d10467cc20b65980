"""Two image sets joined."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from engine.core.errors import InputError
from engine.data.derived import merge_image_sets
from engine.data.writer import write_empty_image_set

Rows = dict[str, Any]


def rows(
    count: int, start: int = 0, dtype: Any = np.float32, shape: tuple[int, ...] = (2, 2, 1), classes: int = 4
) -> Rows:
    """Rows numbered from `start` on; a row's pixels and its label tell its number."""
    number = np.arange(start, start + count)
    images = np.broadcast_to(number.reshape(-1, *(1 for _ in shape)), (count, *shape))
    return {"images": images.astype(dtype), "labels": np.eye(classes, dtype=dtype)[number % classes]}


def write(path: Path, data: Rows, names: list[str] | None = None, preprocess: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file[name] = values
        if names:
            file.attrs["label_names"] = names
        if preprocess:
            file.attrs["preprocess"] = preprocess
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtypes", [(np.float32, np.float32), (np.float64, np.uint8), (np.int32, np.float64)])
def test_rows_of_one_then_of_the_other_as_float32(dtypes: tuple[Any, Any], tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "repair.h5", rows(1003, 0, dtypes[0]))
    second = write(tmp_path / "b" / "repair.h5", rows(5, 3, dtypes[1]))
    ticks: list[int] = []
    assert merge_image_sets(first, second, tmp_path / "new" / "out", progress=ticks.append) == 1008
    assert ticks == [1000, 3, 5]
    number = np.concatenate([np.arange(1003), np.arange(3, 8)])
    with h5py.File(tmp_path / "new" / "out" / "repair.h5") as file:
        assert sorted(file) == ["images", "labels"]
        assert not dict(file.attrs)
        for name in file:
            assert file[name].dtype == np.float32
            assert (file[name].chunks, file[name].compression) == (None, None)
        assert np.array_equal(file["images"][...], np.broadcast_to(number[:, None, None, None], (1008, 2, 2, 1)))
        assert np.array_equal(file["labels"][...], np.eye(4)[number % 4])
    assert names_in(tmp_path / "new" / "out") == ["repair.h5"]


NAMES = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("first", "second", "names", "preprocess"),
    [
        ((NAMES, "pad"), (NAMES, "pad"), NAMES, "pad"),
        ((NAMES, "pad"), (None, None), NAMES, None),
        ((None, None), (NAMES, "pad"), NAMES, None),
        ((None, None), (None, None), None, None),
    ],
)
def test_what_is_known_of_both(first: Any, second: Any, names: Any, preprocess: Any, tmp_path: Path) -> None:
    one = write(tmp_path / "0.h5", rows(2), *first)
    other = write(tmp_path / "1.h5", rows(2), *second)
    merge_image_sets(one, other, tmp_path / "out")
    with h5py.File(tmp_path / "out" / "repair.h5") as file:
        found = file.attrs.get("label_names")
        assert (None if found is None else list(found)) == names
        assert file.attrs.get("preprocess") == preprocess


def test_a_set_without_rows(tmp_path: Path) -> None:
    """Such as `target` leaves where there are no failures."""
    filled, empty = write(tmp_path / "a.h5", rows(3)), tmp_path / "b.h5"
    write_empty_image_set(empty)
    for pair in ((filled, empty), (empty, filled)):
        assert merge_image_sets(*pair, tmp_path / "out") == 3
        with h5py.File(tmp_path / "out" / "repair.h5") as file:
            assert file["images"][:, 0, 0, 0].tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="have 0 rows, expected at least one image"):
        merge_image_sets(empty, empty, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("second", "more", "says"),
    [
        (rows(2, shape=(2, 3, 1)), (), "a.h5 has images of shape (2, 2, 1) and"),
        (rows(2, classes=3), (), "a.h5 has labels of so many classes: 4 and"),
        (rows(2), (["a", "x", "c", "y"], "pad"), "a.h5 calls label 1 'b' and"),
        (rows(2), (NAMES, "toolkit"), "a.h5 has preprocessing pad and"),
        ({**rows(2), "images": np.full((2, 2, 2, 1), np.nan)}, (), "b.h5: row 0 has pixels that are NaN"),
        ({**rows(2), "labels": np.ones((2, 4))}, (), "b.h5: row 0 of labels is [1. 1. 1. 1.]"),
        ({"labels": np.eye(4)}, (), 'b.h5 has no dataset "images"'),
    ],
)
def test_sets_that_cannot_be_joined(second: Rows, more: Any, says: str, tmp_path: Path) -> None:
    """And nothing is left half-written."""
    first = write(tmp_path / "a.h5", rows(3), NAMES, "pad")
    merge_image_sets(first, first, tmp_path / "out")
    before = (tmp_path / "out" / "repair.h5").read_bytes()
    with pytest.raises(InputError, match=re.escape(says)):
        merge_image_sets(first, write(tmp_path / "b.h5", second, *more), tmp_path / "out")
    assert (tmp_path / "out" / "repair.h5").read_bytes() == before
    assert names_in(tmp_path / "out") == ["repair.h5"]


@pytest.mark.parametrize("output", ["a", ".", "a/..", "a/b/..", "link"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_inputs_are_not_deleted(output: str, overwrite: bool, tmp_path: Path) -> None:
    """The output folder is one of the inputs or a parent of them, however it is called."""
    first, second = write(tmp_path / "a" / "repair.h5", rows(2)), write(tmp_path / "a" / "b" / "repair.h5", rows(2))
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    for pair in ((first, second), (second, first)):
        with pytest.raises(
            InputError, match=r"would be replaced and holds .*repair.h5, expected another output folder"
        ):
            merge_image_sets(*pair, tmp_path / output, overwrite=overwrite)
    assert first.is_file()
    assert second.is_file()
    assert names_in(tmp_path) == ["a", "link"]


def test_an_output_folder_inside_an_input(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a" / "repair.h5", rows(2)), write(tmp_path / "b" / "repair.h5", rows(2))
    merge_image_sets(first, second, tmp_path / "a" / "merged")
    assert names_in(tmp_path / "a") == ["merged", "repair.h5"]


def test_other_files_stay_without_overwrite(tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "repair.h5", rows(2))
    out = tmp_path / "out"
    merge_image_sets(first, first, out)
    (out / "negative" / "6" / "repair").mkdir(parents=True)
    (out / "train.h5").touch()
    before = (out / "repair.h5").stat().st_ino
    with pytest.raises(InputError, match=r"out would be replaced and holds negative, expected .* or --overwrite"):
        merge_image_sets(first, first, out)
    assert (out / "repair.h5").stat().st_ino == before
    assert names_in(out) == ["negative", "repair.h5", "train.h5"]
    merge_image_sets(first, first, out, overwrite=True)
    assert names_in(out) == ["repair.h5"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is not a folder"):
        merge_image_sets(first, first, tmp_path / "file", overwrite=True)


def test_several_inputs(tmp_path: Path) -> None:
    paths = []
    for name, start, order in (("a", 0, "xy"), ("b", 3, "xy"), ("c", 0, "yx")):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "repair.h5")
        with h5py.File(paths[-1], "w") as file:
            group = file.create_group("images", track_order=True)
            for input_name in order:
                shape = {"x": (3, 2), "y": (3, 1, 1)}[input_name]
                group[input_name] = np.broadcast_to(
                    np.arange(start, start + 3).reshape(3, *(1 for _ in shape[1:])), shape
                )
            file["labels"] = np.eye(4)[:3]
    assert merge_image_sets(paths[0], paths[1], tmp_path / "out") == 6
    with h5py.File(tmp_path / "out" / "repair.h5") as file:
        assert list(file["images"]) == ["x", "y"]
        assert {file["images"][name].dtype for name in "xy"} == {np.dtype(np.float32)}
        assert file["images/x"][...].tolist() == [[row, row] for row in range(6)]
        assert file["images/y"][...].tolist() == [[[row]] for row in range(6)]
    with pytest.raises(InputError, match=r"a.repair.h5 has inputs \(\('x', \(2,\)\), .* and .*, expected the same"):
        merge_image_sets(paths[0], paths[2], tmp_path / "out")
