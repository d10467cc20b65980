"""Checkpoints of a training: files with the weights that a model had after an epoch.

Weights alone in HDF5, as Keras 2 (`weights.07-0.35.hdf5`, what eAI-Repair-Toolkit's `train` leaves) and Keras 3
(`07.weights.h5`) write them, and whole models (`.keras`, `.h5`). The epoch is the number behind the word `epoch` in the
name of a file, or else the first number in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from engine.core.errors import InputError, reason
from engine.core.hdf5 import check_stored
from engine.core.names import listed
from engine.models import hdf5
from engine.models.load import LoadedModel, build_model, fingerprint_of, load_model, shapes_of, spec_of
from engine.models.weight_paths import assign_weights, weight_variables

FOLDER = Path("logs/model_check_points")
"""Where training leaves them, beside the model."""

ENDINGS = (".hdf5", ".h5", ".keras")
"""Of files that may be checkpoints; others in their folder are not looked at."""

LAST_TWO = (2, 1)
"""Which checkpoints are compared by default, counted from the end: the last but one and the last."""

_EPOCH = re.compile(r"epoch\D?(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_EXPECTED = "weights.07-0.35.hdf5 or epoch-07.weights.h5"


@dataclass(frozen=True)
class CheckpointFile:
    """A file with the weights after an epoch."""

    path: Path
    epoch: int


@dataclass(frozen=True, eq=False)
class StoredCheckpoint:
    path: Path  # of its file
    epoch: int  # by the name of the file
    # of every weight of the model, by path and in the order of `weight_variables`, finite
    values: Mapping[str, npt.NDArray[Any]]


def checkpoint_files(folder: Path) -> tuple[CheckpointFile, ...]:
    """The checkpoints in a folder, in the order of their epochs: as numbers, so that 100 comes after 99."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one with checkpoints of the training")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.endswith(ENDINGS) or path.name.startswith(".") or not path.is_file():
            continue
        epoch = _epoch_of(path)
        if epoch in found:
            raise InputError(
                f"{folder}: {found[epoch].name} and {path.name} are both of epoch {epoch}, expected checkpoints of one "
                f"training, named as {_EXPECTED}"
            )
        found[epoch] = path
    return tuple(CheckpointFile(found[epoch], epoch) for epoch in sorted(found))


def compared_files(folder: Path, last: tuple[int, int] = LAST_TWO) -> tuple[CheckpointFile, CheckpointFile]:
    """The two checkpoints in a folder that are compared, the earlier one first; see `read_checkpoints`."""
    files = checkpoint_files(folder)
    if len(files) < 2:
        found = "no checkpoint" if not files else "1 checkpoint"
        raise InputError(f"{folder}: found {found} ({listed(ENDINGS)}), expected those of at least two epochs")
    earlier, later = last
    if not 1 <= later < earlier <= len(files):
        raise InputError(
            f"{folder}: checkpoints {earlier} and {later} from the end are asked for, expected two of {len(files)}, "
            "the earlier one first"
        )
    return files[-earlier], files[-later]


def read_checkpoints(
    folder: Path, model: LoadedModel, last: tuple[int, int] = LAST_TWO
) -> tuple[StoredCheckpoint, StoredCheckpoint]:
    """The two checkpoints of a model that are compared, the earlier one first."""
    reader = _Reader(model)
    first, second = map(reader.read, compared_files(folder, last))
    return first, second


def with_weights(model: LoadedModel, checkpoint: StoredCheckpoint) -> LoadedModel:
    """The model with the weights of a checkpoint, built anew; the model given is left as it is."""
    spec = replace(spec_of(model.model), weights=tuple(checkpoint.values.items()))
    return replace(
        model,
        path=checkpoint.path,
        model=build_model(spec, allow_custom_code=model.allow_custom_code),
        fingerprint=fingerprint_of(checkpoint.path, "h5"),
    )


def unlike(checkpoint: StoredCheckpoint, model: LoadedModel) -> str | None:
    """In words, how a checkpoint differs from the model; None where all weights are the same."""
    variables = weight_variables(model.model)
    others = [
        path
        for path, variable in variables.items()
        if not np.array_equal(np.float32(checkpoint.values[path]), np.float32(_array(variable)))
    ]
    if not others:
        return None
    return (
        f"{checkpoint.path} is not the model {model.path}: {len(others)} of {len(variables)} weights differ, the first "
        f"of them {others[0]!r}"
    )


