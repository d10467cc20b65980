"""What a mixture is worth while it is searched: the formula by hand, and that better is better."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import norm

from engine.fitness.groups import SUMS
from engine.fitness.rows import SearchRows
from engine.fitness.steering import Rigour, Steering, pairs_of, rigour_of, steering_of
from engine.metrics.requirements import Kind, Requirement

CLASSES = 4
# Label 0 is right in two rows of five, label 1 in six of eight, label 2 in one of two; of label 3 there are no rows.
LABELS = np.repeat([0, 1, 2], [5, 8, 2])
BEFORE = np.array([0, 0, 1, 1, 2, *(1, 1, 1, 1, 1, 1, 0, 0), *(2, 0)])
PAIRS = ((1, 0), (0, 2))
SHARE, NEW_ROWS = 0.2, 300
RIGOUR = Rigour(temperature=0.5, chance=0.97, pressure=3.0)


def about(kind: Kind, limit: float, labels: tuple[int, ...] | None, predicted: int | None = None) -> Requirement:
    return Requirement(kind, limit, labels, predicted, "text", wildcard=labels == (3,))


def steering(*requirements: Requirement, repaired: tuple[int, ...] = (0,)) -> Steering:
    right = BEFORE == LABELS
    nothing = np.zeros((len(LABELS), CLASSES), np.float32)
    rows = SearchRows(nothing, nothing, LABELS, ~right & np.isin(LABELS, repaired), ~right & ~np.isin(LABELS, repaired))
    return steering_of(rows, BEFORE, requirements, repaired, PAIRS, share=SHARE, new_rows=NEW_ROWS, rigour=RIGOUR)


def sums_of(changes: np.ndarray, confusions: np.ndarray) -> np.ndarray:
    """(P, S) of soft changes (P, n) of rows, and of their confusion (P, n) with what a pair says of their label."""
    columns = [np.full((len(changes), SUMS), np.nan)]  # losses and hard counts decide nothing
    for power in (1, 2):
        columns += [(changes**power)[:, label == LABELS].sum(axis=1, keepdims=True) for label in range(CLASSES)]
    for power in (1, 2):
        columns += [(confusions**power)[:, true == LABELS].sum(axis=1, keepdims=True) for true, _ in PAIRS]
    return np.concatenate(columns, axis=1)


def some(seed: int, count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Changes and confusions of as many candidates, most of them good."""
    random = np.random.default_rng(seed)
    return random.uniform(-0.6, 0.9, (count, len(LABELS))), random.uniform(-0.9, 0.6, (count, len(LABELS)))


def error(part: np.ndarray, square: np.ndarray | None = None) -> np.ndarray:
    """Of rows of some labels, where five times as many judge; all rows are of four labels."""
    rows = part.shape[1]
    labels = {5: 1, 8: 1, 2: 1, 10: 2, len(LABELS): CLASSES}[rows]
    square = np.square(part).mean(axis=1) if square is None else square
    return 1.4 * np.sqrt(square) * np.sqrt(SHARE / rows + 1 / (NEW_ROWS * labels)) + 1 / (2 * rows)


def log_chance(part: np.ndarray, limit: float) -> np.ndarray:
    mean = part.mean(axis=1)
    own = error(part)
    if limit > 0:  # something is to be gained
        spread = np.where(mean < 0, part.var(axis=1), np.square(part).mean(axis=1))
        own = error(part, np.maximum(spread, limit**2))
    return norm.logcdf((mean - limit) / own)


CHANGES, CONFUSIONS = some(1)
ROWS = {label: label == LABELS for label in range(3)}


@pytest.mark.parametrize(
    ("requirement", "part", "limit"),
    [
        (about("max_drop", 0.03, (1,)), CHANGES[:, ROWS[1]], -0.03),
        (about("max_drop", 0.03, (1, 2)), CHANGES[:, ROWS[1] | ROWS[2]], -0.03),
        (about("min_gain", 0.1, (0,)), CHANGES[:, ROWS[0]], 0.1),
        (about("min_gain", 0.1, None), CHANGES, 0.1),
        (about("min_accuracy", 0.7, (0,)), CHANGES[:, ROWS[0]], 0.7 - 2 / 5),
        (about("min_accuracy", 0.7, (1,)), CHANGES[:, ROWS[1]], 0.7 - 6 / 8),
        (about("min_accuracy", 0.7, None), CHANGES, 0.7 - 9 / 15),
        (about("max_rate", 0.1, (1,), 0), -CONFUSIONS[:, ROWS[1]], 2 / 8 - 0.1),
        (about("max_rate", 0.5, (0,), 2), -CONFUSIONS[:, ROWS[0]], 1 / 5 - 0.5),
    ],
)
def test_the_formula_by_hand(requirement, part, limit):
    """Besides what is required, all rows together must not fall."""
    found = steering(requirement).fitness(sums_of(CHANGES, CONFUSIONS))
    own = CHANGES[:, ROWS[0]]
    gain = 100 * (own.mean(axis=1) - error(own))
    lacking = log_chance(CHANGES, 0.0) + log_chance(part, limit) - 2 * np.log(0.97)
    np.testing.assert_allclose(found, gain + 3 * np.minimum(lacking, 0), rtol=1e-9)
    assert (lacking < -0.1).any()


def test_more_rows_are_steered_more_strictly():
    few, many = rigour_of(1000), rigour_of(20_000)
    assert few == rigour_of(1) == Rigour(temperature=0.5, chance=0.97, pressure=4.0)
    assert many == rigour_of(10**7) == Rigour(temperature=0.05, chance=0.99, pressure=30.0)
    between = [rigour_of(rows) for rows in (1000, 2000, 4000, 8000)]
    for less, more in pairwise(between):
        assert less.temperature > more.temperature and less.chance < more.chance and less.pressure < more.pressure


