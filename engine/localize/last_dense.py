"""Localisation: which weights of the layer are to blame (Sohn et al., "Arachne", TOSEM 2023, section 3.2).

For weight (i, j) over the negative rows: gradient loss GL = |sum of dL/dw[i,j]| and forward impact
FI = mean of |o[i] * w[i,j]|. Of the `num_grad` weights with the largest GL, those on the Pareto front of (GL, FI) are
localised. The toolkit takes FI from the first row alone; the mean over all rows is the published definition.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from engine.core.types import Float32
from engine.localize.pareto import Localisation, pareto_fronts, pool_size
from engine.localize.sums import Sums

Impact = Literal["mean", "first-row"]


def localize(
    sums: Sums,
    kernel: Float32,
    *,
    num_grad: int | None = None,
    impact: Impact = "mean",
    fronts: int = 1,
) -> Localisation:
    """Find the weights to blame, by sums over the negative rows.

    Args:
        sums, kernel: of the layer under repair, (D, C).
        num_grad: size of the pool; None takes 20 per negative row. Clipped to the number of weights.
        impact: forward impact as the mean over all negatives, or from the first row as the toolkit computes it.
        fronts: number of Pareto fronts, each of what the ones before left; 1 is the published method.
    """
    size = pool_size(num_grad, sums.rows, fronts)
    loss = np.abs(sums.gradient)
    outputs = sums.impact / sums.rows if impact == "mean" or sums.first is None else sums.first
    force = outputs[:, None] * np.abs(kernel.astype(np.float64))
    # Ties in column-major order, as in the toolkit; the sort is stable.
    order = np.argsort(-loss.ravel(order="F"), kind="stable")[: min(size, loss.size)]
    unit, row = np.divmod(order, loss.shape[0])
    gradient_loss, forward_impact = loss[row, unit], force[row, unit]
    front = pareto_fronts(gradient_loss, forward_impact, fronts)
    return Localisation(row, unit, gradient_loss, forward_impact, front)
