"""Which layer is under repair, and how scores and losses follow from it."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from engine import backend
from engine.core.errors import InputError
from engine.layers.head import ELEMENTWISE, Head, row_losses
from engine.targets.last_dense import find_target
from tests.support.tails import BINARY, BINARY_LOGITS, CATEGORICAL, CATEGORICAL_LOGITS

PATH = Path("folder/model.keras")

layers = keras.layers


def sequential(*tail, first=()):
    return keras.Sequential([keras.Input((4, 4, 1)), *first, layers.Flatten(name="flat"), *tail])


def functional(*tail):
    images = keras.Input((4, 4, 1), name="images")
    x = layers.Dense(7, name="hidden")(layers.Flatten(name="flat")(images))
    for layer in tail:
        x = layer(x)
    return keras.Model(images, x)


def dense(activation=None, units=3):
    return layers.Dense(units, activation, name="scores")


@pytest.mark.parametrize("model", [sequential, functional])
@pytest.mark.parametrize(
    "tail",
    [
        lambda: [dense("softmax")],
        lambda: [dense(), layers.Activation("softmax")],
        lambda: [dense(), layers.Softmax()],
        lambda: [dense("softmax"), layers.Dropout(0.5)],
        lambda: [layers.Dropout(0.5), dense(), layers.Dropout(0.5), layers.Activation("softmax")],
        lambda: [dense("softmax"), layers.Activation("linear")],
    ],
)
def test_finds_the_last_dense_layer(model, tail):
    built = model(*tail())
    target = find_target(built, CATEGORICAL, 3, PATH)
    assert target.layer is built.get_layer("scores")
    assert target.path == "scores/kernel"
    assert target.head == Head("log_softmax", "linear")
    assert built.layers[target.number] is target.layer


def test_numbers_count_the_input_of_a_functional_model_only():
    assert find_target(sequential(dense("softmax")), CATEGORICAL, 3, PATH).number == 1
    assert find_target(functional(dense("softmax")), CATEGORICAL, 3, PATH).number == 3


@pytest.mark.parametrize(
    ("activation", "loss", "expected"),
    [
        ("softmax", CATEGORICAL, Head("log_softmax", "linear")),
        (None, CATEGORICAL_LOGITS, Head("log_softmax", "linear")),
        (None, CATEGORICAL, Head("normalised", "linear")),
        ("sigmoid", CATEGORICAL, Head("normalised", "sigmoid")),
        ("relu", CATEGORICAL_LOGITS, Head("log_softmax", "relu")),
        ("sigmoid", BINARY, Head("binary", "sigmoid")),
        (None, BINARY_LOGITS, Head("binary_logits", "linear")),
    ],
)
def test_the_head_follows_from_activation_and_loss(activation, loss, expected):
    assert find_target(sequential(dense(activation)), loss, 3, PATH).head == expected
    if activation:
        apart = sequential(dense(), layers.Activation(activation))
        assert find_target(apart, loss, 3, PATH).head == expected


def test_the_asked_layer_is_taken_when_it_is_the_one():
    model = functional(dense("softmax"))
    assert find_target(model, CATEGORICAL, 3, PATH, 3).layer is model.get_layer("scores")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (9, r"found layer number 9, expected 0 to 3 \('scores'\)"),
        (-1, r"found layer number -1, expected 0 to 3"),
        (0, r"model.keras: target layer 0 \(images\) has no weights, expected a Dense layer"),
        (1, r"model.keras: target layer 1 \(flat\) has no weights, expected a Dense layer"),
        (
            2,
            r"model.keras: target layer 2 \(hidden\) does not give the 3 class scores, expected layer 3 \(scores\)",
        ),
    ],
)
def test_another_asked_layer_is_refused(number, message):
    with pytest.raises(InputError, match=message):
        find_target(functional(dense("softmax")), CATEGORICAL, 3, PATH, number)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (lambda: [layers.Dense(3, name="d"), layers.Reshape((3,), name="r")], r"ends with r \(Reshape\)"),
        (lambda: [layers.Dense(3, name="d"), layers.BatchNormalization(name="b")], r"ends with b \(BatchNorm"),
        (lambda: [layers.Activation("softmax", name="a")], r"ends with a \(Activation\)"),
        (lambda: [dense(units=4), layers.Activation("softmax", name="a")], r"ends with a \(Activation\)"),
    ],
)
def test_a_model_that_ends_otherwise_is_refused(tail, message):
    with pytest.raises(InputError, match=f"^folder/model.keras: the model {message}.* expected a Dense layer of 3"):
        find_target(sequential(*tail()), CATEGORICAL, 3, PATH)


def test_an_asked_layer_of_a_model_that_ends_otherwise():
    model = sequential(layers.Dense(3, name="d"), layers.Reshape((3,), name="r"))
    with pytest.raises(InputError, match=r"target layer 1 \(d\) does not give .* expected a final Dense layer$"):
        find_target(model, CATEGORICAL, 3, PATH, 1)


@keras.saving.register_keras_serializable("tests")
def unheard_of(x):
    return x


@pytest.mark.parametrize("activation", ["log_softmax", "sparsemax", "glu", unheard_of])
def test_an_activation_over_several_classes_or_of_ones_own_is_refused(activation):
    with pytest.raises(InputError, match=r"the last activation is .*, expected softmax or an elementwise"):
        find_target(sequential(dense(activation, units=4)), CATEGORICAL, 4, PATH)


def test_several_activations_are_refused():
    model = sequential(dense("relu"), layers.Activation("softmax"))
    with pytest.raises(InputError, match=r"scores is followed by several activations \(relu, softmax\)"):
        find_target(model, CATEGORICAL, 3, PATH)


def test_softmax_with_binary_loss_is_refused():
    with pytest.raises(InputError, match="softmax with binary cross-entropy, expected categorical"):
        find_target(sequential(dense("softmax")), BINARY, 3, PATH)


@pytest.mark.parametrize("activation", sorted(ELEMENTWISE))
def test_elementwise_activations_are_elementwise(activation):
    logits = np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6)
    head = find_target(sequential(dense(activation)), CATEGORICAL_LOGITS, 3, PATH).head
    scores = np.array(head.scores(keras.ops.convert_to_tensor(logits)))
    apart = [np.array(head.scores(keras.ops.convert_to_tensor(logits[:, i : i + 1]))) for i in range(6)]
    np.testing.assert_allclose(scores, np.concatenate(apart, axis=1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("head", "loss", "activation"),
    [
        (Head("log_softmax", "linear"), CATEGORICAL_LOGITS, "linear"),
        (Head("normalised", "sigmoid"), CATEGORICAL, "sigmoid"),
        (Head("normalised", "relu"), CATEGORICAL, "relu"),
        (Head("binary", "sigmoid"), BINARY, "sigmoid"),
        (Head("binary", "hard_sigmoid"), BINARY, "hard_sigmoid"),
        (Head("binary", "tanh"), BINARY, "tanh"),
        (Head("binary_logits", "linear"), BINARY_LOGITS, "linear"),
    ],
)
def test_row_losses_are_those_of_keras(head, loss, activation):
    """In float64, with scores that Keras clips."""
    logits = np.random.default_rng(2).normal(0.5, 12, (50, 4))
    labels = np.random.default_rng(3).integers(0, 4, 50)
    logits[np.arange(50), labels] += 6
    logits[:, 0] = np.abs(logits[:, 0])
    true = np.eye(4)[labels]
    scores = np.array(backend.activation(activation)(keras.ops.convert_to_tensor(logits)))
    expected = np.array(getattr(keras.losses, loss.name)(true, scores, from_logits=loss.from_logits))
    found = np.array(row_losses(head, *map(keras.ops.convert_to_tensor, (logits, true))))
    assert found.dtype == np.float64
    assert found.shape == (50,)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
