import os
import shutil
import stat
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2

from engine.core.errors import InputError
from engine.models.load import load_model
from engine.models.weight_paths import weight_variables
from engine.patches.patch import Patch, merge, revert, tensors_patch
from engine.patches.save import repaired_path, save_patched

LEGACY = Path(__file__).parents[2] / "data" / "legacy"
NAMES = [
    "sequential.h5",
    "functional.h5",
    "sequential-savedmodel",
    "functional-savedmodel",
    "new.h5",
    "new.keras",
]
REAL = os.environ.get("REPAIR_DIST_LEGACY_MODELS")
if REAL:
    NAMES += [f"{REAL}/fashion-cnn.h5", f"{REAL}/fashion-cnn-savedmodel"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The legacy models and two new ones, trained for a step so that they hold optimizer state."""
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES[:4]:
        copy = shutil.copytree if (LEGACY / name).is_dir() else shutil.copyfile
        copy(LEGACY / name, folder / name)
    keras.utils.set_random_seed(1)
    inner = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5, name="deep")], name="inner")
    images = keras.Input((8, 8, 3))
    x = keras.layers.Reshape((12, 16))(images)
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = keras.layers.Bidirectional(keras.layers.GRU(3), name="both")(x)
    x = inner(keras.layers.BatchNormalization(name="norm")(keras.layers.Dense(5, name="first")(x)))
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(images, keras.layers.Dense(4, activation="softmax", name="out")(x))
    model.compile("adam", "categorical_crossentropy")
    model.fit(np.random.default_rng(0).random((4, 8, 8, 3)), np.eye(4), verbose=0)
    for name in ("new.h5", "new.keras"):
        model.save(folder / name)
    return folder


def random_patch(loaded, weights=None):
    """New values for up to three places of each weight, or of the weights named."""
    generator = np.random.default_rng(11)
    paths, places, old, new = [], [], [], []
    for path, variable in weight_variables(loaded.model).items():
        if weights is not None and path not in weights:
            continue
        flat = np.array(keras.ops.convert_to_numpy(variable)).reshape(-1)
        for place in generator.choice(flat.size, min(3, flat.size), replace=False):
            paths.append(path)
            places.append(place)
            old.append(flat[place])
            new.append(generator.normal())
    order = generator.permutation(len(paths))  # rows of one weight need not stand together
    return Patch(
        tuple(paths[row] for row in order),
        np.array(places, np.int64)[order],
        np.array(old, np.float32)[order],
        np.array(new, np.float32)[order],
    )


def one_row(weight="dense/bias", index=2, old=0.0, new=1.0):
    return Patch((weight,), np.array([index]), np.array([old], np.float32), np.array([new], np.float32))


def values(model):
    return {path: np.array(keras.ops.convert_to_numpy(variable)) for path, variable in weight_variables(model).items()}


def expected_values(loaded, patch):
    """The weights with the patch applied, by the plainest loop."""
    result = values(loaded.model)
    for path, place, new in zip(patch.weight, patch.flat_index, patch.new, strict=True):
        result[path].reshape(-1)[place] = new
    return result


def content(path):
    """Everything a container holds, by name: bytes, or (dtype, shape, bytes) of an array."""
    if path.is_dir():
        found = {
            str(file.relative_to(path)): file.read_bytes()
            for file in path.rglob("*")
            if file.is_file() and file.parent.name != "variables" and file.name != "fingerprint.pb"
        }
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        arrays = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
        return found | {key: _plain(array) for key, array in arrays.items()}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found = {info.filename: (info.date_time, archive.read(info)) for info in archive.infolist()}
        weights = path.with_name("weights.h5")
        weights.write_bytes(found.pop("model.weights.h5")[1])
        return found | hdf5_content(weights)
    return hdf5_content(path)


def hdf5_content(path):
    found = {}

    def look(name, item):
        for key, value in item.attrs.items():
            found[f"{name}@{key}"] = _plain(value)
        if isinstance(item, h5py.Dataset):
            found[name] = _plain(item[()])

    with h5py.File(path, "r") as file:
        file.visititems(look)
        look("", file)
    return found


def _plain(value):
    if isinstance(value, (bytes, str)):
        return value
    array = np.asarray(value)
    return array.dtype.str, array.shape, array.tolist() if array.dtype == object else array.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_only_the_patched_places_change(name, folder, tmp_path):
    loaded = load_model(folder / name)
    patch = random_patch(loaded)
    before = values(loaded.model)
    destination = repaired_path(loaded, tmp_path)
    save_patched(loaded, patch, destination)

    repaired = load_model(tmp_path / "repair")
    assert repaired.path == destination
    assert (repaired.format, repaired.loss) == (loaded.format, loaded.loss)
    assert repaired.fingerprint != loaded.fingerprint
    expected = expected_values(loaded, patch)
    for path, value in values(repaired.model).items():
        assert value.tobytes() == expected[path].tobytes(), path
    for path, value in values(loaded.model).items():
        assert value.tobytes() == before[path].tobytes(), "the source's own model stays as it was"

    old, new = content(loaded.path), content(destination)
    assert sorted(old) == sorted(new)
    changed = {key for key in old if old[key] != new[key]}
    assert len(changed) == len(set(patch.weight))
    for key in changed:
        assert old[key][:2] == new[key][:2], "type and shape stay"
        places = np.frombuffer(old[key][2], np.uint32) != np.frombuffer(new[key][2], np.uint32)
        assert 1 <= places.sum() <= 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["repair"]


@pytest.mark.parametrize("name", ["sequential.h5", "sequential-savedmodel", "new.keras"])
def test_empty_patch_gives_an_unchanged_copy(name, folder, tmp_path):
    loaded = load_model(folder / name)
    save_patched(loaded, random_patch(loaded, weights=()), tmp_path / "copy")
    assert load_model(tmp_path / "copy").fingerprint == loaded.fingerprint


@pytest.mark.parametrize("name", ["sequential.h5", "sequential-savedmodel", "new.keras"])
def test_whole_tensors_there_and_back(name, folder, tmp_path):
    """With single weights of other layers beside them."""
    loaded = load_model(folder / name)
    layer = "out" if name == "new.keras" else "dense"
    old = {path: value for path, value in values(loaded.model).items() if path.startswith(f"{layer}/")}
    new = {path: np.random.default_rng(3).normal(size=value.shape).astype(np.float32) for path, value in old.items()}
    others = [path for path in values(loaded.model) if path not in old]
    patch = merge([tensors_patch(old, new), random_patch(loaded, weights=others)])
    there = repaired_path(loaded, tmp_path / "there")
    save_patched(loaded, patch, there)
    repaired, expected = load_model(there), expected_values(loaded, patch)
    for path, value in values(repaired.model).items():
        assert value.tobytes() == expected[path].tobytes() == new.get(path, expected[path]).tobytes(), path
    back = repaired_path(loaded, tmp_path / "back")
    save_patched(repaired, revert(patch), back)
    assert content(back) == content(loaded.path)
    with pytest.raises(InputError, match=f"in '{layer}/kernel' at index 0, expected .* as when the patch was made"):
        save_patched(repaired, patch, back, overwrite=True)


@pytest.mark.parametrize("name", ["sequential.h5", "sequential-savedmodel", "new.keras"])
@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"old": 5.5}, r"found .* in '{w}' at index 2, expected 5\.5 as when the patch was made"),
        ({"index": 99}, r"the patch has index 99 in '{w}', expected 0 to \d+"),
        ({"index": -1}, r"the patch has index -1 in '{w}', expected 0 to \d+"),
        ({"weight": "dense/nothing"}, "the patch changes 'dense/nothing', expected a weight of the model"),
    ],
)
def test_patch_that_does_not_fit_leaves_nothing(name, change, found, folder, tmp_path):
    loaded = load_model(folder / name)
    weight = "out/bias" if name == "new.keras" else "dense/bias"
    old = keras.ops.convert_to_numpy(weight_variables(loaded.model)[weight])[2]
    with pytest.raises(InputError, match=f"{name}: {found.format(w=weight)}"):
        save_patched(loaded, one_row(**{"weight": weight, "old": old} | change), repaired_path(loaded, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_old_values_are_compared_bit_for_bit(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, name="dense")])
    model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"found 0\.0 in 'dense/bias' at index 2, expected -0\.0"):
        save_patched(loaded, one_row(old=-0.0), tmp_path / "new.keras")
    nan = np.array(np.nan, np.float32)
    save_patched(loaded, one_row(old=0.0, new=nan), tmp_path / "nan.keras")
    save_patched(load_model(tmp_path / "nan.keras"), one_row(old=nan, new=2.0), tmp_path / "new.keras")
    np.testing.assert_array_equal(values(load_model(tmp_path / "new.keras").model)["dense/bias"], [0, 0, 2])


def test_a_place_is_changed_once(folder, tmp_path):
    loaded = load_model(folder / "sequential.h5")
    one = random_patch(loaded, weights=("dense/bias",))
    rows = np.array([0, 1, 0])
    twice = Patch(one.weight, one.flat_index[rows], one.old[rows], one.new[rows])
    with pytest.raises(InputError, match="changes a place of 'dense/bias' twice"):
        save_patched(loaded, twice, tmp_path / "m.h5")


def test_existing_destination(folder, tmp_path):
    for name in ("sequential.h5", "sequential-savedmodel"):
        loaded = load_model(folder / name)
        destination = repaired_path(loaded, tmp_path / name)
        save_patched(loaded, random_patch(loaded, weights=("dense/bias",)), destination)
        first = load_model(destination).fingerprint
        patch = random_patch(loaded)
        with pytest.raises(InputError, match="exists already, expected a new name or --overwrite"):
            save_patched(loaded, patch, destination)
        stale = one_row(old=5.5)
        with pytest.raises(InputError, match="as when the patch was made"):
            save_patched(loaded, stale, destination, overwrite=True)
        assert load_model(destination).fingerprint == first
        save_patched(loaded, patch, destination, overwrite=True)
        assert load_model(destination).fingerprint not in (first, loaded.fingerprint)
        assert len(list(destination.parent.iterdir())) == 1
        with pytest.raises(InputError, match="holds the model to repair"):
            save_patched(loaded, patch, loaded.path, overwrite=True)
    with pytest.raises(InputError, match="holds a SavedModel already"):
        save_patched(load_model(folder / "sequential.h5"), patch, destination / "model.h5")


def test_savedmodel_beside_data_is_copied_without_the_data(folder, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(folder / "sequential-savedmodel", outputs)
    (outputs / "train.h5").write_bytes(b"images")
    loaded = load_model(outputs)
    with pytest.raises(InputError, match="holds the model to repair"):
        save_patched(loaded, one_row(), tmp_path, overwrite=True)
    destination = repaired_path(loaded, outputs / "negative" / "6")
    save_patched(loaded, random_patch(loaded), destination)
    assert sorted(entry.name for entry in destination.iterdir() if entry.is_file()) == [
        "fingerprint.pb",
        "keras_metadata.pb",
        "saved_model.pb",
    ]


def test_source_that_changed_or_went_away(folder, tmp_path):
    path = shutil.copyfile(folder / "sequential.h5", tmp_path / "m.h5")
    loaded = load_model(path)
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = "changed"
    with pytest.raises(InputError, match=r"m\.h5: changed since it was loaded"):
        save_patched(loaded, one_row(), tmp_path / "repair" / "model.h5")
    path.unlink()
    with pytest.raises(InputError, match=r"m\.h5: cannot be read any more"):
        save_patched(loaded, one_row(), tmp_path / "repair" / "model.h5")
    assert list(tmp_path.iterdir()) == []


def test_copy_of_a_read_only_file_can_be_written(folder, tmp_path):
    path = shutil.copyfile(folder / "sequential.h5", tmp_path / "m.h5")
    path.chmod(0o444)
    loaded = load_model(path)
    save_patched(loaded, random_patch(loaded), tmp_path / "new.h5")
    assert (tmp_path / "new.h5").stat().st_mode & stat.S_IWUSR


def checkpoint_hash(folder):
    index = (folder / "variables" / "variables.index").read_bytes()
    digest = tf.raw_ops.Fingerprint(data=np.frombuffer(index, np.uint8)[None], method="farmhash64")
    return int(np.asarray(digest).view("<u8")[0, 0])


def test_fingerprint_names_the_repaired_checkpoint(folder, tmp_path):
    loaded = load_model(folder / "functional-savedmodel")
    save_patched(loaded, random_patch(loaded), tmp_path / "repair")
    read = fingerprint_pb2.FingerprintDef.FromString
    old = read((loaded.path / "fingerprint.pb").read_bytes())
    new = read((tmp_path / "repair" / "fingerprint.pb").read_bytes())
    assert old.checkpoint_hash == checkpoint_hash(loaded.path), "how TensorFlow made it"
    assert new.checkpoint_hash == checkpoint_hash(tmp_path / "repair") != old.checkpoint_hash
    new.checkpoint_hash = old.checkpoint_hash
    assert new == old, "the rest describes the graph, which stays"


@pytest.mark.parametrize("damage", ["hash", "bytes"])
def test_fingerprint_that_is_not_understood_is_dropped(damage, folder, tmp_path):
    source = shutil.copytree(folder / "sequential-savedmodel", tmp_path / "source")
    path = source / "fingerprint.pb"
    fingerprint = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    fingerprint.checkpoint_hash += 1
    path.write_bytes(fingerprint.SerializeToString() if damage == "hash" else b"\xff")
    loaded = load_model(source)
    save_patched(loaded, random_patch(loaded), tmp_path / "repair")
    assert not (tmp_path / "repair" / "fingerprint.pb").exists()
    load_model(tmp_path / "repair")
