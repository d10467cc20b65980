"""Data sets that come with a test set: of their training images train, val and repair are made."""

from __future__ import annotations

import functools
import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.core.errors import InputError
from engine.core.parallel import ParallelMap
from engine.core.progress import Progress
from engine.core.types import Int64, Uint8
from engine.data.preprocess import preprocess_images
from engine.datasets.splits import Layout, Ratio, Split, check_ratio, shuffled, write_splits

DIVIDE_RATE = 0.2
"""The toolkit's."""

SEEDLESS = (
    "eAI-Repair-Toolkit draws other rows each time without a seed, so they cannot be made again, expected "
    "--random-state"
)
"""Why its rows need one."""

Arrays = tuple[Uint8, Int64 | Uint8]
"""Images (n, h, w) or (n, h, w, 3) and labels (n,)."""


@dataclass(frozen=True)
class Division:
    """How the rows of a data set are divided."""

    ratio: Ratio  # (train, val, test, repair), see `divide_training`; test images are used where theirs is above 0
    rate: float | None  # share of repair, see `divide_by_rate`, in place of `ratio`; all test images are used
    random_state: int | None  # seed that shuffles the training images first, or None to keep their order
    # keep their order, and draw repair by the seed alone, which must be given: the rows of eAI-Repair-Toolkit; by
    # `rate`, or a fifth, and never by `ratio`
    like_toolkit: bool = False

    def __post_init__(self) -> None:
        """Refuse a bad ratio, and no seed where the toolkit's rows are wanted, before anything is read."""
        if self.like_toolkit and self.random_state is None:
            raise InputError(SEEDLESS)
        if self.rate is None:
            check_ratio(self.ratio)

    @property
    def with_test(self) -> bool:
        return self.like_toolkit or self.rate is not None or self.ratio[2] > 0

    def rows(self, count: int) -> dict[str, Int64]:
        """Rows of `count` training images for each of train, val and repair that gets any."""
        if self.like_toolkit:
            rate = DIVIDE_RATE if self.rate is None else self.rate
            return divide_by_rate(np.arange(count), rate, self.random_state or 0)
        order = np.arange(count) if self.random_state is None else shuffled(count, self.random_state)
        if self.rate is None:
            return divide_training(order, self.ratio)
        return divide_by_rate(order, self.rate, self.random_state or 0)


def write_arrays(
    output_dir: Path,
    training: Arrays,
    test: Arrays | None,
    division: Division,
    layout: Layout,
    *,
    overwrite: bool,
    spread: ParallelMap,
    progress: Progress,
) -> dict[str, int]:
    """Write the parts of a data set of images of one size, as `engine.datasets.splits.write_splits` does."""
    images, labels = training
    parts = {name: (images[rows], labels[rows]) for name, rows in division.rows(len(labels)).items()}
    if test is not None:
        parts["test"] = test
    splits = {name: Split(sources, classes.astype(np.int64)) for name, (sources, classes) in parts.items()}
    digest = hashlib.sha256()
    for split in splits.values():
        digest.update(np.ascontiguousarray(split.sources).data)
        digest.update(split.labels.data)
    return write_splits(
        output_dir,
        splits,
        layout,
        functools.partial(preprocess_images, method=layout.preprocess),
        job={"arrays": digest.hexdigest()},
        overwrite=overwrite,
        spread=spread,
        progress=progress,
    )


def divide_training(order: Int64, ratio: Ratio) -> dict[str, Int64]:
    """Rows of the training images for each of train, val and repair that gets any.

    `order` (n,) are all rows in the order in which they are divided, in the proportion of the three ratios; the last
    of them above 0 takes what rounding leaves.
    """
    check_ratio(ratio)
    train, val, _, repair = ratio
    total = train + val + repair
    if total == 0:
        return {}
    first = round(len(order) * train / total) if val + repair > 0 else len(order)
    second = round(len(order) * (train + val) / total) if repair > 0 else len(order)
    splits = {"train": order[:first], "val": order[first:second], "repair": order[second:]}
    return {name: rows for name, rows in splits.items() if len(rows)}


def divide_by_rate(order: Int64, divide_rate: float, random_state: int) -> dict[str, Int64]:
    """Rows of the training images for train and repair as eAI-Repair-Toolkit 1.1.0 divides `order` (n,).

    int(n·divide_rate) of the rows, drawn by Python's `random.Random(random_state).sample`, are repair, the last one
    first; the others are train, in order.
    """
    if not 0 <= divide_rate <= 1:
        raise InputError(f"divide_rate is {divide_rate:g}, expected a number from 0 to 1")
    drawn = random.Random(random_state).sample(range(len(order)), int(len(order) * divide_rate))
    repair = np.zeros(len(order), bool)
    repair[drawn] = True
    splits = {"train": order[~repair], "repair": order[repair][::-1]}
    return {name: rows for name, rows in splits.items() if len(rows)}
