"""Checkpoints of a training: every format that Keras writes, in the order of epochs, and what is refused."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from engine.core.errors import InputError
from engine.models.checkpoints import checkpoint_files, read_checkpoints, unlike, with_weights
from engine.models.load import LoadedModel, load_model
from engine.models.weight_paths import weight_variables

L = keras.layers
LEGACY = Path(__file__).parents[2] / "data" / "legacy"
FORMATS = ("weights.{}-0.35.hdf5", "{}.weights.h5", "{}.keras", "{}.h5")


def network(units: int = 6) -> keras.Model:
    """Convolution, normalisation, and a Dense layer in a model of its own."""
    tail = keras.Sequential([keras.Input((units,)), L.Dense(3, name="out")], name="tail")
    return keras.Sequential(
        [
            keras.Input((5, 5, 1)),
            L.Conv2D(2, 3, name="conv"),
            L.BatchNormalization(name="norm"),
            L.Flatten(),
            L.Dense(units, "relu", name="hidden"),
            tail,
            L.Softmax(),
        ]
    )


def values_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {path: np.array(variable) for path, variable in weight_variables(model).items()}


@functools.cache
def trained(seed: int, units: int = 6) -> keras.Model:
    """The network after some epoch; not to be changed."""
    return fresh(seed, units)


def fresh(seed: int, units: int = 6) -> keras.Model:
    """The same, of one's own."""
    model = network(units)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.1, 1.0, value.shape) for value in model.get_weights()])
    return model


def save(model: keras.Model, path: Path) -> Path:
    """Save a checkpoint in the format of its name; weights alone as Keras 2 does, in HDF5 of layers."""
    if path.suffix == ".hdf5":
        whole = path.with_suffix(".h5")
        model.save(whole)
        with h5py.File(whole) as source, h5py.File(path, "w") as file:
            for name, value in source["model_weights"].attrs.items():
                file.attrs[name] = value
            for name in source["model_weights"]:
                source.copy(f"model_weights/{name}", file)
        whole.unlink()
    elif path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(save(trained(9), tmp_path_factory.mktemp("model") / "model.keras"))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_whole(name: str, model: LoadedModel, tmp_path: Path) -> None:
    for epoch in (7, 8):
        save(trained(epoch), tmp_path / name.format(f"{epoch:02d}"))
    before = values_of(model.model)
    found = read_checkpoints(tmp_path, model)
    assert [checkpoint.epoch for checkpoint in found] == [7, 8]
    for checkpoint in found:
        expected = values_of(trained(checkpoint.epoch))
        assert list(checkpoint.values) == list(before)
        assert all(np.array_equal(checkpoint.values[path], value) for path, value in expected.items())
    assert all(np.array_equal(before[path], value) for path, value in values_of(model.model).items())


@pytest.mark.parametrize("name", ["sequential", "functional"])
def test_weights_of_keras_2(name: str, tmp_path: Path) -> None:
    """Files of TensorFlow 2.15, of which the layers are taken out; in the second the layers have other names."""
    loaded = load_model(LEGACY / f"{name}.h5")
    for epoch in (1, 2):
        with h5py.File(LEGACY / f"{name}.h5") as source, h5py.File(tmp_path / f"weights.0{epoch}-1.hdf5", "w") as file:
            layers = [str(layer) for layer in source["model_weights"].attrs["layer_names"]]
            named = {layer: layer if epoch == 1 else f"{layer}_17" for layer in layers}
            file.attrs["layer_names"] = [named[layer].encode() for layer in layers]
            for layer in layers:
                source.copy(f"model_weights/{layer}", file, named[layer])
    for checkpoint in read_checkpoints(tmp_path, loaded):
        assert unlike(checkpoint, loaded) is None


def test_whole_models_of_keras_2_under_the_name_of_weights(tmp_path: Path) -> None:
    for epoch in (1, 2):
        shutil.copy(LEGACY / "sequential.h5", tmp_path / f"weights.{epoch}.hdf5")
    loaded = load_model(LEGACY / "sequential.h5")
    assert [unlike(checkpoint, loaded) for checkpoint in read_checkpoints(tmp_path, loaded)] == [None, None]


def test_epochs_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    names = [
        "weights.99-0.11.hdf5",
        "weights.100-0.10.hdf5",
        "weights.07-0.35.hdf5",
        "vgg16-epoch_8.weights.h5",
        "9.h5",
    ]
    for name in [*names, ".weights.98.hdf5", "notes-5.txt"]:
        (tmp_path / name).touch()
    (tmp_path / "6.h5").mkdir()
    found = checkpoint_files(tmp_path)
    assert [(file.epoch, file.path.name) for file in found] == [
        (7, names[2]),
        (8, names[3]),
        (9, names[4]),
        (99, names[0]),
        (100, names[1]),
    ]


def test_which_are_compared(model: LoadedModel, tmp_path: Path) -> None:
    for epoch in (1, 2, 10):
        save(trained(epoch), tmp_path / f"{epoch}.hdf5")
    assert [one.epoch for one in read_checkpoints(tmp_path, model)] == [2, 10]
    assert [one.epoch for one in read_checkpoints(tmp_path, model, (3, 1))] == [1, 10]
    assert [one.epoch for one in read_checkpoints(tmp_path, model, (3, 2))] == [1, 2]
    for last in ((4, 1), (1, 2), (1, 1), (2, 0)):
        with pytest.raises(InputError, match=f"checkpoints {last[0]} and {last[1]} from the end .* expected two of 3"):
            read_checkpoints(tmp_path, model, last)


