"""Targets: the rows of a repair set that a model gets right and wrong, as the toolkit's two folder trees.

    positive/{repair.h5,labels.json}   positive/<true>/repair.h5
    negative/{repair.h5,labels.json}   negative/<true>/{repair.h5,labels.json}
    negative/<true>/<predicted>/repair.h5

Folder names are decimal class numbers, and only labels with rows have one. Leaves keep the order of the
source; `positive/repair.h5` joins the labels in order of first appearance, `negative/<true>/repair.h5` the
predicted classes likewise, and `negative/repair.h5` the true labels.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError
from engine.core.files import replace_directory
from engine.core.types import Int64
from engine.data.image_set import ImageReader, ImageSet, open_image_set, open_reader, stretches
from engine.data.writer import ImageSetWriter, copy_rows, layout_of, write_empty_image_set, write_image_set

# What `target` writes, and what `localize` and `optimize` say of the rows that were there before.
_REPLACED = {"repair.h5", "labels.json", "weights.csv", "pareto_front.png"}


@dataclass(frozen=True)
class LabelTargets:
    """Rows of one true label, and how many of them the model gets wrong."""

    label: int
    total: int
    wrong: int


@dataclass(frozen=True)
class TargetSummary:
    """What `write_targets` found: rows, correct rows, and counts of every label with rows, ascending."""

    rows: int
    correct: int
    labels: tuple[LabelTargets, ...]


@dataclass(frozen=True, eq=False)
class _Group:
    folder: tuple[int, ...]
    rows: Int64


def write_targets(source: ImageSet, predicted: Int64, directory: Path, *, overwrite: bool = False) -> TargetSummary:
    """Write `positive/` and `negative/` below `directory` from the class `predicted` (n,) for each row.

    Images and labels keep their dtypes; label names and preprocessing are carried over; other datasets are
    not. Both trees are built beside their places and then replace older ones. Of an older tree, repaired
    models and whatever else is not of this layout move to the same place in the new one; `weights.csv` and
    `pareto_front.png` in the folders of labels are dropped, as they tell of the rows that were there.

    Raises InputError where a `positive` or `negative` exists that is not of this layout (a folder with
    something in it, but neither `labels.json` nor `repair.h5`), unless `overwrite`, which adds this layout to
    what is there.
    """
    if predicted.shape != (source.rows,):
        raise ValueError(f"predicted has shape {predicted.shape}, expected ({source.rows},)")
    positive, negative = directory / "positive", directory / "negative"
    for tree in (positive, negative):
        _check_replaceable(tree, overwrite)
    right = np.flatnonzero(predicted == source.labels)
    wrong = np.flatnonzero(predicted != source.labels)
    positives = _grouped(right, source.labels)
    negatives = _grouped(wrong, source.labels, predicted)
    with ExitStack() as stack:
        new_positive = stack.enter_context(replace_directory(positive))
        new_negative = stack.enter_context(replace_directory(negative))
        _write_roots(source, {new_positive: positives, new_negative: negatives})
        _write_leaves(new_positive, positives)
        _write_leaves(new_negative, negatives)
        _carry_over(positive, new_positive, levels=1)
        _carry_over(negative, new_negative, levels=2)
    return TargetSummary(source.rows, len(right), _label_counts(source.labels, wrong))


def open_negatives(directory: Path) -> ImageSet | None:
    """The rows of a `--target-data-dir`: a folder with `repair.h5`, usually `…/negative/<label>`.

    None where the label has no failures: its `repair.h5` has no rows, or `negative` exists without a folder,
    or without `repair.h5` in the folder, of that label. InputError for anything else.
    """
    directory = Path(directory).absolute()
    if (directory / "repair.h5").exists():
        return open_filled(directory / "repair.h5")
    tree = directory
    for _ in range(2):  # up from negative/<true>/<predicted> or negative/<true>
        tree = tree.parent if tree.name.isdecimal() else tree
    is_tree = tree.is_dir() and (tree.name == "negative" or (tree / "labels.json").is_file())
    if tree != directory and is_tree and not tree.name.isdecimal() and not directory.is_file():
        _check_label_exists(tree, directory)
        return None
    found = "has no repair.h5" if directory.is_dir() else "is a file" if directory.exists() else "does not exist"
    raise InputError(f"{directory} {found}, expected a folder negative/<label> as the command target makes it")


def open_positives(directory: Path) -> ImageSet | None:
    """The rows of a `--positive-inputs-dir`, usually `…/positive`; None where its `repair.h5` has no rows.

    InputError where there is no such folder or no `repair.h5` in it.
    """
    directory = Path(directory).absolute()
    if not (directory / "repair.h5").exists():
        found = "has no repair.h5" if directory.is_dir() else "does not exist"
        raise InputError(f"{directory} {found}, expected a folder positive as the command target makes it")
    return open_filled(directory / "repair.h5")


def open_filled(path: Path) -> ImageSet | None:
    """The image set, or None where there is no such file or it has no rows."""
    image_set = open_image_set(path, allow_empty=True) if path.exists() else None
    return image_set if image_set is not None and image_set.rows else None


def _check_label_exists(tree: Path, directory: Path) -> None:
    """Refuse a number that is no class, where the tree has rows to tell the number of classes."""
    whole = open_filled(tree / "repair.h5")
    label = max(int(part) for part in directory.relative_to(tree).parts)
    if whole is not None and label >= whole.classes:
        raise InputError(
            f"{directory} is empty and {label} no label of {whole.path}, expected 0 to {whole.classes - 1}"
        )


def _check_replaceable(tree: Path, overwrite: bool) -> None:
    if not tree.exists() and not tree.is_symlink():
        return
    if tree.is_symlink() or not tree.is_dir():
        raise InputError(f"{tree} is not a folder, expected a folder made by target, or none")
    ours = (tree / "labels.json").is_file() or (tree / "repair.h5").is_file()
    if not overwrite and not ours and any(tree.iterdir()):
        raise InputError(f"{tree} was not made by target (no labels.json, no repair.h5), expected none, or --overwrite")


def _first_seen(values: Int64) -> Int64:
    distinct, first = np.unique(values, return_index=True)
    ordered: Int64 = distinct[np.argsort(first)]
    return ordered


def _grouped(rows: Int64, *keys: Int64) -> list[_Group]:
    """Leaves by one key or nested keys, in order of first appearance at each level."""
    if not keys:
        return [_Group((), rows)]
    key = keys[0][rows]
    return [
        _Group((int(value), *inner.folder), inner.rows)
        for value in _first_seen(key)
        for inner in _grouped(rows[key == value], *keys[1:])
    ]


def _write_roots(source: ImageSet, trees: dict[Path, list[_Group]]) -> None:
    """In one pass over the source."""
    with open_reader(source) as reader, ExitStack() as stack:
        layout = layout_of(source, reader)
        writers: list[tuple[ImageSetWriter, Int64]] = []
        for root, groups in trees.items():
            if groups:
                joined = np.concatenate([group.rows for group in groups])
                place = np.full(source.rows, -1, np.int64)  # in the joined set, of each row of the source
                place[joined] = np.arange(len(joined))
                writer = stack.enter_context(write_image_set(root / "repair.h5", rows=len(joined), **layout))
                writers.append((writer, place))
            else:
                write_empty_image_set(root / "repair.h5", label_names=source.label_names, preprocess=source.preprocess)
        for start, stop in stretches(range(source.rows)):
            images, labels = reader.read_stored(start, stop)
            for writer, place in writers:
                _scatter(writer, place[start:stop], images, labels)


def _scatter(writer: ImageSetWriter, place: Int64, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    """Write the rows of a block to their places; those of one group are neighbours there: one write each."""
    order = np.argsort(place, kind="stable")
    order = order[place[order] >= 0]
    for run in np.split(order, np.flatnonzero(np.diff(place[order]) != 1) + 1):
        if len(run):
            writer.write(int(place[run[0]]), images[run], labels[run])


def _write_leaves(root: Path, groups: list[_Group]) -> None:
    """Cut `root/repair.h5` into the sets of the folders below, each a stretch of it; add `labels.json`."""
    joined = open_image_set(root / "repair.h5", allow_empty=True)
    with open_reader(joined) as reader:
        _write_folder(joined, reader, root, groups, 0)


def _write_folder(joined: ImageSet, reader: ImageReader, folder: Path, groups: list[_Group], start: int) -> None:
    """Write the sub-folders of one folder, whose rows of the joined set begin at `start`."""
    names = list(dict.fromkeys(group.folder[0] for group in groups))
    for name in names:
        inner = [_Group(group.folder[1:], group.rows) for group in groups if group.folder[0] == name]
        stop = start + sum(len(group.rows) for group in inner)
        copy_rows(joined, reader, range(start, stop), folder / str(name) / "repair.h5")
        if inner[0].folder:
            _write_folder(joined, reader, folder / str(name), inner, start)
        start = stop
    entries = [[name, {"repair_priority": 0, "prevent_degradation": 0}] for name in sorted(str(name) for name in names)]
    (folder / "labels.json").write_text(json.dumps(entries, indent=4))


def _label_counts(labels: Int64, wrong: Int64) -> tuple[LabelTargets, ...]:
    totals = np.bincount(labels)
    failures = np.bincount(labels[wrong], minlength=len(totals))
    return tuple(LabelTargets(int(label), int(totals[label]), int(failures[label])) for label in np.flatnonzero(totals))


def _carry_over(old: Path, new: Path, levels: int) -> None:
    """Put what `target` did not write into its place in the new tree; `levels` of label folders are ours."""
    if not old.is_dir():
        return
    for entry in old.iterdir():
        if entry.is_dir() and not entry.is_symlink() and entry.name.isdecimal() and levels:
            _carry_over(entry, new / entry.name, levels - 1)
        elif entry.name not in _REPLACED:
            new.mkdir(exist_ok=True, parents=True)
            _link(entry, new / entry.name)


def _link(source: Path, destination: Path) -> None:
    """Files are linked, so that large models are not copied."""
    if source.is_symlink():
        destination.symlink_to(source.readlink())
    elif source.is_dir():
        shutil.copytree(source, destination, symlinks=True, copy_function=_link_or_copy)
    else:
        _link_or_copy(source, destination)


def _link_or_copy(source: str | Path, destination: str | Path) -> None:
    try:
        os.link(source, destination)
    except OSError:  # a file system without hard links
        shutil.copy2(source, destination)
