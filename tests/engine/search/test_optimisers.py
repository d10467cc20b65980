"""What every optimiser keeps, and the steps of each by hand."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.core.rng import RngKey, generator
from engine.fitness.objective import Objective
from engine.fitness.tiling import Tiling
from engine.layers.weight_stats import WeightStats
from engine.search import differential_evolution
from engine.search import loop as search
from engine.search.differential_evolution import DifferentialSettings, others
from engine.search.loop import Search, SearchSettings
from engine.search.optimisers import OPTIMISERS
from engine.search.population import BoxedSettings
from engine.search.random_search import RandomSettings
from engine.search.swarm import SwarmSettings

SOURCE = RngKey(seed=3, data="rows", label=6)
STATS = WeightStats(mean=0.1, std=0.8, range=3.0, low=-1.0, high=2.0)
ORIGINAL = np.array([0.25, -0.5, 0.0, 1.5, 0.75], dtype=np.float32)
GOAL = np.array([0.7, -0.9, 1.2, 0.4, -0.3])
JUDGE = Objective(negatives=4, positives=6, positive_weight=6.0)
BOXED = [name for name, optimiser in OPTIMISERS.items() if issubclass(optimiser.settings, BoxedSettings)]

every = pytest.mark.parametrize("name", OPTIMISERS)


def ellipsoid(candidates):
    """-sum of squares that weigh 1 to 30."""
    return -(np.geomspace(1, 30, 5) * (candidates.astype(np.float64) - GOAL) ** 2).sum(axis=1)


def run(name, evaluate=ellipsoid, iterations=8, source=SOURCE, stats=STATS, **settings):
    """All states of a run."""
    optimiser = OPTIMISERS[name]
    given = optimiser.settings(**{"num_particles": 12, **settings})
    states = [optimiser.init(given, source, ORIGINAL.astype(np.float64), stats)]
    for _ in range(iterations):
        states.append(optimiser.tell(given, source, states[-1], evaluate(optimiser.ask(states[-1]))))
    return states


def same(first, second):
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(first)]
    return all(np.asarray(mine).tobytes() == np.asarray(other).tobytes() for mine, other in pairs)


@every
def test_the_same_seed_gives_the_same_bits_and_another_gives_others(name):
    first, again = run(name), run(name)
    assert all(map(same, first, again))
    for other in (RngKey(4, "rows", 6), RngKey(3, "others", 6), RngKey(3, "rows", 5)):
        assert not np.array_equal(first[-1].position, run(name, source=other)[-1].position)


@every
def test_states_are_values(name):
    """Telling one state changes no other: a checkpoint taken earlier stays as it was."""
    states = run(name, iterations=5)
    copies = [[np.copy(getattr(state, field.name)) for field in fields(state)] for state in states]
    optimiser = OPTIMISERS[name]
    for state in states:
        optimiser.tell(optimiser.settings(num_particles=12), SOURCE, state, np.arange(12.0))
    for state, copy in zip(states, copies, strict=True):
        for field, value in zip(fields(state), copy, strict=True):
            np.testing.assert_array_equal(getattr(state, field.name), value)


@every
def test_the_first_candidate_is_the_model_and_the_best_never_falls(name):
    states = run(name, lambda candidates: np.sin(candidates.astype(np.float64) * 9).sum(axis=1), iterations=15)
    np.testing.assert_array_equal(OPTIMISERS[name].ask(states[0])[0], ORIGINAL)
    assert OPTIMISERS[name].ask(states[0]).dtype == np.float32
    best = [state.global_fitness for state in states]
    assert best[1] >= np.sin(ORIGINAL.astype(np.float64) * 9).sum()
    assert (np.diff(best) >= 0).all() and math.isinf(best[0])
    for earlier, later in pairwise(states[1:]):
        assert later.since_gain == (0 if later.global_fitness > earlier.global_fitness else earlier.since_gain + 1)
        assert later.global_fitness == later.best_fitness.max()
        # What is offered has the fitness that is said of it, and the result is among it.
        candidates = later.best_position.astype(np.float32).astype(np.float64)
        np.testing.assert_array_equal(np.sin(candidates * 9).sum(axis=1), later.best_fitness)
        assert (later.best_position == later.global_position).all(axis=1).any()


@every
def test_on_a_plateau_the_model_stays_the_result(name):
    states = run(name, lambda candidates: np.zeros(len(candidates)))
    np.testing.assert_array_equal(states[-1].global_position, ORIGINAL)
    assert states[-1].since_gain == 7
    assert (states[-1].best_position == ORIGINAL).all(axis=1).any()


@every
def test_a_fitness_that_is_not_a_number_counts_for_nothing(name):
    def some(candidates):
        found = ellipsoid(candidates)
        found[1::2] = np.nan
        return found

    last = run(name, some)[-1]
    assert np.isfinite(last.position).all() and math.isfinite(last.global_fitness)
    assert not np.isnan(last.best_fitness).any()
    none = run(name, lambda candidates: np.full(len(candidates), np.nan))[-1]
    assert none.global_fitness == -math.inf and none.since_gain == 8
    np.testing.assert_array_equal(none.global_position, ORIGINAL)
    assert np.isfinite(none.position).all()


@pytest.mark.parametrize("name", [name for name in OPTIMISERS if name != "random"])
def test_each_comes_nearer_than_random_draws(name):
    """The same number of candidates; three seeds, of which each is better."""
    for seed in range(3):
        source = RngKey(seed, "d", 1)
        floor = run("random", iterations=40, source=source, num_particles=20)[-1]
        found = run(name, iterations=40, source=source, num_particles=20)[-1]
        assert found.global_fitness > 0.1 * floor.global_fitness
        assert np.abs(found.global_position - GOAL).max() < 0.4


@pytest.mark.parametrize("name", BOXED)
def test_a_bound_is_kept_and_without_one_candidates_leave_it(name):
    """The smallest weight is below 0 and doubled, the largest one above."""

    def outwards(candidates):
        return np.abs(candidates.astype(np.float64)).sum(axis=1)

    wide = replace(STATS, std=3.0)
    inside = run(name, outwards, iterations=25, stats=wide, bound=2.0)
    assert all((state.position >= -2).all() and (state.position <= 4).all() for state in inside)
    assert inside[-1].global_fitness > 12
    outside = run(name, outwards, iterations=25, stats=wide)
    assert max(np.abs(state.position).max() for state in outside) > 4
    # All above 0: half of the smallest. Of several layers each has its own.
    stats = replace(STATS, low=np.array([0.5, -1, -1, -1, -1]), high=np.full(5, 2.0))
    lowest = min(state.position[:, 0].min() for state in run(name, outwards, iterations=3, stats=stats, bound=2.0)[1:])
    assert lowest >= 0.25


@every
def test_segments_company_and_a_resident_evaluation_change_nothing(name):
    """A search advanced one iteration at a time, or beside another, ends as it does alone."""
    settings = SearchSettings(OPTIMISERS[name].settings(num_particles=8), num_iterations=9, min_iteration_range=9)

    def evaluate(candidates):
        distance = np.abs(candidates.astype(np.float64) - 1).sum(axis=1)
        return np.stack([4 * distance, distance, np.minimum(3, np.floor(4 * np.exp(-distance))), 0 * distance], axis=1)

    state = search.start(settings, SOURCE, ORIGINAL, STATS)
    whole, rows = search.advance(settings, SOURCE, JUDGE, state, evaluate)
    cut, done = state, []
    while cut.stop is None:
        cut, more = search.advance(settings, SOURCE, JUDGE, cut, evaluate, 0.0)
        done += more
    assert same(whole.swarm, cut.swarm) and len(rows) == len(done) == whole.swarm.iteration
    other = RngKey(9, "rows", 6)
    beside = search.start(settings, other, ORIGINAL, STATS)
    searches = [Search(settings, SOURCE, JUDGE), Search(settings, other, JUDGE)]
    (together, _), _ = search.advance_together(searches, [state, beside], evaluate)
    assert same(whole.swarm, together.swarm)
    best = search.offers(searches[0], whole, evaluate, 3)
    np.testing.assert_array_equal(best[0].values, search.result(whole))


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (RandomSettings, {"num_particles": 0}, "num_particles is 0, expected at least 1"),
        (SwarmSettings, {"phi": 4.0}, "velocity_phi is 4.0, expected more than 4"),
        (SwarmSettings, {"phi": math.nan}, "velocity_phi is nan, expected more than 4"),
        (DifferentialSettings, {"num_particles": 3}, "num_particles is 3, expected at least 4 of DE"),
        (RandomSettings, {"bound": 0.5}, "bound is 0.5, expected at least 1 and finite"),
        (RandomSettings, {"bound": math.inf}, "bound is inf, expected at least 1 and finite"),
        (DifferentialSettings, {"factor": 2.5}, "de_factor is 2.5, expected more than 0 and at most 2"),
        (DifferentialSettings, {"crossover": math.nan}, "de_crossover is nan, expected a number from 0 to 1"),
        (SearchSettings, {"num_iterations": 0}, "num_iterations is 0, expected at least 1"),
        (SearchSettings, {"min_iteration_range": 0}, "min_iteration_range is 0, expected at least 1"),
        (SearchSettings, {"num_input_pos_sampled": 0}, "num_input_pos_sampled is 0, expected at least 1"),
        (SearchSettings, {"tiling": Tiling(particles=0)}, "tile_particles is 0, expected at least 1"),
        (SearchSettings, {"tiling": Tiling(rows=-1)}, "tile_rows is -1, expected at least 1"),
        (SearchSettings, {"positive_weight": -1.0}, "positive_weight is -1.0, expected a number of at least 0"),
        (SearchSettings, {"positive_weight": math.nan}, "positive_weight is nan, expected a number of at least 0"),
        (SearchSettings, {"positive_weight": math.inf}, "positive_weight is inf, expected a number of at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, changes, message):
    with pytest.raises(InputError, match=message):
        settings(**changes)


@pytest.mark.parametrize(("name", "least"), [("PSO", 1), ("DE", 4), ("random", 1)])
def test_the_fewest_candidates_are_a_search(name, least):
    last = run(name, iterations=6, num_particles=least)[-1]
    assert last.position.shape == (least, 5) and np.isfinite(last.position).all()
    assert last.global_fitness >= ellipsoid(ORIGINAL[None])[0]


# Differential evolution.


def test_three_others_are_distinct_and_all_as_likely():
    rng = np.random.default_rng(0)
    counts = np.zeros((4, 5))
    for _ in range(2000):
        a, b, c = others(rng, 5)
        drawn = np.stack([np.arange(5), a, b, c])
        assert (np.diff(np.sort(drawn, axis=0), axis=0) > 0).all()
        counts += [np.bincount(row, minlength=5) for row in drawn]
    assert np.abs(counts[1:] / 10_000 - 0.2).max() < 0.02


@pytest.mark.parametrize("factor", [None, 0.8])
def test_a_step_of_differential_evolution_by_hand(factor):
    settings = DifferentialSettings(num_particles=4, factor=factor, crossover=0.4)
    start = differential_evolution.init(settings, SOURCE, ORIGINAL[:3].astype(np.float64), STATS)
    first = differential_evolution.tell(settings, SOURCE, start, np.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_array_equal(first.best_position, start.position)
    # The second trial is worse, the third as good, the last does not beat the global best.
    after = differential_evolution.tell(settings, SOURCE, first, np.array([1.5, 1.0, 3.0, 4.0]))
    parents = np.stack([first.position[0], start.position[1], first.position[2], start.position[3]])
    np.testing.assert_array_equal(after.best_position, parents)
    np.testing.assert_array_equal(after.best_fitness, [1.5, 2.0, 3.0, 4.0])
    assert (after.iteration, after.global_fitness, after.since_gain) == (2, 4.0, 1)

    rng = generator(3, "rows", 6, "trial", 2)
    scale = 0.5 + 0.5 * rng.random() if factor is None else factor
    a, b, c = others(rng, 4)
    drawn = rng.random((4, 3))
    always = rng.integers(3, size=4)
    for i in range(4):
        for k in range(3):
            expected = parents[i, k]
            if k == always[i] or drawn[i, k] < 0.4:
                expected = parents[a[i], k] + scale * (parents[b[i], k] - parents[c[i], k])
            assert after.position[i, k] == pytest.approx(expected, rel=1e-12)
