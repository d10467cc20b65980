"""How often a kind of scene comes up among the objects of BDD100K, and how often a model is wrong about objects.

The rows are those of `prepare bdd-objects`. A query asks for objects of a label, and for frames with some attributes,
which the label files give. As in eAI-Repair-Toolkit 1.1.0, over all rows N, the rows M that match, and of them those
of true class t that are taken for class p, c(t, p):

    existence rate = M / N        misrecognized rate of t = Σ_{p ≠ t} c(t, p) / Σ_p c(t, p), 0 without rows
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.errors import InputError
from engine.core.files import replace_directory
from engine.core.names import in_words, label_of, listed, suggestion
from engine.core.plain_names import plain_name
from engine.core.types import Bool, Int64
from engine.data.image_set import ImageSet, open_image_set, read_ids
from engine.data.pictures import SUFFIXES
from engine.datasets.bdd import LABEL_NAMES, read_attributes

MATCHED, MISTAKEN = "matched_data", "misrecognision_data"  # folders of pictures, spelt as the toolkit spells them


@dataclass(frozen=True)
class Query:
    label: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def stated(self) -> dict[str, str]:
        """As `results.json` has it: the label's number is text there."""
        return ({} if self.label is None else {"label": str(self.label)}) | dict(self.attributes)


def open_objects(path: Path) -> list[ImageSet]:
    paths = sorted(path.glob("*.h5")) if path.is_dir() else [path]
    if not paths:
        raise InputError(f"{path} has no .h5 file, expected the sets that prepare bdd-objects made")
    sets = [open_image_set(found) for found in paths]
    for images in sets:
        if images.classes != sets[0].classes:
            raise InputError(
                f"{images.path} labels {images.classes} classes, expected {sets[0].classes} as {sets[0].path}"
            )
    return sets


def read_query(label: str | None, attributes: str | None, images: ImageSet) -> Query:
    """Attributes are as `A=B,C=D`."""
    number = None
    if label is not None:
        names = images.label_names or (LABEL_NAMES if images.classes == len(LABEL_NAMES) else None)
        number = label_of(label, images.classes, names, f"label is {in_words(label)}")
    found: dict[str, str] = {}
    for part in (attributes or "").split(",") if attributes else ():
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (name and equals and value) or name in found:
            raise InputError(f"attributes are {in_words(attributes or '')}, expected NAME=VALUE with commas between")
        found[name] = value
    return Query(number, found)


def matching_rows(sets: Sequence[ImageSet], query: Query, label_path: Path | None) -> list[Bool]:
    matched = [np.ones(images.rows, bool) if query.label is None else images.labels == query.label for images in sets]
    if not query.attributes:
        return matched
    if label_path is None:
        raise InputError("attributes are asked for without label files, expected --scalabel-format-label-path")
    frames = _read_frames(label_path, list(query.attributes))
    _check_values(query, frames, label_path)
    wanted = tuple(query.attributes.values())
    for images, rows in zip(sets, matched, strict=True):
        for row, name in enumerate(read_ids(images, "attribute_ids")):
            if name not in frames:
                raise InputError(
                    f"{label_path} has no frame {in_words(name)}, expected it, as {images.path} has rows of it"
                )
            rows[row] &= frames[name] == wanted
    return matched


def scene_summary(matched: Sequence[Bool]) -> dict[str, Any]:
    total, found = sum(map(len, matched)), sum(int(rows.sum()) for rows in matched)
    return {"total_image_count": total, "image_count_matched_to_query": found, "existence_rate": found / total}


def miss_summary(confusion: Int64) -> dict[str, dict[str, Any]]:
    """For each class, as text: rows, mistakes and their share, from rows (C, C) by [true, predicted]."""
    summary = {}
    for label, row in enumerate(confusion.tolist()):
        total, wrong = sum(row), sum(row) - row[label]
        summary[str(label)] = {
            "total_image_count": total,
            "misrecognized_image_count": wrong,
            "misrecognized_rate": wrong / total if total else 0,
        }
    return summary


def find_pictures(folder: Path, sets: Sequence[ImageSet], rows: Sequence[Bool]) -> list[list[Path]]:
    """By `image_ids`, in a subset or in folders of subsets."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected the images that create_image_subset made")
    known: dict[str, Path] = {}
    below = (path for path in folder.glob("*/*") if path.parent.name not in (MATCHED, MISTAKEN))
    for path in sorted([*folder.glob("*"), *below]):
        if path.suffix.lower() in SUFFIXES and known.setdefault(path.name, path) != path:
            raise InputError(f"{path} and {known[path.name]} have one name, expected names that differ")
    found = []
    for images, chosen in zip(sets, rows, strict=True):
        ids = read_ids(images, "image_ids")
        names = [plain_name(ids[row], f"image id {row}", images.path) for row in np.flatnonzero(chosen)]
        if absent := next((name for name in names if name not in known), None):
            raise InputError(f"{folder} has no {in_words(absent)}, expected the picture of every row of {images.path}")
        found.append([known[name] for name in names])
    return found


def check_folder(folder: Path, sources: Path, overwrite: bool) -> None:
    """Refuse to replace a folder that holds the source pictures or, unless `overwrite`, anything but pictures."""
    source = sources.resolve()
    if folder.resolve() in (source, *source.parents):
        raise InputError(f"{folder} would be replaced and holds {sources}, expected another output folder")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is no folder, expected one of copied pictures, or none")
    other = next((path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() not in SUFFIXES), None)
    if other is not None and not overwrite:
        raise InputError(f"{other} would be replaced, expected nothing but copied pictures in {folder}, or --overwrite")


def copy_pictures(folder: Path, pictures: Sequence[tuple[str, Path]]) -> None:
    """Make the folder anew; each picture comes with the folder below it, "" for itself."""
    with replace_directory(folder) as new:
        for below, path in pictures:
            (new / below).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, new / below / path.name)


def _read_frames(label_path: Path, names: Sequence[str]) -> dict[str, tuple[str | None, ...]]:
    paths = sorted(label_path.glob("*.json")) if label_path.is_dir() else [label_path]
    if not paths:
        raise InputError(f"{label_path} has no .json file, expected label files of BDD100K")
    frames: dict[str, tuple[str | None, ...]] = {}
    for path in paths:
        found = read_attributes(path, names)
        differing = (frame for frame in found.keys() & frames.keys() if found[frame] != frames[frame])
        if (frame := min(differing, default=None)) is not None:
            raise InputError(
                f"{path} gives frame {frame} other attributes than another file of {label_path}, expected one"
            )
        frames |= found
    return frames


def _check_values(query: Query, frames: Mapping[str, tuple[str | None, ...]], label_path: Path) -> None:
    """A misspelt value would match nothing, and look like a scene that never comes up."""
    for place, (name, value) in enumerate(query.attributes.items()):
        values = sorted({found for frame in frames.values() if (found := frame[place]) is not None})
        if not values:
            raise InputError(
                f"{label_path} has no frame with an attribute {in_words(name)}, expected one of its attributes"
            )
        if value not in values:
            raise InputError(
                f"{label_path} has no frame whose {name} is {in_words(value)}{suggestion(value, values)}, expected one "
                f"of {listed(values)}"
            )
