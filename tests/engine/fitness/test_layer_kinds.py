"""For every kind of layer the batched fitness equals the slow formula: weights set, forward pass, float64 losses."""
# Under KERAS_BACKEND=jax the best choice is `-k "not recurrent"`.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import pytest

from tests.support.tails import PATCHES, Case, assert_equals_slow, case_of, places_of

L = keras.layers


@dataclass(frozen=True)
class Kind:
    """A model `rows -> layers -> softmax`, and weights in it."""

    shape: tuple[int, ...]  # of a row
    layers: Callable[[], list[Any]]  # before the scores; the one under repair is named `it`
    short: bool = True  # the changes travel as touched units
    names: tuple[str, ...] = ("it/*",)  # of the weights under repair
    tokens: int = 0  # rows are whole numbers below this
    scores: bool = True  # a Dense layer of five units with softmax follows


DENSE = {
    "dense": Kind((12,), lambda: [L.Dense(8, "relu", name="it"), L.Dense(6, "tanh")]),
    "dense, kernel": Kind((12,), lambda: [L.Dense(8, "relu", name="it"), L.Dense(6, "tanh")], names=("it",)),
    "dense, bias": Kind((12,), lambda: [L.Dense(8, "relu", name="it"), L.Dense(6, "tanh")], names=("it/bias",)),
    "dense without bias": Kind((12,), lambda: [L.Dense(8, "gelu", use_bias=False, name="it")]),
    "dense, others follow": Kind(
        (12,), lambda: [L.Dense(8, name="it"), L.BatchNormalization(), L.Activation("elu"), L.LayerNormalization()]
    ),
    "dense, softmax follows": Kind((12,), lambda: [L.Dense(8, name="it"), L.Softmax()]),
    "dense with softmax": Kind((12,), lambda: [L.Dense(8, "softmax", name="it")], short=False),
    "dense with weights behind": Kind((12,), lambda: [L.Dense(8, name="it"), L.PReLU(), L.Dense(6)]),
    "dense in time": Kind((5, 6), lambda: [L.Dense(7, "relu", name="it"), L.Dense(4, "relu"), L.Flatten()]),
    "dense in space": Kind((3, 4, 6), lambda: [L.Dense(7, name="it"), L.ReLU(), L.Conv2D(4, 2), L.Flatten()]),
    "dense, flattened": Kind(
        (5, 6), lambda: [L.Dense(7, "relu", name="it"), L.Flatten(), L.ReLU(max_value=0.8), L.Dropout(0.5)]
    ),
    "dense, einsum follows": Kind(
        (5, 6), lambda: [L.Dense(7, name="it"), L.EinsumDense("abc,cd->abd", (5, 4), bias_axes="d"), L.Flatten()]
    ),
    "dense, then recurrent": Kind((5, 6), lambda: [L.Dense(7, "relu", name="it"), L.LSTM(4)]),
    "dense in a wrapper": Kind((4, 6), lambda: [L.TimeDistributed(L.Dense(3), name="it"), L.Flatten()], short=False),
    "dense, custom activation": Kind((12,), lambda: [L.Dense(8, snake, name="it")], short=False),
    "dense, a layer as activation": Kind((12,), lambda: [L.Dense(8, L.LeakyReLU(0.2), name="it")], short=False),
    "dense, custom activation behind": Kind(
        (12,), lambda: [L.Dense(8, name="it"), L.Activation(snake), L.Dense(6, snake)]
    ),
    "dense, custom activation of the next": Kind((12,), lambda: [L.Dense(8, "selu", name="it"), L.Dense(6, snake)]),
    "dense with lora": Kind((12,), lambda: [L.Dense(8, lora_rank=2, name="it")], short=False),
    "einsum": Kind(
        (7, 6), lambda: [L.EinsumDense("abc,cd->abd", (7, 8), bias_axes="d", activation="relu", name="it"), L.Flatten()]
    ),
    "einsum, dots": Kind((7, 6), lambda: [L.EinsumDense("...x,xy->...y", 8, name="it"), L.Flatten()]),
    "einsum, bias by place": Kind(
        (7, 6), lambda: [L.EinsumDense("abc,cd->abd", (7, 8), bias_axes="bd", name="it"), L.Flatten()], short=False
    ),
    "einsum, heads": Kind(
        (7, 6), lambda: [L.EinsumDense("abc,cde->abde", (7, 4, 2), bias_axes="de", name="it"), L.Flatten()], short=False
    ),
    "embedding": Kind((9,), lambda: [L.Embedding(20, 6, name="it"), L.Flatten()], False, tokens=20),
}

