"""Candidates for the blame: their pool and its Pareto fronts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.core.errors import InputError
from engine.core.types import Float64, Int64

GRADIENTS_PER_NEGATIVE = 20
"""The published pool: 20 weights for every negative row."""


@dataclass(frozen=True, eq=False)
class Localisation:
    """Candidates and their Pareto front, both in descending order of gradient loss.

    Attributes:
        row, unit: (M,) int64, place of each candidate in the kernel: input i and unit j; of a deep target the place in
            the flat vector, and 0.
        gradient_loss, forward_impact: (M,) float64.
        front: (K,) int64, candidates on the fronts asked for.
    """

    row: Int64
    unit: Int64
    gradient_loss: Float64
    forward_impact: Float64
    front: Int64

    @property
    def index(self) -> Int64:
        """Places (K, 2) in the kernel of the weights to blame."""
        return np.stack([self.row[self.front], self.unit[self.front]], axis=1)


def pool_size(num_grad: int | None, rows: int, fronts: int) -> int:
    """How many weights of the largest gradients are looked at: what was asked for, or 20 for every negative row."""
    if fronts < 1:
        raise InputError(f"fronts is {fronts}, expected at least 1")
    size = GRADIENTS_PER_NEGATIVE * rows if num_grad is None else num_grad
    if size < 1:
        raise InputError(f"num_grad is {size}, expected at least 1")
    return size


def pareto_fronts(first: Float64, second: Float64, fronts: int) -> Int64:
    """Indices (K,), ascending, of the points on so many fronts, each of what the ones before left."""
    left = np.arange(len(first))
    chosen = [left[:0]]
    while len(left) and len(chosen) <= fronts:
        front = left[pareto_front(first[left], second[left])]
        chosen.append(front)
        left = np.setdiff1d(left, front)
    return np.sort(np.concatenate(chosen))


def pareto_front(first: Float64, second: Float64) -> Int64:
    """Indices of the points that no other point beats, both objectives maximised; shape (K,), int64.

    Found by one sort: in descending order of the first objective a point is on the front when its second objective
    exceeds all before it. Of equal points the one with the lowest index is kept.
    """
    order = np.lexsort((np.arange(len(first)), -second, -first))
    highest = np.maximum.accumulate(np.concatenate([[-np.inf], second[order][:-1]]))
    return order[second[order] > highest].astype(np.int64)
