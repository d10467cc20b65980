"""Models in the HDF5 form of Keras 2: the form itself, the same numbers when loaded again, and what has no such form.

That TensorFlow 2.15 loads them was tried by hand; what is compared here is the form that it loaded.
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from engine.core.errors import InputError
from engine.models.keras2_writer import check_model, keras2_config, training_config, write_model
from engine.models.load import load_model

SHAPE = (6, 5, 2)
ROWS = np.random.default_rng(0).random((7, *SHAPE), dtype=np.float32)


def compiled(model: Any, optimizer: Any = "adam") -> Any:
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
    return model


def sequential(*parts: Any) -> Any:
    head = [keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    return keras.Sequential([keras.Input(SHAPE), *parts, *head])


def graph() -> Any:
    """Nested models, a layer with two inputs, one that is called twice, and arguments of calls."""
    layers = keras.layers
    start = keras.Input(SHAPE, name="start")
    augmented = keras.Sequential([layers.RandomFlip(), layers.RandomContrast(0.1)], name="augment")(start)
    inner = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(2, 1, activation="silu")], name="inner")
    left = layers.BatchNormalization(name="norm")(inner(augmented))
    shared = layers.Conv2D(2, 1, name="shared")
    both = layers.Add(name="both")([shared(left), shared(augmented)])
    rows = layers.Reshape((30, 2), name="rows")(both)
    seen = layers.MultiHeadAttention(2, 3, name="seen")(rows, rows)
    mean = layers.GlobalAveragePooling1D(name="mean")(layers.LeakyReLU(0.25, name="leaky")(seen))
    return keras.Model(start, layers.Dense(3, activation="softmax", name="end")(mean))


def ending_in_a_model() -> Any:
    start, flat = keras.Input(SHAPE), keras.Input((60,))
    head = keras.Model(flat, keras.layers.Dense(3, activation="softmax")(flat), name="head")
    return keras.Model(start, head(keras.layers.Flatten(name="silu")(start), training=False))


@pytest.mark.parametrize(
    "model",
    [
        sequential(keras.layers.Conv2D(4, 3, kernel_regularizer="l2"), keras.layers.BatchNormalization()),
        sequential(keras.layers.LayerNormalization(), keras.layers.ReLU(6.0), keras.layers.Dropout(0.2)),
        sequential(keras.layers.CenterCrop(4, 4), keras.layers.RandomZoom(0.1), keras.layers.Resizing(3, 3)),
        sequential(keras.layers.DepthwiseConv2D(2), keras.layers.SeparableConv2D(3, 2), keras.layers.PReLU()),
        graph(),
        ending_in_a_model(),
    ],
    ids=["convolution", "normalised", "resized", "depthwise", "graph", "a model at the end"],
)
def test_loaded_again_it_gives_the_same_numbers(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    check_model(compiled(model))
    write_model(model, path)
    loaded = load_model(path)
    assert loaded.format == "h5" and loaded.loss.name == "categorical_crossentropy"
    np.testing.assert_array_equal(loaded.model(ROWS, training=False), model(ROWS, training=False))
    with h5py.File(path) as file:
        assert file.attrs["keras_version"] == "2.15.0" and file.attrs["backend"] == "tensorflow"


def test_a_loss_that_is_no_name() -> None:
    model = sequential()
    model.compile("adam", keras.losses.CategoricalCrossentropy())
    with pytest.raises(InputError, match="the loss is a CategoricalCrossentropy, expected a name"):
        check_model(model)


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    model = compiled(graph())
    write_model(model, tmp_path / "a")
    time.sleep(1.1)  # a stored time counts seconds
    write_model(model, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_layer_in_the_old_form() -> None:
    config = keras2_config(sequential(keras.layers.Conv2D(4, 3, name="conv", activation="silu")))
    start, convolution = config["config"]["layers"][:2]
    assert start == {
        "class_name": "InputLayer",
        "config": {
            "batch_input_shape": [None, *SHAPE],
            "dtype": "float32",
            "sparse": False,
            "ragged": False,
            "name": start["config"]["name"],
        },
    }
    assert convolution["class_name"] == "Conv2D" and set(convolution) == {"class_name", "config"}
    settings = convolution["config"]
    assert (settings["activation"], settings["dtype"], settings["kernel_size"]) == ("swish", "float32", [3, 3])
    assert settings["kernel_initializer"] == {"class_name": "GlorotUniform", "config": {}}


def test_a_graph_in_the_old_form() -> None:
    config = keras2_config(graph())["config"]
    nodes = {layer["name"]: layer["inbound_nodes"] for layer in config["layers"]}
    assert nodes["start"] == []
    assert nodes["augment"] == [[["start", 0, 0, {}]]]
    assert nodes["inner"] == [[["augment", 1, 0, {}]]]  # calls of a nested model are counted from 1
    assert nodes["shared"] == [[["norm", 0, 0, {}]], [["augment", 1, 0, {}]]]
    assert nodes["both"] == [[["shared", 0, 0, {}], ["shared", 1, 0, {}]]]
    assert nodes["seen"] == [[["rows", 0, 0, {"value": ["rows", 0, 0]}]]]
    assert config["input_layers"] == [["start", 0, 0]] and config["output_layers"] == [["end", 0, 0]]
    settings = {layer["name"]: layer["config"] for layer in config["layers"]}
    assert settings["leaky"]["alpha"] == 0.25 and "negative_slope" not in settings["leaky"]
    shapes = [settings["seen"][f"{name}_shape"] for name in ("query", "key", "value")]
    assert shapes == [[None, 30, 2]] * 3  # it is built from them


def test_a_nested_model_in_the_old_form() -> None:
    config = keras2_config(ending_in_a_model())["config"]
    assert config["output_layers"] == [["head", 1, 0]]
    assert config["layers"][2]["inbound_nodes"] == [[["silu", 0, 0, {"training": False}]]]
    assert config["layers"][1]["config"]["name"] == "silu"


def test_arguments_go_with_each_tensor() -> None:
    """Keras 2 takes those of the last."""
    pair = [keras.Input((4,), name=name) for name in "ab"]
    inner = keras.Model([keras.Input((4,)), other := keras.Input((4,))], keras.layers.Dense(3)(other), name="inner")
    config = keras2_config(keras.Model(pair, inner(pair, training=False)))["config"]
    assert config["layers"][2]["inbound_nodes"] == [
        [["a", 0, 0, {"training": False}], ["b", 0, 0, {"training": False}]]
    ]


def test_weights_are_listed_trained_ones_first(tmp_path: Path) -> None:
    model = compiled(sequential(keras.layers.BatchNormalization(name="norm")))
    write_model(model, tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        group = file["model_weights/norm"]
        kinds = [name.decode().rpartition("/")[2] for name in group.attrs["weight_names"]]
        assert kinds == ["gamma:0", "beta:0", "moving_mean:0", "moving_variance:0"]
        assert [name.decode() for name in file["model_weights"].attrs["layer_names"]] == [
            layer.name for layer in model.layers
        ]


def test_names_of_many_layers_are_spread_over_attributes(tmp_path: Path) -> None:
    """An attribute of HDF5 holds 64 KiB."""
    layers = [keras.layers.Activation("relu", name=f"{'long' * 100}{number}") for number in range(200)]
    model = compiled(sequential(*layers))
    write_model(model, tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        attributes = file["model_weights"].attrs
        assert "layer_names" not in attributes
        parts = [attributes[f"layer_names{number}"] for number in range(len(attributes))]
    assert [name.decode() for part in parts for name in part] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(load_model(tmp_path / "m.h5").model(ROWS), model(ROWS))


def test_training_in_the_old_form() -> None:
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, 10_000, 0.5)
    told = training_config(compiled(sequential(), keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)))
    config = told["optimizer_config"]["config"]
    assert told["loss"] == "categorical_crossentropy" and told["optimizer_config"]["class_name"] == "SGD"
    assert config["learning_rate"]["config"]["decay_rate"] == 0.5 and config["momentum"] == 0.9
    # Without this Keras 2 takes its older class, which refuses some of the settings.
    assert config["is_legacy_optimizer"] is False
    assert not {"loss_scale_factor", "gradient_accumulation_steps"} & set(config)
    json.dumps(told)


class Own(keras.regularizers.Regularizer):
    def __call__(self, values: Any) -> Any:
        return 0.0

    def get_config(self) -> dict[str, Any]:
        return {}


class Doubled(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return 2 * inputs


def by_name() -> Any:
    rows = keras.Input((5, 4))
    return keras.Model(rows, keras.layers.Flatten()(keras.layers.MultiHeadAttention(2, 3)(query=rows, value=rows)))


def dense(**settings: Any) -> Any:
    return sequential(keras.layers.Dense(4, name="odd", **settings))


def with_operation() -> Any:
    start = keras.Input(SHAPE)
    return keras.Model(start, keras.layers.Dense(3)(keras.layers.Flatten()(start + 1.0)))


@pytest.mark.parametrize(
    ("model", "optimizer", "words"),
    [
        (lambda: sequential(Doubled(name="twice")), "adam", ["'twice'", "Doubled", "--format keras"]),
        (with_operation, "adam", ["Add", "which Keras 2 does not have"]),
        (lambda: sequential(keras.layers.RMSNormalization()), "adam", ["RMSNormalization"]),
        (lambda: sequential(keras.layers.Resizing(3, 3, antialias=True)), "adam", ["antialias", "True"]),
        (lambda: dense(activation="hard_sigmoid"), "adam", ["'odd'", "'activation' of 'hard_sigmoid'"]),
        (lambda: dense(activation="celu"), "adam", ["'activation' of 'celu'"]),
        (lambda: dense(activation=lambda x: x), "adam", ["'odd'", "activation"]),
        (lambda: dense(kernel_regularizer=Own()), "adam", ["'odd'", "'kernel_regularizer' of Own"]),
        (by_name, "adam", ["0 arguments that have no name"]),
        (sequential, "lion", ["optimizer Lion"]),
        (sequential, keras.optimizers.SGD(gradient_accumulation_steps=2), ["'gradient_accumulation_steps' of SGD"]),
    ],
)
def test_what_keras_2_lacks_is_refused(model: Any, optimizer: Any, words: list[str], tmp_path: Path) -> None:
    made = compiled(model(), optimizer)
    with pytest.raises(InputError) as refused:
        check_model(made)
    assert all(word in str(refused.value) for word in words), refused.value
    with pytest.raises(InputError):
        write_model(made, tmp_path / "model.h5")
    assert not (tmp_path / "model.h5").exists()


def test_an_activation_that_is_another_function_now(tmp_path: Path) -> None:
    """Keras itself loads such a file of Keras 2, and computes other numbers than the model once did."""
    path = tmp_path / "model.h5"
    write_model(compiled(dense(activation="sigmoid")), path)
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"sigmoid"', '"hard_sigmoid"')
    with pytest.raises(
        InputError, match="layer 'odd' has hard_sigmoid of Keras 2, expected activations that Keras 3 has"
    ):
        load_model(path)
    model = dense(activation="hard_sigmoid")  # of Keras 3, in its own file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras advises against the format
        compiled(model).save(str(tmp_path / "new.h5"))
    np.testing.assert_array_equal(load_model(tmp_path / "new.h5").model(ROWS), model(ROWS))
