"""What a candidate is worth: sums over rows as one number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.core.types import Float64


@dataclass(frozen=True)
class Objective:
    """What turns sums into fitness: the numbers of rows and the weight of the positives."""

    negatives: int
    positives: int
    positive_weight: float

    def fitness(self, sums: Float64) -> Float64:
        """(P, 4) sums -> (P,) fitness."""
        return fitness(sums, self.negatives, self.positives, self.positive_weight)


def fitness(sums: Float64, negatives: int, positives: int, positive_weight: float) -> Float64:
    """Arachne's fitness with the weight of the positives apart from their number.

    (n_patched + 1) / (loss_neg + 1) + (s * n_intact + 1) / (loss_pos + 1), losses being means over rows and
    s = positive_weight / positives. With positive_weight = positives it is the published formula (Sohn et al.,
    "Arachne: Search-Based Repair of Deep Neural Networks", TOSEM 2023, section 3.3).

    Args:
        sums: (P, 4) of `TiledFitness.evaluate`.
        negatives: number of negative rows, at least 1.
        positives: number of positive rows; 0 leaves the second term constant.
        positive_weight: worth of all positives together, in negatives.

    Returns:
        (P,) float64; a candidate whose losses are not finite has not a number or zero terms.
    """
    found: Float64 = worth(sums, negatives, max(positives, 1), positive_weight / max(positives, 1))
    return found


def worth(sums: Any, negatives: Any, positives: Any, scale: Any, rounded: Callable[[Any], Any] = lambda x: x) -> Any:
    """The formula of `fitness`, operation by operation, of arrays or of tensors.

    Args:
        sums: (P, 4) float64.
        negatives, positives, scale: numbers, of which none is 0 that divides.
        rounded: keeps a compiler from adding to a product before it is rounded.
    """
    loss_neg, loss_pos = sums[:, 0] / negatives, sums[:, 1] / positives
    return (sums[:, 2] + 1.0) / (loss_neg + 1.0) + (rounded(scale * sums[:, 3]) + 1.0) / (loss_pos + 1.0)
