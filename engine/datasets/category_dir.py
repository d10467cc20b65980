"""`create_category_dir`: one folder of crops per category, from a label file and its images.

    <output>/<category>/<id>_<frame>            the crops
    <output>/<category>/removed/<id>_<frame>    those set aside by area or attribute
    <output>/image_info.json                    name, label, value_mean and area of every crop that is not removed
    <output>/extract_results.json               crops and removed crops per category
    <output>/skipped.json                       which boxes and frames gave no crop, and why; what was read

All but the last are eAI-Repair-Toolkit's, in the order of their names. The folder appears whole; interrupted work goes
on where it stopped (`engine.core.resumable`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.errors import InputError
from engine.core.parallel import ParallelMap, in_process
from engine.core.plain_names import plain_name
from engine.core.progress import Progress, Tick, unseen
from engine.core.resumable import WorkFolder, work_folder
from engine.core.types import Uint8
from engine.data.pictures import can_write, decode_picture, encode_picture, read_picture
from engine.datasets.bdd import Box, Frame, read_frames, square_crop
from engine.datasets.image_info import FILE_NAME, write_category_info

MISSING = "image missing"  # why a box was skipped: there is no image of its frame
NO_AREA = "no area"  # why a box was skipped: it has none, or is smaller than a pixel
OUTSIDE = "outside the image"
"""Why a box was skipped: nothing of it is in the image, or it reaches out so that no pixel of its crop is."""

REMOVED = "removed"  # folder of a category's crops that were set aside
SCENES_PER_PIECE = 16

_RESULTS = "extract_results.json"
_SKIPPED = "skipped.json"


@dataclass(frozen=True)
class CropSettings:
    min_area: int = 0  # those of fewer pixels are removed
    remove_occluded: bool = False  # remove_occluded, remove_truncated: so are those of boxes labelled so
    remove_truncated: bool = False
    clamp: bool = False  # see `engine.datasets.bdd.square_crop`


PLAIN = CropSettings()  # nothing is removed
Crop = tuple[str, str, bool, float, int]
"""Category, file name, whether it is in `removed`, mean of the largest channel (0 if removed), and number of pixels."""

Skipped = tuple[str, str, str]  # id of a box, category, and why it has no crop


@dataclass(frozen=True)
class CategoryReport:
    extracted: Mapping[str, int]  # extracted, removed: crops by category
    removed: Mapping[str, int]
    skipped: Mapping[str, int]  # boxes without a crop, by reason
    frames: int  # of the label file
    without_image: int  # without_image, without_labels: those of them that have none
    without_labels: int


@dataclass(frozen=True)
class _Source:
    digest: str
    frames: int
    images: int


def create_category_dir(
    label_file: Path,
    image_dir: Path,
    output_dir: Path,
    *,
    settings: CropSettings = PLAIN,
    overwrite: bool = False,
    spread: ParallelMap = in_process,
    progress: Progress = unseen,
) -> CategoryReport:
    image_dir = image_dir.absolute()
    if not image_dir.is_dir():
        raise InputError(f"{image_dir}: no such folder, expected one with the images that {label_file} names")
    target = output_dir.resolve()
    for source_path in (image_dir.resolve(), label_file.resolve()):
        if target == source_path or target in source_path.parents:
            raise InputError(f"{output_dir} would replace {source_path}, which is needed, expected another folder")
    if settings.min_area < 0:
        raise InputError(f"min_area is {settings.min_area}, expected 0 or more")
    frames = functools.partial(
        read_frames, label_file, occluded=settings.remove_occluded, truncated=settings.remove_truncated
    )
    source = _look_through(label_file, frames(), image_dir)
    _check_output(output_dir, source, overwrite)
    job = {"labels": source.digest, "images": str(image_dir), "settings": asdict(settings), "pillow": version("pillow")}
    with work_folder(output_dir, job) as work:
        _do_the_rest(work, frames(), image_dir, source, settings, spread, progress("crop", source.frames))
        report = _write_lists(work, source, label_file.name)
        work.become_result()
    return report


def _look_through(label_file: Path, frames: Iterator[Frame], image_dir: Path) -> _Source:
    """Check the whole label file before anything is written."""
    count = images = 0
    missing = ""
    for frame in frames:
        count += 1
        if not can_write(Path(frame.name).suffix):
            raise InputError(f"{label_file}: frame {frame.name} is no .jpg, .png, .bmp or .ppm, expected one of them")
        for box in frame.boxes or ():
            plain_name(crop_name(box, frame), f"the name of a crop of frame {frame.name}", label_file)
            if box.category in {FILE_NAME, _RESULTS, _SKIPPED}:
                raise InputError(f"{label_file}: {box.category} is the name of a list, expected that of a category")
        if _stamp(image_dir / frame.name) is None:
            missing = missing or frame.name
        else:
            images += 1
    if not count:
        raise InputError(f"{label_file} has 0 frames, expected at least one")
    if not images:
        raise InputError(f"{image_dir} has none of the {count} images of {label_file}, expected {missing} there")
    with label_file.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return _Source(digest.hexdigest(), count, images)


def _check_output(output_dir: Path, source: _Source, overwrite: bool) -> None:
    """Refuse to replace what was not made from this label file."""
    if overwrite or not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return
    try:
        same = json.loads((output_dir / _SKIPPED).read_text(encoding="utf-8"))["label_file_sha256"] == source.digest
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise InputError(
            f"{output_dir} exists and was not made by create_category_dir from this label file, expected another "
            "folder or --overwrite"
        )


def _do_the_rest(
    work: WorkFolder,
    frames: Iterator[Frame],
    image_dir: Path,
    source: _Source,
    settings: CropSettings,
    spread: ParallelMap,
    tick: Tick,
) -> None:
    """Crop the scenes that no earlier command did, or whose image has changed since."""
    done = {record["frame"]: record["image"] for record in work.records()}
    stamps: dict[str, list[int]] = {}

    def to_do() -> Iterator[Frame]:
        for frame in frames:
            stamp = _stamp(image_dir / frame.name)
            if frame.name not in done or done[frame.name] != stamp:
                if stamp is not None and frame.boxes:
                    stamps[frame.name] = stamp
                    yield frame
                    continue
                missing = [(box.name, box.category, MISSING) for box in frame.boxes or ()]
                work.record(_record(frame, stamp, [], missing))
            tick(1)

    def pieces() -> Iterator[list[Frame]]:
        scenes = to_do()
        while piece := list(itertools.islice(scenes, SCENES_PER_PIECE)):
            yield piece

    crop = functools.partial(crop_scenes, image_dir=image_dir, into=work.path, settings=settings)
    for piece, scenes in spread(crop, pieces(), -(-source.images // SCENES_PER_PIECE)):
        for frame, (crops, skipped) in zip(piece, scenes, strict=True):
            work.record(_record(frame, stamps.pop(frame.name), crops, skipped))
        tick(len(piece))


def _record(frame: Frame, stamp: list[int] | None, crops: Sequence[Crop], skipped: Sequence[Skipped]) -> dict[str, Any]:
    labels = frame.boxes is not None
    return {"frame": frame.name, "image": stamp, "crops": crops, "skipped": skipped, "labels": labels}


def _write_lists(work: WorkFolder, source: _Source, label_file: str) -> CategoryReport:
    """From the journal; where a frame was done twice, the last time counts."""
    last = {record["frame"]: number for number, record in enumerate(work.records())}
    entries: list[tuple[str, str, float, int]] = []
    removed: Counter[str] = Counter()
    boxes: dict[str, list[list[str]]] = {}
    of_missing_images = 0
    without_image, without_labels = [], []
    for number, record in enumerate(work.records()):
        frame = record["frame"]
        if last[frame] != number:
            continue
        for category, name, is_removed, value_mean, area in record["crops"]:
            if is_removed:
                removed[category] += 1
            else:
                entries.append((category, name, value_mean, area))
        for box, category, reason in record["skipped"]:
            if reason == MISSING:
                of_missing_images += 1
            else:
                boxes.setdefault(reason, []).append([frame, box, category])
        if record["image"] is None:
            without_image.append(frame)
        if not record["labels"]:
            without_labels.append(frame)
    entries.sort()
    write_category_info(
        work.path / FILE_NAME,
        ({"name": name, "label": label, "value_mean": mean, "area": area} for label, name, mean, area in entries),
    )
    extracted = Counter(category for category, *_ in entries)
    results = {
        category: {"extracted": extracted[category], "removed": removed[category]}
        for category in sorted({*extracted, *removed})
    }
    (work.path / _RESULTS).write_text(json.dumps(results, indent=4), encoding="utf-8")
    skipped = {
        "label_file": label_file,
        "label_file_sha256": source.digest,
        "frames": source.frames,
        "frames_without_image": sorted(without_image),
        "frames_without_labels": sorted(without_labels),
        "boxes_of_missing_images": of_missing_images,
        "boxes": {reason: sorted(boxes[reason]) for reason in sorted(boxes)},  # each as [frame, id, category]
    }
    (work.path / _SKIPPED).write_text(json.dumps(skipped, indent=4), encoding="utf-8")
    counts = {MISSING: of_missing_images, **{reason: len(items) for reason, items in boxes.items()}}
    return CategoryReport(
        extracted={category: counted["extracted"] for category, counted in results.items()},
        removed={category: counted["removed"] for category, counted in results.items()},
        skipped={reason: count for reason, count in sorted(counts.items()) if count},
        frames=source.frames,
        without_image=len(without_image),
        without_labels=len(without_labels),
    )


def _stamp(path: Path) -> list[int] | None:
    """Size and time of change."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns] if stat.S_ISREG(status.st_mode) else None


