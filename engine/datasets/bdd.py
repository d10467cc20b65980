"""Labels of BDD100K scenes, as in its "Detection 2020 Labels", and the square crop around a box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core.errors import InputError
from engine.core.json_stream import iterate_items
from engine.core.plain_names import plain_name

LABEL_NAMES = (
    "bicycle",
    "bus",
    "car",
    "motorcycle",
    "other person",
    "other vehicle",
    "pedestrian",
    "rider",
    "traffic light",
    "traffic sign",
    "trailer",
    "train",
    "truck",
)
"""Categories of the detection task; the class of an object is its index here."""

_FAR = 1e9


@dataclass(frozen=True)
class Box:
    name: str  # its `id`, as text
    category: str  # what it is
    x1: float  # x1, x2, y1, y2: left, right, upper and lower border in pixels, not rounded
    x2: float
    y1: float
    y2: float
    occluded: bool  # occluded, truncated: as labelled; False where the file was read without asking for them
    truncated: bool

    @property
    def empty(self) -> bool:
        return self.x2 <= self.x1 or self.y2 <= self.y1

    def overlaps(self, height: int, width: int) -> bool:
        return self.x1 < width and self.x2 > 0 and self.y1 < height and self.y2 > 0


@dataclass(frozen=True)
class Frame:
    name: str
    boxes: tuple[Box, ...] | None


def read_frames(path: Path, *, occluded: bool = False, truncated: bool = False) -> Iterator[Frame]:
    """One at a time; a frame that comes more than once is yielded at its last place, with the labels of all.

    `occluded` and `truncated` ask for these attributes, which may be missing otherwise.
    """
    attributes = [name for name, wanted in (("occluded", occluded), ("truncated", truncated)) if wanted]
    left = Counter(name for name, _ in _named_items(path))  # so that no frame waits but those that come again
    waiting: dict[str, tuple[Box, ...] | None] = {}
    for name, item in _named_items(path):
        boxes = _boxes(item, name, path, attributes)
        if name in waiting:
            before = waiting.pop(name)
            both = dict.fromkeys([*(before or ()), *(boxes or ())])
            boxes = None if before is boxes is None else _distinct(tuple(both), name, path)
        left[name] -= 1
        if left[name] > 0:
            waiting[name] = boxes
        else:
            yield Frame(name, boxes)


def read_attributes(path: Path, names: Sequence[str]) -> dict[str, tuple[str | None, ...]]:
    """None for those that a frame has not. Labels are not read, so that older files with lanes are taken too."""
    found: dict[str, tuple[str | None, ...]] = {}
    for frame, item in _named_items(path):
        attributes = item.get("attributes")
        if not isinstance(attributes, dict | None):
            raise InputError(f"{path}: attributes of frame {frame} are {_kind(attributes)}, expected an object")
        values = tuple((attributes or {}).get(name) for name in names)
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, str | None):
                raise InputError(f"{path}: {name} of frame {frame} is {_kind(value)}, expected a text")
        if found.setdefault(frame, values) != values:
            raise InputError(f"{path} gives frame {frame} twice, with another {' or '.join(names)}, expected one")
    return found


def square_crop(box: Box, height: int, width: int, *, clamp: bool = False) -> tuple[slice, slice]:
    """Rows and columns of the crop of `box` in an image of height × width, as eAI-Repair-Toolkit 1.1.0 cuts it.

    Coordinates are truncated toward zero. The shorter side grows by the difference d of the sides, half of it to each
    end, and is moved back where it leaves the image:

        d > 0:  y2 ← int(y2 + d/2), y1 ← int(y1 − d/2)
                if y2 > H: y1 ← y1 − (y2 − H), y2 ← H, else if y1 < 0: y2 ← y2 − y1, y1 ← 0
        d ≤ 0:  the same for x with −d and W

    where d = (x2 − x1) − (y2 − y1). So a crop is square up to one pixel, unless the box is longer than the other side
    of the image: its start is then negative, and counts from the far end as in NumPy, which leaves a strip. With
    `clamp` it counts as 0 instead: all of the image in that direction.

    The slices are within the image; either may be empty.
    """
    x1, x2, y1, y2 = int(box.x1), int(box.x2), int(box.y1), int(box.y2)
    difference = (x2 - x1) - (y2 - y1)
    if difference > 0:
        y1, y2 = _grown(y1, y2, difference, height)
    else:
        x1, x2 = _grown(x1, x2, -difference, width)
    if clamp:
        y1, x1 = max(y1, 0), max(x1, 0)
    rows = slice(*slice(y1, y2).indices(height)[:2])
    columns = slice(*slice(x1, x2).indices(width)[:2])
    return rows, columns


def _grown(start: int, stop: int, difference: int, size: int) -> tuple[int, int]:
    stop, start = int(stop + difference / 2), int(start - difference / 2)
    if stop > size:
        return start - (stop - size), size
    if start < 0:
        return 0, stop - start
    return start, stop


def _named_items(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, item in enumerate(iterate_items(path)):
        where = f"frame {number}"
        yield plain_name(_get(item, "name", where, path), f"the name of {where}", path), item


def _boxes(item: dict[str, Any], name: str, path: Path, attributes: list[str]) -> tuple[Box, ...] | None:
    labels = item.get("labels")
    if labels is None:
        return None
    if not isinstance(labels, list):
        raise InputError(f"{path}: labels of frame {name} are {_kind(labels)}, expected an array")
    boxes = tuple(_box(label, f"label {k} of frame {name}", path, attributes) for k, label in enumerate(labels))
    return _distinct(boxes, name, path)


def _distinct(boxes: tuple[Box, ...], name: str, path: Path) -> tuple[Box, ...]:
    if len({box.name for box in boxes}) < len(boxes):
        raise InputError(f"{path}: two labels of frame {name} have the same id, expected every id once")
    return boxes


def _box(label: Any, where: str, path: Path, attributes: list[str]) -> Box:
    name = _get(label, "id", where, path)
    name = str(name) if isinstance(name, int) and not isinstance(name, bool) else name
    corners = _get(label, "box2d", where, path)
    sides = []
    for side in ("x1", "x2", "y1", "y2"):
        value = _get(corners, side, f"box2d of {where}", path)
        # NaN compares as false, and no image is as large as the limit.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_FAR < value < _FAR:
            raise InputError(f"{path}: {side} of {where} is {value!r}, expected a number of pixels")
        sides.append(float(value))
    flags = {"occluded": False, "truncated": False}
    for flag in attributes:
        value = _get(_get(label, "attributes", where, path), flag, f"attributes of {where}", path)
        if not isinstance(value, bool):
            raise InputError(f"{path}: {flag} of {where} is {value!r}, expected true or false")
        flags[flag] = value
    name = plain_name(name, f"the id of {where}", path)
    category = plain_name(_get(label, "category", where, path), f"the category of {where}", path)
    x1, x2, y1, y2 = sides
    return Box(name, category, x1, x2, y1, y2, **flags)


def _get(item: Any, key: str, where: str, path: Path) -> Any:
    if not isinstance(item, dict):
        raise InputError(f"{path}: {where} is {_kind(item)}, expected an object with {key}")
    if key not in item:
        raise InputError(f"{path}: {where} has no {key}, expected one")
    return item[key]


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {dict: "an object", list: "an array", str: "a text", bool: "true or false"}
    return kinds.get(type(value), "null" if value is None else "a number")
