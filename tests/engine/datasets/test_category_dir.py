from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.core.errors import InputError
from engine.datasets.category_dir import CropSettings, create_category_dir
from tests.support.prepare import StoppedError, Stopping, backwards, files, refusing
from tests.support.scenes import Scenes, draw_scenes, label

W, H = 320, 180


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """20 small scenes; some of their objects are occluded or truncated."""
    return draw_scenes(tmp_path_factory.mktemp("drawn"), "val", 20, width=W, height=H, objects=6)


@pytest.fixture
def scenes(drawn: Scenes, tmp_path: Path) -> Scenes:
    """The same, to be changed."""
    root = drawn.images.parents[1]
    shutil.copytree(root, tmp_path / "bdd")
    return Scenes(tmp_path / "bdd/images/val", tmp_path / "bdd/labels/det_20/det_val.json")


@pytest.fixture(autouse=True)
def pieces_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.datasets.category_dir.SCENES_PER_PIECE", 8)


def one_scene(root: Path, labels: list[dict[str, Any]]) -> Scenes:
    """One scene of noise without loss, so that crops can be compared pixel by pixel."""
    scenes = Scenes(root / "images", root / "labels.json")
    scenes.images.mkdir()
    pixels = np.random.default_rng(3).integers(0, 256, (H, W, 3), np.uint8)
    Image.fromarray(pixels).save(scenes.images / "a-b.png")
    scenes.write([{"name": "a-b.png", "labels": labels}])
    return scenes


def info(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "image_info.json").read_text())


def test_crops_and_lists(tmp_path: Path) -> None:
    labels = [
        label(7, "car", 10.9, 20, 70.2, 50.7),  # 60 wide, 30 high: 15 more above and below
        label(8, "pedestrian", 100, 20, 110, 60),  # 15 more on both sides
        label(3, "car", 300, 170, 320, 180),  # in a corner
        label(9, "bus", 40, 60, 290, 100),  # 250 wide in 180 rows: a strip of 70
    ]
    scenes = one_scene(tmp_path, labels)
    image = np.asarray(Image.open(scenes.images / "a-b.png"))
    report = create_category_dir(scenes.labels, scenes.images, tmp_path / "out")
    crops = {
        "car/7_a-b.png": image[5:65, 10:70],
        "pedestrian/8_a-b.png": image[20:60, 85:125],
        "car/3_a-b.png": image[160:180, 300:320],
        "bus/9_a-b.png": image[110:180, 40:290],
    }
    found = files(tmp_path / "out")
    assert set(found) == {*crops, "image_info.json", "extract_results.json", "skipped.json"}
    for name, pixels in crops.items():
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / name)), pixels), name
    assert info(tmp_path / "out") == [
        {
            "name": name.rpartition("/")[2],
            "label": name.partition("/")[0],
            "value_mean": float(crops[name].max(axis=2).mean()),
            "area": crops[name].shape[0] * crops[name].shape[1],
        }
        for name in ("bus/9_a-b.png", "car/3_a-b.png", "car/7_a-b.png", "pedestrian/8_a-b.png")
    ]
    assert json.loads(found["extract_results.json"]) == {
        "bus": {"extracted": 1, "removed": 0},
        "car": {"extracted": 2, "removed": 0},
        "pedestrian": {"extracted": 1, "removed": 0},
    }
    assert (report.extracted, report.skipped) == ({"bus": 1, "car": 2, "pedestrian": 1}, {})
    clamped = create_category_dir(scenes.labels, scenes.images, tmp_path / "clamped", settings=CropSettings(clamp=True))
    assert clamped.extracted == report.extracted
    bus = np.asarray(Image.open(tmp_path / "clamped" / "bus" / "9_a-b.png"))
    assert np.array_equal(bus, image[:, 40:290])


def test_jpeg_crops_are_listed_as_their_files_give_them_back(drawn: Scenes, tmp_path: Path) -> None:
    report = create_category_dir(drawn.labels, drawn.images, tmp_path / "out")
    frames = drawn.frames()
    assert sum(report.extracted.values()) == sum(len(frame["labels"]) for frame in frames) == 120
    entries = info(tmp_path / "out")
    assert [(entry["label"], entry["name"]) for entry in entries] == sorted(
        (annotation["category"], f"{annotation['id']}_{frame['name']}")
        for frame in frames
        for annotation in frame["labels"]
    )
    for entry in entries[::10]:
        with Image.open(tmp_path / "out" / entry["label"] / entry["name"]) as picture:
            pixels = np.asarray(picture)
        assert entry["area"] == pixels.shape[0] * pixels.shape[1]
        assert entry["value_mean"] == pixels.max(axis=2).mean()


