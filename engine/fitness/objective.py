"""What a candidate is worth: sums over rows as one number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.core.types import Float64, Int64

if TYPE_CHECKING:  # a loop of NumPy alone loads no TensorFlow
    from engine.fitness.steering import Steering

ObjectiveName = Literal["arachne", "loss", "rates", "requirements", "priorities"]
"""`arachne`: see `fitness`; `loss`, of the later Arachne: see `loss_fitness`; `rates`, of NeuRecover: see
`rate_fitness`; `requirements`: see `engine.fitness.steering`; `priorities` of labels: see `engine.fitness.priorities`.
"""


@dataclass(frozen=True, eq=False)
class LabelWeights:
    weights: Float64  # (2, C), of negative and of positive rows
    rows: Int64  # (2, C), how many there are


@dataclass(frozen=True)
class Objective:
    """What turns sums of a candidate into its fitness.

    Attributes:
        negatives, positives: rows to get right, and rows to keep right.
        positive_weight: worth of all positives together, in negatives; None where requirements say it.
        name: which formula.
        labels: of `priorities`.
        steering: of `requirements`.
    """

    negatives: int
    positives: int
    positive_weight: float | None
    name: ObjectiveName = "arachne"
    labels: LabelWeights | None = None
    steering: Steering | None = None

    def fitness(self, sums: Float64) -> Float64:
        """Sums (P, S) -> (P,) fitness; S is 4, or 6 for `loss`, or as `engine.fitness.groups.GroupSums` has it."""
        if self.steering is not None:
            return self.steering.fitness(sums)
        assert self.positive_weight is not None
        if self.labels is not None:
            return priority_fitness(sums, self.labels, self.positives, self.positive_weight)
        if self.name == "loss":
            return loss_fitness(sums, self.positives, self.positive_weight)
        if self.name == "rates":
            return rate_fitness(sums, self.negatives, self.positives, self.positive_weight)
        return fitness(sums, self.negatives, self.positives, self.positive_weight)


def fitness(sums: Float64, negatives: int, positives: int, positive_weight: float) -> Float64:
    """Arachne's fitness with the weight of the positives apart from their number.

    (n_patched + 1) / (loss_neg + 1) + (s * n_intact + 1) / (loss_pos + 1), losses being means over rows and
    s = positive_weight / positives. With positive_weight = positives it is the published formula (Sohn et al.,
    "Arachne: Search-Based Repair of Deep Neural Networks", TOSEM 2023, section 3.3).

    (P,) of sums (P, 4), of at least one negative; without positives the second term is constant. A candidate whose
    losses are not finite has not a number or zero terms.
    """
    found: Float64 = worth(sums.T[:4], negatives, max(positives, 1), positive_weight / max(positives, 1))
    return found


def worth(sums: Any, negatives: Any, positives: Any, scale: Any, rounded: Callable[[Any], Any] = lambda x: x) -> Any:
    """The formula of `fitness`, operation by operation, of four sums (P,) float64, arrays or tensors.

    `rounded` keeps a compiler from adding to a product before it is rounded.
    """
    loss_neg, loss_pos, patched, intact = sums
    loss_neg, loss_pos = loss_neg / negatives, loss_pos / positives
    return (patched + 1.0) / (loss_neg + 1.0) + (rounded(scale * intact) + 1.0) / (loss_pos + 1.0)


def loss_fitness(sums: Float64, positives: int, positive_weight: float) -> Float64:
    """The fitness of the later Arachne, as its authors' published code has it.

    sum over negatives of f + s * sum over positives of f, where f is 1 for a row that is right and 1 / (loss + 1) for
    one that is wrong, and s = positive_weight / positives. In that code the negatives are multiplied instead, by alpha
    = 1 / s, 10 by default. Losses of rows that are right do not count: what is repaired is not repaired further.

    Sums are (P, 6), those of `TiledFitness` with `misses`.
    """
    scores = sums[:, 2:4] + sums[:, 4:6]
    found: Float64 = scores[:, 0] + positive_weight / max(positives, 1) * scores[:, 1]
    return found


def rate_fitness(sums: Float64, negatives: int, positives: int, positive_weight: float) -> Float64:
    """NeuRecover's fitness: Arachne's with shares of rows in place of counts.

    (n_patched / N + 1) / (loss_neg + 1) + alpha (n_intact / M + 1) / (loss_pos + 1), of N negatives and M positives,
    losses being means over rows and alpha = positive_weight / N. The published alpha is 1: all positives together are
    worth all negatives. eAI-Repair-Toolkit 1.1.0 has 2, the length of a pair, in the places of N and M.

    Sums are (P, 4), N is at least 1 and M may be 0.
    """
    many = max(positives, 1)
    repaired = (sums[:, 2] / negatives + 1.0) / (sums[:, 0] / negatives + 1.0)
    found: Float64 = repaired + positive_weight / negatives * ((sums[:, 3] / many + 1.0) / (sums[:, 1] / many + 1.0))
    return found


def priority_fitness(sums: Float64, labels: LabelWeights, positives: int, positive_weight: float) -> Float64:
    """A fitness by the weights of labels: with l over labels, and w and v what their rows are worth,

        (sum of w_l patched_l + 1) / (L_neg + 1) + (s sum of v_l intact_l + 1) / (L_pos + 1)

    where L are mean losses with rows so weighted, and s = positive_weight / positives. With all weights 1 it is
    `fitness`. Sums are (P, 4 + 4 C), see `engine.fitness.groups.GroupSums`.
    """
    loss, right = np.split(sums[:, 4:].reshape(len(sums), 4, -1), 2, axis=1)
    weighted = [(values * labels.weights).sum(axis=2) for values in (loss, right)]
    negatives, known = (labels.weights * labels.rows).sum(axis=1)
    scale = positive_weight / max(positives, 1)
    found: Float64 = worth(np.concatenate(weighted, axis=1).T, negatives, known or 1.0, scale)
    return found
