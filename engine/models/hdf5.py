"""Models in HDF5: the `.h5` format of Keras 2 and 3, and the weights inside a `.keras` archive."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError, reason
from engine.core.files import disk_is_full
from engine.core.hdf5 import refuse_other_files
from engine.models.weight_paths import weight_variables

CONFIG_MEMBER = "config.json"
WEIGHTS_MEMBER = "model.weights.h5"
# A member of a zip archive may unpack to about 1000 times its size; real weights hardly shrink at all.
BOMB_BYTES, BOMB_RATIO = 1 << 28, 100


@contextmanager
def open_hdf5(path: Path, mode: str = "r", name: str | None = None) -> Iterator[h5py.File]:
    """Open an HDF5 file that keeps all its data to itself, without locking it."""
    name = name or str(path)
    try:
        with h5py.File(path, mode, locking=False) as file:
            refuse_other_files(file, name)
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        if disk_is_full(error):
            raise
        raise InputError(f"{name}: damaged HDF5 file ({reason(error)}), expected a Keras model") from error


def is_hdf5_model(path: Path) -> bool:
    """Whether a file is HDF5 and holds a whole Keras model, not images or weights alone."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "model_config" in file.attrs
    except OSError:
        return False


def written_by_keras_3(file: h5py.File) -> bool:
    version = file.attrs.get("keras_version", "")
    text = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    return text.startswith("3.")


def read_attribute(file: h5py.File, attribute: str, path: Path) -> dict[str, Any] | None:
    """A JSON object stored as an attribute of the file; None when it is not there."""
    if attribute not in file.attrs:
        return None
    try:
        value = json.loads(file.attrs[attribute])
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: attribute {attribute!r} is not JSON ({reason(error)}), expected a Keras model"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: attribute {attribute!r} is a {type(value).__name__}, expected a JSON object")
    return value


def layer_variables(layer: Any) -> list[Any]:
    """The weights of a top-level layer in the order of a `.h5` model: those that are trained first."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def weight_datasets(file: h5py.File, model: Any, path: Path, root: str = "model_weights") -> dict[str, str]:
    """Where a `.h5` model keeps its weights: path of `weight_variables(model)` -> name of the dataset."""
    paths = {id(variable): name for name, variable in weight_variables(model).items()}
    found: dict[str, str] = {}
    layers = [layer for layer in model.layers if layer.weights]
    groups = {layer.name: layer.name for layer in layers} if root else _groups(file, layers, path)
    for layer in layers:
        group = file.get(f"{root}/{groups[layer.name]}")
        names = _names(group, "weight_names", path) if isinstance(group, h5py.Group) else []
        variables = layer_variables(layer)
        if len(names) != len(variables):
            raise InputError(f"{path}: found {len(names)} weights of layer {layer.name!r}, expected {len(variables)}")
        for name, variable in zip(names, variables, strict=True):
            if not isinstance(group.get(name), h5py.Dataset):
                raise InputError(f"{path}: found no dataset {name!r} of layer {layer.name!r}, expected a weight")
            found.setdefault(paths[id(variable)], f"{group.name}/{name}")
    return found


def _groups(file: h5py.File, layers: list[Any], path: Path) -> dict[str, str]:
    """The group of each layer in a file of weights alone; counters in Keras' names differ between trainings."""
    own = [layer.name for layer in layers]
    stored = [name for name in _names(file, "layer_names", path) if isinstance(file.get(name), h5py.Group)]
    held = [name for name in stored if _names(file[name], "weight_names", path)]
    if len(held) != len(own):
        raise InputError(f"{path}: found {len(held)} layers with weights, expected {len(own)} as in the model")
    return dict(zip(own, own if set(held) == set(own) else held, strict=True))


def read_weights(file: h5py.File, model: Any, path: Path) -> dict[str, npt.NDArray[Any]]:
    """The stored value for each path of `weight_variables(model)` of a `.h5` model."""
    return {name: np.asarray(file[dataset]) for name, dataset in weight_datasets(file, model, path).items()}


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a `.keras` archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) != len(names):
                raise InputError(f"{path}: damaged archive (a member is there twice), expected a .keras model")
            for member in (CONFIG_MEMBER, WEIGHTS_MEMBER):
                if member not in names:
                    raise InputError(f"{path}: found no {member} in the archive, expected a .keras model")
            for info in archive.infolist():
                if info.file_size > max(BOMB_BYTES, BOMB_RATIO * info.compress_size):
                    raise InputError(
                        f"{path}: {info.filename} unpacks to {info.file_size} bytes, expected real weights"
                    )
            yield archive
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        if disk_is_full(error):
            raise
        raise InputError(f"{path}: damaged archive ({reason(error)}), expected a .keras model") from error


def read_archive_config(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    """The configuration of a `.keras` archive."""
    try:
        config = json.loads(archive.read(CONFIG_MEMBER))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {CONFIG_MEMBER} is not JSON ({reason(error)}), expected a .keras model") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: {CONFIG_MEMBER} holds a {type(config).__name__}, expected a JSON object")
    return config


def load_archive_weights(archive: zipfile.ZipFile, model: Any, path: Path) -> None:
    """Set the weights of a model to those of a `.keras` archive."""
    with TemporaryDirectory() as folder:
        weights = Path(folder) / WEIGHTS_MEMBER
        extract(archive, WEIGHTS_MEMBER, weights)
        with open_hdf5(weights, name=f"{path} ({WEIGHTS_MEMBER})"):
            pass  # looked through for links before Keras reads it
        try:
            model.load_weights(str(weights))
        except Exception as error:  # Keras raises many kinds for weights that do not fit
            raise InputError(f"{path}: the stored weights do not fit the stored model ({reason(error)})") from error


def extract(archive: zipfile.ZipFile, member: str, target: Path) -> None:
    """Write one member of an archive to a file of that name."""
    with archive.open(member) as packed, target.open("wb") as plain:
        shutil.copyfileobj(packed, plain, 1 << 20)


def _names(group: h5py.Group, attribute: str, path: Path) -> list[str]:
    """A list of names kept as an attribute, or as several where it is too long for one."""
    if attribute in group.attrs:
        parts = [group.attrs[attribute]]
    else:
        parts = []
        while f"{attribute}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{attribute}{len(parts)}"])
    try:
        names = [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in part]
        "".join(names).encode()  # h5py lets some bytes that are no UTF-8 through in disguise
    except UnicodeError:
        raise InputError(f"{path}: {attribute} of {group.name} are no UTF-8 text, expected a Keras model") from None
    return names
