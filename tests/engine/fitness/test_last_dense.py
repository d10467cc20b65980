"""The batched fitness equals the slow formula: weights set in the model, forward pass, float64 losses, counts."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.fitness.last_dense import TiledFitness, unit_widths
from engine.fitness.objective import fitness
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.tiling import Tiling, bucket, combine, plan_tiles
from engine.layers.head import Head
from tests.support.tails import BINARY, BINARY_LOGITS, CATEGORICAL, CATEGORICAL_LOGITS


def spread_index(inputs, units, count, classes, seed=0):
    """`count` distinct kernel positions (K, 2) over exactly `units` units."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(classes)[:units]
    positions = [(i, j) for i in random.permutation(inputs) for j in chosen]
    return random.permutation(np.array(positions[:count]))


def fast_sums(subject, index, candidates, tiling=Tiling()):  # noqa: B008 (frozen)
    rows, weights = subject.problem(index)
    return TiledFitness(subject.target.head, rows, weights, len(candidates), tiling).evaluate(candidates)


def assert_equals_slow(subject, index, candidates, tiling=Tiling(), rtol=1e-5):  # noqa: B008 (frozen)
    slow = subject.sums(index, candidates)
    fast = fast_sums(subject, index, candidates, tiling)
    assert np.isfinite(slow).all()
    np.testing.assert_array_equal(fast[:, 2:], slow[:, 2:])
    np.testing.assert_allclose(fast[:, :2], slow[:, :2], rtol=rtol, atol=0)
    return slow


@pytest.mark.parametrize("name", ["quickstart", "functional", "legacy"])
@pytest.mark.parametrize(
    ("weights", "units"), [(1, 1), (3, 1), (3, 3), (17, 1), (17, 5), (64, 2), (64, 10), (300, 8), (300, 10)]
)
def test_equals_the_slow_formula(request, name, weights, units):
    subject = request.getfixturevalue(name)
    index = spread_index(subject.features.shape[1], units, weights, 10, seed=weights)
    assert index.shape == (weights, 2)
    assert len(np.unique(index[:, 1])) == units
    slow = assert_equals_slow(subject, index, subject.candidates(index, 6, spread=3.0, seed=weights))
    assert slow[0, 2] == 0
    assert slow[0, 3] == (~subject.negative).sum()
    if weights == 300:  # candidates that repair and break are told apart
        assert min(len(set(counts)) for counts in slow[:, 2:].T) > 2


@pytest.mark.parametrize("weights", [3, 64])
def test_confident_rows(quickstart, subject_of, weights):
    confident = keras.models.clone_model(quickstart.model)
    confident.set_weights(quickstart.model.get_weights())
    layer = confident.layers[-1]
    layer.kernel.assign(layer.kernel * 40)
    layer.bias.assign(layer.bias * 40)
    subject = subject_of(confident, quickstart.images, quickstart.labels)
    assert np.abs(subject.logits).max() > 300
    index = spread_index(96, 3, weights, 10)
    slow = assert_equals_slow(subject, index, subject.candidates(index, 5))
    assert slow[:, 0].max() / subject.negative.sum() > 20


@pytest.mark.parametrize("units", [[2], [5], [2, 5], [7], [2, 5, 7]])
def test_exact_ties_go_to_the_first_class(quickstart, subject_of, units):
    tied = keras.models.clone_model(quickstart.model)
    tied.set_weights(quickstart.model.get_weights())
    kernel, bias = tied.layers[-1].get_weights()
    kernel[:, 2], bias[2] = kernel[:, 5], bias[5] = kernel[:, 6], bias[6] + 1
    tied.layers[-1].set_weights([kernel, bias])
    labels = np.where(np.arange(300) % 2, 2, 5)
    subject = subject_of(tied, quickstart.images, labels)
    index = np.array([(i, unit) for unit in units for i in range(20, 26)])
    moves = np.random.default_rng(1).normal(0, 0.1, (4, 6)) * [[0], [1], [1], [1]]
    candidates = (kernel[index[:, 0], index[:, 1]] + np.tile(moves, len(units))).astype(np.float32)
    outputs, _ = subject.run(index, candidates[0])
    ties = outputs[:, 2] == outputs[:, 5]
    assert ties.all()
    assert (outputs.argmax(axis=1) == 2).sum() > 20
    slow = assert_equals_slow(subject, index, candidates)
    assert slow[0, 2] == 0


