"""For every kind of model the batched fitness equals the slow formula: weights set, forward pass, float64 losses."""
# Under KERAS_BACKEND=jax the best choice is `-k "graphs or subclassed or text or transformer"`.

from __future__ import annotations

from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from engine.layers.head import Head
from tests.support import nets
from tests.support.tails import (
    BINARY,
    BINARY_LOGITS,
    CATEGORICAL,
    CATEGORICAL_LOGITS,
    PATCHES,
    Case,
    assert_equals_slow,
    case_of,
    places_of,
    shake,
)

L = keras.layers


def check(case: Case, **settings: Any) -> bool:
    """Whether touched units travelled."""
    return assert_equals_slow(case, [places_of(case.target, patch) for patch in PATCHES], **settings).shapes.short


def branches() -> Any:
    """Two inputs; a layer used twice, a nested model used twice, skip connections, constants, a value read again."""
    first, second = keras.Input((6,), name="zulu"), keras.Input((6,), name="alfa")
    start = keras.Input((6,))
    inside = L.Dense(7, "relu", name="in1")(start)
    inner = keras.Model(start, L.Dense(6, name="in2")(inside) + start, name="inner")
    shared = L.Dense(6, "tanh", name="shared")
    x = L.Add()([inner(first), shared(inner(second)), shared(first)])
    x = L.Concatenate()([x * np.linspace(0.5, 1.5, 6, dtype=np.float32), L.Dense(4, name="side")(first), second])
    x = L.Dense(9, "relu", name="hidden")(x + np.full((1, 16), 0.1, np.float32))
    scores = L.Dense(5, name="scores")(x)
    return keras.Model([first, second], L.Softmax()(scores + L.Dense(5, name="again")(ops.relu(scores))))


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["side/*"], True),
        (["hidden/*"], True),
        (["scores/*"], True),
        (["again/*"], True),
        (["shared/*"], False),
        (["inner/in1"], False),
        (["inner"], False),
        (["side", "hidden"], False),
        (["all"], False),
        (["all/*"], False),
    ],
)
def test_graphs(names, short):
    assert check(case_of(branches(), names)) == short


def test_several_layers_with_a_patch_of_the_first_alone_take_the_short_way():
    case = case_of(branches(), ["hidden", "again"])
    first = np.arange(case.target.offsets[1])
    assert assert_equals_slow(case, [np.random.default_rng(0).permutation(first)[:9]]).shapes.short
    second = np.arange(case.target.offsets[1], case.target.offsets[2])
    assert not assert_equals_slow(case, [second[:9]]).shapes.short


def test_the_same_layer_again_and_again():
    layer = L.Dense(5, name="it")
    x = start = keras.Input((5,))
    for _ in range(3):
        x = L.ReLU()(layer(x)) + x
    assert not check(case_of(keras.Model(start, L.Softmax()(layer(x))), ["it/*"]))


def test_inputs_of_a_nested_model_by_name():
    """They are passed in another order than that of the model."""
    first, second = keras.Input((4,), name="zulu"), keras.Input((4,), name="alfa")
    inner = keras.Model([first, second], L.Dense(4, "relu", name="in1")(first) - 0.3 * second, name="inner")
    x = keras.Input((4,))
    y = inner({"zulu": x, "alfa": L.Dense(4, name="outside")(x)})
    model = keras.Model(x, L.Dense(5, "softmax")(y))
    check(case_of(model, ["outside"]))
    check(case_of(model, ["inner/in1/*"]))


def test_inputs_in_a_dictionary():
    first, second = keras.Input((4,), name="zulu"), keras.Input((4,), name="alfa")
    y = L.Dense(5, "softmax")(L.Dense(4, "relu", name="it")(first) - 0.3 * second)
    assert check(case_of(keras.Model({"zulu": first, "alfa": second}, y), ["it/*"]))


class Scaled(keras.Sequential):
    """A Sequential model that does something before its layers."""

    def call(self, inputs, training=None, mask=None):
        return super().call(2 * inputs + 1, training=training, mask=mask)


def test_a_sequential_model_with_code_of_its_own():
    model = Scaled([keras.Input((6,)), L.Dense(8, "relu", name="it"), L.Dense(5, "softmax")])
    assert not check(case_of(model, ["it/*"]))


