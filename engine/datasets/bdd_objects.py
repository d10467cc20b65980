"""`prepare bdd-objects`: image sets of the crops that `create_image_subset` chose.

Rows are the images that `image_info.json` lists, in the order into which `numpy.random.default_rng(random_state)`
shuffles their sorted names; `engine.datasets.splits.cut` divides them. `image_ids` are the file names and
`attribute_ids` the names of the scenes, that is the part after the last `_`.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np

from engine.core.errors import InputError
from engine.core.parallel import ParallelMap, in_process
from engine.core.progress import Progress, unseen
from engine.data.pictures import SUFFIXES
from engine.data.preprocess import preprocess_files
from engine.datasets.bdd import LABEL_NAMES
from engine.datasets.bdd_objects_table import is_table_layout, prepare_object_table
from engine.datasets.image_info import FILE_NAME, read_subset_info
from engine.datasets.splits import DEFAULT_RATIO, Layout, Ratio, Split, check_ratio, cut, shuffled, write_splits

DEFAULT_PREPROCESS = "toolkit"
"""So that a model of eAI-Repair-Toolkit sees what it was trained on."""

PREPROCESSES = ("toolkit", "resize")

_LABEL_DTYPE = "float32"  # the toolkit's, here alone


def prepare_bdd_objects(
    input_dir: Path,
    output_dir: Path,
    *,
    single_dir: bool = False,
    data_ratio: Ratio = DEFAULT_RATIO,
    random_state: int = 0,
    like_toolkit: bool = False,
    preprocess: str = DEFAULT_PREPROCESS,
    overwrite: bool = False,
    spread: ParallelMap = in_process,
    progress: Progress = unseen,
) -> dict[str, int]:
    """Write the splits with a ratio above 0 and return their rows; splits of earlier calls stay.

    `input_dir` is one subset where `single_dir`, else it has two of them, `train` and `val`, which are taken
    together. `images` are float32 (n, 32, 32, 3), `labels` one-hot float32 (n, 13). Where `input_dir` is of the layout
    of `engine.datasets.bdd_objects_table`, that is prepared, without shuffling and splits. With `like_toolkit` the rows
    are those of eAI-Repair-Toolkit for the same seed, where its folders were listed by name: those of `train` stand
    before those of `val` when they are shuffled.
    """
    if preprocess not in PREPROCESSES:
        raise InputError(f"preprocess method {preprocess}, expected one of {', '.join(PREPROCESSES)}")
    if is_table_layout(input_dir):
        return prepare_object_table(
            input_dir,
            output_dir,
            preprocess=preprocess,
            label_dtype=_LABEL_DTYPE,
            overwrite=overwrite,
            spread=spread,
            progress=progress,
        )
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
    splits = {}
    for split, rows in cut(len(names), data_ratio, keep_all=False).items():
        chosen = [names[row] for row in order[rows]]
        splits[split] = Split(
            sources=[str(folders[name] / name) for name in chosen],
            labels=np.array([labels[name] for name in chosen], np.int64),
            image_ids=chosen,
            attribute_ids=[name.rpartition("_")[2] for name in chosen],
        )
    return write_splits(
        output_dir,
        splits,
        Layout(LABEL_NAMES, preprocess, label_dtype=_LABEL_DTYPE),
        functools.partial(preprocess_files, method=preprocess),
        job={"ratio": data_ratio, "random_state": random_state, "sources": fingerprint(labels, folders)},
        overwrite=overwrite,
        spread=spread,
        progress=progress,
    )


def fingerprint(labels: dict[str, int], folders: dict[str, Path]) -> str:
    """SHA-256 (hex) of names and labels, and of folder, size and time of change of each file."""
    digest = hashlib.sha256()
    for name in sorted(labels):
        status = (folders[name] / name).stat()
        digest.update(f"{folders[name]}/{name}|{labels[name]}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _folders(input_dir: Path, single_dir: bool) -> list[Path]:
    folders = [input_dir] if single_dir else [input_dir / "train", input_dir / "val"]
    for folder in folders:
        if not folder.is_dir():
            hint = "" if single_dir else ", or --single-dir for one subset"
            raise InputError(f"{folder}: no such folder, expected images and their {FILE_NAME}{hint}")
    return [folder.absolute() for folder in folders]


def _listed(folder: Path) -> dict[str, int]:
    """Class of every image of a subset, after checking that listing and folder agree."""
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
    if absent := labels.keys() - files:
        raise InputError(f"{folder / min(absent)} is missing, expected every image that {FILE_NAME} lists")
    if unlisted := files - labels.keys():
        raise InputError(f"{folder / min(unlisted)} is not in {FILE_NAME}, expected a label for every image")
    if not labels:
        raise InputError(f"{folder / FILE_NAME} lists 0 images, expected at least one")
    return labels
