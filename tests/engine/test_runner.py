"""Batched passes give what the model gives, and the bits of a row depend on that row alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from engine.runner import ModelRunner


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


def test_the_bits_of_a_row_do_not_depend_on_the_rows_after_it(subject):
    runner = ModelRunner(subject.model, subject.target, batch_rows=64)
    outputs = runner.outputs(subject.images)
    inputs, logits = runner.features(subject.images)
    for rows in (1, 10, 64, 65, 200):
        assert runner.outputs(subject.images[:rows]).tobytes() == outputs[:rows].tobytes()
        some_inputs, some_logits = runner.features(subject.images[:rows])
        assert some_inputs.tobytes() == inputs[:rows].tobytes()
        assert some_logits.tobytes() == logits[:rows].tobytes()
    blocks = [runner.outputs(subject.images[start : start + 128]) for start in range(0, 300, 128)]
    assert np.concatenate(blocks).tobytes() == outputs.tobytes()


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
