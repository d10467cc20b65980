"""Batched passes give what the model gives, and the bits of a row depend on that row alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from engine.models.loss import TrainingLoss
from engine.targets.model_runner import ModelRunner

BINARY = TrainingLoss("binary_crossentropy", from_logits=False, stated=True)


@pytest.fixture(params=["quickstart", "functional"])
def subject(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("rows", [1, 64, 100, 300])
def test_predictions_are_the_models_own(subject, rows):
    runner = ModelRunner(subject.model, subject.target, batch_rows=64)
    found = runner.predict(subject.images[:rows])
    expected = subject.model.predict(subject.images[:rows], verbose=0)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected.argmax(axis=1))
    np.testing.assert_allclose(runner.outputs(subject.images[:rows]), expected, rtol=1e-4, atol=1e-6)


def test_the_bits_of_a_row_do_not_depend_on_its_place_nor_on_other_rows(subject):
    """A row has one value, whichever file or order it comes in."""
    runner = ModelRunner(subject.model, subject.target, batch_rows=64)
    outputs = runner.outputs(subject.images)
    inputs, logits = runner.features(subject.images)
    for rows in (1, 10, 64, 65, 200):
        assert runner.outputs(subject.images[:rows]).tobytes() == outputs[:rows].tobytes()
        some_inputs, some_logits = runner.features(subject.images[:rows])
        assert some_inputs.tobytes() == inputs[:rows].tobytes()
        assert some_logits.tobytes() == logits[:rows].tobytes()
    order = np.random.default_rng(1).permutation(300)
    again, logits_again = runner.features(subject.images[order])
    assert again.tobytes() == inputs[order].tobytes()
    assert logits_again.tobytes() == logits[order].tobytes()
    some = order[:130]
    assert runner.layer.logits(inputs[some], subject.old_kernel).tobytes() == logits[some].tobytes()
    assert runner.predict(subject.images[some]).tolist() == runner.predict(subject.images)[some].tolist()


def test_features_give_the_scores(subject):
    runner = ModelRunner(subject.model, subject.target, batch_rows=64)
    inputs, logits = runner.features(subject.images)
    layer = subject.target.layer
    assert inputs.shape == (300, layer.kernel.shape[0])
    assert logits.shape == (300, 10)
    assert inputs.dtype == logits.dtype == np.float32
    np.testing.assert_allclose(logits, inputs @ np.array(layer.kernel) + np.array(layer.bias), rtol=1e-4, atol=1e-4)
    _, own = subject.run(np.empty((0, 2), dtype=int), np.empty(0))
    np.testing.assert_allclose(logits, own, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits.argmax(axis=1), runner.predict(subject.images))


def test_a_layer_without_bias_and_ties(subject_of):
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax", use_bias=False)]
    )
    model.set_weights([np.tile(np.arange(4, dtype=np.float32)[:, None], (1, 3))])
    images = np.random.default_rng(0).normal(size=(7, 2, 2, 1)).astype(np.float32)
    subject = subject_of(model, images, np.zeros(7, dtype=np.int64))
    np.testing.assert_allclose(subject.logits[:, 0], images.reshape(7, 4) @ np.arange(4), rtol=1e-5)
    runner = ModelRunner(model, None, batch_rows=4)
    np.testing.assert_array_equal(runner.predict(images), np.zeros(7))


def test_passes_follow_the_weights_as_they_are_now(functional):
    """A runner is kept while the model is repaired; it must not have frozen the weights it was built with."""
    runner = ModelRunner(functional.model, functional.target, batch_rows=64)
    before = runner.features(functional.images)[1]
    bias = functional.target.layer.bias
    old = np.array(bias)
    bias.assign(old + 5 * np.arange(10, dtype=np.float32))
    try:
        outputs, (_, logits) = runner.outputs(functional.images), runner.features(functional.images)
    finally:
        bias.assign(old)
    np.testing.assert_allclose(logits - before, np.tile(5 * np.arange(10), (300, 1)), atol=1e-4)
    assert (outputs.argmax(axis=1) == 9).mean() > 0.5


def test_dropout_and_normalisation_run_as_in_inference():
    layers = [keras.layers.Flatten(), keras.layers.BatchNormalization(), keras.layers.Dropout(0.9)]
    model = keras.Sequential([keras.Input((4, 4, 1)), *layers, keras.layers.Dense(3, "softmax")])
    images = np.random.default_rng(0).normal(5, 3, (20, 4, 4, 1)).astype(np.float32)
    runner = ModelRunner(model, None, batch_rows=16)
    np.testing.assert_array_equal(runner.outputs(images), runner.outputs(images))
    np.testing.assert_allclose(runner.outputs(images), model.predict(images, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def moved_kernel(quickstart):
    """Another kernel for the shipped model."""
    kernel = quickstart.old_kernel
    return kernel + np.random.default_rng(4).normal(0, kernel.std(), kernel.shape).astype(np.float32)


def test_a_layer_runs_under_any_kernel_as_the_model_would(quickstart, moved_kernel):
    runner = ModelRunner(quickstart.model, quickstart.target, batch_rows=64)
    inputs, own = runner.features(quickstart.images)
    moved = runner.layer.logits(inputs, moved_kernel)
    variable = quickstart.target.layer.kernel
    old = np.array(variable)
    variable.assign(moved_kernel)
    try:
        outputs, (inputs_then, logits_then) = runner.outputs(quickstart.images), runner.features(quickstart.images)
    finally:
        variable.assign(old)
    # What comes before the layer does not know its kernel; the layer has the same bits either way.
    assert inputs_then.tobytes() == inputs.tobytes()
    assert logits_then.tobytes() == moved.tobytes()
    predicted = runner.layer.predicted(moved)
    assert predicted.dtype == np.int64
    np.testing.assert_array_equal(predicted, outputs.argmax(axis=1))
    assert (predicted != runner.layer.predicted(own)).mean() > 0.1
    assert runner.layer.logits(inputs, old).tobytes() == own.tobytes()


def test_predicted_is_by_scores_and_the_first_of_equals(subject_of):
    """Sigmoids of 50 and 60 are both 1."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "sigmoid", use_bias=False)])
    rows = np.zeros((4, 2), np.float32)
    subject = subject_of(model, rows, np.zeros(4, np.int64), BINARY)
    layer = subject.target.layer_passes(64)
    logits = np.array([[-1, 50, 60], [2, 2, 1], [-3, -2, -1], [50, 60, 60]], np.float32)
    assert layer.predicted(logits).tolist() == [1, 0, 2, 0]
    softmax = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax", use_bias=False)])
    layer = subject_of(softmax, rows, np.zeros(4, np.int64)).target.layer_passes(64)
    assert layer.predicted(logits).tolist() == [2, 0, 2, 1]