def head_model(subject_of, classes, activation, loss, rows=200, inputs=24, shift=0.0, scale=0.3):
    """A Dense layer alone on random features, its labels half right."""
    keras.utils.set_random_seed(classes)
    layer = keras.layers.Dense(
        classes,
        activation=activation,
        kernel_initializer=keras.initializers.RandomNormal(stddev=scale),
        bias_initializer=keras.initializers.Constant(shift),
    )
    model = keras.Sequential([keras.Input((inputs,)), keras.layers.Dropout(0.5), layer])
    random = np.random.default_rng(classes)
    features = random.normal(0, 1, (rows, inputs)).astype(np.float32)
    right = np.array(model(features)).argmax(axis=1)
    labels = np.where(random.random(rows) < 0.5, right, random.integers(0, classes, rows))
    return subject_of(model, features, labels, loss)


@pytest.mark.parametrize(("units", "weights"), [(8, 64), (60, 64), (60, 300), (1000, 1000)])
def test_a_thousand_classes(subject_of, units, weights):
    subject = head_model(subject_of, 1000, "softmax", CATEGORICAL)
    index = spread_index(24, units, weights, 1000)
    assert len(np.unique(index[:, 1])) == units
    assert_equals_slow(subject, index, subject.candidates(index, 4, spread=2.0))


HEADS = [
    ("softmax", CATEGORICAL, 0.0),
    ("linear", CATEGORICAL_LOGITS, 0.0),
    ("tanh", CATEGORICAL_LOGITS, 0.0),
    ("sigmoid", CATEGORICAL_LOGITS, 0.0),
    ("linear", CATEGORICAL, 8.0),
    ("relu", CATEGORICAL, 2.0),
    ("sigmoid", CATEGORICAL, 0.0),
    ("hard_sigmoid", CATEGORICAL, 2.0),
    ("softplus", CATEGORICAL, 0.0),
    ("exponential", CATEGORICAL, 0.0),
    ("squareplus", CATEGORICAL, 0.0),
    ("sigmoid", BINARY, 0.0),
    ("hard_sigmoid", BINARY, 0.0),
    ("linear", BINARY_LOGITS, 0.0),
    ("gelu", BINARY_LOGITS, 0.0),
    ("squareplus", BINARY_LOGITS, 0.0),
]


@pytest.mark.parametrize(("units", "weights"), [(3, 17), (10, 64)])
@pytest.mark.parametrize(("activation", "loss", "shift"), HEADS)
def test_heads(subject_of, activation, loss, shift, units, weights):
    subject = head_model(subject_of, 10, activation, loss, shift=shift)
    assert 0 < subject.negative.sum() < 200
    index = spread_index(24, units, weights, 10)
    assert_equals_slow(subject, index, subject.candidates(index, 4))


@pytest.mark.parametrize(
    ("activation", "loss", "scale"),
    [
        ("sigmoid", CATEGORICAL, 5.0),
        ("softplus", CATEGORICAL, 5.0),
        ("exponential", CATEGORICAL, 1.5),
        ("sigmoid", BINARY, 1.0),
        ("sigmoid", BINARY, 5.0),
        ("hard_sigmoid", BINARY, 5.0),
        ("linear", BINARY_LOGITS, 30.0),
        ("linear", CATEGORICAL_LOGITS, 30.0),
    ],
)
def test_confident_heads(subject_of, activation, loss, scale):
    """Scores at or near 0 and 1, where Keras' clipping sets in and 1 - score has few digits left in float32."""
    subject = head_model(subject_of, 10, activation, loss, scale=scale)
    index = spread_index(24, 3, 17, 10)
    candidates = subject.candidates(index, 4)
    slow, fast = subject.sums(index, candidates), fast_sums(subject, index, candidates)
    np.testing.assert_allclose(fast[:, :2], slow[:, :2], rtol=1e-5)
    # Two sigmoids within a few float32 steps of 1 may tie in one compiler's rounding and not in another's.
    np.testing.assert_allclose(fast[:, 2:], slow[:, 2:], atol=3 if activation == "sigmoid" else 0)


