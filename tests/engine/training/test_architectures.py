from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from engine.core.errors import InputError, WorkError
from engine.training.architectures import Architecture, application_names, build, choose, describe, foreign_layer

SHAPE = (32, 32, 3)
SMALL = "MobileNetV3Small"
"""The network of keras.applications with the fewest weights."""


def kinds(model: Any) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def settings_file(folder: Path, **settings: Any) -> Path:
    path = folder / "settings.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_base() -> None:
    model = build(choose("base"), SHAPE, 7, seed=0)
    block = ["Conv2D", "Conv2D", "MaxPooling2D", "Dropout"]
    assert kinds(model) == [*block, *block, *block, "Flatten", "Dense", "Dropout", "Dense"]
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == [32, 32, 64, 64, 128, 128]
    assert [layer.padding for layer in convolutions] == ["same", "valid"] * 3
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    dense = [model.layers[number] for number in (13, 15)]  # the toolkit's numbers
    assert [(layer.units, layer.activation.__name__) for layer in dense] == [(512, "relu"), (7, "softmax")]
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.2, 0.2, 0.2, 0.5]
    assert {layer.activation.__name__ for layer in convolutions} == {"relu"}
    assert (model.optimizer.momentum, model.optimizer.nesterov) == (0.9, True)
    rates = []
    for step in (0, 2500, 10_000):
        model.optimizer.iterations.assign(step)
        rates.append(float(model.optimizer.learning_rate))
    np.testing.assert_allclose(rates, [0.01 * 1e-6 ** (step / 10_000) for step in (0, 2500, 10_000)], rtol=1e-5)
    assert model.loss == "categorical_crossentropy"


def test_vgg16_has_the_layers_and_numbers_of_the_toolkit() -> None:
    model = build(choose("vgg16", weights="none"), SHAPE, 13, seed=0)
    assert kinds(model)[19:] == ["Flatten", "Dense", "Dense", "Dense"]
    assert [(layer.units, layer.activation.__name__) for layer in model.layers[20:]] == [
        (4096, "relu"),
        (4096, "relu"),
        (13, "softmax"),
    ]
    assert all(layer.trainable for layer in model.layers)
    check_fine_tuning(model)


def test_vgg19_trains_its_last_layers_alone() -> None:
    model = build(choose("vgg19", weights="none"), SHAPE, 13, seed=0)
    assert kinds(model)[22:] == ["Flatten", "Dense", "Dropout", "BatchNormalization", "Dense"]
    assert (model.layers[23].units, model.layers[23].activation.__name__) == (4096, "relu")
    assert model.layers[24].rate == 0.5
    assert [layer.trainable for layer in model.layers] == [False] * 22 + [True] * 5
    assert len(model.trainable_weights) == 6  # two Dense layers, gamma and beta
    check_fine_tuning(model)


def check_fine_tuning(model: Any) -> None:
    assert type(model.optimizer).__name__ == "SGD"
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-4)
    assert (model.optimizer.momentum, model.optimizer.nesterov) == (0.9, False)
    assert model.loss == "categorical_crossentropy"


def test_settings_make_a_network(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        model=SMALL,
        optimizer=["Adam", {"lr": 0.003, "beta_1": 0.8}],
        augmentation=[["RandomFlip", {"mode": "horizontal"}], ["RandomRotation", {"factor": 0.1}]],
        layers=[["GlobalMaxPooling2D", {}], ["Dense", {"units": 20, "activation": "relu", "name": "wide"}]],
    )
    architecture = choose("keras_app", path, "none")
    assert architecture == choose("keras-app", path, "none")
    assert architecture == choose(SMALL, path, "none")
    model = build(architecture, SHAPE, 4, seed=0)
    assert kinds(model)[:2] == ["InputLayer", "Sequential"]
    assert kinds(model.layers[1]) == ["RandomFlip", "RandomRotation"]
    assert kinds(model)[-3:] == ["GlobalMaxPooling2D", "Dense", "Dense"]
    assert model.get_layer("wide").units == 20
    assert model.output_shape == (None, 4)
    assert type(model.optimizer).__name__ == "Adam"
    assert float(model.optimizer.learning_rate) == pytest.approx(0.003)
    assert model.optimizer.beta_1 == 0.8
    assert describe(architecture)["layers"] == (("GlobalMaxPooling2D", {}), ("Dense", dict(architecture.layers[1][1])))


def test_names_of_keras_applications() -> None:
    names = application_names()
    assert {"MobileNetV2", "ResNet50", "VGG16", "EfficientNetB0", "Xception", SMALL} <= set(names)
    assert len(names) >= 38
    assert choose("MobileNetV2") == Architecture("MobileNetV2", "imagenet")
    model = build(choose(SMALL, weights="none"), SHAPE, 3, seed=0)
    assert kinds(model)[-2:] == ["GlobalAveragePooling2D", "Dense"]
    check_fine_tuning(model)
    assert foreign_layer(model) is None


def test_a_network_with_layers_of_its_own_is_told() -> None:
    model = build(choose("ConvNeXtTiny", weights="none"), SHAPE, 3, seed=0)
    said = foreign_layer(model)
    assert said is not None
    assert "'LayerScale' of keras.src.applications.convnext" in said
    assert "expected" not in said