class Mix(keras.Layer):
    """Its activation is not the last thing it does."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.activation = keras.activations.relu
        self.first, self.second = L.Dense(6), L.Dense(5)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((None, 6))

    def call(self, x):
        return ops.softmax(self.second(self.activation(self.first(x))))


@pytest.mark.parametrize("name", ["before/*", "mix"])
def test_a_layer_of_the_users_own_at_the_end(name):
    model = keras.Sequential([keras.Input((12,)), L.Dense(8, "relu", name="before"), Mix(name="mix")])
    case = case_of(model, [name])
    assert case.target.head == Head("normalised", "linear")
    assert check(case) == (name == "before/*")


class Words(keras.Layer):
    """Word vectors whose mask travels although the layer says nothing of it."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.table = L.Embedding(4, 6, mask_zero=True)

    def build(self, shape):
        self.table.build(shape)

    def call(self, x):
        return self.table(x)


@pytest.mark.parametrize("name", ["it/*", "words"])
def test_masks_from_inside_a_layer(name):
    model = keras.Sequential([keras.Input((9,)), Words(name="words"), L.GRU(4, name="it"), L.Dense(5, "softmax")])
    check(case_of(model, [name], tokens=4))


def test_a_mask_in_the_graph():
    tokens = keras.Input((9,))
    x = L.GRU(4, name="it")(L.Embedding(4, 6, name="words")(tokens), mask=ops.not_equal(tokens, 0))
    model = keras.Model(tokens, L.Dense(5, "softmax")(x))
    check(case_of(model, ["it"], tokens=4))


@pytest.mark.parametrize(
    "names", [pytest.param(["embed", "norm"], marks=pytest.mark.slow), ["blocks/0/attention/query/*"], ["all/*"]]
)
def test_subclassed(names):
    model = nets.Subclassed()
    model(np.zeros((1, 7)))
    shake(model)
    model.lower.assign(np.full(6, -1.0))
    model.upper.assign(np.full(6, 1.0))
    check(case_of(model, names, tokens=20, shaken=True))


@pytest.mark.parametrize(
    ("names", "mask"), [(["words"], False), (["memory"], False), (["memory/*", "words"], True), (["hidden/*"], True)]
)
def test_text(names, mask):
    model = keras.Sequential(
        [
            keras.Input((9,), dtype="int32"),
            L.Embedding(20, 6, mask_zero=mask, name="words"),
            L.LSTM(5, dropout=0.5, name="memory"),
            L.Dropout(0.5),
            L.Dense(6, "relu", name="hidden"),
            L.Dense(5, "softmax"),
        ]
    )
    assert check(case_of(model, names, tokens=20)) == (names == ["hidden/*"] and not mask)


