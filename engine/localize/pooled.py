"""Localisation over layers: which weights of all those under repair are to blame, in one pool.

After Arachne's later form (Sohn et al., TOSEM 2023), which pools Dense, convolutional and LSTM layers: the cost of a
weight is its value on the negatives over one plus its value on the positives, for gradient loss and forward impact
(`engine.localize.impact`) alike. Of the weights of largest gradient cost, those on the Pareto front of both are
localised.
"""

from __future__ import annotations

import numpy as np

from engine.core.types import Float64, Int64
from engine.localize.pareto import Localisation, pareto_fronts, pool_size
from engine.localize.sums import Sums


def localize_pooled(
    negative: Sums, positive: Sums | None, *, num_grad: int | None = None, fronts: int = 1
) -> Localisation:
    """Find the weights to blame; options are those of `engine.localize.last_dense.localize`.

    Candidates come in descending order of gradient cost, of equal ones the first in the flat vector; `gradient_loss`
    and `forward_impact` are costs. `positive` is None where there are no rows that must not break.
    """
    size = pool_size(num_grad, negative.rows, fronts)
    loss, force = np.abs(negative.gradient) / negative.rows, negative.impact / negative.rows
    if positive is not None:
        loss /= 1 + np.abs(positive.gradient) / positive.rows
        force /= 1 + positive.impact / positive.rows
    row = _largest(loss, min(size, len(loss)))
    gradient_loss, forward_impact = loss[row], force[row]
    front = pareto_fronts(gradient_loss, forward_impact, fronts)
    return Localisation(row, np.zeros_like(row), gradient_loss, forward_impact, front)


def _largest(values: Float64, size: int) -> Int64:
    """Places (size,) of the largest values, descending; of equal ones the first. Sorts no more than it must."""
    least = np.partition(values, len(values) - size)[len(values) - size]
    candidates = np.flatnonzero(values >= least)
    order: Int64 = candidates[np.argsort(-values[candidates], kind="stable")][:size]
    return order