@pytest.mark.parametrize("loss", [CATEGORICAL, BINARY])
def test_saturated_scores_tie_and_the_first_class_wins(subject_of, loss):
    subject = head_model(subject_of, 10, "sigmoid", loss, shift=40.0)
    index = spread_index(24, 3, 17, 10)
    candidates = subject.candidates(index, 4)
    assert (subject.run(index, candidates[1])[0] == 1).all()
    np.testing.assert_array_equal(fast_sums(subject, index, candidates)[:, 2:], subject.sums(index, candidates)[:, 2:])


def test_no_weights_at_all_is_the_model_as_it_is(functional):
    index = np.empty((0, 2), dtype=np.int64)
    slow = functional.sums(index, np.empty((3, 0), dtype=np.float32))
    fast = fast_sums(functional, index, np.empty((3, 0), dtype=np.float32))
    np.testing.assert_allclose(fast, slow, rtol=1e-5)


def test_a_row_without_probability_costs_only_its_candidate(subject_of):
    """All scores of relu 0: Keras divides 0 by 0 there, whatever other candidates do."""
    subject = head_model(subject_of, 10, "relu", CATEGORICAL, shift=2.0)
    index = spread_index(24, 10, 240, 10)
    candidates = subject.candidates(index, 3, spread=0.5)
    candidates[1] = -5 * np.abs(candidates[1])
    slow, fast = subject.sums(index, candidates), fast_sums(subject, index, candidates)
    assert np.isnan(slow[1, :2]).all()
    assert np.isnan(fast[1, :2]).all()
    np.testing.assert_allclose(fast[[0, 2]], slow[[0, 2]], rtol=1e-5)


def test_forced_tiles_equal_the_slow_formula(functional):
    index = spread_index(40, 5, 17, 10)
    assert_equals_slow(functional, index, functional.candidates(index, 17, spread=2.0), Tiling(particles=7, rows=64))


@pytest.mark.parametrize("tiling", [Tiling(), Tiling(particles=7, rows=64), Tiling(particles=149, rows=100)])
def test_tiles_in_any_order_and_process_give_the_same_bits(functional, tiling):
    index = spread_index(40, 5, 17, 10)
    candidates = functional.candidates(index, 150, spread=2.0)
    rows, weights = functional.problem(index)
    whole = TiledFitness(functional.target.head, rows, weights, 150, tiling)
    expected = whole.evaluate(candidates)
    first = TiledFitness(functional.target.head, rows, weights, 150, tiling)
    second = TiledFitness(functional.target.head, rows, weights, 150, tiling)
    assert first.tiles == whole.tiles
    assert len(whole.tiles) > 1
    parts = {}
    for place, tile in enumerate(np.random.default_rng(0).permutation(len(whole.tiles))):
        parts[tile] = (first, second)[place % 2].start_tile(tile, candidates)()
    again = combine(whole.tiles, [parts[tile] for tile in range(len(whole.tiles))])
    assert again.tobytes() == expected.tobytes()


SIZES = st.integers(1, 200)


