"""How the rows of a data set are divided into train, val, test and repair, and those of published sets prepared."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.core.errors import InputError
from engine.core.files import remove
from engine.core.types import Float32, Int64
from engine.data.preprocess import EQUALISED, check_method, preprocess_images
from engine.datasets.splits import Layout, Split, Writing, is_ours, write_splits

if TYPE_CHECKING:
    from typing_extensions import Unpack

NAMES = ("train", "val", "test", "repair")
DEFAULT_RATIO = (0.5, 0.1, 0.2, 0.2)
DIVIDE_RATE = 0.2  # the toolkit's
Ratio = tuple[float, float, float, float]

SEEDLESS = (
    "eAI-Repair-Toolkit draws other rows each time without a seed, so they cannot be made again, expected "
    "--random-state"
)
"""Why its rows need one."""


@dataclass(frozen=True)
class Division:
    """Train, val and repair are made of the training rows of a data set that comes with a test set."""

    ratio: Ratio  # (train, val, test, repair), see `divide_training`; test images are used where theirs is above 0
    rate: float | None  # share of repair, see `divide_by_rate`, in place of `ratio`; all test images are used
    random_state: int | None  # seed that shuffles the training images first, or None to keep their order
    # keep their order, and draw repair by the seed alone, which must be given: the rows of eAI-Repair-Toolkit; by
    # `rate`, or a fifth, and never by `ratio`
    like_toolkit: bool = False

    def __post_init__(self) -> None:
        if self.like_toolkit and self.random_state is None:
            raise InputError(SEEDLESS)
        if self.rate is None:
            check_ratio(self.ratio)

    @property
    def with_test(self) -> bool:
        return self.like_toolkit or self.rate is not None or self.ratio[2] > 0

    def rows(self, count: int) -> dict[str, Int64]:
        if self.like_toolkit:
            rate = DIVIDE_RATE if self.rate is None else self.rate
            return divide_by_rate(np.arange(count), rate, self.random_state or 0)
        order = np.arange(count) if self.random_state is None else shuffled(count, self.random_state)
        if self.rate is None:
            return divide_training(order, self.ratio)
        return divide_by_rate(order, self.rate, self.random_state or 0)

    def splits(self, training: Split, test: Split | None) -> dict[str, Split]:
        divided = {name: training.some(rows) for name, rows in self.rows(len(training.labels)).items()}
        return divided if test is None else {**divided, "test": test}


def divide_training(order: Int64, ratio: Ratio) -> dict[str, Int64]:
    """`order` (n,) divided in the proportion of three of the ratios; the last above 0 takes what rounding leaves."""
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
    """As eAI-Repair-Toolkit 1.1.0: int(n·divide_rate) rows, drawn by `random.Random`, are repair, the last first."""
    if not 0 <= divide_rate <= 1:
        raise InputError(f"divide_rate is {divide_rate:g}, expected a number from 0 to 1")
    drawn = random.Random(random_state).sample(range(len(order)), int(len(order) * divide_rate))
    repair = np.zeros(len(order), bool)
    repair[drawn] = True
    splits = {"train": order[~repair], "repair": order[repair][::-1]}
    return {name: rows for name, rows in splits.items() if len(rows)}


def check_ratio(ratio: Ratio) -> None:
    text = ",".join(f"{share:g}" for share in ratio)
    if len(ratio) != len(NAMES) or not all(0 <= share <= 1 for share in ratio):
        raise InputError(f"data ratio {text}, expected four numbers from 0 to 1 (train,val,test,repair)")
    if abs(math.fsum(ratio) - 1) > 1e-9:
        raise InputError(f"data ratio {text}, which sums to {math.fsum(ratio):.6g}, expected a sum of 1")


def shuffled(count: int, random_state: int) -> Int64:
    if random_state < 0:
        raise InputError(f"random_state is {random_state}, expected 0 or more")
    order = np.arange(count)
    np.random.default_rng(random_state).shuffle(order)
    return order


def cut(count: int, ratio: Ratio, *, keep_all: bool) -> dict[str, slice]:
    """Stretches of shuffled rows that end where the toolkit 1.1.0 ends them, by int() of sums of floats.

    Without a repair split a few rows are left over; with `keep_all` the last split of a ratio above 0 takes them.
    """
    a = int(count * ratio[0])
    b = int(count * ratio[1] + a)
    c = min(int(count * ratio[2] + b), count)  # a float sum a little above 1
    ends = [a, b, c, count if ratio[3] > 0 else c]
    if keep_all:
        last = max(k for k in range(4) if ratio[k] > 0)
        ends[last:] = [count] * (4 - last)
    splits = {name: slice(start, stop) for name, start, stop in zip(NAMES, [0, *ends], ends, strict=False)}
    return {name: rows for name, rows in splits.items() if rows.stop > rows.start}


@dataclass(frozen=True)
class Official:
    label_names: tuple[str, ...]
    # training rows of what `--input-dir` names, and test rows if they are asked for
    read: Callable[[Path, bool], tuple[Split, Split | None]]
    methods: Iterable[str] = EQUALISED  # of preprocessing that it can have
    preprocess: str = "toolkit"  # the one that it has unless another is asked for
    make: Callable[..., Float32] = preprocess_images  # images of sources and the keyword `method`
    random_state: int | None = None  # unless another is asked for
    alone: bool = False  # a split that an earlier command wrote, and this one does not, is removed


def prepare_official(
    data: Official,
    input_dir: Path,
    output_dir: Path,
    *,
    data_ratio: Ratio = DEFAULT_RATIO,
    divide_rate: float | None = None,
    random_state: int | None = None,
    like_toolkit: bool = False,
    preprocess: str | None = None,
    **how: Unpack[Writing],
) -> dict[str, int]:
    """Train, val and repair come from the training images; test is all test images in order. Returns their rows."""
    method = data.preprocess if preprocess is None else preprocess
    check_method(method, data.methods)
    seed = data.random_state if random_state is None else random_state
    division = Division(data_ratio, divide_rate, seed, like_toolkit)
    splits = division.splits(*data.read(input_dir, division.with_test))
    make = functools.partial(data.make, method=method)
    written = write_splits(output_dir, splits, Layout(data.label_names, method), make, **how)
    for split in set(NAMES) - set(written) if data.alone else ():
        if is_ours(path := output_dir / f"{split}.h5"):
            remove(path)
    return written
