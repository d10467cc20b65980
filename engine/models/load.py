"""Models: loaded from `.keras`, `.h5` and Keras 2 SavedModel files without executing anything in them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from engine.backend import keras
from engine.core.errors import InputError, reason
from engine.data.image_set import ImageSet, Inputs, check_fits_model
from engine.models import hdf5, safe_config, savedmodel
from engine.models.inputs import ModelInput, has_graph, model_inputs, row_shape, several_inputs
from engine.models.keras2_config import refuse_other_functions
from engine.models.loss import TrainingLoss, parse_loss
from engine.models.weight_paths import assign_weights, weight_variables

Format = Literal["keras", "h5", "savedmodel"]
EXPECTED = "expected a .keras file, an HDF5 model or a SavedModel folder of Keras 2"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model and where it came from.

    Attributes:
        path: the container itself: a file, or the folder of a SavedModel.
        format: what kind of container it is.
        model: the Keras model, not compiled; rows (`engine.models.inputs`) to (n, classes) outputs.
        loss: the loss it was trained with.
        input_shape: of a row: (h, w, c) for images, (F,) for a model with several inputs.
        classes: the number of outputs.
        fingerprint: SHA-256 over the container's content, in hexadecimal.
        allow_custom_code: it was loaded with leave to run code of the file, and so may be built again elsewhere.
        inputs: name and shape of each input of a model with several; else empty.
    """

    path: Path
    format: Format
    model: Any
    loss: TrainingLoss
    input_shape: tuple[int, ...]
    classes: int
    fingerprint: str
    allow_custom_code: bool = False
    inputs: Inputs = ()


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """What a worker needs to build a model again: plain values that can be pickled."""

    config: str  # the model's configuration as JSON
    weights: tuple[tuple[str, npt.NDArray[Any]], ...]  # one array per path of `weight_variables`, in its order


def check_fits(images: ImageSet, model: LoadedModel) -> None:
    check_fits_model(images, model.input_shape, model.classes, model.path, model.inputs)


def load_model(path: Path, *, allow_custom_code: bool = False) -> LoadedModel:
    """Load a model for inference.

    Args:
        path: a `.keras` file, an HDF5 file, a Keras 2 SavedModel folder, or a folder with one such file.
        allow_custom_code: let Keras run code that the file brings along (Lambda layers), and import the modules whose
            classes it names (subclassed models, layers of one's own).

    Raises:
        InputError: there is no such file, it is not a model, it is damaged, it would run code, or it does not
            map rows of fixed shape to one vector each.
    """
    container, kind = _find(Path(path))
    loaders = {"keras": _load_keras, "h5": _load_h5, "savedmodel": _load_savedmodel}
    model, stored_loss = loaders[kind](container, allow_custom_code)
    classes = _check_shapes(model, container)
    return LoadedModel(
        path=container,
        format=kind,
        model=model,
        loss=parse_loss(stored_loss, model, source=str(container)),
        input_shape=row_shape(model),
        classes=classes,
        fingerprint=fingerprint_of(container, kind),
        allow_custom_code=allow_custom_code,
        inputs=several_inputs(model),
    )


def shapes_of(model: LoadedModel) -> dict[str, tuple[int, ...]]:
    return {path: tuple(variable.shape) for path, variable in weight_variables(model.model).items()}


def spec_of(model: Any) -> ModelSpec:
    config = safe_config.plain_config(keras.saving.serialize_keras_object(model))
    weights = tuple(
        (path, np.array(keras.ops.convert_to_numpy(variable))) for path, variable in weight_variables(model).items()
    )
    return ModelSpec(json.dumps(config), weights)


def build_model(spec: ModelSpec, *, allow_custom_code: bool = False) -> Any:
    """Build the model of a spec, with the same checks as `load_model`."""
    source = "model specification"
    model = safe_config.build_model(json.loads(spec.config), source=source, allow_custom_code=allow_custom_code)
    assign_weights(model, dict(spec.weights), source=source)
    return model


def fingerprint_of(path: Path, kind: Format) -> str:
    """SHA-256 over a container's content; for a SavedModel over its files and their names, sorted."""
    digest = hashlib.sha256()
    if kind != "savedmodel":
        _add_content(digest, path)
        return digest.hexdigest()
    for name in savedmodel.savedmodel_files(path):
        # Names and lengths count too, so that moving bytes from one file to another changes the result.
        digest.update(f"{name.as_posix()}\0{(path / name).stat().st_size}\0".encode())
        _add_content(digest, path / name)
    return digest.hexdigest()