POOLED = [
    lambda: [L.MaxPooling1D(3, strides=2, padding="same"), L.ReLU(negative_slope=0.1)],
    lambda: [L.AveragePooling1D(2), L.ELU()],
    lambda: [L.ZeroPadding1D(2), L.LeakyReLU(), L.UpSampling1D(2)],
    lambda: [L.BatchNormalization(center=False), L.BatchNormalization(scale=False)],
]

CONVOLUTION = {
    "conv1d, strides": Kind(
        (11, 4), lambda: [L.Conv1D(6, 3, 2, "same", activation="relu", name="it"), *POOLED[0](), L.Flatten()]
    ),
    "conv1d, dilation": Kind(
        (11, 4), lambda: [L.Conv1D(6, 3, dilation_rate=2, name="it"), *POOLED[1](), L.Conv1D(5, 2), L.Flatten()]
    ),
    "conv1d, groups": Kind(
        (10, 4), lambda: [L.Conv1D(6, 3, groups=2, name="it"), *POOLED[2](), L.Conv1D(4, 3, 2, "same"), L.Flatten()]
    ),
    "conv1d, causal": Kind(
        (11, 4),
        lambda: [L.Conv1D(6, 3, padding="causal", dilation_rate=2, name="it"), *POOLED[3](), L.GlobalMaxPooling1D()],
    ),
    "conv1d, causal strides": Kind(
        (11, 4), lambda: [L.Conv1D(6, 4, 3, padding="causal", name="it"), L.Conv1D(6, 2, padding="causal"), L.Flatten()]
    ),
    "conv1d with lora": Kind((9, 4), lambda: [L.Conv1D(6, 3, lora_rank=2, name="it"), L.Flatten()], short=False),
    "conv2d": Kind(
        (9, 8, 4),
        lambda: [
            L.Conv2D(6, 3, padding="same", use_bias=False, name="it"),
            L.BatchNormalization(),
            L.ReLU(),
            L.MaxPooling2D(2, padding="same"),
            L.Conv2D(5, 2, padding="same", activation="relu"),
            L.GlobalAveragePooling2D(),
        ],
    ),
    "conv2d, even kernel and strides": Kind(
        (9, 8, 3), lambda: [L.Conv2D(6, (4, 3), 2, "same", name="it"), L.AveragePooling2D(2), L.ReLU(), L.Flatten()]
    ),
    "conv2d, uneven strides": Kind(
        (9, 8, 3), lambda: [L.Conv2D(6, 3, (2, 1), name="it"), L.Conv2D(4, 3, 2, "same"), L.GlobalMaxPooling2D()]
    ),
    "conv2d, uneven dilation": Kind(
        (9, 8, 3),
        lambda: [L.Conv2D(6, 3, padding="same", dilation_rate=(2, 1), name="it"), L.ZeroPadding2D((1, 0)), L.Flatten()],
    ),
    "conv2d, groups": Kind(
        (7, 6, 4),
        lambda: [
            L.Conv2D(6, 3, 2, "same", groups=2, activation="tanh", name="it"),
            L.UpSampling2D(2, interpolation="bilinear"),
            L.Conv2D(4, 2, dilation_rate=2),
            L.GlobalAveragePooling2D(keepdims=True),
            L.Flatten(),
        ],
    ),
    "conv2d, groups follow": Kind(
        (5, 5, 3), lambda: [L.Conv2D(6, 2, name="it"), L.ReLU(), L.Conv2D(6, 2, groups=3), L.Flatten()]
    ),
    "conv2d, depthwise follows": Kind(
        (5, 5, 3), lambda: [L.Conv2D(6, 2, name="it"), L.ReLU(), L.DepthwiseConv2D(2), L.Flatten()]
    ),
    "conv2d, dense follows": Kind((5, 5, 3), lambda: [L.Conv2D(6, 2, name="it"), L.Dense(4, "relu"), L.Flatten()]),
    "conv2d of 1x1 gives the scores": Kind(
        (5, 4, 3), lambda: [L.Conv2D(5, 1, name="it"), L.GlobalAveragePooling2D(), L.Softmax()], scores=False
    ),
    "conv1d with softmax gives the scores": Kind(
        (3, 3), lambda: [L.Conv1D(5, 3, activation="softmax", name="it"), L.Flatten()], short=False, scores=False
    ),
    "conv2d, channels first": Kind(
        (3, 7, 8), lambda: [L.Conv2D(4, 3, data_format="channels_first", name="it"), L.Flatten()], short=False
    ),
    "conv2d, pooled along channels": Kind(
        (7, 8, 3), lambda: [L.Conv2D(4, 3, name="it"), L.GlobalAveragePooling2D(data_format="channels_first")]
    ),
    "conv2d, flattened channels first": Kind(
        (5, 4, 3), lambda: [L.Conv2D(4, 3, name="it"), L.Flatten(data_format="channels_first")]
    ),
    "conv2d, other axis normalised": Kind(
        (5, 4, 3), lambda: [L.Conv2D(4, 3, name="it"), L.BatchNormalization(axis=1), L.Flatten()]
    ),
    "conv2d, scaled images": Kind(
        (5, 4, 3),
        lambda: [
            L.Rescaling(0.3, 0.1),
            L.Normalization(mean=0.2, variance=2.0),
            L.Conv2D(4, 3, name="it"),
            L.Flatten(),
        ],
    ),
    "conv2d, noise": Kind(
        (5, 4, 3),
        lambda: [L.GaussianNoise(1.0), L.Conv2D(4, 3, name="it"), L.SpatialDropout2D(0.5), L.Dropout(0.5), L.Flatten()],
    ),
    "conv2d over few places": Kind(
        (2, 2, 3),
        lambda: [
            L.Conv2D(4, 3, padding="same", activation="relu", name="it"),
            L.Conv2D(5, 3, padding="same", activation="tanh"),
            L.Conv2D(6, (3, 4), (2, 1), padding="same", use_bias=False),
            L.Conv2D(4, 5, dilation_rate=2, padding="same"),
            L.Flatten(),
        ],
    ),
    "conv1d over few places": Kind(
        (2, 3),
        lambda: [
            L.Conv1D(4, 4, 2, "same", name="it"),
            L.Conv1D(5, 3, padding="same"),
            L.Conv1D(4, 3, padding="same"),
            L.Flatten(),
        ],
    ),
    "conv3d": Kind(
        (5, 6, 5, 2), lambda: [L.Conv3D(4, 3, 2, "same", name="it"), L.ReLU(), L.MaxPooling3D(2), L.Flatten()]
    ),
    "conv3d, dilation and groups": Kind(
        (5, 6, 5, 2),
        lambda: [
            L.Conv3D(4, 2, dilation_rate=(1, 2, 1), groups=2, name="it"),
            L.AveragePooling3D(2),
            L.Conv3D(3, 1),
            L.GlobalAveragePooling3D(),
        ],
    ),
    "depthwise1d": Kind(
        (10, 4),
        lambda: [L.DepthwiseConv1D(3, 2, depth_multiplier=2, name="it"), L.ReLU(), L.Conv1D(3, 1), L.Flatten()],
        False,
    ),
    "depthwise2d": Kind(
        (8, 7, 4),
        lambda: [
            L.DepthwiseConv2D(3, 2, "same", depth_multiplier=2, name="it"),
            L.BatchNormalization(),
            L.ReLU(6.0),
            L.Conv2D(3, 1),
            L.Flatten(),
        ],
        False,
    ),
    "depthwise2d, dilation": Kind(
        (8, 7, 4), lambda: [L.DepthwiseConv2D(3, dilation_rate=2, name="it"), L.Flatten()], False
    ),
    "separable1d": Kind((8, 4), lambda: [L.SeparableConv1D(6, 3, name="it"), L.ReLU(), L.Flatten()], short=False),
    "separable2d": Kind(
        (6, 7, 4),
        lambda: [L.SeparableConv2D(6, 3, 2, "same", depth_multiplier=2, name="it"), L.ReLU(), L.Flatten()],
        short=False,
    ),
    "transposed1d": Kind((5, 4), lambda: [L.Conv1DTranspose(6, 3, 2, name="it"), L.Flatten()], short=False),
    "transposed2d": Kind(
        (4, 4, 4),
        lambda: [L.Conv2DTranspose(6, 3, 2, "same", name="it"), L.ReLU(), L.GlobalMaxPooling2D()],
        short=False,
    ),
    "transposed3d": Kind((2, 3, 3, 2), lambda: [L.Conv3DTranspose(3, 2, 2, name="it"), L.Flatten()], short=False),
}

