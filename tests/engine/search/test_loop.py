"""A search: its stop rules, that segments change nothing, and that the real thing repairs what it says."""

from __future__ import annotations

import time
from dataclasses import fields, replace

import numpy as np
import pytest

from engine.core.rng import RngKey
from engine.fitness.objective import Objective
from engine.fitness.rows import SearchRows, Weights
from engine.layers.weight_stats import WeightStats
from engine.problem.problem import Problem, objective_of, prepare, sample_positives
from engine.search import loop as search
from engine.search.loop import POSITIVE_WORTH, TOGETHER, Search, SearchSettings
from engine.search.swarm import SwarmSettings, SwarmState

SOURCE = RngKey(seed=3, data="rows", label=6)
SPREAD = WeightStats(mean=0.0, std=1.0, range=4.0)
ORIGINAL = np.zeros(3, dtype=np.float32)
JUDGE = Objective(negatives=4, positives=6, positive_weight=6.0)


def bowl(candidates):
    """Sums of four negatives and six positives that get better towards 1 and are never all right."""
    distance = np.abs(candidates.astype(np.float64) - 1).sum(axis=1)
    patched = np.minimum(3, np.floor(4 * np.exp(-distance)))
    return np.stack([4 * distance, distance, patched, np.full(len(distance), 5.0)], axis=1)


def settings_of(**changes):
    return SearchSettings(swarm=SwarmSettings(num_particles=8), **changes)


def run(evaluate, settings, objective=JUDGE):
    """A search until it is over."""
    return alone(Search(settings, SOURCE, objective), search.start(settings, SOURCE, ORIGINAL, SPREAD), evaluate)


def same(first, second):
    pairs = [(getattr(first.swarm, f.name), getattr(second.swarm, f.name)) for f in fields(SwarmState)]
    pairs += [(first.best_sums, second.best_sums), (first.start_fitness, second.start_fitness)]
    return first.stop == second.stop and all(np.array_equal(a, b) for a, b in pairs)


def rows_of(iterations):
    return [replace(iteration, seconds=0.0) for iteration in iterations]


def test_stops_when_everything_is_solved():
    calls = []

    def evaluate(candidates):
        calls.append(len(candidates))
        sums = bowl(candidates)
        if len(calls) == 3:
            sums[5] = [0.1, 0.1, 4, 6]
        return sums

    state, done = run(evaluate, settings_of())
    assert state.stop == "solved"
    assert len(done) == len(calls) == 3
    np.testing.assert_array_equal(state.best_sums, [0.1, 0.1, 4, 6])
    assert (done[-1].patched, done[-1].intact) == (4, 6)


@pytest.mark.parametrize(
    ("sums", "stop", "iterations"),
    [
        ([0.1, 0.1, 4.0, 6.0], "solved", 1),
        ([0.1, 0.1, 4.0, 5.0], "no gain", 5),  # all repaired at the cost of a positive
        ([4.0, 1.0, 0.0, 6.0], "no gain", 5),  # the first iteration is a gain over nothing
        ([np.nan] * 4, "no gain", 4),
    ],
)
def test_where_all_candidates_are_alike_the_model_stays(sums, stop, iterations):
    state, done = run(lambda candidates: np.tile(sums, (8, 1)), settings_of(min_iteration_range=4))
    assert (state.stop, len(done)) == (stop, iterations)
    assert state.swarm.since_gain == (0 if stop == "solved" else 4)
    np.testing.assert_array_equal(search.result(state), ORIGINAL)


def test_stops_after_the_iterations():
    state, done = run(bowl, settings_of(num_iterations=7, min_iteration_range=100))
    assert state.stop == "iterations"
    assert [iteration.iteration for iteration in done] == list(range(1, 8))
    assert [iteration.evaluations for iteration in done] == [8 * n for n in range(1, 8)]


