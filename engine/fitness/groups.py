"""Sums over groups of rows, for the objectives that need them: the negative or the positive rows of one true label.

Rows of a group lie beside each other in whole blocks; a program adds up blocks, and the blocks of a group are added
here. No product of matrices with memberships: its bits would depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import backend
from engine.core.types import Bool, Float32, Float64, Int64
from engine.fitness.rows import SearchRows
from engine.fitness.soft import LOWEST, soft_of
from engine.fitness.tiling import SUM_ROWS, bucket

SUMS = 4
"""Sums that every search has: losses and correct rows, of negative and positive rows."""

FILLED_UP = 8
"""Blocks are so long that groups fill up one row in so many at most, on average half of that."""


@dataclass(frozen=True)
class GroupSums:
    """What is wanted of each group: losses and correct rows, or, with a temperature, soft changes and their squares.

    Sums of a candidate are, after the four: of the first of the two quantities, C of negative rows by true label and C
    of positive ones; the same of the second; and for `pairs` the same again of their soft confusions, with P for C.
    """

    classes: int  # C
    # T of soft correctness, see `engine.fitness.soft`; a change is to the model as it is
    temperature: float | None = None
    pairs: tuple[tuple[int, int], ...] = ()  # P of (true, predicted) labels whose confusion is looked at too

    @property
    def count(self) -> int:
        """Sums of a candidate, S."""
        return SUMS + 4 * self.classes + 4 * len(self.pairs)

    @property
    def soft(self) -> int:
        return 0 if self.temperature is None else 1 + len(self.pairs)

    def wanted(self, labels: Int64) -> Int64:
        """Those classes (Q, n) of rows with true labels (n,)."""
        others = [np.full_like(labels, predicted) for _, predicted in self.pairs]
        return np.stack([labels, *others]) if self.soft else np.empty((0, len(labels)), np.int64)

    def before(self, logits: Float32, labels: Int64) -> Float32:
        """Soft correctness (Q, n) for those classes of the model as it is, of rows with logits (n, C)."""
        found = np.empty((self.soft, len(labels)), np.float32)
        for number, classes in enumerate(self.wanted(labels)):
            assert self.temperature is not None
            one_hot = np.eye(self.classes, dtype=np.float32)[classes]
            found[number] = soft_of(backend.on_device(logits), backend.on_device(one_hot), self.temperature)
        return found


def untouched_soft(
    wanted: GroupSums, logits: Float32, labels: Int64, units: Int64, place: Int64, size: int
) -> tuple[Float32, Bool]:
    """What does not depend on a candidate, where it changes the logits `units` (U,) alone, -1 for none.

    Of rows with logits (n, C) and labels (n,) at `place` (n,) of `size`, for each of the Q wanted classes: (Q, 3, size)
    float32, the logit of the class where no candidate changes it, else 0; the largest of the others that none changes;
    soft correctness as it is. And (Q, U, size) bool: the unit is the class.
    """
    everyone = np.arange(len(labels))
    free = np.ones(logits.shape[1], dtype=np.bool_)
    free[units[units >= 0]] = False
    table = np.zeros((wanted.soft, 3, size), dtype=np.float32)
    masks = np.zeros((wanted.soft, len(units), size), dtype=np.bool_)
    for number, (classes, before) in enumerate(zip(wanted.wanted(labels), wanted.before(logits, labels), strict=True)):
        others = np.where(free[None, :], logits, LOWEST)
        others[everyone, classes] = LOWEST
        own = np.where(free[classes], logits[everyone, classes], np.float32(0))
        table[number][:, place] = own, others.max(axis=1), before
        masks[number][:, place] = units[:, None] == classes[None, :]
    return table, masks


@dataclass(frozen=True, eq=False)
class Grouped:
    """Where the rows of a tile are: groups one after the other."""

    place: Int64  # (n,) int64, of each row
    size: int  # places
    groups: Int64  # (g,) int64, that have rows: the true label of negative rows, and C more of positive ones; ascending
    starts: Int64  # (g,) int64, first block of each
    ends: Int64  # (g,) int64, block behind the last of each

    @property
    def kinds(self) -> list[slice]:
        """The blocks of negative and of positive rows, where there is one label."""
        found = dict(zip(self.groups.tolist(), map(slice, self.starts, self.ends), strict=True))
        return [found.get(kind, slice(0)) for kind in (0, 1)]


def block_rows(negative: Bool, labels: Int64, tiles: int) -> int:
    """Rows of a block, for rows (n,) in so many tiles: a pure function of the job."""
    groups = len(np.unique(labels * 2 + negative))
    fitting = (size for size in (32, 16, 8, 4, 2) if size * groups * tiles * FILLED_UP <= len(labels))
    return next(fitting, 1)


def arrange_groups(negative: Bool, labels: Int64, classes: int, block: int) -> Grouped:
    """Give the rows (n,) of a tile places in which those of different groups share no block of so many rows."""
    number = labels + classes * ~negative
    groups, members, counts = np.unique(number, return_inverse=True, return_counts=True)
    ends = np.cumsum(-(-counts // block))
    starts = np.concatenate([[0], ends])[:-1].astype(np.int64)
    order = np.argsort(members, kind="stable")
    place = np.empty(len(labels), np.int64)
    within = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place[order] = np.repeat(starts * block, counts) + within
    used = int(ends[-1]) * block if len(ends) else 0
    return Grouped(place, bucket(-(-used // SUM_ROWS)) * SUM_ROWS, groups.astype(np.int64), starts, ends)


def arrange_rows(rows: SearchRows, where: slice, wanted: GroupSums | None, block: int) -> Grouped:
    """Give the rows of a tile places by the groups that are wanted, else by negative and positive rows."""
    negative, labels = rows.negative[where], rows.labels[where]
    if wanted is None:
        return arrange_groups(negative, np.zeros_like(labels), 1, SUM_ROWS)
    return arrange_groups(negative, labels, wanted.classes, block)


def sum_count(wanted: GroupSums | None, misses: bool) -> int:
    """Sums of a candidate, S: four, with `misses` also 1 / (loss + 1) of wrong rows, negative and positive."""
    return wanted.count if wanted else SUMS + 2 * misses


def group_sums(wanted: GroupSums, grouped: Grouped, blocks: Sequence[Any]) -> Float64:
    """Sums (m, S) of candidates from those of blocks (m, b): loss, correct rows, soft changes and their squares."""
    classes = wanted.classes
    loss, correct, *changes = (_by_group(np.asarray(values), grouped, 2 * classes) for values in blocks)
    kinds = slice(0, classes), slice(classes, 2 * classes)
    plain = [values[:, kind].sum(axis=1) for values in (loss, correct) for kind in kinds]
    # By group: negatives and positives; of a pair the groups of its true label.
    parts = [np.stack(plain, axis=1)]
    if not wanted.soft:
        return np.concatenate([*parts, loss, correct], axis=1)
    parts += changes[:2]
    true = [label + shift for shift in (0, classes) for label, _ in wanted.pairs]
    for of_pairs in (changes[2::2], changes[3::2]):
        columns = [of_pairs[place % len(wanted.pairs)][:, group] for place, group in enumerate(true)]
        parts += [np.stack(columns, axis=1)] if columns else []
    return np.concatenate(parts, axis=1)


def _by_group(blocks: Any, grouped: Grouped, count: int) -> Float64:
    found = np.zeros((len(blocks), count))
    if len(grouped.groups):
        # Row by row of a C-contiguous array: the order does not depend on the number of candidates.
        values = np.ascontiguousarray(blocks, dtype=np.float64)
        found[:, grouped.groups] = np.add.reduceat(values, grouped.starts, axis=1)
    return found
