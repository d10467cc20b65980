from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from engine.core.errors import InputError
from engine.data import derived
from engine.data.derived import extract_images, group_labels, merge_image_sets, read_groups, write_with_labels
from engine.data.image_set import ImageSet, open_image_set
from engine.data.label_file import read_label_file, write_label_file
from engine.data.writer import write_empty_image_set

Rows = dict[str, Any]

NAMES = ["a", "b", "c", "d"]


def write(
    path: Path, data: Rows, names: list[str] | None = None, preprocess: str | None = None, **settings: Any
) -> Path:
    """A set as a user writes it; several inputs are arrays by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            if isinstance(values, dict):
                file.create_group(name, track_order=True)
                for inner, array in values.items():
                    file[name][inner] = array
            else:
                file.create_dataset(name, data=values, **(settings if name == "images" else {}))
        if names:
            file.attrs["label_names"] = names
        if preprocess:
            file.attrs["preprocess"] = preprocess
    return path


def image_set(path: Path, images: Any, **settings: Any) -> ImageSet:
    labels = np.eye(3)[np.arange(len(images)) % 3]
    return open_image_set(write(path, {"images": np.asarray(images), "labels": labels}, **settings))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Two sets joined


def rows(
    count: int, start: int = 0, dtype: Any = np.float32, shape: tuple[int, ...] = (2, 2, 1), classes: int = 4
) -> Rows:
    """Rows numbered from `start` on; a row's pixels and its label tell its number."""
    number = np.arange(start, start + count)
    images = np.broadcast_to(number.reshape(-1, *(1 for _ in shape)), (count, *shape))
    return {"images": images.astype(dtype), "labels": np.eye(classes, dtype=dtype)[number % classes]}


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


def test_several_inputs_are_joined(tmp_path: Path) -> None:
    paths = []
    for name, start, order in (("a", 0, "xy"), ("b", 3, "xy"), ("c", 0, "yx")):
        number = np.arange(start, start + 3)
        inputs = {"x": np.stack([number, number], axis=1), "y": number.reshape(3, 1, 1)}
        data = {"images": {input_name: inputs[input_name] for input_name in order}, "labels": np.eye(4)[:3]}
        paths.append(write(tmp_path / name / "repair.h5", data))
    assert merge_image_sets(paths[0], paths[1], tmp_path / "out") == 6
    with h5py.File(tmp_path / "out" / "repair.h5") as file:
        assert list(file["images"]) == ["x", "y"]
        assert {file["images"][name].dtype for name in "xy"} == {np.dtype(np.float32)}
        assert file["images/x"][...].tolist() == [[row, row] for row in range(6)]
        assert file["images/y"][...].tolist() == [[[row]] for row in range(6)]
    with pytest.raises(InputError, match=r"a.repair.h5 has inputs \(\('x', \(2,\)\), .* and .*, expected the same"):
        merge_image_sets(paths[0], paths[2], tmp_path / "out")


# Other labels


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    labels = np.eye(4, dtype=np.uint8)[np.arange(1005) * 3 % 4]
    data = {"images": np.random.default_rng(0).random((1005, 2, 2, 3)), "labels": labels}
    return open_image_set(write(tmp_path / "train.h5", data, NAMES, "pad"))


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
    inputs = {"b": np.arange(6, dtype=np.int16).reshape(3, 2), "a": np.arange(3.0).reshape(3, 1, 1)}
    write(tmp_path / "old.h5", {"images": inputs, "labels": np.eye(3)})
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


# Picture files


def test_floats_become_binary_rgb(tmp_path: Path) -> None:
    """P6, and round(255·x) to the byte: halves go to the even neighbour, as Python rounds."""
    values = np.array([0, 1, 0.5, 0.1, 1.5 / 255, 2.5 / 255, 0.999, 1.0019, -0.0019, 1 / 3, 0.7, 0.2])
    rows = image_set(tmp_path / "repair.h5", np.stack([values.reshape(2, 2, 3), np.zeros((2, 2, 3))]))
    assert extract_images(rows, tmp_path / "out") == tmp_path / "out" / "images"
    assert names_in(tmp_path / "out" / "images") == ["00000000.ppm", "00000001.ppm"]
    expected = bytes(min(255, max(0, round(255 * value))) for value in values.tolist())
    assert expected[2:6] == bytes([128, 26, 2, 2])
    assert (tmp_path / "out" / "images" / "00000000.ppm").read_bytes() == b"P6\n2 2\n255\n" + expected
    assert (tmp_path / "out" / "images" / "00000001.ppm").read_bytes() == b"P6\n2 2\n255\n" + bytes(12)


def test_float32_is_rounded_as_it_is(tmp_path: Path) -> None:
    """The product is not rounded to float32 first, which would make halves of what is just beside them."""
    halves = ((np.arange(255) + 0.5) / 255).astype(np.float32)
    values = np.stack([np.nextafter(halves, np.float32(0)), halves, np.nextafter(halves, np.float32(1))], axis=-1)
    assert not np.array_equal(np.rint(255 * values), np.rint(255 * values.astype(float)))
    extract_images(image_set(tmp_path / "repair.h5", values[None, None]), tmp_path)
    with Image.open(tmp_path / "images" / "00000000.ppm") as image:
        pixels = np.asarray(image)
    assert pixels.ravel().tolist() == [round(255 * value) for value in values.ravel().tolist()]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_integers_stay(dtype: Any, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 4, 5, 3)).astype(dtype)
    extract_images(image_set(tmp_path / "repair.h5", images), tmp_path, kind="png")
    assert names_in(tmp_path / "images") == [f"{row:08d}.png" for row in range(3)]
    for row, pixels in enumerate(images):
        with Image.open(tmp_path / "images" / f"{row:08d}.png") as image:
            assert (image.mode, image.size) == ("RGB", (5, 4))
            assert np.array_equal(np.asarray(image), pixels)