NORMALISATION = {
    "batch normalisation": Kind(
        (6, 6, 3), lambda: [L.Conv2D(6, 3), L.BatchNormalization(name="it"), L.ReLU(), L.Flatten()], short=False
    ),
    "batch normalisation, few places behind": Kind(
        (2, 2, 4),
        lambda: [L.BatchNormalization(name="it"), L.Conv2D(5, 3, padding="same", activation="tanh"), L.Flatten()],
        short=False,
    ),
    "batch normalisation, scale": Kind((8,), lambda: [L.BatchNormalization(name="it")], False, ("it/gamma",)),
    "batch normalisation, offset": Kind((8,), lambda: [L.BatchNormalization(name="it")], False, ("it/beta",)),
    "layer normalisation": Kind((5, 6), lambda: [L.LayerNormalization(name="it"), L.Flatten()], short=False),
    "group normalisation": Kind((5, 6), lambda: [L.GroupNormalization(2, name="it"), L.Flatten()], short=False),
    "prelu": Kind((8,), lambda: [L.PReLU(name="it")], short=False),
}

RECURRENT = {
    "lstm, recurrent": Kind((6, 4), lambda: [L.LSTM(5, name="it")], short=False),
    "lstm, recurrent, in time": Kind(
        (6, 4), lambda: [L.LSTM(5, return_sequences=True, name="it"), L.GRU(3, reset_after=False)], short=False
    ),
    "gru, recurrent": Kind((6, 4), lambda: [L.Conv1D(3, 2), L.GRU(5, name="it")], short=False),
    "bidirectional, recurrent": Kind((6, 4), lambda: [L.Bidirectional(L.LSTM(3), name="it")], short=False),
    "lstm, recurrent, masked": Kind(
        (9,), lambda: [L.Embedding(4, 6, mask_zero=True), L.LSTM(5, name="it")], short=False, tokens=4
    ),
    "embedding of a recurrent, masked": Kind(
        (9,), lambda: [L.Embedding(4, 6, mask_zero=True, name="it"), L.GRU(5)], short=False, tokens=4
    ),
    "dense, recurrent, masked": Kind(
        (9,), lambda: [L.Embedding(4, 6, mask_zero=True), L.Dense(5, name="it"), L.GRU(4)], short=False, tokens=4
    ),
    "simple, recurrent, masked rows": Kind((6, 2), lambda: [L.Masking(0.1), L.SimpleRNN(4, name="it")], short=False),
}