def test_whether_the_last_is_the_model(model: LoadedModel, tmp_path: Path) -> None:
    close = fresh(9)
    kernel = close.get_layer("hidden").kernel
    kernel.assign(np.nextafter(np.array(kernel), np.float32(2)))
    save(close, tmp_path / "1.hdf5")
    save(trained(9), tmp_path / "2.hdf5")
    other, same = read_checkpoints(tmp_path, model)
    assert unlike(same, model) is None
    words = unlike(other, model)
    assert words is not None and words.startswith(f"{tmp_path / '1.hdf5'} is not the model {model.path}")
    assert words.endswith("1 of 10 weights differ, the first of them 'hidden/kernel'")


def test_a_model_with_the_weights_of_a_checkpoint(model: LoadedModel, tmp_path: Path) -> None:
    for epoch in (1, 2):
        save(trained(epoch), tmp_path / f"{epoch}.hdf5")
    before = values_of(model.model)
    rows = np.random.default_rng(0).normal(size=(4, 5, 5, 1)).astype(np.float32)
    made = [with_weights(model, checkpoint) for checkpoint in read_checkpoints(tmp_path, model)]
    for epoch, loaded in zip((1, 2), made, strict=True):
        expected = trained(epoch)(rows, training=False)
        np.testing.assert_allclose(loaded.model(rows, training=False), expected, rtol=1e-5, atol=1e-6)
    assert len({model.fingerprint, *(loaded.fingerprint for loaded in made)}) == 3
    assert all(np.array_equal(before[path], value) for path, value in values_of(model.model).items())


# What is refused


def refused(folder: Path, model: LoadedModel) -> str:
    with pytest.raises(InputError) as error:
        read_checkpoints(folder, model)
    assert ", expected " in str(error.value)
    return str(error.value)


def test_too_few(model: LoadedModel, tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "none", model)
    assert "found no checkpoint (" in refused(tmp_path, model)
    save(trained(1), tmp_path / "1.weights.h5")
    assert "found 1 checkpoint (" in refused(tmp_path, model)


def test_names_without_order(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "best.weights.h5").touch()
    assert f"{tmp_path / 'best.weights.h5'}: found no epoch in the name" in refused(tmp_path, model)
    (tmp_path / "best.weights.h5").unlink()
    for name in ("weights.03-0.4.hdf5", "weights.3-0.5.weights.h5"):
        (tmp_path / name).touch()
    assert "weights.03-0.4.hdf5 and weights.3-0.5.weights.h5 are both of epoch 3" in refused(tmp_path, model)


@pytest.mark.parametrize("name", FORMATS)
def test_weights_of_other_shapes(name: str, model: LoadedModel, tmp_path: Path) -> None:
    for epoch in (1, 2):
        save(trained(epoch, units=7 if epoch == 2 else 6), tmp_path / name.format(epoch))
    words = refused(tmp_path, model)
    assert str(tmp_path / name.format(2)) in words
    assert "weight 'hidden/kernel'" in words
    assert "(18, 6)" in words


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name: str, model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "0.h5").touch()  # is not read
    for number in (1, 2):
        save(trained(1), tmp_path / name.format(number))
    path = tmp_path / name.format(1)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"not a file of Keras" * 100):
        path.write_bytes(content)
        assert refused(tmp_path, model).startswith(str(path))


def test_numbers_that_are_none(model: LoadedModel, tmp_path: Path) -> None:
    wrong = fresh(2)
    kernel = np.array(wrong.get_layer("hidden").kernel)
    kernel[3, 2] = np.nan
    wrong.get_layer("hidden").kernel.assign(kernel)
    for name in FORMATS[:2]:
        path = save(wrong, tmp_path / name.format(1))
        save(trained(2), tmp_path / name.format(2))
        assert refused(tmp_path, model).startswith(f"{path}: weight 'hidden/kernel' holds NaN or infinite values")
        path.unlink()
        (tmp_path / name.format(2)).unlink()


def test_what_is_missing_or_is_no_number(model: LoadedModel, tmp_path: Path) -> None:
    save(trained(1), tmp_path / "1.hdf5")
    path = save(trained(2), tmp_path / "2.hdf5")
    with h5py.File(path, "a") as file:
        (kernel,) = [name for name in file["hidden"].attrs["weight_names"] if "kernel" in str(name)]
        del file["hidden"][kernel]
    assert re.search(r"no dataset .*kernel.* of layer 'hidden'", refused(tmp_path, model))
    with h5py.File(path, "a") as file:
        file["hidden"].create_dataset(kernel, data=np.full((18, 6), b"text"))
    assert f"{path}: weight 'hidden/kernel' is of type |S4, expected numbers" in refused(tmp_path, model)
    with h5py.File(path, "a") as file:
        del file["hidden"][kernel]
        file["hidden"].create_dataset(kernel, shape=(18, 6), chunks=(18, 6), dtype="f4")
    assert "expected a whole file" in refused(tmp_path, model)
    with h5py.File(path, "a") as file:
        del file["hidden"][kernel]
        file["hidden"][kernel] = h5py.ExternalLink("1.hdf5", "conv")
    assert "is a link" in refused(tmp_path, model)
    path.unlink()
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(3)
    assert "found HDF5 without weights of a model" in refused(tmp_path, model)
    with h5py.File(tmp_path / "2.weights.h5", "w") as file:
        file["images"] = np.zeros(3)
    path.unlink()
    assert re.search("weight '.*' of the model .* cannot be read", refused(tmp_path, model))
