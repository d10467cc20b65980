"""The `exp2` layout of `prepare bdd-objects`: crops in `images/*.png`, their classes in `labels.csv`.

The table has the columns `#filename` and `class_id`, a category of BDD100K by name or number. There are no splits: all
rows, sorted by name, become one set for each of three sizes, `<output_dir>/<size>/<name of input_dir>.h5`.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import numpy as np

from engine.core.errors import InputError, reason
from engine.core.names import in_words, label_of
from engine.core.parallel import ParallelMap, in_process
from engine.core.plain_names import plain_name
from engine.core.progress import Progress, unseen
from engine.data.preprocess import preprocess_files
from engine.datasets.bdd import LABEL_NAMES
from engine.datasets.image_info import FILE_NAME
from engine.datasets.splits import Layout, Split, write_splits

TABLE = "labels.csv"
SIDES = (32, 96, 224)

_NAME, _CLASS = "#filename", "class_id"


def is_table_layout(input_dir: Path) -> bool:
    """Whether a folder is of this layout: it has the table, or is called `exp2` as eAI-Repair-Toolkit wants it."""
    if any((folder / FILE_NAME).is_file() for folder in (input_dir, input_dir / "train")):
        return False
    return (input_dir / TABLE).is_file() or "exp2" in str(input_dir)


def prepare_object_table(
    input_dir: Path,
    output_dir: Path,
    *,
    preprocess: str,
    label_dtype: str,
    overwrite: bool = False,
    spread: ParallelMap = in_process,
    progress: Progress = unseen,
) -> dict[str, int]:
    """Write the set of every size and return its rows by `<size>/<name>`."""
    folder = input_dir.absolute() / "images"
    labels = _read_table(input_dir / TABLE)
    _check_pictures(folder, labels)
    names = sorted(labels)
    split = Split(
        sources=[str(folder / name) for name in names],
        labels=np.array([labels[name] for name in names], np.int64),
        image_ids=names,
        attribute_ids=[name.rpartition("_")[2] for name in names],
    )
    stamps = [[name, labels[name], (status := (folder / name).stat()).st_size, status.st_mtime_ns] for name in names]
    written = {}
    title = input_dir.absolute().name
    for side in SIDES:
        size = (side, side)
        rows = write_splits(
            output_dir / str(side),
            {title: split},
            Layout(LABEL_NAMES, preprocess, size, label_dtype),
            functools.partial(preprocess_files, method=preprocess, size=size),
            job={"folder": str(folder), "stamps": stamps},
            overwrite=overwrite,
            spread=spread,
            progress=progress,
        )
        written[f"{side}/{title}"] = rows[title]
    return written


def _read_table(path: Path) -> dict[str, int]:
    """Class of every picture by its name."""
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


def _check_pictures(folder: Path, labels: dict[str, int]) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected the pictures of {TABLE}")
    files = {path.name for path in folder.glob("*.png")}
    if absent := labels.keys() - {path.name for path in folder.iterdir()}:
        raise InputError(f"{folder / min(absent)} is missing, expected every picture that {TABLE} lists")
    if unlisted := files - labels.keys():
        raise InputError(f"{folder / min(unlisted)} is not in {TABLE}, expected a class for every picture")
