"""What a candidate is worth: sums over rows as one number."""

from __future__ import annotations

from dataclasses import dataclass

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
    loss_neg = sums[:, 0] / negatives
    loss_pos = sums[:, 1] / max(positives, 1)
    scale = positive_weight / max(positives, 1)
    return (sums[:, 2] + 1.0) / (loss_neg + 1.0) + (scale * sums[:, 3] + 1.0) / (loss_pos + 1.0)
