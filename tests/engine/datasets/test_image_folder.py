"""Anybody's pictures, one folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from skimage.transform import resize

from engine.core.errors import InputError
from engine.data.image_set import open_image_set
from engine.data.pictures import read_picture
from engine.data.preprocess import preprocess_images
from engine.datasets.dataset import prepare_dataset
from engine.datasets.image_folder import IMAGE_FOLDER

CLASSES = {"a cat": 7, "dog": 5, "Öl": 8}


def prepare_image_folder(input_dir: Path, output_dir: Path, **options: Any) -> dict[str, int]:
    return prepare_dataset(IMAGE_FOLDER, input_dir, output_dir, name=str(input_dir), **options).rows


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """20 pictures of several sizes and formats; beside them files that are none."""
    folder = tmp_path / "pictures"
    random = np.random.default_rng(0)
    for name, count in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            height, width = random.integers(20, 70, 2)
            suffix = (".png", ".jpg", ".JPEG", ".bmp")[number % 4]
            pixels = random.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}{suffix}")
        (folder / name / "notes.txt").write_text("no picture")
    (folder / ".hidden").mkdir()
    (folder / "list.csv").write_text("no class")
    return folder


def read(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        return [name.decode() for name in file["image_ids"]], file["labels"][:].argmax(axis=1), file["images"][:]


def test_rows(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = prepare_image_folder(pictures, out, data_ratio=(0.5, 0.2, 0.3, 0), random_state=3)
    assert rows == {"train": 10, "val": 4, "test": 6}
    names = np.array(sorted(str(path.relative_to(pictures)) for path in pictures.glob("*/[0-9]*")), object)
    np.random.default_rng(3).shuffle(names)
    found = [read(out / f"{part}.h5") for part in rows]
    assert [name for ids, _, _ in found for name in ids] == names.tolist()
    for ids, labels, images in found:
        for name, label, image in zip(ids, labels, images, strict=True):
            assert sorted(CLASSES)[label] == name.partition("/")[0]
            expected = preprocess_images(read_picture(pictures / name)[None], "resize")[0]
            assert np.array_equal(image, expected)
    assert open_image_set(out / "train.h5").label_names == ("a cat", "dog", "Öl")
    assert open_image_set(out / "train.h5").preprocess == "resize"


def test_no_picture_is_lost(pictures: Path, tmp_path: Path) -> None:
    rows = prepare_image_folder(pictures, tmp_path, data_ratio=(0.33, 0.33, 0.34, 0))
    assert rows == {"train": 6, "val": 6, "test": 8}


def test_other_sides_and_methods(pictures: Path, tmp_path: Path) -> None:
    for method, side in (("toolkit", 16), ("pad", 80), ("resize", 5)):
        out = tmp_path / method
        prepare_image_folder(pictures, out, data_ratio=(0, 0, 0, 1), preprocess=method, side=side)
        ids, _, images = read(out / "repair.h5")
        assert images.shape == (20, side, side, 3)
        at_most = None if method == "pad" else 8 * side
        picture = read_picture(pictures / ids[4], at_most=at_most)
        assert np.array_equal(images[4], preprocess_images(picture[None], method, (side, side))[0])


def test_photographs(pictures: Path, tmp_path: Path) -> None:
    """A large picture is averaged first; that is close to resizing it at once."""
    ramp = np.linspace(0, 255, 900)
    smooth = np.stack([np.add.outer(ramp, ramp[:700]) / 2] * 3, axis=2).astype(np.uint8)
    Image.fromarray(smooth).save(pictures / "dog" / "large.png")
    prepare_image_folder(pictures, tmp_path, data_ratio=(0, 0, 0, 1))
    ids, _, images = read(tmp_path / "repair.h5")
    assert np.abs(images[ids.index("dog/large.png")] - resize(smooth, (32, 32))).max() < 0.01


def test_bad_input(pictures: Path, tmp_path: Path) -> None:
    def refused(says: str, folder: Path = pictures, **options: Any) -> None:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=says) as caught:
            prepare_image_folder(folder, tmp_path / "out", **options)
        assert "expected" in str(caught.value)
        assert sorted(tmp_path.rglob("*")) == before

    refused("no such folder", folder=tmp_path / "nowhere")
    refused("has 0 folders", folder=pictures / "dog")
    refused("has 1 folders", folder=tmp_path)
    refused("sums to 0.8", data_ratio=(0.2, 0.2, 0.2, 0.2))
    refused("preprocess method crop", preprocess="crop")
    refused("side is 0", side=0)
    refused(r"padding needs at most 32×32", preprocess="pad")
    (pictures / "empty").mkdir()
    refused("empty has no picture")
    (pictures / "empty" / "x.jpg").write_bytes((pictures / "dog" / "1.jpg").read_bytes()[:-300])
    refused(r"x\.jpg cannot be decoded")
    (pictures / "empty" / "x.jpg").write_text("no picture")
    refused(r"x\.jpg is no picture")
