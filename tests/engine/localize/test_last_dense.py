"""Localisation equals its definitions: Keras' own gradients, the impact formula, a brute-force Pareto front."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import backend
from engine.charts.pareto import draw_pareto_front
from engine.core.errors import InputError
from engine.localize.fronts import Localisation, Sums, localize, pareto_front, pareto_fronts
from engine.targets.model_runner import ModelRunner
from tests.support.tails import BINARY, BINARY_LOGITS, CATEGORICAL, CATEGORICAL_LOGITS

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30)


def sums_of(gradient, impact=None, first=None, rows=1):
    gradient = np.array(gradient, dtype=np.float64)
    ones = np.ones(len(gradient))
    return Sums(gradient, ones if impact is None else impact, rows, ones if first is None else first)


@given(POINTS)
def test_the_front_is_what_no_other_point_beats(points):
    first, second = np.array(points, dtype=np.float64).T
    expected = [
        i
        for i, (a, b) in enumerate(points)
        if not any(x >= a and y >= b and (x, y) != (a, b) for x, y in points) and points.index((a, b)) == i
    ]
    found = pareto_front(first, second)
    assert found.dtype == np.int64
    assert sorted(found) == expected
    assert (np.diff(first[found]) < 0).all()


def slow_gradient(subject, rows):
    model = subject.model
    true = np.eye(model.output_shape[-1], dtype=np.float32)[subject.labels[rows]]
    formula = getattr(keras.losses, subject.loss.name)
    trainable = [variable.value for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]
    (place,) = (i for i, variable in enumerate(model.trainable_variables) if variable is subject.target.layer.kernel)

    def total(kernel):
        weights = [*trainable[:place], kernel, *trainable[place + 1 :]]
        outputs, _ = model.stateless_call(weights, fixed, subject.images[rows], training=False)
        return keras.ops.sum(formula(true, outputs, from_logits=subject.loss.from_logits))

    return np.array(backend.gradient(total, trainable[place]))


@pytest.mark.parametrize("name", ["quickstart", "functional"])
def test_gradients_are_those_of_the_models_own_loss(request, name):
    subject = request.getfixturevalue(name)
    rows = np.flatnonzero(subject.negative)
    runner = ModelRunner(subject.model, subject.target, batch_rows=64)
    sums = runner.localisation_sums(subject.images[rows], subject.labels[rows])
    expected = slow_gradient(subject, rows)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(sums.gradient, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(sums.impact, np.abs(subject.features[rows]).sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(sums.first, np.abs(subject.features[rows[0]]), rtol=1e-5)
    assert sums.rows == len(rows)
    assert sums.gradient.dtype == sums.impact.dtype == np.float64


@pytest.mark.parametrize(
    ("activation", "loss", "shift"),
    [
        ("linear", CATEGORICAL_LOGITS, 0.0),
        ("softplus", CATEGORICAL, 0.0),
        ("linear", CATEGORICAL, 6.0),
        ("sigmoid", BINARY, 0.0),
        ("hard_sigmoid", BINARY, 0.0),
        ("linear", BINARY_LOGITS, 0.0),
        ("tanh", BINARY_LOGITS, 0.0),
    ],
)
def test_gradients_of_other_heads(subject_of, activation, loss, shift):
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense(5, activation, bias_initializer=keras.initializers.Constant(shift))
    random = np.random.default_rng(0)
    images, labels = random.normal(0, 0.7, (40, 4, 4, 1)).astype(np.float32), random.integers(0, 5, 40)
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), dense])
    subject = subject_of(model, images, labels, loss)
    sums = ModelRunner(model, subject.target, batch_rows=16).localisation_sums(images, labels)
    expected = slow_gradient(subject, np.arange(40))
    np.testing.assert_allclose(sums.gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_gradients_of_a_normalised_sigmoid_follow_its_formula():
    """Keras would take the logits behind a sigmoid for those of a softmax here, so the formula is the judge."""
    from engine.layers.head import Head, row_losses

    logits = np.random.default_rng(0).normal(0, 2, (6, 4))
    true = np.eye(4)[[0, 1, 2, 3, 0, 1]]
    found = backend.gradient(
        lambda x: keras.ops.sum(row_losses(Head("normalised", "sigmoid"), x, backend.on_device(true))),
        backend.on_device(logits),
    )
    scores = 1 / (1 + np.exp(-logits))
    by_score = 1 / scores.sum(axis=1, keepdims=True) - true / scores
    np.testing.assert_allclose(np.array(found), by_score * scores * (1 - scores), rtol=1e-9)


def test_rows_in_blocks_add_up_and_padding_adds_nothing(quickstart):
    runner = ModelRunner(quickstart.model, quickstart.target, batch_rows=64)
    images, labels = quickstart.images[:150], quickstart.labels[:150]
    whole = runner.localisation_sums(images, labels)
    blocks = runner.localisation_sums(images[:64], labels[:64])
    blocks += runner.localisation_sums(images[64:128], labels[64:128])
    blocks += runner.localisation_sums(images[128:], labels[128:])
    for name in ("gradient", "impact", "first"):
        assert getattr(blocks, name).tobytes() == getattr(whole, name).tobytes()
    assert blocks.rows == whole.rows == 150
    # Blocks that fill no batch, and a batch larger than all rows.
    odd = runner.localisation_sums(images[:70], labels[:70]) + runner.localisation_sums(images[70:], labels[70:])
    large = ModelRunner(quickstart.model, quickstart.target, batch_rows=256).localisation_sums(images, labels)
    for other in (odd, large):
        np.testing.assert_allclose(other.gradient, whole.gradient, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(other.impact, whole.impact, rtol=1e-6)
        np.testing.assert_allclose(other.first, whole.first, rtol=1e-6)


def test_no_rows_have_no_sums(quickstart):
    runner = ModelRunner(quickstart.model, quickstart.target, batch_rows=64)
    with pytest.raises(ValueError, match="at least one row"):
        runner.localisation_sums(quickstart.images[:0], quickstart.labels[:0])


def test_forward_impact_is_the_mean_over_rows_or_the_first_alone():
    sums = sums_of([[3.0, -4.0], [1.0, 2.0]], impact=np.array([6.0, 3.0]), first=np.array([5.0, 0.5]), rows=3)
    kernel = np.array([[1.0, -2.0], [0.5, 4.0]], dtype=np.float32)
    found = localize(sums, kernel)
    assert list(zip(found.row, found.unit, strict=True)) == [(0, 1), (0, 0), (1, 1), (1, 0)]
    np.testing.assert_array_equal(found.gradient_loss, [4, 3, 2, 1])
    np.testing.assert_array_equal(found.forward_impact, [2 * 2, 2 * 1, 1 * 4, 1 * 0.5])
    np.testing.assert_array_equal(found.front, [0])
    toolkit = localize(sums, kernel, impact="first-row")
    np.testing.assert_array_equal(toolkit.forward_impact, [5 * 2, 5 * 1, 0.5 * 4, 0.5 * 0.5])


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**32))
def test_the_pool_equals_a_plain_sort(inputs, units, size, seed):
    random = np.random.default_rng(seed)
    gradient = random.integers(-3, 4, (inputs, units)).astype(float)
    found = localize(sums_of(gradient), np.ones((inputs, units), dtype=np.float32), num_grad=size)
    places = sorted((-abs(gradient[i, j]), j, i) for i in range(inputs) for j in range(units))
    assert [(j, i) for _, j, i in places[:size]] == list(zip(found.unit, found.row, strict=True))


def test_the_size_of_the_pool():
    gradient, kernel = np.arange(100.0).reshape(50, 2), np.ones((50, 2), dtype=np.float32)
    assert len(localize(sums_of(gradient, rows=2), kernel).row) == 40
    assert len(localize(sums_of(gradient, rows=9), kernel).row) == 100
    assert len(localize(sums_of(gradient, rows=9), kernel, num_grad=7).row) == 7
    assert len(localize(sums_of(gradient), kernel, num_grad=1000).row) == 100
    with pytest.raises(InputError, match="num_grad is 0, expected at least 1"):
        localize(sums_of(gradient), kernel, num_grad=0)


def test_the_plot_is_a_png_of_640_by_480(tmp_path):
    path = tmp_path / "new" / "pareto_front.png"
    loss, force = np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 0.5])
    found = Localisation(np.arange(3), np.zeros(3, dtype=np.int64), loss, force, pareto_front(loss, force))
    for _ in range(2):
        draw_pareto_front(path, found)
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n")
        assert (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")) == (640, 480)
        assert [file.name for file in path.parent.iterdir()] == ["pareto_front.png"]


def test_more_fronts_than_points_are_all_points() -> None:
    first, second = np.array([1.0, 2.0, 2.0, 0.0]), np.array([1.0, 2.0, 2.0, 0.0])
    assert pareto_fronts(first, second, 10**18).tolist() == [0, 1, 2, 3]
