"""Predictions of patches equal those of a model with the patch in its kernel."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.fitness.last_dense import LOWEST
from engine.layers.head import Head
from engine.models.loss import TrainingLoss
from engine.passes import runners
from engine.passes.runners import predict_patched

SOFTMAX = Head("log_softmax", "linear")
CATEGORICAL = TrainingLoss("categorical_crossentropy", from_logits=False, stated=True)
BINARY = TrainingLoss("binary_crossentropy", from_logits=False, stated=True)


@pytest.fixture(scope="module")
def sigmoid_headed(quickstart, subject_of):
    """The shipped model with a sigmoid for its softmax and binary cross-entropy for its loss."""
    model = keras.models.clone_model(quickstart.model)
    model.set_weights(quickstart.model.get_weights())
    model.layers[-1].activation = keras.activations.sigmoid
    return subject_of(model, quickstart.images, quickstart.labels, BINARY)


def close_calls(outputs):
    """Rows whose two highest outputs are so near to each other that rounding may swap them."""
    highest = np.sort(outputs, axis=1)[:, -2:]
    return highest[:, 1] - highest[:, 0] < 1e-5


@settings(max_examples=12)
@given(st.data())
@pytest.mark.parametrize("name", ["quickstart", "functional", "sigmoid_headed"])
def test_equals_the_model_with_the_kernel_set(request, name, data):
    subject = request.getfixturevalue(name)
    depth = subject.features.shape[1]
    units = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=10, unique=True))
    reads = data.draw(st.lists(st.integers(0, depth - 1), min_size=1, max_size=12, unique=True))
    pairs = st.tuples(st.sampled_from(reads), st.sampled_from(units))
    index = np.array(data.draw(st.lists(pairs, min_size=1, max_size=40, unique=True)), dtype=np.int64)
    values = subject.candidates(index, 3, spread=data.draw(st.floats(0.1, 4)), seed=len(index))
    found = predict_patched(subject.target.head, subject.old_kernel, subject.features, subject.logits, index, values)
    assert found.shape == (3, 300)
    assert found.dtype == np.int64
    unsure = 0
    for mine, candidate in zip(found, values, strict=True):
        outputs, _ = subject.run(index, candidate)
        sure = ~close_calls(outputs)
        np.testing.assert_array_equal(mine[sure], outputs.argmax(axis=1)[sure])
        unsure += (~sure).sum()
    assert unsure < 30


SMALL = st.integers(-2, 2)


@st.composite
def whole_numbers(draw):
    """A layer, rows and patches in small whole numbers: exact in float32, with many ties."""
    depth, classes, rows, patches = (draw(st.integers(1, high)) for high in (4, 6, 12, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel, inputs, bias = (
        random.integers(-2, 3, shape).astype(np.float32) for shape in ((depth, classes), (rows, depth), (classes,))
    )
    count = draw(st.integers(1, depth * classes))
    index = np.stack(np.divmod(random.permutation(depth * classes)[:count], classes), axis=1)
    values = random.integers(-2, 3, (patches, count)).astype(np.float32)
    return kernel, inputs, bias, index, values


@settings(max_examples=300)
@given(whole_numbers(), st.integers(1, 400))
def test_the_first_of_equal_classes_wins(case, room):
    kernel, inputs, bias, index, values = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners, "BLOCK_ELEMENTS", room)
        found = predict_patched(SOFTMAX, kernel, inputs, inputs @ kernel + bias, index, values)
    for mine, new in zip(found, values, strict=True):
        patched = kernel.copy()
        patched[index[:, 0], index[:, 1]] = new
        np.testing.assert_array_equal(mine, (inputs @ patched + bias).argmax(axis=1))


@settings(max_examples=100)
@given(whole_numbers())
def test_saturated_scores_tie_though_their_logits_differ(case):
    """Sigmoids of 40 and 80 are both 1: the class is that of the scores."""
    kernel, inputs, bias, index, values = (np.abs(array) for array in case)
    kernel, bias, values = kernel * np.float32(40), bias * np.float32(40), values * np.float32(40)
    found = predict_patched(Head("binary", "sigmoid"), kernel, inputs, inputs @ kernel + bias, index, values)
    for mine, new in zip(found, values, strict=True):
        patched = kernel.copy()
        patched[index[:, 0], index[:, 1]] = new
        np.testing.assert_array_equal(mine, (inputs @ patched + bias > 0).argmax(axis=1))


def test_rows_that_nothing_changes_keep_their_class(quickstart):
    index = np.array([(5, 2), (7, 2), (7, 9)])
    old = quickstart.old_kernel[index[:, 0], index[:, 1]][None]
    found = predict_patched(
        quickstart.target.head, quickstart.old_kernel, quickstart.features, quickstart.logits, index, old
    )
    np.testing.assert_array_equal(found[0], quickstart.logits.argmax(axis=1))


def test_a_class_far_below_all_others_can_still_win():
    """The only touched unit, and the only untouched one, may have any score."""
    kernel = np.array([[0, 1]], dtype=np.float32)
    inputs = np.array([[1], [2]], dtype=np.float32)
    logits = np.array([[float(LOWEST), float(LOWEST) / 2], [0, 2]], dtype=np.float32)
    for unit, expected in ((1, [[1, 0]]), (0, [[1, 1]])):
        index = np.array([(0, unit)])
        found = predict_patched(SOFTMAX, kernel, inputs, logits, index, np.array([[-1]], dtype=np.float32))
        np.testing.assert_array_equal(found, expected)