def crop_scenes(
    frames: Sequence[Frame], *, image_dir: Path, into: Path, settings: CropSettings
) -> list[tuple[list[Crop], list[Skipped]]]:
    """What workers do: crop the boxes of some frames and write the crops into the folder `into`."""
    return [_crop_scene(frame, read_picture(image_dir / frame.name), into, settings) for frame in frames]


def crop_name(box: Box, frame: Frame) -> str:
    return f"{box.name}_{frame.name}"


def _crop_scene(frame: Frame, image: Uint8, into: Path, settings: CropSettings) -> tuple[list[Crop], list[Skipped]]:
    height, width = image.shape[:2]
    crops: list[Crop] = []
    skipped: list[Skipped] = []
    for box in frame.boxes or ():
        pixels = image[square_crop(box, height, width, clamp=settings.clamp)]
        if box.empty or (int(box.x1), int(box.y1)) == (int(box.x2), int(box.y2)):
            skipped.append((box.name, box.category, NO_AREA))
        elif not box.overlaps(height, width) or pixels.size == 0:
            skipped.append((box.name, box.category, OUTSIDE))
        else:
            crops.append(_crop(box, crop_name(box, frame), pixels, into, settings))
    return crops, skipped


def _crop(box: Box, name: str, pixels: Uint8, into: Path, settings: CropSettings) -> Crop:
    content = encode_picture(pixels, Path(name).suffix)
    area = pixels.shape[0] * pixels.shape[1]
    removed = (
        (settings.remove_occluded and box.occluded)
        or (settings.remove_truncated and box.truncated)
        or area < settings.min_area
    )
    _write(into, [box.category, REMOVED] if removed else [box.category], name, content)
    # Of the file, as eAI-Repair-Toolkit lists it: JPEG moves the mean a little.
    return box.category, name, removed, 0.0 if removed else _value_mean(decode_picture(content, name)), area


def _value_mean(pixels: Uint8) -> float:
    """Two maxima of whole planes: a reduction over three values is slow."""
    return float(np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2]).mean())


def _write(into: Path, folders: Sequence[str], name: str, content: bytes) -> None:
    """Write a file; folders are made, but not `into`: where that is missing, no file of ours belongs."""
    path = into.joinpath(*folders, name)
    try:
        path.write_bytes(content)
    except FileNotFoundError:
        folder = into
        for folder_name in folders:
            folder /= folder_name
            folder.mkdir(exist_ok=True)
        path.write_bytes(content)