def test_rows_tell_the_best_so_far():
    state, done = run(bowl, settings_of(num_iterations=30))
    best = [iteration.best for iteration in done]
    assert (np.diff(best) >= 0).all()
    assert best[-1] > best[0] >= state.start_fitness
    assert state.start_fitness == JUDGE.fitness(bowl(ORIGINAL[None]))[0]
    sums = bowl(search.result(state)[None])[0]
    np.testing.assert_array_equal(state.best_sums, sums)
    last = done[-1]
    assert (last.patched, last.intact, last.loss_neg, last.loss_pos) == (sums[2], sums[3], sums[0] / 4, sums[1] / 6)
    assert last.best == JUDGE.fitness(sums[None])[0]
    assert all(iteration.mean <= iteration.best for iteration in done)


def test_candidates_without_a_finite_loss_are_passed_over():
    def evaluate(candidates):
        sums = bowl(candidates)
        sums[1:4, :2] = np.nan
        return sums

    state, done = run(evaluate, settings_of(num_iterations=5))
    assert np.isfinite(state.best_sums).all()
    assert np.isfinite([iteration.mean for iteration in done]).all()


def test_no_positives_is_a_search_too():
    def evaluate(candidates):
        return bowl(candidates) * [1, 0, 1, 0]

    state, done = run(evaluate, settings_of(num_iterations=5), objective=Objective(4, 0, 0.0))
    assert state.stop == "iterations"
    assert done[-1].loss_pos == 0


