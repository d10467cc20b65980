"""`prepare bdd`: weather or scene of whole frames of BDD100K.

Needed are `images/100k/{train,val}/*.jpg`, where `100k/` may be left out, and for each of these two folders its label
file `labels/bdd100k_labels_images_{train,val}.json`, or `labels/det_20/det_{train,val}.json`, whose frames have the
same attributes.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.core.errors import InputError
from engine.core.parallel import ParallelMap, in_process
from engine.core.progress import Progress, unseen
from engine.core.types import Int64
from engine.data.pictures import SUFFIXES
from engine.data.preprocess import Size, preprocess_files
from engine.datasets.bdd import read_attributes
from engine.datasets.official_splits import divide_by_rate
from engine.datasets.splits import DEFAULT_RATIO, Layout, Ratio, Split, check_ratio, cut, shuffled, write_splits

WEATHERS = ("rainy", "snowy", "clear", "overcast", "partly cloudy", "foggy")
SCENES = ("parking lot", "residential", "highway", "gas stations", "city street", "tunnel")

TARGET_LABELS: Mapping[str, tuple[str, ...]] = {"weather": WEATHERS, "scene": SCENES}
"""Classes of a frame by the attribute that is learnt; frames of any other value are left out."""

SIZE: Size = (90, 160)

PREPROCESSES = ("toolkit", "resize")
DEFAULT_PREPROCESS = "toolkit"

_PARTS = ("train", "val")


@dataclass(frozen=True)
class PreparedFrames:
    rows: Mapping[str, int]  # of each split
    frames: int  # images that were found
    unlabelled: int  # of them, those that their label file lacks
    unknown: int  # of them, those whose attribute is missing or none of the classes, as "undefined"


@dataclass(frozen=True)
class _Found:
    files: tuple[Path, ...]
    classes: Int64
    frames: int
    unlabelled: int


def prepare_bdd(
    input_dir: Path,
    output_dir: Path,
    *,
    target_label: str = "weather",
    data_ratio: Ratio = DEFAULT_RATIO,
    divide_rate: float | None = None,
    random_state: int = 0,
    preprocess: str = DEFAULT_PREPROCESS,
    overwrite: bool = False,
    spread: ParallelMap = in_process,
    progress: Progress = unseen,
) -> PreparedFrames:
    """Write the splits; splits of earlier calls stay.

    Frames of both folders that have one of the classes of `target_label`, sorted by folder and name, are shuffled by
    `random_state` and divided by `data_ratio`, or as eAI-Repair-Toolkit does where `divide_rate` is given: the first
    quarter, rounded down, is test, and of the rest train and repair are made, see
    `engine.datasets.official_splits.divide_by_rate`. `images` are float32 (n, 90, 160, 3), `labels` one-hot uint8
    (n, 6), `image_ids` folder and file name.
    """
    if preprocess not in PREPROCESSES:
        raise InputError(f"preprocess method {preprocess}, expected one of {', '.join(PREPROCESSES)}")
    if target_label not in TARGET_LABELS:
        raise InputError(f"target_label is {target_label}, expected one of {', '.join(TARGET_LABELS)}")
    check_ratio(data_ratio)
    found = _find_frames(input_dir, target_label)
    order = shuffled(len(found.files), random_state)
    if divide_rate is None:
        rows = {name: order[stretch] for name, stretch in cut(len(order), data_ratio, keep_all=True).items()}
    else:
        quarter = len(order) // 4
        rows = {**divide_by_rate(order[quarter:], divide_rate, random_state), "test": order[:quarter]}
    splits = {
        name: Split(
            sources=[str(found.files[row]) for row in chosen],
            labels=found.classes[chosen],
            image_ids=[f"{found.files[row].parent.name}/{found.files[row].name}" for row in chosen],
        )
        for name, chosen in rows.items()
    }
    written = write_splits(
        output_dir,
        splits,
        Layout(TARGET_LABELS[target_label], preprocess, SIZE),
        functools.partial(preprocess_files, method=preprocess, size=SIZE),
        job={"frames": _fingerprint(splits)},
        overwrite=overwrite,
        spread=spread,
        progress=progress,
    )
    unknown = found.frames - found.unlabelled - len(found.files)
    return PreparedFrames(written, found.frames, found.unlabelled, unknown)


def _find_frames(input_dir: Path, target_label: str) -> _Found:
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
    return _Found(tuple(files), np.array(classes, np.int64), frames, unlabelled)


def _sources(input_dir: Path) -> list[tuple[Path, Path]]:
    """Folder of images and label file of each of the two parts, after both were found."""
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


def _fingerprint(splits: Mapping[str, Split]) -> str:
    """SHA-256 (hex) of the splits, and of size and time of change of each of their files."""
    digest = hashlib.sha256()
    for name, split in splits.items():
        for path, label in zip(split.sources, split.labels, strict=True):
            status = Path(path).stat()
            line = f"{name}|{path}|{label}|{status.st_size}|{status.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
