"""What became of the rows that `target` sorted into folders, seen by a repaired model: read, counted and drawn.

Three trees are understood, told apart by the labels of the rows in their folders:

    negative/<true>/<predicted>/repair.h5   each row's true label, and the class it was taken for
    negative/<true>/repair.h5               the same without that class; also positive/<true>/repair.h5
    <predicted>/repair.h5                   one `negative/<true>`: the class that its rows were taken for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.charts.bubbles import Bubbles, Grid, bubble_figure
from engine.charts.style import BLACK, GREEN, ORANGE, label_texts, shares_of
from engine.core.errors import InputError
from engine.core.types import Int64
from engine.data.image_set import ImageSet
from engine.data.outcomes import open_filled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LETTERS = 40


@dataclass(frozen=True, eq=False)
class Leaf:
    folder: int  # number of the label folder that they count for
    images: ImageSet  # the rows
    before: int | None  # the class they were taken for, or None where the tree does not say


@dataclass(frozen=True, eq=False)
class Fates:
    """What a model now takes the rows of every label folder for."""

    folders: Int64  # (f,) int64, numbers of the folders, ascending
    right: Int64  # (f, C) int64, rows by [folder, predicted] that are right now
    same: Int64  # (f, C), that are as wrong as they were; none where it is not known what they were taken for
    other: Int64  # (f, C), that are wrong in another way, or in whatever way
    true: bool  # whether folders are true labels; else they are classes that the rows were taken for
    before_known: bool  # whether it is known what rows were taken for

    @property
    def totals(self) -> Int64:
        totals: Int64 = (self.right + self.same + self.other).sum(axis=1)
        return totals


def open_leaves(directory: Path, name: str) -> list[Leaf]:
    """The files called `name` below the label folders, which come in ascending order; those without rows are left out.

    Inner folders, which tell what a row was taken for, are taken where they hold as many rows as the file beside them.
    """
    leaves = []
    for folder in _label_folders(directory):
        whole = open_filled(folder / name)
        parts = [(int(part.name), open_filled(part / name)) for part in _label_folders(folder)]
        inner = [Leaf(int(folder.name), images, before) for before, images in parts if images is not None]
        if inner and (whole is None or whole.rows == sum(leaf.images.rows for leaf in inner)):
            leaves += inner
        elif whole is not None:
            leaves.append(Leaf(int(folder.name), whole, None))
    if not leaves:
        found = "has no rows in label folders" if directory.is_dir() else "is no folder"
        raise InputError(f"{directory} {found}, expected {name} in folders negative/<label>, as target makes them")
    for leaf in leaves:
        if max(leaf.folder, leaf.before or 0) >= leaf.images.classes:
            raise InputError(
                f"{leaf.images.path} labels {leaf.images.classes} classes, expected label folders from 0 to "
                f"{leaf.images.classes - 1} above it"
            )
    return leaves


def fates_of(leaves: Sequence[Leaf], predicted: Sequence[Int64], directory: Path) -> Fates:
    """From the classes (m,) that a model takes the rows of each leaf for now."""
    true = _folders_are_true(leaves, directory)
    classes = leaves[0].images.classes
    folders = np.array(sorted({leaf.folder for leaf in leaves}), np.int64)
    right, same, other = np.zeros((3, len(folders), classes), np.int64)
    for leaf, now in zip(leaves, predicted, strict=True):
        before = leaf.before if true else leaf.folder
        hit = now == leaf.images.labels
        kept = ~hit & (now == before)
        at = int(np.searchsorted(folders, leaf.folder))
        for counts, rows in ((right, hit), (same, kept), (other, ~hit & ~kept)):
            counts[at] += np.bincount(now[rows], minlength=classes)
    known = not true or all(leaf.before is not None for leaf in leaves)
    return Fates(folders, right, same, other, true, known)


def repaired_figure(fates: Fates, label_names: Sequence[str] | None) -> Figure:
    together = fates.right + fates.same + fates.other
    classes = np.union1d(np.flatnonzero(together.any(axis=0)), fates.folders)
    totals = fates.totals
    kinds = [("right now", fates.right, GREEN, "o", 0)]
    if fates.before_known:
        kinds.append(("the same mistake as before", fates.same, ORANGE, "s", -1))
        kinds.append(("another mistake", fates.other, BLACK, "^", 1))
    else:
        kinds.append(("wrong now", fates.same + fates.other, ORANGE, "s", 0))
    series = [
        Bubbles(
            f"{text} ({counts.sum()} of {totals.sum()})",
            counts[:, classes].T,
            shares_of(counts, totals[:, np.newaxis])[:, classes].T,
            colour,
            marker,
            side=side,
        )
        for text, counts, colour, marker, side in kinds
    ]
    names = label_texts(fates.folders.tolist(), label_names, _LETTERS)
    fixed = fates.right.sum(axis=1)
    class_list = classes.tolist()
    grid = Grid(
        rows=label_texts(class_list, label_names, _LETTERS),
        columns=[f"{name} ({right}/{total})" for name, right, total in zip(names, fixed, totals, strict=True)],
        row_title="predicted now",
        column_title="label folder (right now/all)" if fates.true else "taken for before (right now/all)",
        totals=(),
        totals_title="",
        shaded=[(class_list.index(folder), at) for at, folder in enumerate(fates.folders.tolist()) if fates.true],
        percent=False,
        share_of="of the images of a folder",
    )
    return bubble_figure(grid, series)


def _folders_are_true(leaves: Sequence[Leaf], directory: Path) -> bool:
    own = [leaf.images.labels == leaf.folder for leaf in leaves]
    if all(matches.all() for matches in own):
        return True
    if not any(matches.any() for matches in own) and all(leaf.before is None for leaf in leaves):
        return False
    where = next(leaf for leaf, matches in zip(leaves, own, strict=True) if not matches.all())
    raise InputError(
        f"{where.images.path} has rows of other labels than {where.folder}, expected folders of {directory} as target "
        "makes them, each of one true label, or each of one class that its rows were taken for"
    )


def _label_folders(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))
