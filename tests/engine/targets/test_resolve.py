"""Names of weights under repair, their values as one column, and patches of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import InputError
from engine.models.weight_paths import weight_variables
from engine.patches.patch import Patch
from engine.targets.base import Target
from engine.targets.resolve import resolve_target
from tests.support.tails import CATEGORICAL, shake

L = keras.layers
PATH = Path("folder/model.keras")


def network() -> Any:
    start = keras.Input((8, 8, 3), name="images")
    inner = keras.Sequential([keras.Input((6,)), L.Dense(4, name="deep"), L.Dense(6, name="deeper")], name="inner")
    x = L.Conv2D(5, 3, name="conv")(start)
    x = L.BatchNormalization(name="norm")(x)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    x = inner(L.Dense(6, name="hidden")(x))
    model = keras.Model(start, L.Dense(3, "softmax", name="scores")(x))
    shake(model)
    return model


MODEL = network()


def resolve(*names: str, model: Any = MODEL) -> Target:
    return resolve_target(model, CATEGORICAL, model.output_shape[-1], PATH, names)


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (["conv"], ["conv/kernel"]),
        (["1"], ["conv/kernel"]),
        (["conv/*"], ["conv/kernel", "conv/bias"]),
        (["conv/bias"], ["conv/bias"]),
        (["1/bias"], ["conv/bias"]),
        (["norm"], ["norm/gamma", "norm/beta"]),
        (["norm/*"], ["norm/gamma", "norm/beta"]),
        (["inner"], ["inner/deep/kernel", "inner/deeper/kernel"]),
        (["inner/deeper/*"], ["inner/deeper/kernel", "inner/deeper/bias"]),
        (["hidden", "conv", "hidden/kernel"], ["conv/kernel", "hidden/kernel"]),
        (["scores/*"], ["scores/kernel", "scores/bias"]),
        (
            ["all"],
            [
                *("conv/kernel", "norm/gamma", "norm/beta", "hidden/kernel"),
                *("inner/deep/kernel", "inner/deeper/kernel", "scores/kernel"),
            ],
        ),
    ],
)
def test_names(names, paths):
    target = resolve(*names)
    assert target.tail is not None
    assert sorted(target.paths) == sorted(paths)
    order = [name for name in weight_variables(MODEL) if name in paths]
    assert list(target.paths) == order  # that of the model, whatever was asked first
    values = [np.asarray(weight_variables(MODEL)[path]).ravel() for path in target.paths]
    np.testing.assert_array_equal(target.kernel, np.concatenate(values)[:, None])


def test_everything_has_the_biases_too():
    target = resolve("all/*")
    assert {path for path in weight_variables(MODEL) if "moving" not in path} == set(target.paths)


@pytest.mark.parametrize("names", [(), ("scores",), ("6",), ("scores/kernel",), ("scores", "6")])
def test_the_last_dense_layer_alone_is_searched_by_its_logits(names):
    assert resolve(*names).tail is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["pool"],
            "target layer pool (pool, GlobalAveragePooling2D) has no weights, expected all or layers of conv, norm",
        ),
        (["3"], "target layer 3 (pool, GlobalAveragePooling2D) has no weights, expected all or layers of"),
        (
            ["convolution"],
            "target layer convolution is no layer of the model, expected all or layers of conv, norm, hidden",
        ),
        (["conv/scale"], "target layer conv/scale is no weight of conv (Conv2D) (did you mean 'conv/bias'?), expected"),
        (["Hiden"], "target layer Hiden is no layer of the model (did you mean 'hidden'?), expected all or layers of"),
        (["9" * 5000], "9 is no layer of the model, expected all or layers of conv"),
        (["norm/moving_mean"], "target layer norm/moving_mean is no weight of norm (BatchNormalization)"),
        (["99"], "found layer number 99, expected 0 to 6"),
    ],
)
def test_names_that_say_nothing(names, message):
    with pytest.raises(InputError) as caught:
        resolve("hidden", *names)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_precision_weights():
    model = keras.Sequential(
        [keras.Input((4,)), L.Dense(4, name="half", dtype="float16"), L.Dense(3, "softmax", dtype="float32")]
    )
    with pytest.raises(InputError) as caught:
        resolve("half", model=model)
    assert str(caught.value) == (
        f"{PATH}: weight 'half/kernel' (half, Dense) is float16, expected float32 (layers of mixed_float16 have that)"
    )


class Aside(keras.Model):
    """States a graph, and holds a layer that is no part of it."""

    def __init__(self) -> None:
        start = keras.Input((4,))
        super().__init__(start, L.Dense(3, "softmax", name="scores")(start))
        self.aside = L.Dense(2, name="aside")
        self.aside.build((None, 4))


def test_weights_that_change_nothing():
    model = Aside()
    path = next(name for name in weight_variables(model) if "aside" in name)
    with pytest.raises(InputError) as caught:
        resolve(path, model=model)
    assert str(caught.value).startswith(f"{PATH}: the model's output does not depend on '{path}' (")
    assert str(caught.value).endswith("), expected weights that it uses")


TARGET = resolve("conv/*", "hidden")


@given(data=st.data())
def test_patches_and_places_belong_to_each_other(data):
    assert TARGET.tail is not None
    total = int(TARGET.offsets[-1])
    rows = np.array(data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=12, unique=True)))
    index = np.stack([rows, np.zeros_like(rows)], axis=1)
    new = np.arange(len(rows), dtype=np.float32) + 100
    patch = TARGET.patch(index, TARGET.kernel[rows, 0], new)
    np.testing.assert_array_equal(TARGET.index_of(patch, "it"), index)
    after = TARGET.kernel.copy()
    after[rows, 0] = new
    again = TARGET.patch_between(TARGET.kernel, after)
    np.testing.assert_array_equal(np.sort(TARGET.index_of(again, "it")[:, 0]), np.sort(rows))
    for path, flat, value in zip(patch.weight, patch.flat_index, patch.old, strict=True):
        assert np.asarray(weight_variables(MODEL)[path]).ravel()[flat] == value


@pytest.mark.parametrize(
    ("path", "flat", "message"),
    [
        ("scores/kernel", 0, "it: is about 'scores/kernel', expected weights of conv/\\*, hidden"),
        ("conv/bias", 5, "it: has index 5 in 'conv/bias', expected 0 to 4"),
        ("conv/bias", -1, "it: has index -1 in 'conv/bias', expected 0 to 4"),
    ],
)
def test_a_patch_of_something_else(path, flat, message):
    value = np.zeros(1, np.float32)
    with pytest.raises(InputError, match=message):
        TARGET.index_of(Patch((path,), np.array([flat]), value, value), "it")


def test_the_statistics_of_each_weight_are_its_own():
    kernel = np.asarray(weight_variables(MODEL)["conv/kernel"])
    bias = np.asarray(weight_variables(MODEL)["conv/bias"])
    rows = np.array([[3, 0], [kernel.size + 2, 0], [0, 0]])
    found = TARGET.stats(TARGET.kernel, rows)
    for place, values in enumerate((kernel, bias, kernel)):
        np.testing.assert_allclose(found.mean[place], values.mean(), rtol=1e-5)
        np.testing.assert_allclose(found.std[place], values.std(), rtol=1e-5)
        np.testing.assert_allclose(found.range[place], values.max() - values.min(), rtol=1e-5)


def test_weights_that_are_all_equal_have_room_to_move():
    model = keras.Sequential([keras.Input((4,)), L.BatchNormalization(name="norm"), L.Dense(3, "softmax")])
    target = resolve("norm", model=model)
    found = target.stats(target.kernel, np.array([[0, 0], [4, 0]]))  # a scale of 1 and an offset of 0
    assert (found.range > 0).all()
    assert (found.std > 0).all()
    np.testing.assert_array_equal(found.mean, [1, 0])
