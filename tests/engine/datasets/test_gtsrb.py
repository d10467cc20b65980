from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.transform import resize

from engine.data.image_set import open_image_set, read_images
from engine.data.preprocess import equalise_crop_resize
from engine.datasets.gtsrb import LABEL_NAMES, prepare_gtsrb
from tests.support.prepare import files, refusing

TRAINING = {0: 6, 7: 5, 42: 9}
TEST = [3, 42, 0, 3]


def picture(number: int) -> np.ndarray:
    """A picture of its own size; some are higher than wide, some wider, odd and even."""
    random = np.random.default_rng(number)
    height, width = random.integers(15, 60, 2)
    return (random.integers(0, 256, (height, width, 3)) * random.uniform(0.3, 1)).astype(np.uint8)


def ppm(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PPM")
    return out.getvalue()


def content() -> dict[str, dict[str, bytes]]:
    """Members of the three archives."""
    training: dict[str, bytes] = {}
    number = 0
    for label, count in TRAINING.items():
        for k in range(count):
            training[f"GTSRB/Final_Training/Images/{label:05}/{k // 3:05}_{k:05}.ppm"] = ppm(picture(number))
            number += 1
        training[f"GTSRB/Final_Training/Images/{label:05}/GT-{label:05}.csv"] = b"Filename;ClassId\n"
    tests = {f"GTSRB/Final_Test/Images/{k:05}.ppm": ppm(picture(100 + k)) for k in range(len(TEST))}
    tests["GTSRB/Final_Test/Images/GT-final_test.test.csv"] = b"Filename;Width\n"
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    rows = [f"{k:05}.ppm;1;1;0;0;1;1;{label}" for k, label in enumerate(TEST)]
    table = {"GT-final_test.csv": "\r\n".join([header, *rows, ""]).encode()}
    return {"Final_Training_Images": training, "Final_Test_Images": tests, "Final_Test_GT": table}


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name, members in content().items():
        with zipfile.ZipFile(folder / f"GTSRB_{name}.zip", "w") as archive:
            for member, data in reversed(members.items()):
                archive.writestr(member, data)
    return folder


def unpacked(folder: Path) -> Path:
    for members in content().values():
        for member, data in members.items():
            (folder / member).parent.mkdir(parents=True, exist_ok=True)
            (folder / member).write_bytes(data)
    return folder


def test_rows(archives: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare_gtsrb(archives, out, random_state=5) == {"train": 12, "val": 3, "repair": 5, "test": 4}
    test = open_image_set(out / "test.h5")
    assert test.labels.tolist() == TEST
    assert (test.label_names, test.preprocess, test.image_shape) == (LABEL_NAMES, "toolkit", (32, 32, 3))
    expected = [equalise_crop_resize(picture(100 + k)) for k in range(4)]
    assert np.array_equal(read_images(test, 0, 4), expected)
    order = np.arange(20)
    np.random.default_rng(5).shuffle(order)
    labels = np.repeat(list(TRAINING), list(TRAINING.values()))[order]
    images = np.stack([equalise_crop_resize(picture(number)) for number in order])
    start = 0
    for part in ("train", "val", "repair"):
        found = open_image_set(out / f"{part}.h5")
        assert found.labels.tolist() == labels[start : start + found.rows].tolist()
        assert np.array_equal(read_images(found, 0, found.rows), images[start : start + found.rows])
        start += found.rows
    assert len(LABEL_NAMES) == 43
    assert (LABEL_NAMES[6], LABEL_NAMES[14]) == ("End of speed limit (80km/h)", "Stop")
    assert LABEL_NAMES[42].startswith("End of no passing")


def test_folders_and_archives_give_the_same(archives: Path, tmp_path: Path) -> None:
    prepare_gtsrb(archives, tmp_path / "a")
    prepare_gtsrb(unpacked(tmp_path / "b-source"), tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_resizing_alone(archives: Path, tmp_path: Path) -> None:
    assert prepare_gtsrb(archives, tmp_path / "none", data_ratio=(0.5, 0.5, 0, 0)) == {"train": 10, "val": 10}
    prepare_gtsrb(archives, tmp_path, data_ratio=(0, 0, 1, 0), preprocess="resize")
    found = open_image_set(tmp_path / "test.h5")
    np.testing.assert_allclose(read_images(found, 0, 1)[0], resize(picture(100), (32, 32)), atol=1e-6)


def test_bad_input(archives: Path, tmp_path: Path) -> None:
    refused = refusing(tmp_path, prepare_gtsrb, input_dir=archives, output_dir=tmp_path / "out")
    refused("no such folder", input_dir=tmp_path / "nowhere")
    refused("sums to 0.5", data_ratio=(0.5, 0, 0, 0))
    refused("divide_rate is 2", divide_rate=2.0)
    refused("preprocess method pad", preprocess="pad")
    table = archives / "GTSRB_Final_Test_GT.zip"
    kept = table.read_bytes()
    table.write_bytes(b"<html>Not found</html>")
    refused("GTSRB_Final_Test_GT.zip is no zip archive")
    for text, says in (
        ("F;W;H;A;B;C;D;ClassId\n0;1;1;0;0;1;1;3\n", "has 1 rows, expected 4"),
        ("F;W;H;A;B;C;D;ClassId\n0;1;1;0;0;1;1;43\n", "has a class outside 0 to 42"),
        ("F;W;H;A;B;C;D;ClassId\n0;1;1;0;0;1;1;stop\n", "cannot be read"),
        ("F,ClassId\n0,3\n", "cannot be read"),
    ):
        with zipfile.ZipFile(table, "w") as archive:
            archive.writestr("GT-final_test.csv", text)
        refused(says)
    table.unlink()
    refused(r"has no GT-final_test\.csv")
    table.write_bytes(kept)
    (archives / "GTSRB_Final_Test_Images.zip").rename(tmp_path / "kept.zip")
    refused(r"has no Final_Test/Images/\*\.ppm")
    shutil.move(tmp_path / "kept.zip", archives / "GTSRB_Final_Test_Images.zip")
    training = archives / "GTSRB_Final_Training_Images.zip"
    whole = training.read_bytes()
    place = whole.index(b"P6\n") + 30
    training.write_bytes(whole[:place] + bytes(40) + whole[place + 40 :])
    refused(r"\d{5}_\d{5}\.ppm cannot be read \(Bad CRC")
    with zipfile.ZipFile(training, "a") as archive:
        archive.writestr("GTSRB/Final_Training/Images/00043/00000_00000.ppm", b"")
    refused("has images of class 43, expected 0 to 42")
    with zipfile.ZipFile(training, "w") as archive:
        archive.writestr("Final_Training/Images/00001/00000_00000.ppm", b"P6\n30 30\n255\n" + bytes(99))
    refused(r"00001/00000_00000\.ppm cannot be decoded")
    with zipfile.ZipFile(training, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Final_Training/Images/00001/00000_00000.ppm", bytes((64 << 20) + 1))
    refused("claims more than 64 MiB")
    training.unlink()
    refused(r"has no Final_Training/Images/<class>/\*\.ppm")
