"""Models taken apart: the split follows the graph, not the order of the layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from engine.models.graph import cut_graph, graph_of, run, uses
from tests.support.tails import shake

L = keras.layers


def names(steps: Any) -> list[str]:
    return [step.operation.name for step in steps]


def skipping() -> Any:
    """A skip connection over the layer under repair, and a layer that is listed behind it and is not."""
    start = keras.Input((6,), name="start")
    a = L.Dense(5, name="a")(start)
    it = L.Dense(5, name="it")(a)
    late = L.Dense(5, name="late")(start)  # made later, but nothing under repair reaches it
    joined = L.Add(name="add")([it, a, late])
    model = keras.Model(start, L.Dense(3, name="scores")(joined))
    shake(model)
    return model


def test_only_what_a_layer_reaches_is_behind_it():
    model = skipping()
    cut = cut_graph(graph_of(model), [model.get_layer("it").kernel])
    assert sorted(names(cut.before)) == ["a", "late"]
    assert names(cut.tail) == ["it", "add", "scores"]
    assert cut.shapes == ((5,), (5,))


def test_the_halves_together_are_the_model():
    model = skipping()
    graph = graph_of(model)
    rows = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    for name in ("a", "it", "late", "scores"):
        cut = cut_graph(graph, [model.get_layer(name).bias])
        values = run(cut.before, {0: ops.convert_to_tensor(rows)}, cut.crossing)
        (found,) = run(cut.tail, dict(zip(cut.crossing, values, strict=True)), [cut.output])
        np.testing.assert_allclose(np.asarray(found), np.asarray(model(rows)), rtol=1e-5, atol=1e-6)


def test_models_inside_models_are_opened():
    start = keras.Input((4,))
    inside = keras.Sequential([keras.Input((4,)), L.Dense(5, name="first"), L.Dense(4, name="second")], name="inside")
    model = keras.Model(start, L.Dense(3, name="scores")(inside(inside(start))))
    graph = graph_of(model)
    assert names(graph.steps) == ["first", "second", "first", "second", "scores"]
    assert len(uses(graph.steps, graph.inputs[0])) == 1
    cut = cut_graph(graph, [inside.get_layer("second").kernel])
    assert names(cut.before) == ["first"]
    assert names(cut.tail) == ["second", "first", "second", "scores"]


def test_a_subclass_is_one_step():
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.out = L.Dense(3)

        def call(self, x: Any) -> Any:
            return self.out(x)

    model = Own()
    model(np.zeros((1, 4), np.float32))
    graph = graph_of(model)
    assert [step.operation for step in graph.steps] == [model]
    cut = cut_graph(graph, [model.out.kernel])
    assert (cut.before, cut.shapes) == ((), ((4,),))


def test_masks_are_not_cut_off():
    model = keras.Sequential(
        [keras.Input((5,)), L.Embedding(9, 4, mask_zero=True), L.LSTM(3, name="it"), L.Dense(2, name="scores")]
    )
    cut = cut_graph(graph_of(model), [model.get_layer("it").cell.kernel])
    assert cut.before == ()
    assert cut.crossing == (0,)


def test_weights_that_the_output_does_not_depend_on():
    model = skipping()
    with pytest.raises(ValueError, match="does not depend"):
        cut_graph(graph_of(model), [keras.Variable(np.zeros(3))])


def test_inference_mode():
    """Dropout passes on what it gets, and normalisation uses its moving statistics."""
    model = keras.Sequential([keras.Input((6,)), L.Dropout(0.9), L.BatchNormalization(), L.Dense(3, name="scores")])
    shake(model)
    rows = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    graph = graph_of(model)
    (found,) = run(graph.steps, {0: ops.convert_to_tensor(rows)}, [graph.output])
    np.testing.assert_allclose(np.asarray(found), np.asarray(model(rows, training=False)), rtol=1e-5, atol=1e-6)
