"""The paths of weights: of every kind of layer, and of subclassed models and layers; and that each can be patched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from engine.core.errors import InputError
from engine.models.load import build_model, load_model, spec_of
from engine.models.weight_paths import layers_below, weight_variables
from engine.patches.patch import Patch
from engine.patches.save import save_patched
from tests.support import nets

SEQUENCE, PICTURE, VOLUME = (6, 4), (5, 5, 4), (4, 4, 4, 2)
CELL = ["kernel", "recurrent_kernel", "bias"]
ONE = ["kernel", "bias"]
NORM = ["gamma", "beta"]
SEPARABLE = ["depthwise_kernel", "pointwise_kernel", "bias"]
ATTENTION = [f"{part}/{name}" for part in ("query", "key", "value", "attention_output") for name in ONE]


def cells(*names: str) -> list[str]:
    return [f"{name}/{weight}" for name in names for weight in CELL]


# Shape of a row, the layer called `it`, and the paths of its weights inside it.
KINDS: dict[str, tuple[tuple[int, ...], Callable[..., Any], list[str]]] = {
    "Dense": ((6,), lambda **it: layers.Dense(4, **it), ONE),
    "Conv1D": (SEQUENCE, lambda **it: layers.Conv1D(4, 2, groups=2, dilation_rate=2, **it), ONE),
    "Conv2D": (PICTURE, lambda **it: layers.Conv2D(4, 3, strides=2, padding="same", groups=2, **it), ONE),
    "Conv3D": (VOLUME, lambda **it: layers.Conv3D(2, 2, **it), ONE),
    "DepthwiseConv1D": (SEQUENCE, lambda **it: layers.DepthwiseConv1D(2, depth_multiplier=2, **it), ONE),
    "DepthwiseConv2D": (PICTURE, lambda **it: layers.DepthwiseConv2D(2, **it), ONE),
    "SeparableConv1D": (SEQUENCE, lambda **it: layers.SeparableConv1D(3, 2, **it), SEPARABLE),
    "SeparableConv2D": (PICTURE, lambda **it: layers.SeparableConv2D(3, 2, **it), SEPARABLE),
    "Conv1DTranspose": (SEQUENCE, lambda **it: layers.Conv1DTranspose(2, 2, **it), ONE),
    "Conv2DTranspose": (PICTURE, lambda **it: layers.Conv2DTranspose(2, 2, strides=2, **it), ONE),
    "Conv3DTranspose": (VOLUME, lambda **it: layers.Conv3DTranspose(2, 2, **it), ONE),
    "EinsumDense": (
        SEQUENCE,
        lambda **it: layers.EinsumDense("abc,cde->abde", output_shape=(6, 2, 3), bias_axes="de", **it),
        ONE,
    ),
    "MultiHeadAttention": (SEQUENCE, lambda **it: _twice(layers.MultiHeadAttention(2, 3, **it)), ATTENTION),
    "LSTM": (SEQUENCE, lambda **it: layers.LSTM(3, **it), cells("lstm_cell")),
    "GRU": (SEQUENCE, lambda **it: layers.GRU(3, **it), cells("gru_cell")),
    "SimpleRNN": (SEQUENCE, lambda **it: layers.SimpleRNN(3, **it), cells("simple_rnn_cell")),
    "ConvLSTM1D": ((3, *SEQUENCE), lambda **it: layers.ConvLSTM1D(2, 2, **it), cells("conv_lstm_cell")),
    "RNN": (
        SEQUENCE,
        lambda **it: layers.RNN([layers.LSTMCell(2, name="low"), layers.GRUCell(2, name="high")], **it),
        cells("stacked_rnn_cells/low", "stacked_rnn_cells/high"),
    ),
    "Bidirectional": (
        SEQUENCE,
        lambda **it: layers.Bidirectional(layers.LSTM(2, name="way"), **it),
        cells("forward_way/lstm_cell", "backward_way/lstm_cell"),
    ),
    "TimeDistributed": (
        SEQUENCE,
        lambda **it: layers.TimeDistributed(layers.Dense(2, name="each"), **it),
        ["each/kernel", "each/bias"],
    ),
    "BatchNormalization": (PICTURE, layers.BatchNormalization, [*NORM, "moving_mean", "moving_variance"]),
    "LayerNormalization": (SEQUENCE, layers.LayerNormalization, NORM),
    "GroupNormalization": (PICTURE, lambda **it: layers.GroupNormalization(2, **it), NORM),
    "Embedding": ((6,), lambda **it: layers.Embedding(7, 3, **it), ["embeddings"]),
    "Sequential": (
        (6,),
        lambda **it: keras.Sequential([layers.Dense(3, name="first"), layers.Dense(3, name="second")], **it),
        ["first/kernel", "first/bias", "second/kernel", "second/bias"],
    ),
}


def _twice(layer: Any) -> Any:
    return lambda x: layer(x, x)


def model_of(kind: str) -> Any:
    shape, make, _ = KINDS[kind]
    start = keras.Input(shape, name="rows")
    end = layers.Flatten(name="flat")(make(name="it")(start))
    return numbered(keras.Model(start, layers.Dense(3, activation="softmax", name="out")(end)))


def numbered(model: Any) -> Any:
    """Give every number of every weight a value of its own."""
    first = 1
    for weight in model.weights:
        size = int(np.prod(weight.shape))
        weight.assign(np.arange(first, first + size, dtype=np.float32).reshape(weight.shape) / 256)
        first += size
    return model


def values(model: Any) -> dict[str, np.ndarray]:
    return {path: keras.ops.convert_to_numpy(variable).copy() for path, variable in weight_variables(model).items()}


def patch_one_of_each(path: Path, *, allow_custom_code: bool = False) -> list[str]:
    """Change one number of every weight of a file, and check that these alone have changed; returns the paths."""
    source = load_model(path, allow_custom_code=allow_custom_code)
    before = values(source.model)
    assert len(set(np.concatenate([array.reshape(-1) for array in before.values()]))) == source.model.count_params()
    places = [7 % array.size for array in before.values()]
    old = [array.reshape(-1)[place] for array, place in zip(before.values(), places, strict=True)]
    new = -np.arange(1, len(old) + 1, dtype=np.float32)
    patched = path.with_name(f"patched{path.suffix}")
    save_patched(source, Patch(tuple(before), np.array(places), np.array(old), new), patched)
    after = values(load_model(patched, allow_custom_code=allow_custom_code).model)
    assert list(after) == list(before)
    for number, (name, value) in enumerate(before.items()):
        value.reshape(-1)[places[number]] = new[number]
        assert np.array_equal(after[name], value), name
    return list(before)


@pytest.mark.parametrize("kind", KINDS)
def test_each_weight_of_each_kind_of_layer_has_a_path_and_can_be_patched(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    expected = [*(f"it/{weight}" for weight in KINDS[kind][2]), "out/kernel", "out/bias"]
    assert list(weight_variables(model)) == expected
    for suffix in ("keras", "h5"):
        model.save(tmp_path / f"m.{suffix}")
        assert patch_one_of_each(tmp_path / f"m.{suffix}") == expected
    rebuilt = build_model(spec_of(model))
    assert {path: value.tolist() for path, value in values(rebuilt).items()} == {
        path: value.tolist() for path, value in values(model).items()
    }


BLOCK = [
    "gain",
    *(f"attention/{weight}" for weight in ATTENTION),
    *(f"network/{name}/{weight}" for name in ("dense", "dense_1") for weight in ONE),
]
SUBCLASSED = {
    "bound",
    "bound_1",
    "shifts/0",
    "shifts/1",
    "embed/embeddings",
    *(f"blocks/{place}/{weight}" for place in ("0", "1/0") for weight in BLOCK),
    *cells("ways/there/lstm_cell"),
    *cells("ways/back/again/forward_gru/gru_cell", "ways/back/again/backward_gru/gru_cell"),
    "norm/gamma",
    "norm/beta",
    "out/kernel",
    "out/bias",
}


def subclassed() -> Any:
    model = nets.Subclassed()
    model(np.zeros((2, 5), np.float32))
    return numbered(model)


def with_own_layer() -> Any:
    start = keras.Input(SEQUENCE)
    x = layers.TimeDistributed(nets.Block(4, name="inner"), name="each")(start[:, :, None])
    x = layers.Flatten()(nets.Block(4, name="block")(x[:, :, 0]))
    return numbered(keras.Model(start, layers.Dense(3, name="out")(x)))


OWN_LAYER = {*(f"{name}/{weight}" for name in ("each/inner", "block") for weight in BLOCK), "out/kernel", "out/bias"}
DRAWN = {f"{name}/{weight}" for name in ("dense", "dense_1", "out") for weight in ONE}


@pytest.mark.parametrize(
    ("make", "paths"), [(subclassed, SUBCLASSED), (with_own_layer, OWN_LAYER), (lambda: numbered(nets.Drawn()), DRAWN)]
)
def test_paths_in_classes_that_are_not_of_keras(make: Callable[[], Any], paths: set[str], tmp_path: Path) -> None:
    """Whatever numbers Keras gives to the layers, which it counts up with each model that is made."""
    first, second = make(), make()
    assert set(weight_variables(first)) == paths
    assert list(weight_variables(second)) == list(weight_variables(first))
    for path, value in values(second).items():
        assert np.array_equal(value, values(first)[path]), path
    second.save(tmp_path / "m.keras")
    assert set(patch_one_of_each(tmp_path / "m.keras", allow_custom_code=True)) == paths


def test_layers_below_are_each_there_once() -> None:
    model = subclassed()
    found = dict(layers_below(model))
    assert found["blocks/1/0/network/dense_1"] is model.blocks[1][0].network.layers[1]
    assert found["ways/back/again"] is model.ways["back"]["again"]
    assert len({id(layer) for layer in found.values()}) == len(found)
    everything = {id(layer) for layer in model._flatten_layers(include_self=False) if layer.weights}
    assert everything == {id(layer) for layer in found.values() if layer.weights}


def test_a_shared_layer_is_listed_where_it_comes_first() -> None:
    start, shared = keras.Input((4,)), layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,)), shared], name="inner")
    model = keras.Model(start, inner(shared(start)))
    assert list(weight_variables(model)) == ["shared/kernel", "shared/bias"]


def test_a_weight_without_a_path_is_refused() -> None:
    model = nets.InASet()
    model(np.zeros((2, 4), np.float32))
    with pytest.raises(InputError, match=r"found a weight 'kernel' that no attribute, list or dictionary leads to"):
        weight_variables(model)