def test_removed_crops_are_set_aside(tmp_path: Path) -> None:
    labels = [
        label(0, "car", 10, 10, 20, 20),
        label(1, "car", 10, 10, 30, 30, occluded=True),
        label(2, "car", 10, 10, 30, 30, truncated=True),
        label(3, "bus", 10, 10, 30, 30, truncated=True, occluded=True),
    ]
    scenes = one_scene(tmp_path, labels)
    cases: dict[str, tuple[CropSettings, set[int]]] = {
        "none": (CropSettings(), set()),
        "small": (CropSettings(min_area=101), {0}),
        "enough": (CropSettings(min_area=100), set()),
        "occluded": (CropSettings(remove_occluded=True), {1, 3}),
        "truncated": (CropSettings(remove_truncated=True), {2, 3}),
        "all": (CropSettings(401, remove_occluded=True), {0, 1, 2, 3}),
    }
    for name, (settings, removed) in cases.items():
        out = tmp_path / name
        report = create_category_dir(scenes.labels, scenes.images, out, settings=settings)
        assert {int(path.name.partition("_")[0]) for path in out.glob("*/removed/*")} == removed, name
        kept = {int(path.name.partition("_")[0]) for path in out.glob("*/*.png")}
        assert kept == {0, 1, 2, 3} - removed
        assert {int(entry["name"].partition("_")[0]) for entry in info(out)} == kept
        assert (sum(report.removed.values()), sum(report.extracted.values())) == (len(removed), len(kept))


def test_attributes_are_needed_only_where_they_are_asked_for(tmp_path: Path) -> None:
    bare = label(0, "car", 10, 10, 20, 20)
    del bare["attributes"]
    scenes = one_scene(tmp_path, [bare])
    assert create_category_dir(scenes.labels, scenes.images, tmp_path / "out").extracted == {"car": 1}
    settings = CropSettings(remove_truncated=True)
    with pytest.raises(InputError, match=r"label 0 of frame a-b.png has no attributes"):
        create_category_dir(scenes.labels, scenes.images, tmp_path / "other", settings=settings)
    assert not (tmp_path / "other").exists()


def test_what_is_skipped_is_counted_and_listed(tmp_path: Path) -> None:
    labels = [
        label(0, "car", 10, 10, 30, 30),
        label(1, "car", 10, 10, 10, 30),  # no width
        label(2, "car", 30, 30, 10, 10),  # upside down
        label(3, "car", 10.2, 10.2, 10.8, 10.9),  # within a pixel
        label(4, "car", W, 10, W + 30, 30),  # right of the image
        label(5, "bus", 10, -30, 30, 0),  # above it
        label(6, "bus", -30, 10, 40, 20),  # reaches out to the left: columns −30 to 40 are none
        label(7, "bus", 5, 20.1, 30, 20.9),  # a line, squared to a crop
        label(8, "bus", 10, H + 10, 80, H + 20),  # below the image, into which its square would be moved
    ]
    scenes = one_scene(tmp_path, labels)
    frames = scenes.frames()
    frames += [{"name": "gone.png", "labels": labels[:3]}, {"name": "bare.png"}, {"name": "null.png", "labels": None}]
    scenes.write(frames)
    shutil.copy(scenes.images / "a-b.png", scenes.images / "bare.png")
    shutil.copy(scenes.images / "a-b.png", scenes.images / "null.png")
    seen: list[int] = []
    report = create_category_dir(scenes.labels, scenes.images, tmp_path / "out", progress=lambda *_: seen.append)
    assert report.extracted == {"bus": 1, "car": 1}
    assert report.skipped == {"image missing": 3, "no area": 3, "outside the image": 4}
    assert (report.frames, report.without_image, report.without_labels) == (4, 1, 2)
    assert sum(seen) == 4
    listed = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert listed["boxes"] == {
        "no area": [["a-b.png", number, "car"] for number in "123"],
        "outside the image": [
            ["a-b.png", "4", "car"],
            ["a-b.png", "5", "bus"],
            ["a-b.png", "6", "bus"],
            ["a-b.png", "8", "bus"],
        ],
    }
    assert listed["frames_without_image"] == ["gone.png"]
    assert listed["boxes_of_missing_images"] == 3
    assert listed["frames_without_labels"] == ["bare.png", "null.png"]


def test_the_order_of_the_work_changes_no_byte(drawn: Scenes, tmp_path: Path) -> None:
    create_category_dir(drawn.labels, drawn.images, tmp_path / "one")
    create_category_dir(drawn.labels, drawn.images, tmp_path / "two", spread=backwards)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def scenes_of(spread: Stopping) -> list[str]:
    return [frame.name for piece in spread.pieces for frame in piece]


