"""Arachne's localisation: which weights are to blame, by the Pareto fronts of a pool of them.

Of the last Dense layer (Sohn et al., "Arachne", TOSEM 2023, section 3.2), for weight (i, j) over the negative rows:
gradient loss GL = |sum of dL/dw[i,j]| and forward impact FI = mean of |o[i] * w[i,j]|. Of the `num_grad` weights with
the largest GL, those on the Pareto front of (GL, FI) are localised. The toolkit takes FI from the first row alone; the
mean over all rows is the published definition.

Over layers, after Arachne's later form, which pools Dense, convolutional and LSTM layers: the cost of a weight is its
value on the negatives over one plus its value on the positives, for gradient loss and forward impact
(`engine.localize.impact`) alike. Of the weights of largest gradient cost, those on the front of both are localised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.core.types import Float32, Float64, Int64
from engine.localize.settings import Impact as Impact  # noqa: PLC0414 - its users find it here
from engine.localize.settings import LocalizeSettings

GRADIENTS_PER_NEGATIVE = 20  # the published pool: 20 weights for every negative row


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over rows; blocks of rows are added in order."""

    gradient: Float64  # of the loss gradient by the kernel, float64; (D, C) of the last Dense layer, (W,) of any others
    impact: Float64  # (D,) of |input of the last Dense layer|; (W,) of the forward impact of each weight
    rows: int  # number of rows summed
    first: Float64 | None = None  # (D,) |input| of the first row alone; None where any other layers are summed over

    def __add__(self, later: Sums) -> Sums:
        return Sums(self.gradient + later.gradient, self.impact + later.impact, self.rows + later.rows, self.first)


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


def localize(
    sums: Sums, kernel: Float32, *, num_grad: int | None = None, impact: Impact = "mean", fronts: int = 1
) -> Localisation:
    """The weights of the last Dense layer's kernel (D, C) to blame, by sums over the negative rows.

    `num_grad` is the size of the pool, 20 per negative row without; of `fronts`, 1 is the published method.
    """
    size = _pool_size(num_grad, sums.rows, fronts)
    loss = np.abs(sums.gradient)
    outputs = sums.impact / sums.rows if impact == "mean" or sums.first is None else sums.first
    force = outputs[:, None] * np.abs(kernel.astype(np.float64))
    # Ties in column-major order, as in the toolkit; the sort is stable.
    order = np.argsort(-loss.ravel(order="F"), kind="stable")[: min(size, loss.size)]
    unit, row = np.divmod(order, loss.shape[0])
    loss, force = loss[row, unit], force[row, unit]
    return Localisation(row, unit, loss, force, pareto_fronts(loss, force, fronts))


def localize_pooled(
    negative: Sums, positive: Sums | None, *, num_grad: int | None = None, fronts: int = 1
) -> Localisation:
    """The weights of any layers to blame, of equal gradient costs the first; `gradient_loss` and `forward_impact` are
    costs. `positive` is None where there are no rows that must not break.
    """
    size = _pool_size(num_grad, negative.rows, fronts)
    loss, force = np.abs(negative.gradient) / negative.rows, negative.impact / negative.rows
    if positive is not None:
        loss /= 1 + np.abs(positive.gradient) / positive.rows
        force /= 1 + positive.impact / positive.rows
    size = min(size, len(loss))
    # No more is sorted than must be.
    candidates = np.flatnonzero(loss >= np.partition(loss, len(loss) - size)[len(loss) - size])
    row = candidates[np.argsort(-loss[candidates], kind="stable")][:size]
    loss, force = loss[row], force[row]
    return Localisation(row, np.zeros_like(row), loss, force, pareto_fronts(loss, force, fronts))


def _pool_size(num_grad: int | None, rows: int, fronts: int) -> int:
    size = GRADIENTS_PER_NEGATIVE * rows if num_grad is None else num_grad
    LocalizeSettings(size, fronts=fronts)  # which refuses numbers of which nothing could be chosen
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
    """Indices (K,) int64 of the points that no other point beats, both objectives maximised; of equal points the first.

    In descending order of the first objective, a point is on the front when its second one exceeds all before it.
    """
    order = np.lexsort((np.arange(len(first)), -second, -first))
    highest = np.maximum.accumulate(np.concatenate([[-np.inf], second[order][:-1]]))
    return order[second[order] > highest].astype(np.int64)