def test_grey_images(tmp_path: Path) -> None:
    extract_images(image_set(tmp_path / "repair.h5", np.array([0.0, 1.0, 0.2]).reshape(1, 1, 3, 1)), tmp_path)
    assert (tmp_path / "images" / "00000000.ppm").read_bytes() == b"P6\n3 1\n255\n" + bytes(
        [0] * 3 + [255] * 3 + [51] * 3
    )


@pytest.mark.parametrize("block", [derived._BLOCK_VALUES, 27, 1])
def test_blocks(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derived, "_BLOCK_VALUES", block)
    count = 2001 if block > 100 else 21
    images = np.arange(count)[:, None, None, None] // [[[1, 256, 65536]]] % 256
    rows = image_set(tmp_path / "repair.h5", images.astype(np.uint8), chunks=(10, 1, 1, 3), compression="gzip")
    ticks: list[int] = []
    extract_images(rows, tmp_path, progress=ticks.append)
    assert sum(ticks) == count
    assert max(ticks) == {27: 9, 1: 1}.get(block, 1000)
    assert names_in(tmp_path / "images") == [f"{row:08d}.ppm" for row in range(count)]
    for row in range(count):
        content = (tmp_path / "images" / f"{row:08d}.ppm").read_bytes()
        assert int.from_bytes(content[-3:], "little") == row


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.array([[[[0.5]]], [[[255]]]]), "row 1 has pixels from 255 to 255, expected numbers from 0 to 1"),
        (np.full((1, 1, 1, 3), 1.003), "row 0 has pixels from 1.003 to 1.003"),
        (np.full((1, 1, 1, 3), -0.1), "row 0 has pixels from -0.1 to -0.1"),
        (np.full((1, 1, 1, 3), np.nan), "row 0 has pixels from nan to nan"),
        (np.full((1, 1, 1, 3), 256), "row 0 has pixels from 256 to 256, expected numbers from 0 to 255"),
        (np.full((1, 1, 1, 3), -1), "expected numbers from 0 to 255"),
        (np.zeros((1, 2, 2, 4)), r"images of shape (2, 2, 4), expected 1 or 3 channels"),
        (np.zeros((1, 12)), "rows of shape (12,), which are no pictures, expected (height, width, channels)"),
        (np.zeros((1, 2, 2, 2, 3)), "rows of shape (2, 2, 2, 3), which are no pictures"),
    ],
)  # fmt: skip
def test_images_that_are_no_pictures(images: np.ndarray, says: str, tmp_path: Path) -> None:
    extract_images(image_set(tmp_path / "before.h5", np.zeros((1, 1, 1, 3))), tmp_path)
    before = (tmp_path / "images").stat().st_ino
    with pytest.raises(InputError, match=re.escape(says)):
        extract_images(image_set(tmp_path / "repair.h5", images), tmp_path)
    assert (tmp_path / "images").stat().st_ino == before
    assert names_in(tmp_path) == ["before.h5", "images", "repair.h5"]


def test_pictures_of_before_go(tmp_path: Path) -> None:
    extract_images(image_set(tmp_path / "more.h5", np.zeros((5, 1, 1, 3))), tmp_path, kind="png")
    extract_images(image_set(tmp_path / "less.h5", np.zeros((2, 1, 1, 3))), tmp_path)
    assert names_in(tmp_path / "images") == ["00000000.ppm", "00000001.ppm"]


def test_other_files_stay(tmp_path: Path) -> None:
    """A folder of images may be somebody's data set."""
    rows = image_set(tmp_path / "repair.h5", np.zeros((1, 1, 1, 3)))
    (tmp_path / "images" / "100k").mkdir(parents=True)
    with pytest.raises(InputError, match=r"images would be replaced and holds 100k, expected nothing but extracted"):
        extract_images(rows, tmp_path)
    assert names_in(tmp_path / "images") == ["100k"]
    extract_images(rows, tmp_path, overwrite=True)
    assert names_in(tmp_path / "images") == ["00000000.ppm"]
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "images").touch()
    with pytest.raises(InputError, match="is not a folder"):
        extract_images(rows, tmp_path / "file", overwrite=True)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "images").symlink_to(tmp_path / "images")
    with pytest.raises(InputError, match="is not a folder"):
        extract_images(rows, tmp_path / "link")


@pytest.mark.parametrize("place", ["images/repair.h5", "images/below/repair.h5"])
def test_the_image_set_is_not_deleted(place: str, tmp_path: Path) -> None:
    real = image_set(tmp_path / "a" / place, np.zeros((1, 1, 1, 3))).path
    # The set itself, a link to it from elsewhere, and a link to it where it would be deleted.
    links = [tmp_path / "b" / "repair.h5", tmp_path / "c" / place]
    for link in links:
        link.parent.mkdir(parents=True)
        link.symlink_to(real)
    for source, output in ((real, "a"), (real, "a/images/.."), (links[0], "a"), (links[1], "c")):
        with pytest.raises(
            InputError, match=r"would be replaced and holds .*repair.h5, expected another output folder"
        ):
            extract_images(open_image_set(source), tmp_path / output, overwrite=True)
    assert real.is_file() and links[1].is_symlink()