def test_sums_of_localisation_are_those_of_a_layer_under_that_kernel(quickstart, moved_kernel):
    """From inputs extracted under another kernel, and in blocks that are added up in order."""
    runner = ModelRunner(quickstart.model, quickstart.target, batch_rows=64)
    inputs, labels = runner.inputs(quickstart.images), quickstart.labels
    logits = runner.layer.logits(inputs, moved_kernel)
    found = runner.layer.localisation_sums(inputs, logits, labels, moved_kernel)
    variable = quickstart.target.layer.kernel
    old = np.array(variable)
    variable.assign(moved_kernel)
    try:
        whole = runner.localisation_sums(quickstart.images, labels)
    finally:
        variable.assign(old)
    parts = [
        runner.layer.localisation_sums(inputs[part], logits[part], labels[part], moved_kernel)
        for part in (slice(0, 128), slice(128, 256), slice(256, 300))
    ]
    wide = logits.astype(np.float64)
    share = np.exp(wide - wide.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    share[np.arange(300), labels] -= 1
    by_hand = inputs.astype(np.float64).T @ share
    for sums in (found, whole):
        np.testing.assert_allclose(sums.gradient, by_hand, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(sums.impact, np.abs(inputs.astype(np.float64)).sum(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(sums.first, np.abs(inputs[0]))
        assert sums.rows == 300
    for name in ("gradient", "impact", "first"):
        assert getattr(found, name).tobytes() == getattr(whole, name).tobytes()
        added = getattr(parts[0] + parts[1] + parts[2], name)
        np.testing.assert_allclose(added, getattr(whole, name), rtol=1e-12, atol=1e-12)
