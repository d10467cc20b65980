"""Localisation: which weights of the layer are to blame (Sohn et al., "Arachne", TOSEM 2023, section 3.2).

For weight (i, j) over the negative rows: gradient loss GL = |sum of dL/dw[i,j]| and forward impact
FI = mean of |o[i] * w[i,j]|. Of the `num_grad` weights with the largest GL, those on the Pareto front of (GL, FI) are
localised. The toolkit takes FI from the first row alone; the mean over all rows is the published definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.core.errors import InputError
from engine.core.files import replace_file
from engine.core.types import Float32, Float64, Int64
from engine.runner import LocalisationSums

Impact = Literal["mean", "first-row"]

GRADIENTS_PER_NEGATIVE = 20
"""The published pool: 20 weights for every negative row."""


@dataclass(frozen=True, eq=False)
class Localisation:
    """Candidates and their Pareto front, both in descending order of gradient loss.

    Attributes:
        row, column: (M,) int64, kernel position of each candidate: input i and unit j.
        gradient_loss, forward_impact: (M,) float64.
        front: (K,) int64, candidates on the fronts asked for.
    """

    row: Int64
    column: Int64
    gradient_loss: Float64
    forward_impact: Float64
    front: Int64


def localize(
    sums: LocalisationSums,
    kernel: Float32,
    *,
    num_grad: int | None = None,
    impact: Impact = "mean",
    fronts: int = 1,
) -> Localisation:
    """Find the weights to blame.

    Args:
        sums: over the negative rows.
        kernel: (D, C) float32, of the layer under repair.
        num_grad: size of the pool; None takes 20 per negative row. Clipped to the number of weights.
        impact: forward impact as the mean over all negatives, or from the first row as the toolkit computes it.
        fronts: number of Pareto fronts, each of what the ones before left; 1 is the published method.

    Raises:
        InputError: num_grad or fronts below 1.
    """
    if fronts < 1:
        raise InputError(f"fronts is {fronts}, expected at least 1")
    size = GRADIENTS_PER_NEGATIVE * sums.rows if num_grad is None else num_grad
    if size < 1:
        raise InputError(f"num_grad is {size}, expected at least 1")
    loss = np.abs(sums.gradient)
    outputs = sums.impact / sums.rows if impact == "mean" else sums.first
    force = outputs[:, None] * np.abs(kernel.astype(np.float64))
    # Ties in column-major order, as in the toolkit; the sort is stable.
    order = np.argsort(-loss.ravel(order="F"), kind="stable")[: min(size, loss.size)]
    column, row = np.divmod(order, loss.shape[0])
    gradient_loss, forward_impact = loss[row, column], force[row, column]
    front = pareto_fronts(gradient_loss, forward_impact, fronts)
    return Localisation(row, column, gradient_loss, forward_impact, front)


def pareto_fronts(first: Float64, second: Float64, fronts: int) -> Int64:
    """Indices (K,), ascending, of the points on so many fronts, each of what the ones before left."""
    left = np.arange(len(first))
    chosen = []
    for _ in range(fronts):
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


def draw_pareto_front(path: Path, found: Localisation) -> None:
    """Plot all candidates and the front to a PNG of 640 x 480 pixels, written whole or not at all."""
    figure = Figure(figsize=(6.4, 4.8), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(found.gradient_loss, found.forward_impact, s=9, color="#4477aa", label="candidates")
    axes.plot(
        found.gradient_loss[found.front],
        found.forward_impact[found.front],
        "o-",
        color="#cc3311",
        markersize=4,
        label=f"Pareto front ({len(found.front)})",
    )
    axes.set_xlabel("gradient loss")
    axes.set_ylabel("forward impact")
    axes.legend()
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png")