def numbered_rows(negatives, positives):
    count = negatives + positives
    numbers = np.arange(count, dtype=np.float32)
    negative = np.arange(count) % (count // negatives) == 0
    assert negative.sum() == negatives
    return SearchRows(numbers[:, None], np.stack([numbers, -numbers], axis=1), np.arange(count) % 2, negative)


def test_sampled_positives_come_from_the_seed_and_keep_their_order():
    rows = numbered_rows(10, 90)
    kept = sample_positives(rows, SOURCE, 20)
    assert kept.negative.sum() == 10
    assert (~kept.negative).sum() == 20
    numbers = kept.inputs[:, 0]
    assert (np.diff(numbers) > 0).all()
    np.testing.assert_array_equal(kept.logits[:, 1], -numbers)
    np.testing.assert_array_equal(kept.labels, numbers.astype(int) % 2)
    np.testing.assert_array_equal(sample_positives(rows, SOURCE, 20).inputs, kept.inputs)
    assert not np.array_equal(sample_positives(rows, replace(SOURCE, seed=4), 20).inputs, kept.inputs)
    for enough in (None, 90, 1000):
        assert sample_positives(rows, SOURCE, enough) is rows


def test_the_positive_weight_follows_all_positives_whatever_is_sampled_unless_it_is_given():
    rows = numbered_rows(10, 90)
    for searched, positives in ((rows, 90), (sample_positives(rows, SOURCE, 20), 20)):
        assert objective_of(SearchSettings(), searched, rows) == Objective(10, positives, POSITIVE_WORTH * 90)
        assert objective_of(SearchSettings(positive_weight=7.0), searched, rows) == Objective(10, positives, 7.0)


@pytest.fixture(scope="module")
def quickstart_problem(quickstart):
    """Twelve weights of the shipped model, searched on all of its rows."""
    index = np.array([(i, j) for i in range(30, 36) for j in (2, 6)])
    rows, weights = quickstart.problem(index)
    settings = SearchSettings(
        swarm=SwarmSettings(num_particles=20), num_iterations=12, num_input_pos_sampled=150, positive_weight=20.0
    )
    spread = WeightStats.of(quickstart.old_kernel)
    return index, rows, Problem("job", quickstart.target.head, weights, spread, SOURCE, settings)


def solve(problem, rows, evaluate=None, seconds=float("inf")):
    prepared = prepare(problem, rows)
    state = problem.start()
    while state.stop is None:
        state, _ = search.advance(
            problem.settings, problem.source, prepared.objective, state, evaluate or prepared.fitness.evaluate, seconds
        )
    return state, prepared


def test_what_a_real_search_believes_is_what_the_model_does(quickstart, quickstart_problem):
    index, rows, problem = quickstart_problem
    state, prepared = solve(problem, rows)
    assert prepared.objective == Objective(int(quickstart.negative.sum()), 150, 20.0)
    assert state.swarm.global_fitness > state.start_fitness
    sampled = sample_positives(rows, SOURCE, 150)
    kept = np.isin(rows.inputs[:, 0].view(np.int32), sampled.inputs[:, 0].view(np.int32))
    kept &= (rows.logits[:, None, 0] == sampled.logits[None, :, 0]).any(axis=1)
    assert kept.sum() == len(sampled.labels)
    outputs, logits = quickstart.run(index, search.result(state))
    correct, losses = outputs.argmax(axis=1) == quickstart.labels, quickstart.losses(logits)
    groups = [quickstart.negative & kept, ~quickstart.negative & kept]
    np.testing.assert_allclose(state.best_sums[:2], [losses[group].sum() for group in groups], rtol=1e-5)
    np.testing.assert_array_equal(state.best_sums[2:], [correct[group].sum() for group in groups])


def test_a_search_without_weights_ends_with_the_model_as_it_is(quickstart, quickstart_problem):
    _, rows, problem = quickstart_problem
    none = np.empty(0, dtype=np.int64)
    empty = replace(problem, weights=Weights(none, none, np.empty(0, dtype=np.float32)))
    state, _ = solve(empty, SearchRows(rows.inputs[:, :0], rows.logits, rows.labels, rows.negative))
    assert state.stop == "no gain"
    assert search.result(state).shape == (0,)
    assert (state.best_sums[2], state.best_sums[3]) == (0, 150)


def alone(one_search, state, evaluate):
    """A search by itself until it is over."""
    done = []
    while state.stop is None:
        state, more = search.advance(one_search.settings, one_search.source, one_search.objective, state, evaluate)
        done += more
    return state, done


def together(searches, states, evaluate, seconds):
    """Searches beside each other until all are over; states, iterations and the number of segments."""
    done, segments = [[] for _ in searches], 0
    while any(state.stop is None for state in states):
        states, more = search.advance_together(searches, states, evaluate, seconds)
        done = [rows + new for rows, new in zip(done, more, strict=True)]
        segments += 1
    return states, done, segments


def company(seeds=7):
    """Searches that stop at different times and for different reasons, with different positive weights."""
    searches = []
    for seed in range(seeds):
        settings = settings_of(num_iterations=2 + 5 * (seed % 4), min_iteration_range=3 + seed)
        objective = replace(JUDGE, positive_weight=float(3 * seed))
        searches.append(Search(settings, replace(SOURCE, seed=seed), objective))
    return searches


def begin(searches):
    return [search.start(one_search.settings, one_search.source, ORIGINAL, SPREAD) for one_search in searches]


@pytest.mark.parametrize("seconds", [0.0, 0.001, float("inf")])
@pytest.mark.parametrize("count", [1, 3, TOGETHER, 7])
def test_searches_together_are_the_searches_alone(count, seconds):
    searches = company(count)
    calls = []

    def evaluate(candidates):
        calls.append(len(candidates))
        return bowl(candidates)

    states, done, segments = together(searches, begin(searches), evaluate, seconds)
    assert max(calls) == min(TOGETHER, count) * 8
    for one_search, state, rows, first in zip(searches, states, done, begin(searches), strict=True):
        expected, iterations = alone(one_search, first, bowl)
        assert same(state, expected)
        assert rows_of(rows) == rows_of(iterations)
    lengths = [len(rows) for rows in done]
    if count > 1:
        assert len(set(lengths)) > 1
    if seconds == 0.0:
        assert segments == len(calls) >= max(lengths)
    if seconds == float("inf"):
        assert segments == 1


def test_a_search_of_a_company_that_is_over_waits_as_it_is():
    searches = company(5)
    states = begin(searches)
    states[1], _ = alone(searches[1], states[1], bowl)
    after, done = search.advance_together(searches, states, bowl)
    assert after[1] is states[1]
    assert done[1] == []
    assert all(state.stop for state in after)
    assert search.advance_together(searches, after, bowl) == (after, [[], [], [], [], []])


def test_a_segment_ends_when_its_time_has_passed():
    searches = company(6)
    states, done = search.advance_together(searches, begin(searches), bowl, seconds=0.0)
    assert [len(rows) for rows in done] == [1, 1, 1, 1, 0, 0]
    assert [state.swarm.iteration for state in states] == [1, 1, 1, 1, 0, 0]


def test_the_time_of_a_call_is_shared():
    def slow(candidates):
        time.sleep(0.02)
        return bowl(candidates)

    searches = company(4)
    begun = time.perf_counter()
    _, done = search.advance_together(searches, begin(searches), slow, seconds=0.0)
    elapsed = time.perf_counter() - begun
    seconds = [row.seconds for rows in done for row in rows]
    assert len(set(seconds)) == 1
    assert 0.02 <= sum(seconds) <= elapsed


def ended(evaluate, seed=3, objective=JUDGE, **changes):
    one = Search(settings_of(**changes), replace(SOURCE, seed=seed), objective)
    state, _ = alone(one, search.start(one.settings, one.source, ORIGINAL, SPREAD), evaluate)
    return one, state


def plateaus(candidates):
    """Sums that many candidates share: they tell only how many of the three weights are close to 1."""
    close = (np.abs(candidates - 1) < 0.7).sum(axis=1).astype(np.float64)
    return np.stack([4 - close, np.ones_like(close), close, 6 - (close > 2)], axis=1)


@pytest.mark.parametrize("count", [1, 2, 3, 100])
@pytest.mark.parametrize("evaluate", [bowl, plateaus])
def test_offers_are_the_best_few_that_differ_in_what_they_get_right(evaluate, count):
    one, state = ended(evaluate, num_iterations=4)
    offered = search.offers(one, state, evaluate, count)
    values = [offer.values for offer in offered]
    assert all(array.dtype == np.float32 and array.shape == (3,) for array in values)
    sums = evaluate(np.stack(values))
    fitness = one.objective.fitness(sums)
    assert [offer.fitness for offer in offered] == list(fitness)
    assert (np.diff(fitness) <= 0).all()
    assert offered[0].fitness == state.swarm.global_fitness
    assert values[0].tobytes() == search.result(state).tobytes()
    kinds = [tuple(row) for row in sums[:, 2:]]
    assert len(set(kinds)) == len(kinds)
    # By hand: of every kind the fittest, and of these the best `count`.
    everything = state.swarm.best_position.astype(np.float32)
    best = {}
    for row, worth in zip(evaluate(everything), one.objective.fitness(evaluate(everything)), strict=True):
        best[tuple(row[2:])] = max(worth, best.get(tuple(row[2:]), -np.inf))
    assert [offer.fitness for offer in offered] == sorted(best.values(), reverse=True)[:count]
    assert len(best) > 1


def test_of_candidates_as_fit_as_each_other_the_result_is_offered_first():
    """A particle before it may have come to the same fitness later."""
    seen = 0
    for seed in range(12):
        one, state = ended(plateaus, seed=seed, num_iterations=8)
        offered = search.offers(one, state, plateaus, 3)
        assert offered[0].values.tobytes() == search.result(state).tobytes()
        first = int(np.argmax(state.swarm.best_fitness))
        seen += not np.array_equal(state.swarm.best_position[first], state.swarm.global_position)
    assert seen > 2


def test_candidates_without_a_fitness_are_offered_last():
    def evaluate(candidates):
        sums = bowl(candidates)
        sums[candidates[:, 0] > 0.5, :2] = np.nan
        sums[:, 3] = candidates[:, 0] > 0.5
        return sums

    one, state = ended(evaluate, num_iterations=1)
    assert np.isneginf(state.swarm.best_fitness).any()
    offered = search.offers(one, state, evaluate, 100)
    numbers = [offer.fitness for offer in offered]
    finite = [number for number in numbers if not np.isnan(number)]
    assert 0 < len(finite) < len(numbers)
    assert numbers[: len(finite)] == sorted(finite, reverse=True)
    assert offered[0].values.tobytes() == search.result(state).tobytes()


def test_a_search_without_any_fitness_offers_the_model_as_it_is():
    def evaluate(candidates):
        return np.tile([np.nan, np.nan, 0.0, 6.0], (len(candidates), 1))

    one, state = ended(evaluate, min_iteration_range=2)
    (offer,) = search.offers(one, state, evaluate, 3)
    assert np.isnan(offer.fitness)
    np.testing.assert_array_equal(offer.values, ORIGINAL)