def test_interrupted_work_goes_on(scenes: Scenes, tmp_path: Path) -> None:
    create_category_dir(scenes.labels, scenes.images, tmp_path / "whole")
    out = tmp_path / "out"
    first = Stopping(after=1)
    with pytest.raises(StoppedError):
        create_category_dir(scenes.labels, scenes.images, out, spread=first)
    assert len(scenes_of(first)) == 8
    assert not out.exists()
    changed = scenes.images / scenes_of(first)[3]  # its scene must be done again
    os.utime(changed, ns=(1, 1))
    second = Stopping(after=1)
    with pytest.raises(StoppedError):
        create_category_dir(scenes.labels, scenes.images, out, spread=second)
    assert set(scenes_of(first)) & set(scenes_of(second)) == {changed.name}
    third, seen = Stopping(), list[int]()
    create_category_dir(scenes.labels, scenes.images, out, spread=third, progress=lambda *_: seen.append)
    earlier = {*scenes_of(first), *scenes_of(second)}
    assert not set(scenes_of(third)) & earlier
    assert len({*earlier, *scenes_of(third)}) == sum(seen) == 20
    assert files(out) == files(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bdd", "out", "whole"]


def test_other_work_begins_anew(scenes: Scenes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        create_category_dir(scenes.labels, scenes.images, out, spread=Stopping(after=1))
    other = Stopping()
    settings = CropSettings(min_area=300)
    create_category_dir(scenes.labels, scenes.images, out, settings=settings, spread=other)
    assert len(scenes_of(other)) == 20
    create_category_dir(scenes.labels, scenes.images, tmp_path / "whole", settings=settings)
    assert files(out) == files(tmp_path / "whole")


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.datasets import category_dir

def dying(function, pieces, count):
    for number, piece in enumerate(pieces):
        if number == 1:
            real = Path.write_bytes
            def torn(path, content, left=[5]):
                left[0] -= 1
                real(path, content if left[0] else content[:9])
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
            Path.write_bytes = torn
        yield piece, function(piece)

category_dir.SCENES_PER_PIECE = 8
category_dir.create_category_dir(*map(Path, sys.argv[1:]), spread=dying)
"""


def test_a_killed_process_leaves_what_can_be_gone_on_from(drawn: Scenes, tmp_path: Path) -> None:
    """Killed in the middle of a file of the second piece."""
    words = [drawn.labels, drawn.images, tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    journal = tmp_path / ".out.unfinished" / "journal.jsonl"
    with journal.open("a") as file:
        file.write('{"frame": "torn')
    rest = Stopping()
    create_category_dir(drawn.labels, drawn.images, tmp_path / "out", spread=rest)
    assert len(scenes_of(rest)) == 12
    create_category_dir(drawn.labels, drawn.images, tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_the_same_label_file_replaces_and_another_does_not(scenes: Scenes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    create_category_dir(scenes.labels, scenes.images, out)
    before = files(out)
    (out / "car" / "mine.txt").write_text("stale")
    create_category_dir(scenes.labels, scenes.images, out)
    assert files(out) == before
    scenes.write(scenes.frames()[:3])
    with pytest.raises(InputError, match="not made by create_category_dir from this label file"):
        create_category_dir(scenes.labels, scenes.images, out)
    assert files(out) == before
    create_category_dir(scenes.labels, scenes.images, out, overwrite=True)
    assert len(info(out)) == 18
    empty = tmp_path / "empty"
    empty.mkdir()
    create_category_dir(scenes.labels, scenes.images, empty)
    assert len(info(empty)) == 18


def test_bad_input_leaves_nothing(scenes: Scenes, tmp_path: Path) -> None:
    frames = scenes.frames()
    first = scenes.images / frames[0]["name"]
    whole = first.read_bytes()
    settings: Any = {"label_file": scenes.labels, "image_dir": scenes.images, "output_dir": tmp_path / "a" / "out"}
    refused = refusing(tmp_path, create_category_dir, **settings)

    first.write_bytes(whole[: len(whole) // 2])
    refused(f"{first.name} cannot be decoded")
    first.write_bytes(b"no picture")
    refused(f"{first.name} is no picture")
    first.write_bytes(whole)
    refused("no such folder", image_dir=tmp_path / "nowhere")
    refused("none of the 20 images", image_dir=tmp_path)
    refused("would replace", output_dir=tmp_path)
    refused("would replace", output_dir=scenes.images)
    refused("would replace", output_dir=scenes.labels)
    refused("min_area is -1", settings=CropSettings(min_area=-1))
    refused("cannot be read", label_file=tmp_path / "nowhere.json")
    scenes.write([])
    refused("has 0 frames")
    scenes.write([*frames[:-1], frames[-1] | {"labels": [label(0, "../x", 10, 10, 20, 20)]}])
    refused("is '../x', expected a plain name")
    scenes.write([frames[0] | {"name": "a.gif"}])
    refused("frame a.gif is no .jpg")
    scenes.write([frames[0] | {"labels": [label(0, "image_info.json", 10, 10, 20, 20)]}])
    refused("the name of a list")
    scenes.write([frames[0] | {"labels": [label("9" * 250, "car", 10, 10, 20, 20)]}])
    refused("the name of a crop")
    scenes.labels.write_text(json.dumps(frames)[:-40])
    refused("is broken at character")
