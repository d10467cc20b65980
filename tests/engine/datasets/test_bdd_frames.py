from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

from engine.data.image_set import open_image_set
from engine.datasets.bdd_frames import SCENES, WEATHERS, PreparedFrames, prepare_bdd
from engine.datasets.bdd_objects import prepare_bdd_objects
from tests.support.prepare import Stopping, by_toolkit, files, refusing

VALUES = [*WEATHERS, "undefined", None]
"""Weathers of the frames, one after the other: six that are classes, and two that are not."""


def picture(seed: int, height: int, width: int) -> Image.Image:
    noise = np.random.default_rng(seed).uniform(-40, 300, (height, width, 3))
    return Image.fromarray(np.clip(gaussian_filter(noise, (3, 3, 0)) * 2 - 130, 0, 255).astype(np.uint8))


def frame(name: str, number: int) -> dict[str, Any]:
    attributes = {"scene": SCENES[number % 6], "timeofday": "night"}
    if VALUES[number % 8] is not None:
        attributes["weather"] = VALUES[number % 8]
    lane = {"category": "lane", "poly2d": [[0.0, 1.0]], "id": number}  # no box, as in the older label files
    return {"name": name, "attributes": attributes, "labels": [lane]}


@pytest.fixture
def bdd(tmp_path: Path) -> Path:
    """24 frames in train and 8 in val, JPEG and PNG of two sizes; one more in val that the labels lack."""
    root = tmp_path / "bdd100k"
    number = 0
    (root / "labels").mkdir(parents=True)
    for part, count in (("train", 24), ("val", 8)):
        folder = root / "images" / "100k" / part
        folder.mkdir(parents=True)
        frames = []
        for k in range(count):
            name = f"{(7 * k) % count:02d}-{part}.{'png' if k % 5 == 0 else 'jpg'}"
            picture(number, *((180, 320) if k % 2 else (72, 128))).save(folder / name)
            frames.append(frame(name, number))
            number += 1
        frames.append(frame("absent.jpg", 0))
        (root / "labels" / f"bdd100k_labels_images_{part}.json").write_text(json.dumps(frames), encoding="utf-8-sig")
    picture(99, 72, 128).save(root / "images" / "100k" / "val" / "zz.jpg")
    return root


def usable(root: Path, attribute: str, classes: tuple[str, ...]) -> list[tuple[str, int]]:
    """Name below `images/100k` and class of every frame that has one, in the order of folder and name."""
    found = []
    for part in ("train", "val"):
        table = json.loads((root / f"labels/bdd100k_labels_images_{part}.json").read_text(encoding="utf-8-sig"))
        for entry in sorted(table, key=lambda entry: entry["name"]):
            value = entry["attributes"].get(attribute)
            if entry["name"] != "absent.jpg" and value in classes:
                found.append((f"{part}/{entry['name']}", classes.index(value)))
    return found


def rows_of(path: Path) -> list[tuple[str, int]]:
    with h5py.File(path) as file:
        names = [name.decode() for name in file["image_ids"]]
        return list(zip(names, file["labels"][:].argmax(axis=1).tolist(), strict=True))


