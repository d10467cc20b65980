"""Images of an image set as picture files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from engine.core.errors import InputError
from engine.data import derived
from engine.data.derived import extract_images
from engine.data.image_set import ImageSet, open_image_set


def image_set(path: Path, images: Any, **settings: Any) -> ImageSet:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.asarray(images)
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, **settings)
        file["labels"] = np.eye(3)[np.arange(len(images)) % 3]
    return open_image_set(path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_floats_become_binary_rgb(tmp_path: Path) -> None:
    """P6, and round(255·x) to the byte: halves go to the even neighbour, as Python rounds."""
    values = np.array([0, 1, 0.5, 0.1, 1.5 / 255, 2.5 / 255, 0.999, 1.0019, -0.0019, 1 / 3, 0.7, 0.2])
    rows = image_set(tmp_path / "repair.h5", np.stack([values.reshape(2, 2, 3), np.zeros((2, 2, 3))]))
    assert extract_images(rows, tmp_path / "out") == tmp_path / "out" / "images"
    assert names(tmp_path / "out" / "images") == ["00000000.ppm", "00000001.ppm"]
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
    assert names(tmp_path / "images") == [f"{row:08d}.png" for row in range(3)]
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
    """Every row once and in its place, however few are read at once; also from pieces that are compressed."""
    monkeypatch.setattr(derived, "_BLOCK_VALUES", block)
    count = 2001 if block > 100 else 21
    images = np.arange(count)[:, None, None, None] // [[[1, 256, 65536]]] % 256
    rows = image_set(tmp_path / "repair.h5", images.astype(np.uint8), chunks=(10, 1, 1, 3), compression="gzip")
    ticks: list[int] = []
    extract_images(rows, tmp_path, progress=ticks.append)
    assert sum(ticks) == count
    assert max(ticks) == {27: 9, 1: 1}.get(block, 1000)
    assert names(tmp_path / "images") == [f"{row:08d}.ppm" for row in range(count)]
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
    """And what was extracted before stays."""
    extract_images(image_set(tmp_path / "before.h5", np.zeros((1, 1, 1, 3))), tmp_path)
    before = (tmp_path / "images").stat().st_ino
    with pytest.raises(InputError, match=re.escape(says)):
        extract_images(image_set(tmp_path / "repair.h5", images), tmp_path)
    assert (tmp_path / "images").stat().st_ino == before
    assert names(tmp_path) == ["before.h5", "images", "repair.h5"]


def test_pictures_of_before_go(tmp_path: Path) -> None:
    extract_images(image_set(tmp_path / "more.h5", np.zeros((5, 1, 1, 3))), tmp_path, kind="png")
    extract_images(image_set(tmp_path / "less.h5", np.zeros((2, 1, 1, 3))), tmp_path)
    assert names(tmp_path / "images") == ["00000000.ppm", "00000001.ppm"]


def test_other_files_stay(tmp_path: Path) -> None:
    """A folder of images may be somebody's data set."""
    rows = image_set(tmp_path / "repair.h5", np.zeros((1, 1, 1, 3)))
    (tmp_path / "images" / "100k").mkdir(parents=True)
    with pytest.raises(InputError, match=r"images would be replaced and holds 100k, expected nothing but extracted"):
        extract_images(rows, tmp_path)
    assert names(tmp_path / "images") == ["100k"]
    extract_images(rows, tmp_path, overwrite=True)
    assert names(tmp_path / "images") == ["00000000.ppm"]
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
    rows = image_set(tmp_path / place, np.zeros((1, 1, 1, 3)))
    for output in (tmp_path, tmp_path / "images" / ".."):
        with pytest.raises(
            InputError, match=r"would be replaced and holds .*repair.h5, expected another output folder"
        ):
            extract_images(rows, output, overwrite=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "repair.h5").symlink_to(tmp_path / place)
    with pytest.raises(InputError, match="expected another output folder"):
        extract_images(open_image_set(tmp_path / "elsewhere" / "repair.h5"), tmp_path, overwrite=True)
    linked = tmp_path / "other" / place
    linked.parent.mkdir(parents=True)
    linked.symlink_to(tmp_path / place)
    with pytest.raises(InputError, match="expected another output folder"):
        extract_images(open_image_set(linked), tmp_path / "other", overwrite=True)
    assert linked.is_symlink()
    assert (tmp_path / place).is_file()
