"""Losses of rows are what Keras' own `evaluate` averages."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from engine.models.loss import parse_loss
from engine.passes.losses import output_losses

CLASSES = 4


@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        ("softmax", "categorical_crossentropy"),
        ("softplus", "categorical_crossentropy"),
        ("linear", keras.losses.CategoricalCrossentropy(from_logits=True)),
        ("sigmoid", "binary_crossentropy"),
        ("linear", keras.losses.BinaryCrossentropy(from_logits=True)),
    ],
)
def test_as_keras_has_them(activation: str, loss: object) -> None:
    random = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    images = random.normal(0, 1, (50, 6)).astype(np.float32)  # where sigmoids round to 1, ours are not Keras' own
    labels = random.integers(0, CLASSES, 50)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(CLASSES, activation=activation)])
    model.compile(loss=loss, run_eagerly=True)
    outputs = np.asarray(model(images, training=False))
    stored = keras.saving.serialize_keras_object(loss) if not isinstance(loss, str) else loss
    found = output_losses(parse_loss(stored, model, source="model"), model, outputs, labels)
    assert found.shape == (50,)
    one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
    for row in range(3):
        alone = model.evaluate(images[row : row + 1], one_hot[row : row + 1], verbose=0)
        assert found[row] == pytest.approx(alone, rel=1e-4, abs=1e-6)
    assert found.mean() == pytest.approx(model.evaluate(images, one_hot, verbose=0), rel=1e-4)


def test_a_sure_mistake_of_a_softmax_is_not_cut_off() -> None:
    """Its probability of the true class is 1e-26: Keras takes the loss from the logits, 60."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Softmax()])
    outputs = np.asarray(model(np.array([[60, 0]], np.float32)))
    loss = parse_loss("categorical_crossentropy", model, source="model")
    assert output_losses(loss, model, outputs, np.array([1])) == pytest.approx([60])
    behind = keras.Sequential([keras.Input((2,)), keras.layers.Softmax(), keras.layers.Flatten()])
    assert output_losses(loss, behind, outputs, np.array([1])) == pytest.approx([60])
    sigmoid = keras.Sequential([keras.Input((2,)), keras.layers.Activation("sigmoid")])
    assert output_losses(loss, sigmoid, outputs, np.array([1])) == pytest.approx([-np.log(1e-7)])
