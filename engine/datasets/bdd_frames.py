"""`prepare bdd`: weather or scene of whole frames of BDD100K.

Needed are `images/100k/{train,val}/*.jpg`, where `100k/` may be left out, and for each of these two folders its label
file `labels/bdd100k_labels_images_{train,val}.json`, or `labels/det_20/det_{train,val}.json`, whose frames have the
same attributes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.core.errors import InputError
from engine.data.pictures import SUFFIXES
from engine.data.preprocess import EQUALISED, Size, check_method, preprocess_files
from engine.datasets.bdd import read_attributes
from engine.datasets.division import DEFAULT_RATIO, Ratio, check_ratio, cut, divide_by_rate, shuffled
from engine.datasets.splits import Layout, Split, Writing, write_splits

if TYPE_CHECKING:
    from typing_extensions import Unpack

WEATHERS = ("rainy", "snowy", "clear", "overcast", "partly cloudy", "foggy")
SCENES = ("parking lot", "residential", "highway", "gas stations", "city street", "tunnel")

TARGET_LABELS: Mapping[str, tuple[str, ...]] = {"weather": WEATHERS, "scene": SCENES}
"""Classes of a frame by the attribute that is learnt; frames of any other value are left out."""

SIZE: Size = (90, 160)

_PARTS = ("train", "val")


@dataclass(frozen=True)
class PreparedFrames:
    rows: Mapping[str, int]  # of each split
    frames: int  # images that were found
    unlabelled: int  # of them, those that their label file lacks
    unknown: int  # of them, those whose attribute is missing or none of the classes, as "undefined"


def prepare_bdd(
    input_dir: Path,
    output_dir: Path,
    *,
    target_label: str = "weather",
    data_ratio: Ratio = DEFAULT_RATIO,
    divide_rate: float | None = None,
    random_state: int = 0,
    preprocess: str = "toolkit",
    **how: Unpack[Writing],
) -> PreparedFrames:
    """Write the splits: shuffled, then divided by `data_ratio`, or as the toolkit does by `divide_rate`.

    Then the first quarter, rounded down, is test. `image_ids` are folder and file name.
    """
    check_method(preprocess, EQUALISED)
    if target_label not in TARGET_LABELS:
        raise InputError(f"target_label is {target_label}, expected one of {', '.join(TARGET_LABELS)}")
    check_ratio(data_ratio)
    known, frames, unlabelled = _find_frames(input_dir, target_label)
    order = shuffled(len(known.labels), random_state)
    if divide_rate is None:
        rows = {name: order[stretch] for name, stretch in cut(len(order), data_ratio, keep_all=True).items()}
    else:
        quarter = len(order) // 4
        rows = {**divide_by_rate(order[quarter:], divide_rate, random_state), "test": order[:quarter]}
    splits = {name: known.some(chosen) for name, chosen in rows.items()}
    layout = Layout(TARGET_LABELS[target_label], preprocess, SIZE)
    make = functools.partial(preprocess_files, method=preprocess, size=SIZE)
    written = write_splits(output_dir, splits, layout, make, **how)
    return PreparedFrames(written, frames, unlabelled, frames - unlabelled - len(order))


def _find_frames(input_dir: Path, target_label: str) -> tuple[Split, int, int]:
    numbers = {name: number for number, name in enumerate(TARGET_LABELS[target_label])}
    files: list[Path] = []
    classes: list[int] = []
    frames = unlabelled = 0
    for folder, label_file in _sources(input_dir):
        attributes = read_attributes(label_file, [target_label])
        for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
            frames += 1
            unlabelled += path.name not in attributes
            [value] = attributes.get(path.name, [None])
            number = numbers.get(value or "")
            if number is not None:
                files.append(path)
                classes.append(number)
    if not files:
        raise InputError(
            f"{input_dir} has {frames} images and none with a {target_label} that is a class, expected one of "
            f"{', '.join(numbers)} in its label files"
        )
    ids = [f"{path.parent.name}/{path.name}" for path in files]
    return Split([str(path) for path in files], np.array(classes, np.int64), ids), frames, unlabelled


def _sources(input_dir: Path) -> list[tuple[Path, Path]]:
    root = input_dir.absolute()
    sources = []
    for part in _PARTS:
        folders = [root / "images" / "100k" / part, root / "images" / part]
        tables = [
            root / "labels" / f"bdd100k_labels_images_{part}.json",
            root / "labels" / "det_20" / f"det_{part}.json",
        ]
        folder = next((path for path in folders if path.is_dir()), None)
        table = next((path for path in tables if path.is_file()), None)
        if folder is None:
            raise InputError(f"{folders[0]}: no such folder, expected the images of BDD100K")
        if table is None:
            raise InputError(f"{tables[0]}: no such file, expected the labels of BDD100K")
        sources.append((folder, table))
    return sources
