"""The fitness by priorities of labels: by hand, and with all weights alike the one that has none."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.fitness.objective import Objective
from engine.fitness.priorities import Priorities, priority_objective

LABELS = np.array([0, 0, 1, 0, 1, 1, 2])
NEGATIVE = np.arange(7) < 3


def test_the_formula_by_hand() -> None:
    """Two negatives of label 0 that count twice, one of label 1; positives of label 0 count half, of 2 nothing."""
    priorities = Priorities(((0, 2.0), (1, 1.0)), ((0, 0.5), (1, 1.0)))
    counted = priorities.counted(LABELS, NEGATIVE)
    np.testing.assert_array_equal(counted, LABELS < 2)
    objective = priority_objective(priorities, LABELS[counted], NEGATIVE[counted], 3, positive_weight=6.0)
    assert (objective.negatives, objective.positives) == (3, 3)
    # Losses, then right rows: of negatives of label 0, 1, 2, and of positives.
    sums = np.array([[np.nan] * 4 + [3.0, 1.0, 0.0, 0.4, 0.7, 0.0] + [1, 1, 0, 1, 2, 0]])
    loss_neg = (2 * 3.0 + 1.0) / (2 * 2 + 1)
    loss_pos = (0.5 * 0.4 + 0.7) / (0.5 * 1 + 2)
    expected = (2 * 1 + 1 + 1) / (loss_neg + 1) + (6 / 3 * (0.5 * 1 + 2) + 1) / (loss_pos + 1)
    np.testing.assert_allclose(objective.fitness(sums), [expected], rtol=1e-12)


@pytest.mark.parametrize("protect", [None, tuple((label, 1.0) for label in range(3))])
def test_weights_of_one_are_no_weights(protect: tuple[tuple[int, float], ...] | None) -> None:
    priorities = Priorities(tuple((label, 1.0) for label in range(3)), protect)
    assert priorities.counted(LABELS, NEGATIVE).all()
    random = np.random.default_rng(0).uniform(0, 3, (20, 4, 3))
    sums = np.concatenate([random.sum(axis=2), random.reshape(20, 12)], axis=1)
    objective = priority_objective(priorities, LABELS, NEGATIVE, 3, positive_weight=2.5)
    np.testing.assert_allclose(objective.fitness(sums), Objective(3, 4, 2.5).fitness(sums[:, :4]), rtol=1e-12)


def test_without_positives_that_count_only_repairs_do() -> None:
    priorities = Priorities(((0, 1.0),), ((3, 1.0),))
    counted = priorities.counted(LABELS, NEGATIVE)
    objective = priority_objective(priorities, LABELS[counted], NEGATIVE[counted], 4, positive_weight=0.0)
    assert (objective.negatives, objective.positives) == (2, 0)
    sums = np.zeros((1, 20))
    sums[0, [4, 12]] = 3.0, 1.0
    assert objective.fitness(sums).tolist() == [(1 + 1) / (3 / 2 + 1) + 1]


@pytest.mark.parametrize(
    ("repair", "protect", "found"),
    [
        (((0, 0.0), (1, 0.0)), None, "repair has no priority above 0, expected at least one"),
        ((), None, "repair has no priority above 0"),
        (((0, 1.0),), ((0, 0.0),), "protect has no priority above 0"),
        (((0, -1.0),), None, "repair of label 0 is -1.0, expected a number of at least 0"),
        (((0, float("nan")),), None, "repair of label 0 is nan"),
        (((0, 1.0),), ((2, float("inf")),), "protect of label 2 is inf"),
    ],
)
def test_what_is_no_priority(
    repair: tuple[tuple[int, float], ...], protect: tuple[tuple[int, float], ...] | None, found: str
) -> None:
    with pytest.raises(InputError, match=found):
        Priorities(repair, protect)


def test_rows_of_other_labels_alone() -> None:
    priorities = Priorities(((5, 1.0), (6, 0.0)))
    counted = priorities.counted(LABELS, NEGATIVE)
    with pytest.raises(InputError, match=r"no row to repair has a label of a priority above 0, expected one of 5$"):
        priority_objective(priorities, LABELS[counted], NEGATIVE[counted], 7, 1.0)
