"""`create_image_subset`: some images of every category, in proportion, in one folder.

Of N images in all and n of a category that is not excluded, min(max(int(n/N·num) + 1, category_min), n) are drawn, as
eAI-Repair-Toolkit 1.1.0 does: N counts excluded categories too. Each category is drawn by
`random.Random(random_state).sample` from its images in the order of their names.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.core.errors import InputError
from engine.core.names import shortened
from engine.core.parallel import ParallelMap, in_process
from engine.core.progress import Progress, unseen
from engine.core.resumable import work_folder
from engine.data.pictures import can_write, encode_picture, read_picture, resize_bilinear
from engine.datasets.image_info import (
    FILE_NAME,
    Entry,
    is_subset,
    read_category_info,
    read_subset_file,
    write_subset_info,
)

DEFAULT_NUM = 5000
IMAGES_PER_PIECE = 256


@dataclass(frozen=True)
class SubsetSettings:
    num: int = DEFAULT_NUM  # about how many images of all categories together; 0 stands for 5,000
    category_min: int = 0  # at least so many of each category that has as many
    random_state: int = 0  # seed of the drawing
    resize_to: int | None = None  # height and width of the images in pixels; None copies the files as they are
    excluded_labels: tuple[str, ...] = ()  # categories to leave out
    # draw from the images of a category in the order of `image_info.json`, as the toolkit does, and not of their names;
    # where that file is the toolkit's, the same are drawn
    like_toolkit: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num", 0), ("category_min", 0), ("resize_to", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}, expected {least} or more")

    @staticmethod
    def of(info_file: Path) -> SubsetSettings:
        arguments, _ = read_subset_file(info_file)
        excluded = arguments.get("excluded_labels") or ()
        labels = tuple(excluded.split(",")) if isinstance(excluded, str) else tuple(excluded)
        numbers = {name: arguments.get(name) for name in ("num", "category_min", "random_state", "resize_to")}
        for name, value in numbers.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InputError(f"{info_file}: {name} is {value!r}, expected a whole number")
        like_toolkit = arguments.get("like_toolkit", False)
        if not isinstance(like_toolkit, bool):
            raise InputError(f"{info_file}: like_toolkit is {like_toolkit!r}, expected true or false")
        if not all(isinstance(label, str) for label in labels):
            raise InputError(f"{info_file}: excluded_labels are {excluded!r}, expected names")
        return SubsetSettings(
            num=numbers["num"] or DEFAULT_NUM,
            category_min=numbers["category_min"] or 0,
            random_state=numbers["random_state"] or 0,
            resize_to=numbers["resize_to"] or None,
            excluded_labels=labels,
            like_toolkit=like_toolkit,
        )


@dataclass(frozen=True)
class SubsetReport:
    drawn: Mapping[str, int]  # images by category, in the order in which `image_info.json` first names them
    unknown_labels: tuple[str, ...]  # excluded labels that no image has


def create_image_subset(
    category_dir: Path,
    output_dir: Path,
    settings: SubsetSettings,
    *,
    overwrite: bool = False,
    spread: ParallelMap = in_process,
    progress: Progress = unseen,
) -> SubsetReport:
    source, target = category_dir.resolve(), output_dir.resolve()
    if source == target or target in source.parents:
        raise InputError(f"{output_dir} would replace {category_dir}, the images to draw from, expected another folder")
    entries = read_category_info(category_dir)
    known = dict.fromkeys(entry["label"] for entry in entries)
    drawn = draw(entries, settings)
    chosen = [entry for of_category in drawn.values() for entry in of_category]
    if not chosen:
        raise InputError(f"{category_dir} has no image of a category that is not excluded, expected at least one")
    _check_names(chosen, category_dir, settings.resize_to is not None)
    occupied = output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir()))
    if occupied and not overwrite and not is_subset(output_dir):
        raise InputError(
            f"{output_dir} exists and was not made by create_image_subset, expected another folder or --overwrite"
        )
    arguments = asdict(settings) | {"excluded_labels": list(settings.excluded_labels)}
    digest = hashlib.sha256((category_dir / FILE_NAME).read_bytes()).hexdigest()
    job = {"from": str(source), "info": digest, "args": arguments, "pillow": version("pillow")}
    with work_folder(output_dir, job) as work:
        done = set(work.records())
        pieces = [chosen[start : start + IMAGES_PER_PIECE] for start in range(0, len(chosen), IMAGES_PER_PIECE)]
        left = [piece for piece in pieces if piece[0]["name"] not in done]
        tick = progress("copy" if settings.resize_to is None else "resize", len(chosen))
        tick(len(chosen) - sum(map(len, left)))
        copy = functools.partial(copy_images, category_dir=source, into=work.path, resize_to=settings.resize_to)
        for piece, _ in spread(copy, left, len(left)):
            work.record(piece[0]["name"])
            tick(len(piece))
        results = {label: len(of_category) for label, of_category in drawn.items()}
        write_subset_info(work.path / FILE_NAME, arguments, results, chosen)
        work.become_result()
    return SubsetReport(results, tuple(label for label in settings.excluded_labels if label not in known))


def draw(entries: Sequence[Entry], settings: SubsetSettings) -> dict[str, list[Entry]]:
    by_label: dict[str, list[Entry]] = {}
    for entry in entries:
        by_label.setdefault(entry["label"], []).append(entry)
    drawn = {}
    for label, of_label in by_label.items():
        if label in settings.excluded_labels:
            continue
        share = int(len(of_label) / len(entries) * (settings.num or DEFAULT_NUM)) + 1
        count = min(max(share, settings.category_min), len(of_label))
        in_order = of_label if settings.like_toolkit else sorted(of_label, key=lambda entry: str(entry["name"]))
        drawn[label] = random.Random(settings.random_state).sample(in_order, count)
    return drawn


def copy_images(entries: Sequence[Entry], *, category_dir: Path, into: Path, resize_to: int | None) -> None:
    for entry in entries:
        path = category_dir / entry["label"] / entry["name"]
        if resize_to is None:
            content = path.read_bytes()
        else:
            content = encode_picture(resize_bilinear(read_picture(path), resize_to), path.suffix)
        (into / entry["name"]).write_bytes(content)


def _check_names(chosen: Sequence[Entry], category_dir: Path, written_anew: bool) -> None:
    names = sorted(entry["name"] for entry in chosen)
    for one, other in itertools.pairwise(names):
        if one == other:
            raise InputError(f"{category_dir} has two images called {one}, expected names that differ")
    files = {label: set(_listing(category_dir / label)) for label in {entry["label"] for entry in chosen}}
    for entry in chosen:
        if entry["name"] not in files[entry["label"]]:
            path = category_dir / entry["label"] / entry["name"]
            raise InputError(f"{path} is missing, expected every image that {FILE_NAME} lists")
        if entry["name"] == FILE_NAME or (written_anew and not can_write(Path(entry["name"]).suffix)):
            raise InputError(
                f"{category_dir}: {entry['name']} is no picture that can be written, expected a .jpg or .png"
            )


def _listing(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def table(drawn: Mapping[str, Any]) -> str:
    """As eAI-Repair-Toolkit prints it."""
    lines = [f"|{'label':>20}|{'num':>6}|", f"|{'-' * 20}|{'-' * 6}|"]
    counts = [*drawn.items(), ("total", sum(drawn.values()))]
    lines += [f"|{shortened(label, 20):>20}|{count:>6}|" for label, count in counts]
    return "\n".join(lines)
