"""Save a repaired model by changing a few numbers in a copy of the file it came from.

Everything else in the container stays bit for bit: configuration, optimizer state, the weights that were not
repaired. So the program that wrote the model can read the repaired one.
"""

from __future__ import annotations

import copy
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from engine.backend import keras
from engine.core.errors import InputError
from engine.core.files import replace_directory, replace_file
from engine.core.types import Float32
from engine.models import hdf5, savedmodel
from engine.models.load import LoadedModel, fingerprint_of
from engine.models.weight_paths import weight_variables
from engine.patches.patch import Patch, first_other

REPAIRED = {"keras": "model.keras", "h5": "model.h5"}


def repaired_path(source: LoadedModel, directory: Path) -> Path:
    """Where the repaired form of a model goes: `<directory>/repair`, or a file of the model's format in it.

    `load_model(directory / "repair")` opens either.
    """
    folder = Path(directory) / "repair"
    return folder if source.format == "savedmodel" else folder / REPAIRED[source.format]


def save_patched(source: LoadedModel, patch: Patch, destination: Path, *, overwrite: bool = False) -> None:
    """Write a copy of a model's container with the weights of a patch changed.

    Args:
        source: the model as it was loaded; its container must still be there.
        patch: what to change; an empty one gives an unchanged copy.
        destination: a folder for a SavedModel, else a file. Missing parents are made.
        overwrite: replace what is there.

    Raises:
        InputError: the destination exists or is the source, the patch does not fit the model, or its old
            values are not those of the source bit for bit. Nothing is written then.
    """
    destination = Path(destination)
    _check_source(source)
    _check_destination(source, destination, overwrite)
    _check_rows(source, patch)
    new_parent = not destination.parent.exists()
    try:
        if source.format == "savedmodel":
            with replace_directory(destination) as folder:
                _save_savedmodel(source, patch, folder)
        else:
            with replace_file(destination) as file:
                (_save_h5 if source.format == "h5" else _save_keras)(source, patch, file)
    except BaseException:
        if new_parent:
            with suppress(OSError):  # not empty: someone else uses it too
                destination.parent.rmdir()
        raise


def _check_source(source: LoadedModel) -> None:
    try:
        unchanged = fingerprint_of(source.path, source.format) == source.fingerprint
    except OSError as error:
        raise InputError(f"{source.path}: cannot be read any more ({error.strerror}), expected the model") from error
    if not unchanged:
        raise InputError(f"{source.path}: changed since it was loaded, expected the same model")


def _check_destination(source: LoadedModel, destination: Path, overwrite: bool) -> None:
    origin, target = source.path.resolve(), destination.resolve()
    if target == origin or target in origin.parents:
        raise InputError(f"{destination}: holds the model to repair, expected another place for the repaired one")
    if destination.exists() and not overwrite:
        raise InputError(f"{destination}: exists already, expected a new name or --overwrite")
    if source.format != "savedmodel" and savedmodel.is_savedmodel(destination.parent):
        raise InputError(f"{destination.parent}: holds a SavedModel already, expected a folder without a model")


def _check_rows(source: LoadedModel, patch: Patch) -> None:
    """Refuse rows that name no weight, a place outside it, or a place twice."""
    variables = weight_variables(source.model)
    for path, rows in patch.by_weight():
        if path not in variables:
            raise InputError(f"{source.path}: the patch changes {path!r}, expected a weight of the model")
        size, places = int(np.prod(variables[path].shape)), patch.flat_index[rows]
        if len(outside := places[(places < 0) | (places >= size)]):
            raise InputError(f"{source.path}: the patch has index {outside[0]} in {path!r}, expected 0 to {size - 1}")
    if twice := patch.first_twice():
        raise InputError(
            f"{source.path}: the patch changes a place of {patch.weight[twice[0]]!r} twice, expected each once"
        )


def _patched(
    source: LoadedModel, patch: Patch, path: str, rows: npt.NDArray[np.intp], value: npt.NDArray[Any]
) -> Float32:
    """A stored weight with its rows of the patch applied; the old values must be there bit for bit."""
    if value.dtype != np.float32:
        raise InputError(f"{source.path}: found {path!r} stored as {value.dtype}, expected float32 to be patched")
    flat = np.array(value, order="C").reshape(-1)
    places, old = patch.flat_index[rows], patch.old[rows]
    if (first := first_other(flat[places], old)) is not None:
        raise InputError(
            f"{source.path}: found {flat[places[first]]!s} in {path!r} at index {places[first]}, expected "
            f"{old[first]!s} as when the patch was made"
        )
    flat[places] = patch.new[rows]
    return flat.reshape(value.shape)