KINDS = DENSE | CONVOLUTION | NORMALISATION | RECURRENT


def snake(x):
    return x + keras.ops.sin(x) ** 2


def case_by(name: str) -> Case:
    kind = KINDS[name]
    scores = [L.Dense(5, "softmax", name="scores")] if kind.scores else []
    model = keras.Sequential([keras.Input(kind.shape), *kind.layers(), *scores])
    return case_of(model, kind.names, tokens=kind.tokens)


@pytest.mark.parametrize("name", KINDS)
def test_equals_the_slow_formula(name):
    """By touched units, or with the weights in place, whichever way a kind of layer goes."""
    case = case_by(name)
    fitness = assert_equals_slow(case, [places_of(case.target, patch) for patch in PATCHES])
    assert fitness.shapes.short == KINDS[name].short


ATTENTION = {
    "query": ("it/query/*",),
    "key": ("it/key",),  # a bias of the keys changes nothing
    "value": ("it/value/*",),
    "output": ("it/attention_output/*",),
    "all projections": ("it",),
    "normalisation behind": ("norm",),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_projections_of_attention(name):
    x = keras.Input((6, 8))
    y = L.MultiHeadAttention(2, 3, name="it")(x, L.Dense(8, "tanh")(x), use_causal_mask=name == "value")
    y = L.LayerNormalization(name="norm")(x + y)
    model = keras.Model(x, L.Dense(5, "softmax")(L.Flatten()(y)))
    case = case_of(model, ATTENTION[name])
    assert_equals_slow(case, [places_of(case.target, patch) for patch in PATCHES])
