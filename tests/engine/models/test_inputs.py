"""Rows as they travel, unpacked into what a model is called with."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import pytest

from engine import backend
from engine.models.inputs import input_specs, model_inputs, row_shape, several_inputs, unpack
from tests.support import nets

RANDOM = np.random.default_rng(4)
QUESTION = RANDOM.integers(0, 9, (6, 5))
ANSWER = RANDOM.normal(size=(6, 2, 3)).astype(np.float32)
FLAG = RANDOM.integers(0, 2, (6, 1))
PACKED = np.concatenate([QUESTION, ANSWER.reshape(6, -1), FLAG], axis=1).astype(np.float32)


def three_inputs(structure: type = list) -> Any:
    question = keras.Input((5,), dtype="int32", name="question")
    answer = keras.Input((2, 3), name="answer")
    flag = keras.Input((1,), dtype="bool", name="flag")
    x = keras.layers.Flatten()(keras.layers.Embedding(9, 2)(question))
    y = keras.layers.Flatten()(answer) * keras.ops.cast(flag, "float32")
    end = keras.layers.Dense(3)(keras.layers.Concatenate()([x, y]))
    inputs = [question, answer, flag]
    return keras.Model({tensor.name: tensor for tensor in inputs} if structure is dict else structure(inputs), end)


@pytest.mark.parametrize("structure", [list, tuple])
def test_several_inputs_lie_one_after_the_other(structure: type) -> None:
    model = three_inputs(structure)
    assert several_inputs(model) == (("question", (5,)), ("answer", (2, 3)), ("flag", (1,)))
    assert row_shape(model) == (12,)
    assert input_specs(model) == (((None, 5), "int32"), ((None, 2, 3), "float32"), ((None, 1), "bool"))
    parts = unpack(model, keras.ops.convert_to_tensor(PACKED))
    for part, expected, tensor in zip(parts, (QUESTION, ANSWER, FLAG), model_inputs(model), strict=True):
        assert keras.backend.standardize_dtype(part.dtype) == tensor.dtype
        assert np.array_equal(keras.ops.convert_to_numpy(part), expected)


@pytest.mark.parametrize("structure", [list, dict])
def test_a_compiled_function_unpacks_without_a_word(structure: type) -> None:
    model = three_inputs(structure)
    sizes = {"question": QUESTION, "answer": ANSWER, "flag": FLAG}
    expected = model({name: sizes[name] for name, _ in several_inputs(model)}, training=False)
    packed = np.concatenate([sizes[name].reshape(6, -1) for name, _ in several_inputs(model)], axis=1)
    run = backend.graph(lambda rows: model(unpack(model, rows), training=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Keras warns where the structure is another
        found = run(backend.on_device(packed.astype(np.float32)))
    assert np.allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=1e-6)


def test_dictionaries_are_in_the_order_of_the_model() -> None:
    assert [tensor.name for tensor in model_inputs(three_inputs(dict))] == ["answer", "flag", "question"]


@pytest.mark.parametrize("structure", [lambda x: x, lambda x: [x], lambda x: {"tokens": x}])
def test_a_single_input_keeps_its_shape_and_gets_its_dtype(structure: Any) -> None:
    start = keras.Input((5,), dtype="int32", name="tokens")
    model = keras.Model(structure(start), keras.layers.Embedding(9, 2)(start))
    assert (row_shape(model), several_inputs(model)) == ((5,), ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unpacked = unpack(model, keras.ops.convert_to_tensor(QUESTION.astype(np.float32)))
        found = model(unpacked)
    assert {keras.backend.standardize_dtype(tensor.dtype) for tensor in keras.tree.flatten(unpacked)} == {"int32"}
    assert np.array_equal(np.asarray(found), np.asarray(model.layers[-1](QUESTION)))


def test_a_sequential_and_a_subclassed_model() -> None:
    rows = keras.ops.convert_to_tensor(ANSWER)
    model = keras.Sequential([keras.Input((2, 3)), keras.layers.Dense(2)])
    assert row_shape(model) == (2, 3)
    assert np.array_equal(np.asarray(unpack(model, rows)), ANSWER)
    model = nets.Subclassed()
    assert model_inputs(model) == ()
    model(QUESTION)
    assert input_specs(model) == (((None, 5), "float32"),)
    assert row_shape(model) == (5,)
    assert np.array_equal(np.asarray(unpack(model, rows)), ANSWER)
