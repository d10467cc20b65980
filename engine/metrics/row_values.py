"""A requirement as a bound on a mean over rows, which is what statistics over rows are made for."""

from __future__ import annotations

import numpy as np

from engine.core.types import Bool, Float64, Int64
from engine.metrics.requirements import Requirement


def row_values(requirement: Requirement, labels: Int64, before: Int64, after: Int64) -> tuple[Bool, Float64]:
    """What each row adds to the share that a requirement limits, so signed that more is better.

    Such a row is 1 where a model gets it right for a min_accuracy, right after - right before (-1, 0 or 1) for a
    max_drop or a min_gain, and -1 where a model takes it for the wrong label of a max_rate, else 0.

    Args:
        requirement: what is asked.
        labels: (n,) true classes.
        before: (n,) classes that the base model predicts.
        after: (n,) classes that a model predicts, or (M, n) of M models.

    Returns:
        (n,) the rows that the requirement is about, of which `label = "*"` may have none; and the values of these m
        rows, (m,) or (M, m), float64.
    """
    mask = np.ones(len(labels), bool) if requirement.labels is None else np.isin(labels, requirement.labels)
    true, predicted = labels[mask], after[..., mask]
    if requirement.kind == "max_rate":
        return mask, 0.0 - (predicted == requirement.predicted)
    right = (predicted == true).astype(np.float64)
    return mask, right - (before[mask] == true) if requirement.relative else right


def threshold(requirement: Requirement) -> float:
    """The smallest mean of `row_values` that keeps the requirement, a share.

    `np.mean` of the values is the double nearest to the exact share, and with it `mean >= threshold` is what
    `check_requirements` says. A mean that is computed otherwise, as with weights, may miss by its last digit: at a tie
    the exact margin of the verdict decides.
    """
    return requirement.limit if requirement.at_least else 0.0 - requirement.limit
