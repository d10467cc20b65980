from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.datasets.bdd import LABEL_NAMES, Box, Frame, read_attributes, read_frames, square_crop
from tests.support.prepare import one_sentence
from tests.support.scenes import Scenes, label

H, W = 720, 1280
WHERE = np.stack(np.meshgrid(np.arange(H), np.arange(W), indexing="ij"), axis=-1)
"""Row and column of every pixel of an image."""


def box(x1: float, y1: float, x2: float, y2: float) -> Box:
    return Box("0", "car", x1, x2, y1, y2, occluded=False, truncated=False)


def test_classes_are_alphabetical() -> None:
    assert sorted(LABEL_NAMES) == list(LABEL_NAMES)
    assert (len(LABEL_NAMES), LABEL_NAMES[2], LABEL_NAMES[6], LABEL_NAMES[12]) == (13, "car", "pedestrian", "truck")


@pytest.mark.parametrize(
    ("corners", "rows", "columns"),
    [
        ((100.7, 200.9, 160.2, 260.1), (200, 260), (100, 160)),  # square
        ((100, 200, 180, 230), (175, 255), (100, 180)),  # wide: 25 more above and below
        ((100, 200, 120, 280), (200, 280), (70, 150)),  # high: 30 more on both sides
        ((100, 200, 131, 230), (199, 230), (100, 131)),  # odd: 199.5 and 230.5 are truncated
        ((100, 700, 180, 720), (640, 720), (100, 180)),  # at the lower border
        ((100, 690, 150, 702), (670, 720), (100, 150)),  # one pixel beyond it
        ((100, 0, 180, 20), (0, 80), (100, 180)),  # at the upper border
        ((0, 200, 20, 280), (200, 280), (0, 80)),  # at the left border
        ((1260, 200, 1280, 280), (200, 280), (1200, 1280)),  # at the right border
        ((1270.9, 300.2, 1279.9, 310.1), (300, 310), (1269, 1279)),  # 1 px higher than wide: 1269.5 and 1279.5
        ((100, 0, 181, 20), (0, 80), (100, 181)),  # −30.5 becomes −30, so one pixel of height is lost
        ((50, 100, 850, 600), (640, 720), (50, 850)),  # wider than the image is high: starts at −80, from the far end
        ((10, 10, 20, 10.9), (5, 15), (10, 20)),  # no height in pixels
    ],
)
def test_crops_by_hand(corners: tuple[float, ...], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    found = square_crop(box(*corners), H, W)
    assert found == (slice(*rows), slice(*columns))


def test_a_clamped_crop_is_all_there_is() -> None:
    assert square_crop(box(50, 100, 850, 600), H, W, clamp=True) == (slice(0, 720), slice(50, 850))


def written_out(image: np.ndarray, x1: float, x2: float, y1: float, y2: float) -> np.ndarray:
    """The formula as section 4 of the formats states it, with NumPy's own slicing."""
    height, width = image.shape[:2]
    x1, x2, y1, y2 = int(x1), int(x2), int(y1), int(y2)
    d = (x2 - x1) - (y2 - y1)
    if d > 0:
        y2, y1 = int(y2 + d / 2), int(y1 - d / 2)
        if y2 > height:
            y1 = y1 - (y2 - height)
            y2 = height
        elif y1 < 0:
            y2 = y2 - y1
            y1 = 0
    else:
        x2, x1 = int(x2 - d / 2), int(x1 + d / 2)
        if x2 > width:
            x1 = x1 - (x2 - width)
            x2 = width
        elif x1 < 0:
            x2 = x2 - x1
            x1 = 0
    return image[y1:y2, x1:x2]


@given(*[st.floats(-50, 1400)] * 4)
def test_crops_equal_the_formula(x1: float, x2: float, y1: float, y2: float) -> None:
    rows, columns = square_crop(box(x1, y1, x2, y2), H, W)
    assert np.array_equal(WHERE[rows, columns], written_out(WHERE, x1, x2, y1, y2))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1, H), st.floats(1, H))
def test_crops_of_boxes_in_the_image_are_square_and_cover_them(x: float, y: float, wide: float, high: float) -> None:
    x1, y1 = x * (W - wide), y * (H - high)
    x2, y2 = min(x1 + wide, W), min(y1 + high, H)
    assume(int(x2) - int(x1) <= H)  # rounding may make it wider than the image is high
    rows, columns = square_crop(box(x1, y1, x2, y2), H, W)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    assert abs(height - width) <= 1
    assert 0 <= rows.start <= rows.stop <= H
    assert 0 <= columns.start <= columns.stop <= W
    assert rows.start <= int(y1)
    assert columns.start <= int(x1)
    assert rows.stop >= int(y2) - 1  # the odd pixel may be lost at an end
    assert columns.stop >= int(x2) - 1


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    return Scenes(tmp_path, tmp_path / "labels.json")