@cache
def transformer() -> Any:
    """A small vision transformer: patches, their places, two blocks; the mean of all patches is judged."""
    width = 8
    images = keras.Input((12, 12, 3))
    x = L.Reshape((9, width))(L.Conv2D(width, 4, 4, name="patches")(L.Rescaling(1 / 2)(images)))
    x = x + L.Embedding(9, width, name="places")(ops.cumsum(ops.ones_like(x[..., 0]), axis=1) - 1)
    for number in range(2):
        y = L.LayerNormalization(name=f"norm{number}")(x)
        x = x + L.Dropout(0.1)(L.MultiHeadAttention(2, 4, dropout=0.1, name=f"attention{number}")(y, y))
        y = L.Dense(2 * width, "gelu", name=f"wide{number}")(L.LayerNormalization()(x))
        x = L.Add()([x, L.Dense(width, name=f"narrow{number}")(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(images, L.Dense(5, "softmax", name="scores")(x))


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("patches/*", True),
        ("places", False),
        ("attention0/query", False),
        ("attention1/attention_output/*", False),
        ("wide0/*", True),
        ("narrow1", True),
        ("norm1/*", False),
    ],
)
def test_transformer(name, short):
    assert check(case_of(transformer(), [name])) == short


@pytest.mark.parametrize(
    ("name", "layer", "short"),
    [
        pytest.param("VGG16", "block3_conv1/*", True, marks=pytest.mark.slow),
        pytest.param("ResNet50", "conv4_block2_2_conv/*", True, marks=pytest.mark.slow),
        pytest.param("MobileNetV2", "block_6_depthwise", False, marks=pytest.mark.slow),
        ("MobileNetV2", "block_13_project_BN", False),
    ],
)
def test_networks(name, layer, short):
    settings = {"alpha": 0.35} if name == "MobileNetV2" else {}
    make = getattr(keras.applications, name)
    base = make(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg", **settings)
    model = keras.Model(base.inputs, L.Dense(5, "softmax")(L.LayerNormalization()(base.outputs[0])))
    assert check(case_of(model, [layer], rows=12)) == short


@pytest.mark.parametrize(
    ("last", "loss", "head"),
    [
        ([L.Dense(5, "softmax")], CATEGORICAL, Head("log_softmax", "linear")),
        ([L.Dense(5), L.Activation("linear"), L.Softmax(), L.Dropout(0.5)], CATEGORICAL, Head("log_softmax", "linear")),
        ([L.Dense(5)], CATEGORICAL_LOGITS, Head("log_softmax", "linear")),
        ([L.Dense(5, "tanh")], CATEGORICAL_LOGITS, Head("log_softmax", "tanh")),
        ([L.Dense(5, "sigmoid")], CATEGORICAL, Head("normalised", "sigmoid")),
        ([L.Dense(5), L.Activation("softplus")], CATEGORICAL, Head("normalised", "softplus")),
        ([L.Dense(5, "sigmoid")], BINARY, Head("binary", "sigmoid")),
        ([L.Dense(5, bias_initializer="ones")], BINARY_LOGITS, Head("binary_logits", "linear")),
        ([L.Dense(5), L.Softmax(axis=1)], CATEGORICAL, Head("log_softmax", "linear")),
        ([L.Dense(5, lambda x: ops.softmax(x) + 0.01)], CATEGORICAL, Head("normalised", "linear")),
        ([L.Dense(5), L.GaussianNoise(0.3), L.Softmax()], CATEGORICAL, Head("log_softmax", "linear")),
        ([L.Conv2D(5, 2), L.GlobalMaxPooling2D(), L.Softmax()], CATEGORICAL, Head("log_softmax", "linear")),
    ],
)
def test_heads(last, loss, head):
    images = [keras.Input((4, 3, 2)), L.Conv2D(4, 2, name="it", activation="relu")]
    flat = [] if isinstance(last[0], L.Conv2D) else [L.Flatten()]
    model = keras.Sequential([*images, *flat, *last])
    case = case_of(model, ["it/*"], loss)
    assert case.target.head == head
    assert check(case)


def test_softmax_over_a_part_and_with_a_mask_is_left_in_place():
    start = keras.Input((6,))
    scores = L.Dense(5)(L.Dense(7, "relu", name="it")(start))
    masked = L.Softmax()(scores, mask=ops.greater(start[:, :5], -1.0)) + 0.01
    check(case_of(keras.Model(start, masked), ["it/*"]))
    also_masked = L.Softmax()(scores, mask=ops.greater(start[:, :5], -1.0))
    case = case_of(keras.Model(start, also_masked), ["it/*"])
    assert case.target.head.form == "normalised"
    in_pairs = L.Reshape((6,))(L.Softmax(axis=1)(L.Reshape((3, 2))(L.Dense(6)(L.Dense(7, name="it")(start)))))
    check(case_of(keras.Model(start, in_pairs), ["it/*"]))


@pytest.mark.parametrize("names", [["it/*"], ["all"]])
def test_the_first_layer_on_the_images_and_all(names):
    model = keras.Sequential(
        [keras.Input((6, 5, 2)), L.Conv2D(4, 3, activation="relu", name="it"), L.Flatten(), L.Dense(5, "softmax")]
    )
    case = case_of(model, names)
    assert case.rows.inputs.shape == (40, 60)
    assert check(case) == (names == ["it/*"])


def test_the_last_layer_with_its_bias():
    model = keras.Sequential([keras.Input((6,)), L.Dense(7, "relu"), L.Dense(5, "softmax", name="scores")])
    case = case_of(model, ["scores/*"])
    assert case.target.paths == ("scores/kernel", "scores/bias")
    assert check(case)


@pytest.mark.parametrize("name", ["it/*", "norm"])
def test_mixed_precision(name):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                L.Conv2D(6, 3, activation="relu", name="it"),
                L.BatchNormalization(name="norm"),
                L.Flatten(),
                L.Dense(5, "softmax", dtype="float32"),
            ]
        )
    finally:
        keras.config.set_dtype_policy("float32")
    # Sums of float16 products depend on how a processor groups them; what must not change are the verdicts.
    assert not check(case_of(model, [name]), rtol=1e-3)


def test_rows_of_several_candidates_are_reshaped_apart():
    """Values between two reshapes have two rows for each of the model's."""
    start = keras.Input((8, 4))
    x = ops.reshape(L.Dense(6, name="it")(start), (-1, 4, 6))
    x = ops.reshape(L.Dense(6, "relu", name="between")(x), (-1, 48))
    model = keras.Model(start, L.Dense(5, "softmax")(x))
    check(case_of(model, ["it"]))
    check(case_of(model, ["it", "between/*"]))