def _save_savedmodel(source: LoadedModel, patch: Patch, folder: Path) -> None:
    for part in savedmodel.FOLDERS:  # an empty one is kept too
        if (source.path / part).is_dir():
            (folder / part).mkdir()
    for name in savedmodel.savedmodel_files(source.path):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path / name, folder / name)
    if not len(patch):
        return
    metadata = savedmodel.read_metadata(source.path)
    tensors = savedmodel.read_tensors(source.path)
    keys = savedmodel.tensor_keys(source.path, source.model, metadata, tensors)
    for path, rows in patch.by_weight():
        tensors[keys[path]] = _patched(source, patch, path, rows, tensors[keys[path]])
    for old in (folder / "variables").glob("variables.data-*"):
        old.unlink()
    _write_checkpoint(folder / "variables" / "variables", tensors)
    _renew_fingerprint(source.path, folder)


def _write_checkpoint(prefix: Path, tensors: Mapping[str, Any]) -> None:
    names = sorted(tensors)
    tf = savedmodel.tensorflow(prefix.parent.parent)
    with tf.device("CPU:0"):
        tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.constant(tensors[name]) for name in names],
        )


def _renew_fingerprint(source: Path, folder: Path) -> None:
    """Let `fingerprint.pb` name the new checkpoint, or drop it where its way of naming is not understood."""
    path = folder / savedmodel.FINGERPRINT
    if not path.is_file():
        return
    savedmodel.tensorflow(source)
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

    try:
        fingerprint = FingerprintDef.FromString(path.read_bytes())
    except DecodeError:
        path.unlink()
        return
    if fingerprint.checkpoint_hash != savedmodel.checkpoint_hash(source / savedmodel.INDEX):
        path.unlink()
        return
    fingerprint.checkpoint_hash = savedmodel.checkpoint_hash(folder / savedmodel.INDEX)
    path.write_bytes(fingerprint.SerializeToString())


def _save_h5(source: LoadedModel, patch: Patch, file: Path) -> None:
    shutil.copyfile(source.path, file)
    if not len(patch):
        return
    with hdf5.open_hdf5(file, "r+", name=str(source.path)) as changed_copy:
        datasets = hdf5.weight_datasets(changed_copy, source.model, source.path)
        _patch_datasets(source, patch, changed_copy, datasets)


def _save_keras(source: LoadedModel, patch: Patch, file: Path) -> None:
    if not len(patch):
        shutil.copyfile(source.path, file)
        return
    with TemporaryDirectory() as folder, hdf5.open_archive(source.path) as archive:
        weights = Path(folder) / hdf5.WEIGHTS_MEMBER
        hdf5.extract(archive, hdf5.WEIGHTS_MEMBER, weights)
        datasets = _archive_datasets(source)
        with hdf5.open_hdf5(weights, "r+", name=str(source.path)) as changed_copy:
            _patch_datasets(source, patch, changed_copy, datasets)
        with zipfile.ZipFile(file, "w") as target:
            for info in archive.infolist():
                changed = info.filename == hdf5.WEIGHTS_MEMBER
                with (
                    weights.open("rb") if changed else archive.open(info) as content,
                    target.open(copy.copy(info), "w") as member,
                ):
                    shutil.copyfileobj(content, member, 1 << 20)


def _patch_datasets(source: LoadedModel, patch: Patch, file: h5py.File, datasets: Mapping[str, str]) -> None:
    for path, rows in patch.by_weight():
        dataset = file.get(datasets.get(path, ""))
        if not isinstance(dataset, h5py.Dataset) or dataset.shape != tuple(weight_variables(source.model)[path].shape):
            raise InputError(f"{source.path}: found no place where {path!r} is kept, expected one of its shape")
        dataset[...] = _patched(source, patch, path, rows, dataset[...])


def _archive_datasets(source: LoadedModel) -> dict[str, str]:
    """Where Keras keeps each weight in `model.weights.h5`: path of the weight -> name of the dataset.

    The layout is Keras' own affair and differs between versions and layers, so Keras is asked: it saves the
    model with a number of its own in every weight, and the number is looked for.
    """
    variables = {path: item for path, item in weight_variables(source.model).items() if item.dtype == "float32"}
    kept = {path: np.array(keras.ops.convert_to_numpy(variable)) for path, variable in variables.items()}
    numbers = {float(number): path for number, path in enumerate(variables, start=1)}
    found: dict[str, str] = {}

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype == np.float32 and item.size:
            number = float(item[(0,) * item.ndim])
            path = numbers.get(number)
            if path is not None and item.shape == kept[path].shape and np.all(item[...] == number):
                found[path] = name

    with TemporaryDirectory() as folder:
        file = Path(folder) / hdf5.WEIGHTS_MEMBER
        try:
            for number, path in numbers.items():
                variables[path].assign(np.full(kept[path].shape, number, np.float32))
            source.model.save_weights(str(file))
        finally:
            for path, value in kept.items():
                variables[path].assign(value)
        with h5py.File(file, "r") as saved:
            saved.visititems(look)
    return found