def test_frames(scenes: Scenes) -> None:
    car = label(17, "car", 1.5, 2, 30, 40.25, occluded=True)
    number = car | {"id": 18}
    scenes.write([{"name": "a.jpg", "labels": [car, number]}, {"name": "b.jpg"}, {"name": "c.jpg", "labels": []}])
    one = Box("17", "car", 1.5, 30.0, 2.0, 40.25, occluded=False, truncated=False)
    two = Box("18", "car", 1.5, 30.0, 2.0, 40.25, occluded=False, truncated=False)
    assert list(read_frames(scenes.labels)) == [Frame("a.jpg", (one, two)), Frame("b.jpg", None), Frame("c.jpg", ())]
    first = next(read_frames(scenes.labels, occluded=True, truncated=True))
    assert first.boxes is not None
    assert (first.boxes[0].occluded, first.boxes[0].truncated) == (True, False)


def without(key: str) -> dict[str, Any]:
    full = label(1, "car", 1, 2, 3, 4)
    del full[key]
    return full


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        ("a.jpg", "frame 0 is a text, expected an object with name"),
        ({"labels": []}, "frame 0 has no name, expected one"),
        ({"name": "../a.jpg", "labels": []}, "the name of frame 0 is '../a.jpg', expected a plain name"),
        ({"name": 3, "labels": []}, "the name of frame 0 is 3"),
        ({"name": "a.jpg", "labels": {}}, "labels of frame a.jpg are an object, expected an array"),
        ({"name": "a.jpg", "labels": [3]}, "label 0 of frame a.jpg is a number"),
        *[({"name": "a.jpg", "labels": [without(key)]}, f"has no {key}") for key in ("id", "category", "box2d")],
        ({"name": "a.jpg", "labels": [without("attributes")]}, "has no attributes"),
        ({"name": "a.jpg", "labels": [label(1, "car", 1, 2, 3, 4) | {"box2d": {"x1": 1}}]}, "has no x2"),
        ({"name": "a.jpg", "labels": [label(1, "car", 1, 2, 3, 4) | {"box2d": None}]}, "box2d of label 0 of frame"),
        (
            {"name": "a.jpg", "labels": [label(1, "../x", 1, 2, 3, 4)]},
            "the category of label 0 of frame a.jpg is '../x'",
        ),
        ({"name": "a.jpg", "labels": [label(1, "a/b", 1, 2, 3, 4)]}, "is 'a/b'"),
        ({"name": "a.jpg", "labels": [label(1, "..", 1, 2, 3, 4)]}, "is '..'"),
        ({"name": "a.jpg", "labels": [label(1, "", 1, 2, 3, 4)]}, "is ''"),
        ({"name": "a.jpg", "labels": [label(1, "a\0b", 1, 2, 3, 4)]}, "expected a plain name"),
        ({"name": "a.jpg", "labels": [label("/etc/x", "car", 1, 2, 3, 4)]}, "the id of label 0"),
        ({"name": "a.jpg", "labels": [label(1, "car", float("nan"), 2, 3, 4)]}, "x1 of label 0 of frame a.jpg is nan"),
        ({"name": "a.jpg", "labels": [label(1, "car", 1, 2, 10**400, 4)]}, "expected a number of pixels"),
        ({"name": "a.jpg", "labels": [label(1, "car", 1, True, 3, 4)]}, "y1 of label 0"),
        ({"name": "a.jpg", "labels": [label(1, "car", 1, 2, 3, 4, occluded="no")]}, "occluded of label 0"),  # type: ignore[arg-type]
        ({"name": "a.jpg", "labels": [label(1, "car", 1, 2, 3, 4)] * 2}, "two labels of frame a.jpg have the same id"),
    ],
)
def test_bad_frames(scenes: Scenes, frame: Any, says: str) -> None:
    scenes.write([frame])
    with one_sentence(says, scenes.labels):
        list(read_frames(scenes.labels, occluded=True))


def test_a_byte_order_mark_is_no_part_of_the_text(scenes: Scenes) -> None:
    scenes.write([{"name": "a.jpg"}, {"name": "b.jpg"}])
    frames = list(read_frames(scenes.labels))
    scenes.labels.write_bytes(b"\xef\xbb\xbf" + scenes.labels.read_bytes())
    assert list(read_frames(scenes.labels)) == frames


def test_labels_of_a_frame_that_comes_again_are_put_together(scenes: Scenes) -> None:
    car, bus = label(1, "car", 1, 2, 3, 4), label(2, "bus", 5, 6, 7, 8)
    again = {"name": "a.jpg", "labels": [car, bus]}
    scenes.write([{"name": "a.jpg", "labels": [car]}, {"name": "b.jpg"}, {"name": "a.jpg"}, again, {"name": "b.jpg"}])
    boxes = [
        Box(number, category, *sides, occluded=False, truncated=False)
        for number, category, *sides in (("1", "car", 1.0, 3.0, 2.0, 4.0), ("2", "bus", 5.0, 7.0, 6.0, 8.0))
    ]
    assert list(read_frames(scenes.labels)) == [Frame("a.jpg", tuple(boxes)), Frame("b.jpg", None)]
    assert read_attributes(scenes.labels, ["weather"]) == {"a.jpg": (None,), "b.jpg": (None,)}
    scenes.write([{"name": "a.jpg", "labels": [car]}, {"name": "a.jpg", "labels": [car | {"category": "bus"}]}])
    with pytest.raises(InputError, match=r"two labels of frame a\.jpg have the same id, expected every id once"):
        list(read_frames(scenes.labels))