@pytest.mark.parametrize("kind", ["max_drop", "min_accuracy", "min_gain"])
def test_labels_without_rows_and_drops_of_all_rows_aim_at_nothing_more(kind):
    sums = sums_of(CHANGES, CONFUSIONS)
    nothing = steering().fitness(sums)
    np.testing.assert_array_equal(steering(about(kind, 0.5, (3,))).fitness(sums), nothing)
    np.testing.assert_array_equal(steering(about("max_drop", 0.05, None)).fitness(sums), nothing)
    own = CHANGES[:, ROWS[0]]
    lacking = log_chance(CHANGES, 0.0) - np.log(0.97)
    np.testing.assert_allclose(nothing, 100 * (own.mean(axis=1) - error(own)) + 3 * np.minimum(lacking, 0))


def test_several_labels_gain_on_average():
    sums, parts = sums_of(CHANGES, CONFUSIONS), [CHANGES[:, ROWS[label]] for label in (0, 2)]
    gains = [100 * (part.mean(axis=1) - error(part)) for part in parts]
    held = log_chance(CHANGES, 0.0) >= np.log(0.97)
    assert 0 < held.sum() < len(held)
    found = steering(repaired=(0, 2)).fitness(sums)
    np.testing.assert_allclose(found[held], np.mean(gains, axis=0)[held])
    assert (found[~held] < np.mean(gains, axis=0)[~held]).all()


BETTER = [
    about("max_drop", 0.01, (1,)),
    about("min_gain", 0.01, (1,)),
    about("min_gain", 0.3, (1,)),
    about("min_accuracy", 0.9, (1,)),
    about("min_accuracy", 0.3, (1,)),
    about("max_rate", 0.0, (1,), 0),
    about("max_rate", 0.2, (1,), 0),
]


@pytest.mark.parametrize("requirement", BETTER)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_below_the_hinge_better_is_better_and_above_it_counts_no_more(requirement, noise):
    """A label that is not under repair changes, or its confusion, from a large loss over no change to a large gain."""
    steer, own = steering(requirement), ROWS[0]
    changes = np.full((41, len(LABELS)), 0.9)
    changes[:, own] = 0.5
    confusions = -changes
    better = np.linspace(-1, 1, 41)[:, None] + noise * np.array([-1, 1, -1, 1, 1, -1, 1, -1])
    if requirement.kind == "max_rate":
        confusions[:, ROWS[1]] = -better
    else:
        changes[:, ROWS[1]] = better
        changes[:, ROWS[2]] = 0.95 - 4 * (better.mean(axis=1, keepdims=True) - 1)  # all rows gain alike
    found = steer.fitness(sums_of(changes, confusions))
    most = 100 * (0.5 - error(changes[:, own])[0])
    assert (np.diff(found) >= -1e-9).all()
    assert (np.diff(found)[found[1:] < most - 1e-9] > 0).all()
    assert (found < most - 1).sum() > 10
    assert found[-1] == pytest.approx(most)


def test_hopeless_candidates_are_still_told_apart():
    """Far out in the tail the logarithm of a chance of zero would be no number."""
    steer = steering(about("max_drop", 0.0, (1,)))
    steps = -np.array([[0.2], [0.5], [0.9], [1.0]]) * np.ones(len(LABELS))
    found = steer.fitness(sums_of(np.tile(steps, (1, 1)), 0 * steps))
    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()
    far = steer.fitness(sums_of(steps[:1], 0 * steps[:1]) * 1e6)
    assert np.isfinite(far).all()
    assert far < found.min()


def test_pairs_are_those_of_confusions_once_each():
    requirements = [
        about("max_rate", 0.1, (1,), 0),
        about("max_drop", 0.1, (2,)),
        about("max_rate", 0.1, (0,), 2),
        about("max_rate", 0.05, (1,), 0),
    ]
    assert pairs_of(requirements) == PAIRS
    assert pairs_of(requirements[1:2]) == ()


@pytest.mark.parametrize("sampled", [False, True])
def test_sums_of_groups_are_pooled_and_sampled_positives_stand_for_all(sampled):
    """Every third positive row is searched where they are sampled, and each of the others does what that one does."""
    steer = steering(about("max_drop", 0.03, (1,)), about("max_rate", 0.5, (0,), 2))
    positive = BEFORE == LABELS
    searched = ~positive | (np.cumsum(positive) % 3 == 0) if sampled else np.full(len(LABELS), True)
    kinds = ~positive, positive & searched
    columns = [np.full((len(CHANGES), SUMS), np.nan)]
    for power in (1, 2):
        for kind in kinds:
            columns += [(CHANGES**power)[:, kind & (label == LABELS)].sum(axis=1)[:, None] for label in range(CLASSES)]
    for power in (1, 2):
        for kind in kinds:
            columns += [(CONFUSIONS**power)[:, kind & (true == LABELS)].sum(axis=1)[:, None] for true, _ in PAIRS]
    share = float((positive & searched).sum() / positive.sum())
    found = replace(steer, share=share).fitness(np.concatenate(columns, axis=1))
    count = np.where(positive, 1 / share, 1.0) * searched

    parts = [
        (values**power * count)[:, label == LABELS].sum(axis=1)[:, None]
        for values, labels in ((CHANGES, range(CLASSES)), (CONFUSIONS, [true for true, _ in PAIRS]))
        for power in (1, 2)
        for label in labels
    ]
    expected = steer.fitness(np.concatenate([columns[0], *parts], axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
