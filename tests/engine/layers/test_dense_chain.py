"""The Dense layers at the end of a model: which are found, what they compute, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from engine.core.errors import InputError
from engine.layers.dense_chain import DenseChain, chain_of
from engine.layers.head import Head
from engine.models.graph import graph_of
from engine.models.loss import TrainingLoss
from engine.targets.resolve import headed
from tests.support.chains import CLASSES, net, random_changes
from tests.support.tails import CATEGORICAL, CATEGORICAL_LOGITS, shake

L = keras.layers
PATH = Path("folder/model.keras")


def chain(model: Any, wanted: Sequence[str] = (), loss: TrainingLoss = CATEGORICAL) -> DenseChain:
    graph, head = headed(graph_of(model), loss, PATH)
    return chain_of(model, graph, head, PATH, wanted)


def sequential(*layers: Any) -> Any:
    return keras.Sequential([keras.Input((6,)), *layers])


def functional(*layers: Any, last: str | None = "softmax") -> Any:
    """Layers after two Dense layers, before the last."""
    x = start = keras.Input((6,))
    for layer in (L.Dense(7, "relu", name="early"), L.Dense(7, name="middle"), *layers, dense(last)):
        x = layer(x)
    return keras.Model(start, x)


def dense(activation: Any = "softmax", **settings: Any) -> Any:
    return L.Dense(3, activation, name="last", **settings)


def names(found: DenseChain) -> list[tuple[str, str]]:
    return [(layer.name, layer.activation) for layer in found.layers]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("one, binary", [("last", "linear")]),
        ("two", [("first", "relu"), ("last", "linear")]),
        ("two, apart", [("first", "relu"), ("last", "linear")]),
        ("three, no last bias", [("first", "tanh"), ("second", "gelu"), ("last", "linear")]),
    ],
)
def test_finds_the_layers_behind_the_last_that_is_not_dense(name, layers):
    subject = net(name)
    found = subject.chain
    assert names(found) == layers
    assert all(layer.tuned for layer in found.layers)
    assert found.classes == CLASSES
    assert found.offsets == (None if name == "three, no last bias" else "last/bias")
    weights = [path for layer, _ in layers for path in (f"{layer}/kernel", f"{layer}/bias")]
    assert list(found.tuned) == [path for path in weights if path in found.values] == list(found.values)
    assert found.tuned_values == sum(value.size for value in found.values.values())
    for path, value in found.values.items():
        layer, _, kind = path.partition("/")
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, np.asarray(getattr(subject.model.get_layer(layer), kind)))


@pytest.mark.parametrize("name", ["one, binary", "two", "two, apart", "three, no last bias", "three, second frozen"])
def test_logits_are_those_of_the_model_for_several_values_at_once(name):
    subject = net(name)
    changes = random_changes(subject.chain, 3, seed=1)
    values = {path: subject.chain.values[path] + change for path, change in changes.items()}
    found = np.asarray(subject.chain.logits(subject.features, {**subject.chain.values, **values}))
    assert found.shape == (3, len(subject.labels), CLASSES)
    for number, logits in enumerate(found):
        outputs = subject.outputs({path: value[number] for path, value in values.items()})
        expected = subject.logits_of(outputs)
        centred = (each - each.mean(axis=1, keepdims=True) for each in (logits, expected))
        np.testing.assert_allclose(*centred, atol=2e-5)
    np.testing.assert_array_equal(subject.logits.argmax(axis=1), subject.before)


@pytest.mark.parametrize(
    ("wanted", "layers", "tuned"),
    [
        ((), ["early", "middle", "last"], ["early", "middle", "last"]),
        (("last/kernel",), ["last"], ["last"]),
        (("middle/bias",), ["middle", "last"], ["middle"]),
        (("last/kernel", "early/kernel"), ["early", "middle", "last"], ["early", "last"]),
        (("early/kernel", "early/bias"), ["early", "middle", "last"], ["early"]),
    ],
)
def test_wanted_weights_stand_for_their_layers(wanted, layers, tuned):
    found = chain(functional(), wanted)
    assert [layer.name for layer in found.layers] == layers
    assert found.tuned == tuple(f"{layer}/{kind}" for layer in tuned for kind in ("kernel", "bias"))
    assert set(found.values) == {f"{layer}/{kind}" for layer in layers for kind in ("kernel", "bias")}
    assert found.offsets == "last/bias"


RELU = L.Activation("relu")


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ([], ["linear", "linear"]),
        ([L.Dropout(0.5), L.Activation("tanh"), L.GaussianNoise(1.0)], ["tanh", "linear"]),
        ([L.Activation("linear"), L.Activation("elu")], ["elu", "linear"]),
        ([RELU, L.Dense(4, name="more"), RELU], ["relu", "relu", "linear"]),
        ([keras.Sequential([keras.Input((7,)), L.Dense(4, "relu", name="inside")])], ["linear", "relu", "linear"]),
    ],
)
def test_what_may_stand_between(between, expected):
    """Activations, also of a layer that is called twice, what does nothing in use, and models with Dense layers."""
    model = functional(*between)
    shake(model)
    found = chain(model)
    assert [layer.activation for layer in found.layers] == ["relu", *expected]
    rows = np.random.default_rng(0).normal(0, 1, (20, 6)).astype(np.float32)
    outputs = np.asarray(model(rows, training=False))
    np.testing.assert_allclose(keras.ops.softmax(found.logits(rows, found.values)), outputs, rtol=1e-4, atol=1e-6)


class Doubled(L.Layer):
    """Computes with the weights of another layer."""

    def __init__(self, other: Any) -> None:
        super().__init__()
        self.other = other

    def call(self, x: Any) -> Any:
        return x + keras.ops.sum(self.other.kernel)


def around() -> Any:
    """A shortcut around the layer called middle."""
    start = keras.Input((6,))
    x = L.Dense(7, "relu", name="early")(start)
    return keras.Model(start, dense()(L.Add()([x, L.Dense(7, name="middle")(x)])))


def twice() -> Any:
    start = keras.Input((6,))
    x = L.Dense(7, name="early")(start)
    again = L.Dense(7, "relu", name="middle")
    return keras.Model(start, dense()(again(again(x))))


def tied() -> Any:
    start = keras.Input((6,))
    early, middle = L.Dense(7, name="early"), L.Dense(7, name="middle")
    x = middle(early(start))
    return keras.Model(start, dense()(L.Dense(4, name="more")(Doubled(middle)(x))))


@pytest.mark.parametrize(
    "model",
    [
        around,
        twice,
        tied,
        lambda: functional(L.BatchNormalization()),
        lambda: functional(L.ReLU()),
        lambda: functional(L.Activation("tanh"), L.Activation("relu")),
        lambda: functional(L.Activation("softmax")),
        lambda: functional(L.Activation(lambda x: x * 2)),
        lambda: functional(L.Reshape((1, 7)), L.Flatten()),
    ],
)
def test_a_chain_begins_behind_what_is_no_chain(model):
    built = model()
    assert "middle" not in [layer.name for layer in chain(built).layers]
    assert chain(built).layers[-1].name == "last"
    with pytest.raises(InputError) as caught:
        chain(built, ["last/kernel", "middle/kernel"])
    message = str(caught.value)
    assert message.startswith(
        "folder/model.keras: middle/kernel is no weight of a Dense layer behind which only Dense layers follow, "
        "expected layers of "
    )
    assert message.endswith("last")


@keras.saving.register_keras_serializable("tests")
class Own(L.Dense):
    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return super().call(inputs) * 2


def lora() -> Any:
    model = sequential(dense())
    model.layers[-1].enable_lora(2)
    return model


def quantised() -> Any:
    model = sequential(dense())
    model.layers[-1].quantize("float8")
    return model


def last_twice() -> Any:
    start = keras.Input((3,))
    layer = dense(None)
    return keras.Model(start, L.Activation("softmax")(layer(layer(start))))


def two_ways() -> Any:
    """The logits are read by something else too."""
    start = keras.Input((6,))
    x = dense(None)(start)
    return keras.Model(start, L.Add(name="sum")([x, L.Activation("tanh")(x)]))


@pytest.mark.parametrize(
    ("model", "loss", "kind"),
    [
        (lambda: sequential(dense(None), L.BatchNormalization(name="norm")), CATEGORICAL_LOGITS, "norm (BatchNorm"),
        (lambda: sequential(L.Reshape((2, 3)), L.GlobalMaxPooling1D(name="pool")), CATEGORICAL, "pool (Global"),
        (lambda: sequential(Own(3, name="own")), CATEGORICAL, "own (Own)"),
        (lambda: sequential(dense(dtype="float16")), CATEGORICAL, "last (Dense)"),
        (lambda: sequential(dense(dtype="mixed_float16")), CATEGORICAL, "last (Dense)"),
        (lambda: sequential(L.Reshape((2, 3)), dense()), CATEGORICAL, "last (Dense)"),
        (lambda: sequential(dense("relu"), L.Softmax()), CATEGORICAL, "last (Dense)"),
        (lambda: sequential(dense(None), L.Activation("relu", name="r"), L.Softmax()), CATEGORICAL, "r (Activation)"),
        (lora, CATEGORICAL, "last (Dense)"),
        (quantised, CATEGORICAL, "last (Dense)"),
        (last_twice, CATEGORICAL, "last (Dense)"),
        (two_ways, CATEGORICAL_LOGITS, "sum (Add)"),
        (lambda: sequential(L.Activation("softmax")), CATEGORICAL, "its inputs"),
    ],
)
def test_logits_that_come_from_elsewhere_are_refused(model, loss, kind):
    with pytest.raises(InputError) as caught:
        chain(model(), loss=loss)
    message = str(caught.value)
    assert message.startswith(f"folder/model.keras: the logits come from {kind}")
    assert message.endswith(
        ", expected a Dense layer of float32 with a kernel of its own and at most one activation behind it"
    )
    assert "\n" not in message


def test_the_head_has_the_last_activation():
    found = chain(sequential(dense("relu")), loss=CATEGORICAL_LOGITS)
    assert names(found) == [("last", "linear")]
    assert found.head == Head("log_softmax", "relu")