def test_random_weights_and_names_depend_on_the_seed_alone() -> None:
    first, again, other = (build(choose("base"), SHAPE, 3, seed) for seed in (5, 5, 6))
    assert [layer.name for layer in first.layers] == [layer.name for layer in again.layers]
    for one, two, three in zip(first.get_weights(), again.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.ndim == 1 or not np.array_equal(one, three)


def test_weights_from_a_file(tmp_path: Path) -> None:
    source = keras.applications.VGG16(include_top=False, weights=None, input_shape=SHAPE)
    old, new = tmp_path / "vgg16_notop.h5", tmp_path / "vgg16.weights.h5"
    source.save(old)  # the form of the files that Keras offers
    source.save_weights(new)
    settings = settings_file(tmp_path, model="VGG16", augmentation=[["RandomFlip", {}]])
    for architecture in (choose("keras_app", settings, str(old)), choose("VGG16", weights=new)):
        found = build(architecture, SHAPE, 3, seed=0).get_weights()
        assert len(found) == 28
        for one, two in zip(found[:-2], source.get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)
    keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(3, 3)]).save_weights(new)
    with pytest.raises(InputError, match="does not fit VGG16 without its top") as error:
        build(choose("VGG16", weights=new), SHAPE, 3, seed=0)
    assert str(new) in sentence(error)


def test_weights_that_are_none(tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(50)]).save(cut)
    cut.write_bytes(cut.read_bytes()[:3000])
    other = tmp_path / "weights.csv"
    other.write_text("22,0,0\n")
    for path, says in ((tmp_path / "none.h5", "weights is"), (cut, "damaged"), (other, "is no .h5 file")):
        with pytest.raises(InputError, match=says) as error:
            choose("vgg16", weights=str(path))
        assert str(path) in sentence(error)
    with pytest.raises(InputError, match="base has no trained part"):
        choose("base", weights="imagenet")


def test_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with pytest.raises(WorkError, match="the ImageNet weights of VGG16 cannot be downloaded") as error:
        build(choose("vgg16"), SHAPE, 3, seed=0)
    text = sentence(error)
    assert "--weights none" in text and "--weights FILE" in text and "notop.h5" in text


def test_images_that_do_not_fit() -> None:
    for model, weights, shape, says in (
        ("base", None, (10, 10, 3), "base: cannot be built for images of shape (10, 10, 3)"),
        ("vgg16", "none", (28, 28, 3), "at least 32x32"),
        ("vgg16", None, (32, 32, 1), "3 channels"),
    ):
        with pytest.raises(InputError) as error:
            build(choose(model, weights=weights), shape, 3, seed=0)
        assert says in sentence(error)
    with pytest.raises(InputError, match="1 class, expected at least 2"):
        build(choose("base"), SHAPE, 1, seed=0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range(seed: int) -> None:
    with pytest.raises(InputError, match=f"seed is {seed}, expected 0 to 4294967295"):
        build(choose("base"), SHAPE, 3, seed)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("vit", "model vit of eAI-Repair-Toolkit is left out, expected base, vgg16, vgg19, keras_app or a name of"),
        ("hydra_head", "model hydra_head of eAI-Repair-Toolkit is left out"),
        ("hydra-head", "model hydra_head of eAI-Repair-Toolkit is left out"),
        ("mobilenetv2", "(did you mean 'MobileNetV2'?)"),
        ("ResNet5", "(did you mean 'ResNet50'?)"),
        ("", "model is '', expected base"),
        ("preprocess_input", "expected base"),
        ("keras_app", "expected that option"),
    ],
)
def test_models_there_are_not(model: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        choose(model)
    assert says in sentence(error)


GOOD = {"model": SMALL}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([1], "holds a list, expected an object"),
        ({}, "model is None, expected a name of keras.applications"),
        ({"model": "vit"}, "model vit of eAI-Repair-Toolkit is left out"),
        ({"model": "vgg16"}, "(did you mean 'VGG16'?)"),
        ({"model": ["VGG16"]}, "model is ['VGG16']"),
        ({**GOOD, "optimiser": ["SGD", {}]}, "has the key 'optimiser', expected only model, optimizer"),
        ({**GOOD, "optimizer": "SGD"}, 'optimizer has "SGD", expected [class, {arguments}]'),
        ({**GOOD, "optimizer": ["Dense", {}]}, "optimizer is 'Dense', expected one of Keras"),
        ({**GOOD, "optimizer": ["SGD", {"speed": 1}]}, 'SGD cannot be made with {"speed": 1}'),
        ({**GOOD, "layers": {"Dense": 3}}, "layers is {'Dense': 3}, expected a list"),
        ({**GOOD, "layers": [["Flatten"]]}, 'layers has ["Flatten"], expected [class, {arguments}]'),
        ({**GOOD, "layers": [["Lambda", {}]]}, "layers names 'Lambda'"),
        ({**GOOD, "layers": [["Flatten", {}], ["Dense", {"size": 3}]]}, 'Dense cannot be made with {"size": 3}'),
        ({**GOOD, "layers": []}, "before the last Dense layer an image has shape (1, 1, 576), expected a vector"),
        ({**GOOD, "augmentation": [["RandomFlop", {}]]}, "augmentation names 'RandomFlop'"),
    ],
)
def test_settings_that_are_broken(tmp_path: Path, settings: Any, says: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(InputError) as error:
        build(choose("keras_app", path, "none"), SHAPE, 3, seed=0)
    assert says in sentence(error)
    assert str(path) in str(error.value) or "before the last Dense layer" in says


def test_settings_that_cannot_be_read_or_are_for_another_network(tmp_path: Path) -> None:
    path = settings_file(tmp_path, model=SMALL)
    for model, says in (
        ("base", "base takes no settings"),
        ("vgg16", "vgg16 takes no"),
        ("VGG16", "expected the same"),
    ):
        with pytest.raises(InputError, match=says) as error:
            choose(model, path)
        assert str(path) in sentence(error)
    path.write_text("{'model': 1}")
    with pytest.raises(InputError, match="is not JSON"):
        choose("keras_app", path)
    with pytest.raises(InputError, match="cannot be read"):
        choose("keras_app", tmp_path / "none.json")
