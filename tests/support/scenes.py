"""Scenes in BDD100K's format, drawn: images with objects of several categories, and their label file.

Objects of a category look alike, so that a small model can learn them: each has its colour and its pattern. Some are
occluded (a grey bar lies over them), some truncated (they reach to the border of the scene).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {
    "bicycle": (200, 40, 200),
    "bus": (240, 160, 20),
    "car": (30, 60, 200),
    "motorcycle": (120, 20, 20),
    "other person": (250, 200, 160),
    "other vehicle": (90, 90, 20),
    "pedestrian": (210, 50, 40),
    "rider": (20, 120, 110),
    "traffic light": (40, 200, 60),
    "traffic sign": (250, 240, 60),
    "trailer": (130, 130, 130),
    "train": (60, 20, 90),
    "truck": (250, 250, 250),
}

SHAPES = {
    "pedestrian": (0.4, 1.0),
    "rider": (0.5, 1.0),
    "traffic light": (0.4, 1.0),
    "bus": (1.0, 0.8),
    "train": (1.0, 0.4),
}
"""Width and height of a category relative to its size; others are (1, 0.7)."""

COMMON = {"car": 8, "traffic sign": 4, "traffic light": 3, "pedestrian": 3, "truck": 1}
"""Categories of ordinary scenes and how frequent they are."""

Labels = list[dict[str, Any]]


@dataclass(frozen=True)
class Scenes:
    images: Path
    labels: Path

    def frames(self) -> list[dict[str, Any]]:
        return json.loads(self.labels.read_text(encoding="utf-8"))

    def write(self, frames: Any) -> None:
        self.labels.write_text(json.dumps(frames), encoding="utf-8")


def draw_scenes(
    root: Path,
    split: str,
    scenes: int,
    *,
    seed: int = 0,
    objects: int = 8,
    width: int = 1280,
    height: int = 720,
    frequencies: dict[str, int] = COMMON,
) -> Scenes:
    """Draw scenes into `root`, laid out as BDD100K is: images/<split>/*.jpg and labels/det_20/det_<split>.json.

    Every scene has `objects` objects of categories drawn by `frequencies`. The same arguments give the same files.
    """
    random = np.random.default_rng([seed, sum(split.encode())])
    images, labels = root / "images" / split, root / "labels" / "det_20"
    images.mkdir(parents=True)
    labels.mkdir(parents=True, exist_ok=True)
    shares = np.array(list(frequencies.values())) / sum(frequencies.values())
    frames, number = [], 0
    for _ in range(scenes):
        name = f"{random.integers(2**32):08x}-{random.integers(2**32):08x}.jpg"
        pixels = _ground(random, height, width)
        found: Labels = []
        for category in random.choice(list(frequencies), objects, p=shares):
            found.append(_object(random, pixels, str(category), str(number)))
            number += 1
        Image.fromarray(pixels).save(images / name, quality=90)
        attributes = {"weather": "clear", "scene": "city street", "timeofday": "daytime"}
        frames.append({"name": name, "attributes": attributes, "timestamp": 10000, "labels": found})
    result = Scenes(images, labels / f"det_{split}.json")
    result.write(frames)
    return result


def label(
    number: int | str,
    category: str,
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    *,
    occluded: bool = False,
    truncated: bool = False,
) -> dict[str, Any]:
    return {
        "id": str(number),
        "attributes": {"occluded": occluded, "truncated": truncated, "trafficLightColor": "NA"},
        "category": category,
        "box2d": {"x1": x1, "y1": y1, "x2": x2, "y2": y2},
    }


def _ground(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = random.integers(70, 140, (height // 16 + 1, width // 16 + 1, 1), np.uint8)
    fine = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    return fine.repeat(3, axis=2)


def _object(random: np.random.Generator, pixels: np.ndarray, category: str, number: str) -> dict[str, Any]:
    """Draw one object and return its label; its borders are no whole numbers, as in BDD100K."""
    height, width = pixels.shape[:2]
    size = float(np.exp(random.uniform(np.log(height / 40), np.log(height / 4))))
    wide, high = (size * share for share in SHAPES.get(category, (1.0, 0.7)))
    x1, y1 = random.uniform(0, width - wide), random.uniform(0, height - high)
    occluded, truncated = bool(random.random() < 0.3), bool(random.random() < 0.15)
    if truncated:
        x1 = 0.0 if random.random() < 0.5 else width - wide
    x2, y2 = x1 + wide, y1 + high
    rows, columns = slice(int(y1), int(y2) + 1), slice(int(x1), int(x2) + 1)
    patch = pixels[rows, columns]
    patch[:] = COLOURS[category]
    stripes = 2 + list(COLOURS).index(category) % 4
    along = np.arange(patch.shape[0])[:, None] if stripes % 2 else np.arange(patch.shape[1])[None, :]
    dark = (along * 2 * stripes // max(patch.shape[:2])) % 2 == 1
    patch[np.broadcast_to(dark, patch.shape[:2])] //= 2
    if occluded:
        patch[:, : patch.shape[1] // 3] = 100
    return label(number, category, x1, y1, x2, y2, occluded=occluded, truncated=truncated)