@settings(deadline=None)
@given(SIZES, SIZES, SIZES, st.none() | SIZES, st.none() | SIZES)
def test_tiles_cover_every_pair_exactly_once(particles, rows, units, high, wide):
    tiles = plan_tiles(particles, rows, units, Tiling(high, wide))
    seen = np.zeros((particles, rows), dtype=int)
    for tile in tiles:
        assert 0 < tile.particles[1] - tile.particles[0] <= (high or 128)
        assert 0 < tile.rows[1] - tile.rows[0] <= (wide or 8192)
        seen[slice(*tile.particles), slice(*tile.rows)] += 1
    assert (seen == 1).all()


@given(st.integers(1, 5000), st.integers(1, 10**6), st.integers(1, 2000))
def test_tiles_that_nobody_sized_are_bounded(particles, rows, units):
    tile = plan_tiles(particles, rows, units, Tiling())[0]
    elements = (tile.particles[1] - tile.particles[0]) * (tile.rows[1] - tile.rows[0]) * units
    assert elements <= max(1 << 24, 128 * 256 * units)


@given(st.integers(0, 10**7))
def test_buckets_are_tight(count):
    size = bucket(count)
    assert size >= count
    assert (size - count) * 8 <= size
    assert bucket(size) == size
    assert bucket(count + 1) >= size


def test_buckets_are_few():
    assert len({bucket(count) for count in range(1, 8193)}) <= 16 + 8 * 9
    assert [bucket(count, (1, 3, 16)) for count in (0, 1, 2, 3, 4, 16, 17, 33)] == [1, 1, 3, 3, 16, 16, 18, 36]


def test_ordinary_jobs_share_few_programs():
    """Up to 10 units with up to 16 weights each: 24 shapes, where exact ones would be 160."""
    shapes = set()
    for units in range(1, 11):
        for weights in range(1, 17):
            shapes.add(unit_widths([weights] * units))
    assert len(shapes) <= 24


def test_units_with_many_weights_come_in_four_widths_of_one_job():
    counts = [13, 14, 58, 22, 42, 28, 26, 19, 17, 17]
    assert unit_widths(counts) == (60,) + (45,) + (30,) * 6 + (15,) * 2


@given(st.lists(st.integers(1, 300), min_size=1, max_size=24))
def test_every_unit_finds_room(counts):
    widths = unit_widths(counts)
    assert len(widths) >= len(counts)
    assert all(count <= width for count, width in zip(sorted(counts, reverse=True), widths, strict=False))
    assert list(widths) == sorted(widths, reverse=True)


@pytest.mark.parametrize("weights", [90, 300])
def test_units_of_unequal_width_equal_the_slow_formula(quickstart, weights):
    """Localised weights crowd on some units; the fast way sorts units by their number."""
    random = np.random.default_rng(weights)
    depth = len(quickstart.old_kernel)
    units = random.permutation(10)[: 4 if weights == 90 else 10]
    share = 0.6 ** np.arange(len(units))
    unit = random.choice(units, weights, p=share / share.sum())
    cells = np.unique(np.stack([random.integers(0, depth, weights), unit], axis=1), axis=0)
    assert len(set(unit_widths(np.unique(cells[:, 1], return_counts=True)[1].tolist()))) > 1
    assert_equals_slow(quickstart, cells, quickstart.candidates(cells, 5, spread=2.0, seed=weights))


def test_the_published_formula():
    sums = np.array([[6.0, 2.0, 1.0, 3.0], [0.0, 0.0, 3.0, 4.0]])
    found = fitness(sums, negatives=3, positives=4, positive_weight=4.0)
    np.testing.assert_allclose(found, [(1 + 1) / (2 + 1) + (3 + 1) / (0.5 + 1), 4 + 5])


def test_the_positive_weight_is_what_all_positives_are_worth_together():
    sums = np.array([[0.0, 0.0, 0.0, 10.0]])
    assert fitness(sums, 1, 10, 25.0)[0] == 1 + 25 + 1
    assert fitness(sums, 1, 10, 0.0)[0] == 2
    no_positives = np.array([[1.0, 0.0, 1.0, 0.0]])
    assert fitness(no_positives, 2, 0, 200.0)[0] == 2 / 1.5 + 1