class _Reader:
    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._shapes = shapes_of(model)

    def read(self, file: CheckpointFile) -> StoredCheckpoint:
        """All weights of a file."""
        values = self._values(file.path)
        for path, value in values.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise InputError(f"{file.path}: weight {path!r} holds NaN or infinite values, expected numbers")
        return StoredCheckpoint(file.path, file.epoch, values)

    def _values(self, path: Path) -> dict[str, npt.NDArray[Any]]:
        if path.suffix == ".keras" or hdf5.is_hdf5_model(path):
            return self._of_model(path)
        with hdf5.open_hdf5(path) as file:
            if "layer_names" in file.attrs or "layer_names0" in file.attrs:
                return self._of_keras_2(file, path)
            if not path.name.endswith(".weights.h5"):
                raise InputError(
                    f"{path}: found HDF5 without weights of a model, expected weights as Keras 2 writes them (.hdf5) "
                    "or Keras 3 (.weights.h5), or a whole model"
                )
            size = path.stat().st_size
            file.visititems(
                lambda _, item: check_stored(item, size, str(path)) if isinstance(item, h5py.Dataset) else None
            )
        return self._of_keras_3(path)

    def _of_model(self, path: Path) -> dict[str, npt.NDArray[Any]]:
        """Weights of a whole model: by path, or in the order of the model where its layers have other names."""
        variables = weight_variables(load_model(path, allow_custom_code=self._model.allow_custom_code).model)
        if set(variables) != set(self._shapes) and len(variables) == len(self._shapes):
            variables = dict(zip(self._shapes, variables.values(), strict=True))
        self._check_same(path, variables)
        values = {name: _array(variables[name]) for name in self._shapes}
        for name, value in values.items():
            self._check_shape(path, name, value.shape)
        return values

    def _of_keras_2(self, file: h5py.File, path: Path) -> dict[str, npt.NDArray[Any]]:
        datasets = hdf5.weight_datasets(file, self._model.model, path, root="")
        size, values = path.stat().st_size, {}
        for name in self._shapes:
            if name not in datasets:
                raise InputError(f"{path}: found no weight {name!r}, expected all of the model {self._model.path}")
            dataset = file[datasets[name]]
            self._check_shape(path, name, dataset.shape)
            check_stored(dataset, size, str(path))
            if dataset.dtype.kind not in "fiub":
                raise InputError(f"{path}: weight {name!r} is of type {dataset.dtype}, expected numbers")
            values[name] = np.asarray(dataset)
        return values

    def _of_keras_3(self, path: Path) -> dict[str, npt.NDArray[Any]]:
        """Keras names layers of these files in a way of its own, so that it reads them, into a copy of the model."""
        variables = weight_variables(self._copy)
        empty = {
            name: np.full(shape, np.nan if "float" in str(variables[name].dtype) else 0.0)
            for name, shape in self._shapes.items()
        }
        assign_weights(self._copy, empty, source=str(path))
        try:
            self._copy.load_weights(str(path))
        except Exception as error:  # Keras raises many kinds for weights that do not fit
            unread = [name for name, variable in variables.items() if np.isnan(np.float32(_array(variable))).any()]
            which = f"weight {unread[0]!r}" if unread else "the weights"
            raise InputError(
                f"{path}: {which} of the model {self._model.path} cannot be read ({_cause(error)}), expected "
                f"{self._shapes[unread[0]] if unread else 'those'} as the model has it"
            ) from error
        return {name: _array(variable) for name, variable in variables.items()}

    @cached_property
    def _copy(self) -> Any:
        return build_model(spec_of(self._model.model), allow_custom_code=self._model.allow_custom_code)

    def _check_same(self, path: Path, found: Mapping[str, Any]) -> None:
        if odd := sorted(set(found) ^ set(self._shapes)):
            raise InputError(
                f"{path}: its weights and those of the model {self._model.path} differ in {odd[0]!r}, expected the same"
            )

    def _check_shape(self, path: Path, name: str, shape: tuple[int, ...]) -> None:
        if tuple(shape) != self._shapes[name]:
            raise InputError(
                f"{path}: weight {name!r} has shape {tuple(shape)}, expected {self._shapes[name]} as the model "
                f"{self._model.path} has it"
            )


def _epoch_of(path: Path) -> int:
    found = _EPOCH.search(path.name) or _NUMBER.search(path.name.removesuffix(path.suffix))
    if found is None:
        raise InputError(f"{path}: found no epoch in the name, expected one as in {_EXPECTED}")
    return int(found[found.lastindex or 0])


def _cause(error: Exception) -> str:
    """What Keras says of the weight that does not fit, which stands in the third line of its messages."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return reason(ValueError(lines[1])) if len(lines) > 1 else reason(error)


def _array(variable: Any) -> npt.NDArray[Any]:
    from engine.backend import ops

    return np.array(ops.convert_to_numpy(variable))
