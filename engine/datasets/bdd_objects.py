"""Image sets of the crops that `create_image_subset` chose, or of those that a table names.

`image_ids` are the file names and `attribute_ids` the names of the scenes: what follows the last `_`. The `exp2` layout
has crops in `images/*.png` and `labels.csv` with `#filename` and `class_id`, a category by name or number. All rows,
sorted by name, become `<output_dir>/<size>/<name of input_dir>.h5` for three sizes.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.core.errors import InputError, reason
from engine.core.names import in_words, label_of
from engine.core.plain_names import plain_name
from engine.data.pictures import SUFFIXES
from engine.data.preprocess import EQUALISED, check_method, preprocess_files
from engine.datasets.bdd import LABEL_NAMES
from engine.datasets.division import DEFAULT_RATIO, Ratio, check_ratio, cut, shuffled
from engine.datasets.image_info import FILE_NAME, read_subset_info
from engine.datasets.splits import Layout, Split, Writing, write_splits

if TYPE_CHECKING:
    from typing_extensions import Unpack

TABLE = "labels.csv"
SIDES = (32, 96, 224)

_NAME, _CLASS = "#filename", "class_id"
_LABEL_DTYPE = "float32"  # the toolkit's, here alone


def prepare_bdd_objects(
    input_dir: Path,
    output_dir: Path,
    *,
    single_dir: bool = False,
    data_ratio: Ratio = DEFAULT_RATIO,
    random_state: int = 0,
    like_toolkit: bool = False,
    preprocess: str = "toolkit",
    **how: Unpack[Writing],
) -> dict[str, int]:
    """Write the splits; `input_dir` is one subset where `single_dir`, else it has two, `train` and `val`.

    With `like_toolkit` those of `train` stand before those of `val` when they are shuffled.
    """
    check_method(preprocess, EQUALISED)
    if is_table_layout(input_dir):
        return _prepare_table(input_dir, output_dir, preprocess, how)
    check_ratio(data_ratio)
    labels: dict[str, int] = {}
    folders: dict[str, Path] = {}
    for folder in _folders(input_dir, single_dir):
        found = _listed(folder)
        if both := labels.keys() & found.keys():
            raise InputError(f"{folder} and {folders[min(both)]} both have {min(both)}, expected names that differ")
        labels |= found
        folders |= dict.fromkeys(found, folder)
    names = sorted(labels)
    if like_toolkit:
        names.sort(key=lambda name: folders[name].name)  # train, then val, each by name
    order = shuffled(len(names), random_state)
    known = _split(names, labels, folders)
    splits = {name: known.some(order[rows]) for name, rows in cut(len(names), data_ratio, keep_all=False).items()}
    layout = Layout(LABEL_NAMES, preprocess, label_dtype=_LABEL_DTYPE)
    return write_splits(output_dir, splits, layout, functools.partial(preprocess_files, method=preprocess), **how)


def is_table_layout(input_dir: Path) -> bool:
    """Whether a folder is of the `exp2` layout: it has the table, or is called so as eAI-Repair-Toolkit wants it."""
    if any((folder / FILE_NAME).is_file() for folder in (input_dir, input_dir / "train")):
        return False
    return (input_dir / TABLE).is_file() or "exp2" in str(input_dir)


def _prepare_table(input_dir: Path, output_dir: Path, preprocess: str, how: Writing) -> dict[str, int]:
    folder = input_dir.absolute() / "images"
    labels = _read_table(input_dir / TABLE)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected the pictures of {TABLE}")
    files = {path.name for path in folder.iterdir()}
    _check_listing(labels, files, {name for name in files if name.endswith(".png")}, folder, TABLE, "class", "picture")
    split = _split(sorted(labels), labels, dict.fromkeys(labels, folder))
    written = {}
    title = input_dir.absolute().name
    for side in SIDES:
        layout = Layout(LABEL_NAMES, preprocess, (side, side), _LABEL_DTYPE)
        make = functools.partial(preprocess_files, method=preprocess, size=layout.size)
        written[f"{side}/{title}"] = write_splits(output_dir / str(side), {title: split}, layout, make, **how)[title]
    return written


def _split(names: list[str], labels: Mapping[str, int], folders: Mapping[str, Path]) -> Split:
    return Split(
        sources=[str(folders[name] / name) for name in names],
        labels=np.array([labels[name] for name in names], np.int64),
        image_ids=names,
        attribute_ids=[name.rpartition("_")[2] for name in names],
    )


def _folders(input_dir: Path, single_dir: bool) -> list[Path]:
    folders = [input_dir] if single_dir else [input_dir / "train", input_dir / "val"]
    for folder in folders:
        if not folder.is_dir():
            hint = "" if single_dir else ", or --single-dir for one subset"
            raise InputError(f"{folder}: no such folder, expected images and their {FILE_NAME}{hint}")
    return [folder.absolute() for folder in folders]


def _listed(folder: Path) -> dict[str, int]:
    _, entries = read_subset_info(folder)
    labels: dict[str, int] = {}
    for entry in entries:
        name, label = entry["name"], entry["label"]
        if label not in LABEL_NAMES:
            raise InputError(f"{folder / FILE_NAME}: {name} is labelled {label!r}, expected a category of BDD100K")
        number = LABEL_NAMES.index(label)
        if labels.setdefault(name, number) != number:
            raise InputError(f"{folder / FILE_NAME} labels {name} in two ways, expected one label")
    files = {path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
    _check_listing(labels, files, files, folder, FILE_NAME, "label", "image")
    if not labels:
        raise InputError(f"{folder / FILE_NAME} lists 0 images, expected at least one")
    return labels


def _read_table(path: Path) -> dict[str, int]:
    labels: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, skipinitialspace=True, strict=True)
            if not {_NAME, _CLASS} <= set(table.fieldnames or ()):
                raise InputError(f"{path} has no columns {_NAME} and {_CLASS}, expected both in its first line")
            for row in table:
                name = plain_name(row[_NAME], f"{_NAME} in line {table.line_num}", path)
                what = f"{path}: {_CLASS} of {in_words(name)} is {in_words(row[_CLASS] or 'missing')}"
                number = label_of((row[_CLASS] or "").strip(), len(LABEL_NAMES), LABEL_NAMES, what)
                if name in labels:
                    raise InputError(f"{path} has {name} twice, expected every picture once")
                labels[name] = number
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or reason(error)
        raise InputError(f"{path} cannot be read ({why}), expected a table of comma-separated values") from error
    if not labels:
        raise InputError(f"{path} lists 0 pictures, expected at least one")
    return labels


def _check_listing(
    labels: Mapping[str, int], files: set[str], pictures: set[str], folder: Path, listing: str, what: str, noun: str
) -> None:
    """Of `files` the `pictures` must be listed, and all that is listed must be there."""
    if absent := labels.keys() - files:
        raise InputError(f"{folder / min(absent)} is missing, expected every {noun} that {listing} lists")
    if unlisted := pictures - labels.keys():
        raise InputError(f"{folder / min(unlisted)} is not in {listing}, expected a {what} for every {noun}")
