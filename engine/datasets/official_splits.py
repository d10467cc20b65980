"""Data sets that come with a test set: of their training images train, val and repair are made."""

from __future__ import annotations

import random

import numpy as np

from engine.core.errors import InputError
from engine.core.types import Int64
from engine.datasets.splits import Ratio, check_ratio


def divide_training(order: Int64, ratio: Ratio) -> dict[str, Int64]:
    """Rows of the training images for each of train, val and repair that gets any.

    `order` (n,) are all rows in the order in which they are divided, in the proportion of the three ratios; the last
    of them above 0 takes what rounding leaves.

    Raises InputError for a bad ratio.
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

    Raises InputError for a bad rate.
    """
    if not 0 <= divide_rate <= 1:
        raise InputError(f"divide_rate is {divide_rate:g}, expected a number from 0 to 1")
    drawn = random.Random(random_state).sample(range(len(order)), int(len(order) * divide_rate))
    repair = np.zeros(len(order), bool)
    repair[drawn] = True
    splits = {"train": order[~repair], "repair": order[repair][::-1]}
    return {name: rows for name, rows in splits.items() if len(rows)}