def _find(path: Path) -> tuple[Path, Format]:
    """The container at a path, or the only one in a folder, and its format."""
    if path.is_dir():
        if savedmodel.is_savedmodel(path):
            return path, "savedmodel"
        found = [(file, kind) for file in sorted(path.iterdir()) if (kind := _file_format(file))]
        if len(found) == 1:
            return found[0]
        names = ", ".join(file.name for file, _ in found)
        raise InputError(f"{path}: found {names or 'no model'} in the folder, expected exactly one model")
    if not path.exists():
        raise InputError(f"{path}: no such file or folder, {EXPECTED}")
    if kind := _file_format(path):
        return path, kind
    if h5py.is_hdf5(path):
        raise InputError(f"{path}: found an HDF5 file without a model configuration, {EXPECTED}")
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"PK") or start == b"\x89HDF\r\n\x1a\n":
        raise InputError(f"{path}: damaged or cut short, {EXPECTED}")
    raise InputError(f"{path}: found a file of an unknown format, {EXPECTED}")


def _file_format(path: Path) -> Format | None:
    if not path.is_file():
        return None
    if zipfile.is_zipfile(path):
        return "keras"
    return "h5" if hdf5.is_hdf5_model(path) else None


def _load_keras(path: Path, allow_custom_code: bool) -> tuple[Any, Any]:
    with hdf5.open_archive(path) as archive:
        config = hdf5.read_archive_config(archive, path)
        model = _built(config, path, allow_custom_code)
        hdf5.load_archive_weights(archive, model, path)
    return model, _stored_loss(config.get("compile_config"))


def _load_h5(path: Path, allow_custom_code: bool) -> tuple[Any, Any]:
    with hdf5.open_hdf5(path) as file:
        config = hdf5.read_attribute(file, "model_config", path) or {}
        if not hdf5.written_by_keras_3(file):
            refuse_other_functions(config, str(path))
        model = _built(config, path, allow_custom_code)
        assign_weights(model, hdf5.read_weights(file, model, path), source=str(path))
        training = hdf5.read_attribute(file, "training_config", path)
    return model, _stored_loss(training)


def _load_savedmodel(path: Path, allow_custom_code: bool) -> tuple[Any, Any]:
    metadata = savedmodel.read_metadata(path)
    config = {"class_name": metadata.get("class_name"), "config": metadata.get("config")}
    refuse_other_functions(config, str(path))
    model = _built(config, path, allow_custom_code)
    assign_weights(model, savedmodel.read_weights(path, model, config), source=str(path))
    return model, _stored_loss(metadata.get("training_config"))


def _stored_loss(training: Any) -> Any:
    return training.get("loss") if isinstance(training, Mapping) else None


def _built(config: Mapping[str, Any], path: Path, allow_custom_code: bool) -> Any:
    model = safe_config.build_model(config, source=str(path), allow_custom_code=allow_custom_code)
    if not model.built:
        raise InputError(
            f"{path}: the model's input shape is not stored, expected a model of fixed input shape that was built or "
            "called before it was saved"
        )
    return model


def _check_shapes(model: Any, path: Path) -> int:
    """The number of classes of a model that maps rows of fixed shape to one vector each."""
    inputs = model_inputs(model)
    if not inputs:
        raise InputError(
            f"{path}: the subclassed model {type(model).__name__!r} does not store the shape of one input, expected "
            "one that was called with a single tensor before it was saved"
        )
    for number, model_input in enumerate(inputs):
        shape = tuple(model.inputs[number].shape) if has_graph(model) else (None, *model_input.shape)
        if not model_input.shape or None in model_input.shape or shape[0] is not None:
            raise InputError(
                f"{path}: found input shape {shape}, expected (None, ...) with fixed sizes (pad rows to one length, "
                "and save the model with it)"
            )
        if model_input.dtype == "string":
            raise InputError(f"{path}: found an input {model_input.name!r} of text, expected numbers")
    outputs = _output_shapes(model, inputs[0], path)
    if len(outputs) != 1:
        raise InputError(f"{path}: found {len(outputs)} outputs, expected one")
    if len(outputs[0]) != 2 or outputs[0][1] is None:
        raise InputError(f"{path}: found output shape {outputs[0]}, expected (None, classes)")
    return int(outputs[0][1])


def _output_shapes(model: Any, only_input: ModelInput, path: Path) -> list[tuple[int | None, ...]]:
    """Shape (None, ...) of each output; a subclassed model must be run without numbers to learn it."""
    if has_graph(model):
        outputs = model.outputs
    else:
        start = keras.KerasTensor((None, *only_input.shape), only_input.dtype)
        try:
            outputs = keras.tree.flatten(model.compute_output_spec(start))
        except Exception as error:  # it is the code of the file that runs
            raise InputError(
                f"{path}: the model cannot be run on rows of shape {only_input.shape} ({reason(error)}), expected "
                "one that can be compiled for them"
            ) from error
    return [tuple(output.shape) for output in outputs]


def _add_content(digest: Any, path: Path) -> None:
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