def test_the_toolkit_s_division(bdd: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared = prepare_bdd(bdd, out, divide_rate=0.3, random_state=5, spread=(workers := Stopping()))
    assert [len(piece.sources) for piece in workers.pieces] == [13, 5, 6]
    # 24 of 32 labelled frames have a weather; 6 are test, int(18·0.3) = 5 repair.
    assert prepared == PreparedFrames({"train": 13, "repair": 5, "test": 6}, frames=33, unlabelled=1, unknown=8)
    order = np.arange(24)
    np.random.default_rng(5).shuffle(order)
    frames = usable(bdd, "weather", WEATHERS)
    shuffled = [frames[row] for row in order]
    assert rows_of(out / "test.h5") == shuffled[:6]
    drawn = sorted(random.Random(5).sample(range(18), 5))
    assert rows_of(out / "repair.h5") == [shuffled[6 + row] for row in reversed(drawn)]
    assert rows_of(out / "train.h5") == [shuffled[6 + row] for row in range(18) if row not in drawn]
    for split, count in prepared.rows.items():
        with h5py.File(out / f"{split}.h5") as file:
            assert (file["images"].shape, file["images"].dtype) == ((count, 90, 160, 3), np.float32)
            assert (file["labels"].shape, file["labels"].dtype) == ((count, 6), np.uint8)
            for row, (name, _) in enumerate(rows_of(out / f"{split}.h5")):
                assert np.array_equal(file["images"][row], by_toolkit(bdd / "images/100k" / name, (90, 160)))
    found = open_image_set(out / "train.h5")
    assert (found.label_names, found.preprocess) == (WEATHERS, "toolkit")


def test_scenes_by_ratio(bdd: Path, tmp_path: Path) -> None:
    """With the folder `100k` left out, and the labels of the detection task."""
    (bdd / "images/100k/train").rename(bdd / "images/train")
    (bdd / "images/100k/val").rename(bdd / "images/val")
    for part in ("train", "val"):
        (bdd / "labels/det_20").mkdir(exist_ok=True)
        (bdd / f"labels/bdd100k_labels_images_{part}.json").rename(bdd / f"labels/det_20/det_{part}.json")
    out = tmp_path / "out"
    ratio = (0.5, 0.25, 0, 0.25)
    prepared = prepare_bdd(bdd, out, target_label="scene", data_ratio=ratio, preprocess="resize")
    assert prepared == PreparedFrames({"train": 16, "val": 8, "repair": 8}, frames=33, unlabelled=1, unknown=0)
    names = [name for split in prepared.rows for name, _ in rows_of(out / f"{split}.h5")]
    assert len(set(names)) == 32
    assert open_image_set(out / "val.h5").label_names == SCENES
    with h5py.File(out / "val.h5") as file:
        first = resize(np.asarray(Image.open(bdd / "images" / rows_of(out / "val.h5")[0][0])), (90, 160))
        np.testing.assert_allclose(file["images"][0], first, atol=1e-6)


def test_frames_that_come_twice(bdd: Path, tmp_path: Path) -> None:
    once = prepare_bdd(bdd, tmp_path / "once")
    table = bdd / "labels/bdd100k_labels_images_val.json"
    frames = json.loads(table.read_text(encoding="utf-8-sig"))
    dawn = frames[1] | {"attributes": frames[1]["attributes"] | {"timeofday": "dawn/dusk"}}
    table.write_text(json.dumps([*frames, frames[0], dawn]))
    assert prepare_bdd(bdd, tmp_path / "twice") == once
    assert files(tmp_path / "once") == files(tmp_path / "twice")


def test_bad_frames(bdd: Path, tmp_path: Path) -> None:
    refused = refusing(tmp_path, prepare_bdd, bdd, tmp_path / "out")
    refused("target_label is timeofday", target_label="timeofday")
    refused("preprocess method pad", preprocess="pad")
    refused("sums to 0.8", data_ratio=(0.2, 0.2, 0.2, 0.2))
    refused("divide_rate is 2", divide_rate=2.0)
    refused("random_state is -1", random_state=-1)
    table = bdd / "labels/bdd100k_labels_images_val.json"
    frames = json.loads(table.read_text(encoding="utf-8-sig"))
    for changed, says in (
        ([*frames, frames[0] | {"attributes": {"weather": "hail"}}], f"gives frame {frames[0]['name']} twice, with"),
        ([{"name": "a.jpg", "attributes": []}], r"attributes of frame a\.jpg are an array"),
        ([{"name": "a.jpg", "attributes": {"weather": 3}}], r"weather of frame a\.jpg is a number"),
        ([{"attributes": {}}], "frame 0 has no name"),
        ({"frames": frames}, "expected a JSON array"),
    ):
        table.write_text(json.dumps(changed))
        refused(says)
    table.write_text(json.dumps(frames))
    broken = next(path for path in sorted((bdd / "images/100k/val").glob("*.jpg")) if path.name != "zz.jpg")
    broken.write_bytes(broken.read_bytes()[:-900])
    refused(f"{broken.name} cannot be decoded", data_ratio=(0, 0, 0, 1), target_label="scene")
    table.unlink()
    refused(r"images_val\.json: no such file")
    (bdd / "images/100k/val").rename(bdd / "elsewhere")
    refused(r"100k/val: no such folder")


@pytest.fixture
def exp2(tmp_path: Path) -> Path:
    """Six crops and their table."""
    root = tmp_path / "exp2" / "night"
    (root / "images").mkdir(parents=True)
    lines = ["#filename,class_id"]
    for number, label in enumerate(("car", "12", "traffic light", "0", "6", "rider")):
        name = f"{9 - number}_frame-{number % 2}.png"
        picture(number, 20 + 40 * number, 30).save(root / "images" / name)
        lines.append(f"{name},{label}")
    (root / "labels.csv").write_text("\r\n".join([*lines, ""]), encoding="utf-8-sig")
    return root


def test_objects_of_a_table(exp2: Path, tmp_path: Path) -> None:
    rows = prepare_bdd_objects(exp2, tmp_path / "out")
    assert rows == {"32/night": 6, "96/night": 6, "224/night": 6}
    for side in (32, 96, 224):
        with h5py.File(tmp_path / "out" / str(side) / "night.h5") as file:
            assert (file["images"].shape, file["images"].dtype) == ((6, side, side, 3), np.float32)
            assert (file["labels"].shape, file["labels"].dtype) == ((6, 13), np.float32)
            assert file["labels"][:].argmax(axis=1).tolist() == [7, 6, 0, 8, 12, 2]  # sorted by name: 4_ to 9_
            assert file["image_ids"][0] == b"4_frame-1.png"
            assert [name.decode() for name in file["attribute_ids"]] == [f"frame-{k % 2}.png" for k in range(5, -1, -1)]
            assert np.array_equal(file["images"][5], by_toolkit(exp2 / "images/9_frame-0.png", (side, side)))


def test_bad_tables(exp2: Path, tmp_path: Path) -> None:
    table = exp2 / "labels.csv"
    whole = table.read_text(encoding="utf-8-sig")
    refused = refusing(tmp_path, prepare_bdd_objects, exp2, tmp_path / "out")
    for says, text in (
        ("class_id of 9_frame-0.png is cart .did you mean 'car'", whole.replace(",car", ",cart")),
        ("class_id of 8_frame-1.png is 13", whole.replace(",12", ",13")),
        ("has 9_frame-0.png twice", whole + "9_frame-0.png,bus\n"),
        ("no columns #filename and class_id", whole.replace("#", "")),
        (r"x\.png is missing", whole + "x.png,bus\n"),
        (r"4_frame-1\.png is not in labels\.csv", whole.replace("4_frame-1.png,rider", "")),
        ("lists 0 pictures", "#filename,class_id\n"),
        ("expected a plain name", whole + "../x.png,bus\n"),
    ):
        table.write_text(text)
        refused(says)
    table.unlink()
    refused(r"labels\.csv cannot be read")