def test_losses_of_the_kinds_do_not_mix():
    """One negative and one positive row by hand: logits (0, 1) and (2, 0), labels 0 and 0, unit 1 moved."""
    rows = SearchRows(
        inputs=np.array([[1.0], [3.0]], dtype=np.float32),
        logits=np.array([[0.0, 1.0], [2.0, 0.0]], dtype=np.float32),
        labels=np.array([0, 0]),
        negative=np.array([True, False]),
    )
    weights = Weights(np.array([0]), np.array([1]), np.array([0.5], dtype=np.float32))
    evaluate = TiledFitness(Head("log_softmax", "linear"), rows, weights, 2, Tiling()).evaluate
    found = evaluate(np.array([[0.5], [-1.0]], dtype=np.float32))
    expected = [
        [np.log1p(np.exp(1.0)), np.log1p(np.exp(-2.0)), 0, 1],
        [np.log1p(np.exp(-0.5)), np.log1p(np.exp(-4.5 - 2.0)), 1, 1],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def random_problem(head, rows, weights, units, kind, classes=10, inputs=24):
    """Rows of one kind or both, and `weights` weights of `units` units, without any model."""
    random = np.random.default_rng(rows + weights)
    negative = {"mixed": random.random(rows) < 0.3, "negative": np.ones(rows, bool), "positive": np.zeros(rows, bool)}
    search_rows = SearchRows(
        random.normal(0, 1, (rows, inputs)).astype(np.float32),
        random.normal(0, 2, (rows, classes)).astype(np.float32),
        random.integers(0, classes, rows),
        negative[kind],
    )
    unit = random.permutation(classes)[np.arange(weights) % units]
    old = random.normal(0, 0.3, weights).astype(np.float32)
    return head, search_rows, Weights(random.integers(0, inputs, weights), unit, old)


# One head of each form, and one whose scores are not its logits; both ways to add a sum up; whole and broken slabs.
COMPANY = [
    (Head("log_softmax", "linear"), 4, 1, 70, "mixed", 100),
    (Head("log_softmax", "linear"), 700, 1, 70, "mixed", 300),
    (Head("log_softmax", "tanh"), 128, 2, 31, "negative", 20),
    (Head("normalised", "sigmoid"), 300, 3, 1000, "mixed", 100),
    (Head("binary", "sigmoid"), 16, 4, 333, "positive", 1),
    (Head("binary_logits", "gelu"), 12, 3, 100, "positive", 100),
    (Head("binary_logits", "linear"), 50, 10, 64, "mixed", 20),
    (Head("log_softmax", "linear"), 100, 20, 100, "mixed", 100),
]


@pytest.mark.parametrize(("head", "weights", "units", "rows", "kind", "particles"), COMPANY)
def test_the_bits_of_a_candidate_do_not_depend_on_its_company(head, weights, units, rows, kind, particles):
    """Swarms share calls, and a search alone, among others and in tiles must be the same search."""
    classes = max(10, 2 * units)
    problem = random_problem(head, rows, weights, units, kind, classes)
    job = TiledFitness(*problem, particles, Tiling())
    random = np.random.default_rng(weights)
    candidates = (problem[2].old + random.normal(0, 0.5, (1200, weights))).astype(np.float32)
    whole = job.evaluate(candidates)
    assert len(np.unique(whole[:, 0] if kind != "positive" else whole[:, 1])) > 1000
    order = random.permutation(1200)
    assert job.evaluate(candidates[order]).tobytes() == whole[order].tobytes()
    alone = [job.evaluate(candidates[place : place + 1]) for place in range(40)]
    assert np.concatenate(alone).tobytes() == whole[:40].tobytes()
    for count in (2, 37):
        for start in random.integers(0, 1200 - count, 8):
            part = slice(start, start + count)
            assert job.evaluate(candidates[part]).tobytes() == whole[part].tobytes()
