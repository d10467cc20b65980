"""Priorities of labels: rows of each label count by its weight, in the counts and in the mean losses of a fitness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.core.errors import InputError
from engine.core.types import Bool, Float64, Int64
from engine.fitness.objective import LabelWeights, Objective


@dataclass(frozen=True)
class Priorities:
    """What rows of each label are worth, to each other.

    Attributes:
        repair: (label, weight) of negative rows; labels that are not named have 0.
        protect: the same of positive rows; None: all have 1.
    """

    repair: tuple[tuple[int, float], ...]
    protect: tuple[tuple[int, float], ...] | None = None

    def __post_init__(self) -> None:
        """Refuse weights that are no numbers of at least 0, and those that leave nothing to search for."""
        for name, pairs in (("repair", self.repair), ("protect", self.protect)):
            for label, weight in pairs or ():
                if not 0 <= weight < math.inf:
                    raise InputError(
                        f"priorities: {name} of label {label} is {weight}, expected a number of at least 0"
                    )
            if pairs is not None and not any(weight > 0 for _, weight in pairs):
                raise InputError(f"{name} has no priority above 0, expected at least one")

    def weights(self, classes: int) -> Float64:
        """(2, C): of negative and of positive rows of each label."""
        found = np.zeros((2, classes))
        for kind, pairs in zip(found, (self.repair, self.protect), strict=True):
            if pairs is None:
                kind[:] = 1.0
            for label, weight in pairs or ():
                if label < classes:
                    kind[label] = weight
        return found

    def repaired(self, labels: Sequence[int]) -> list[int]:
        """Those labels whose negative rows count."""
        counted = {label for label, weight in self.repair if weight > 0}
        return [label for label in labels if label in counted]

    def counted(self, labels: Int64, negative: Bool) -> Bool:
        """Which of the rows (n,) count: those of a weight above 0."""
        by_label = self.weights(int(labels.max(initial=0)) + 1)
        return by_label[np.where(negative, 0, 1), labels] > 0


def priority_objective(
    priorities: Priorities, labels: Int64, negative: Bool, classes: int, positive_weight: float
) -> Objective:
    """What candidates are worth on rows (n,) that count, of which some must be negative."""
    if not negative.any():
        named = ", ".join(str(label) for label, weight in priorities.repair if weight > 0)
        raise InputError(f"no row to repair has a label of a priority above 0, expected one of {named}")
    rows = np.stack([np.bincount(labels[kind], minlength=classes) for kind in (negative, ~negative)])
    negatives = int(negative.sum())
    weights = LabelWeights(priorities.weights(classes), rows.astype(np.int64))
    return Objective(negatives, len(negative) - negatives, positive_weight, "priorities", weights)
