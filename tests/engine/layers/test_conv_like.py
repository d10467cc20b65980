"""The unfolded kernel of a convolution equals Keras' own convolution."""

from __future__ import annotations

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers.conv_like import unfolded, unfolds

sizes = st.integers(1, 4)


@settings(max_examples=25)
@given(
    places=st.tuples(sizes, sizes),
    kernel=st.tuples(sizes, sizes),
    step=st.sampled_from([(1, 1), (2, 1), (1, 2)]),
    padding=st.sampled_from(["same", "valid"]),
    channels=st.integers(1, 3),
)
def test_the_matrix_is_the_convolution(places, kernel, step, padding, channels):
    stride, dilation = step
    if padding == "valid":
        places = tuple(max(size, (k - 1) * dilation + 1) for size, k in zip(places, kernel, strict=True))
    layer = keras.layers.Conv2D(
        2, kernel, stride, padding, dilation_rate=dilation, use_bias=False, kernel_initializer="random_normal"
    )
    rows = np.random.default_rng(0).normal(size=(3, *places, channels)).astype(np.float32)
    expected = np.asarray(layer(rows))
    found = rows.reshape(3, -1) @ unfolded(layer, places)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)


def test_only_where_it_halves_the_work():
    layer = keras.layers.Conv2D(2, 3, padding="same")
    layer.build((None, None, None, 1))
    assert unfolds(layer, (2, 2))
    assert unfolds(layer, (1, 4))
    assert not unfolds(layer, (2, 3))
    assert not unfolds(keras.layers.Dense(3), (1,))
