"""Keras 2 SavedModel folders: read as data, never loaded as a program.

The architecture and the loss are JSON in `keras_metadata.pb`; the weights are tensors of the checkpoint in
`variables/`. The TensorFlow graph in `saved_model.pb` is not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from engine import backend
from engine.backend import keras
from engine.core.errors import InputError, reason
from engine.models.weight_paths import name_in_layer, weight_variables

METADATA = "keras_metadata.pb"
GRAPH = "saved_model.pb"
FINGERPRINT = "fingerprint.pb"
FOLDERS = ("assets", "assets.extra", "variables")
INDEX = "variables/variables.index"
OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Children of a layer's node that repeat variables which its attributes name, or are no variables.
SKIPPED_CHILDREN = frozenset(
    {
        *("variables", "trainable_variables", "non_trainable_variables", "regularization_losses", "metrics"),
        *("layers", "keras_api", "signatures", "__call__", "call_and_return_all_conditional_losses"),
    }
)


def tensorflow(folder: Path) -> Any:
    """TensorFlow, to read or write a SavedModel; see `backend.tensorflow`."""
    return backend.tensorflow(f"{folder}: a SavedModel of Keras 2")


def is_savedmodel(folder: Path) -> bool:
    """Whether a folder holds a SavedModel of any kind."""
    return (folder / GRAPH).is_file()


def savedmodel_files(folder: Path) -> list[Path]:
    """The files that make up a SavedModel, relative to its folder and sorted; other files are not its own."""
    found = [Path(name) for name in (FINGERPRINT, METADATA, GRAPH) if (folder / name).is_file()]
    for name in FOLDERS:
        found += [path.relative_to(folder) for path in (folder / name).rglob("*") if path.is_file()]
    return sorted(found)


def read_metadata(folder: Path) -> dict[str, Any]:
    """The JSON of the root object: `class_name`, `config` and, for a compiled model, `training_config`."""
    path = folder / METADATA
    if not path.is_file():
        raise InputError(
            f"{folder}: found a SavedModel without {METADATA} (an export of Keras 3 or plain TensorFlow), "
            "expected one saved by Keras 2, or a .keras or .h5 file"
        )
    _check_graph(folder / GRAPH)
    message = metadata_class()()
    try:
        message.ParseFromString(path.read_bytes())
        root = next(node for node in message.nodes if node.node_path == "root")
        metadata = json.loads(root.metadata)
    except (DecodeError, StopIteration, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({reason(error)}), expected the metadata of a Keras 2 SavedModel") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: damaged, expected the metadata of a Keras 2 SavedModel")
    return metadata


def read_tensors(folder: Path) -> dict[str, Any]:
    """Every tensor of the checkpoint by key, in key order: arrays, or bytes for a string."""
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder / INDEX}: no such file, expected the checkpoint of a Keras 2 SavedModel")
    try:
        reader = tensorflow(folder).train.load_checkpoint(str(folder / "variables" / "variables"))
        return {key: reader.get_tensor(key) for key in sorted(reader.get_variable_to_shape_map())}
    except Exception as error:  # besides TensorFlow's own errors, plain ones escape from the reader
        raise InputError(
            f"{folder / 'variables'}: damaged checkpoint ({reason(error)}), expected a SavedModel's weights"
        ) from error


def read_weights(folder: Path, model: Any, config: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """The checkpoint's value for each path of `weight_variables(model)`."""
    tensors = read_tensors(folder)
    return {path: tensors[key] for path, key in tensor_keys(folder, model, config, tensors).items()}


def tensor_keys(folder: Path, model: Any, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, str]:
    """Where each weight is in the checkpoint: path of `weight_variables(model)` -> tensor key.

    The checkpoint's object graph is followed, not the keys themselves: a weight of a nested model may be kept
    as `variables/8` although it belongs to `layer_with_weights-3/layer_with_weights-0`.
    """
    tensorflow(folder)
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    graph = TrackableObjectGraph()
    try:
        graph.ParseFromString(tensors[OBJECT_GRAPH_KEY])
        if not graph.nodes:
            raise KeyError("no objects")
    except (KeyError, TypeError, DecodeError) as error:
        raise InputError(f"{folder / 'variables'}: damaged checkpoint, expected one with an object graph") from error
    try:
        keys = {id(variable): key for variable, key in _walk(model, config, graph.nodes, 0, folder)}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: the stored layers have no names ({reason(error)}), expected them") from error
    found = {path: keys[id(variable)] for path, variable in weight_variables(model).items() if id(variable) in keys}
    for path in weight_variables(model):
        if found.get(path) not in tensors:
            raise InputError(f"{folder / 'variables'}: found no weight {path!r}, expected it as the model has it")
    return found


def _walk(model: Any, stored: Mapping[str, Any], nodes: Any, node_id: int, folder: Path) -> Iterator[tuple[Any, str]]:
    """Yield (variable, tensor key) for the layers of a model: `layer-<i>` counts Keras 2's `model.layers`."""
    layers = [layer["config"] | {"class_name": layer["class_name"]} for layer in stored["config"]["layers"]]
    if stored["class_name"] == "Sequential":
        layers = [layer for layer in layers if layer["class_name"] != "InputLayer"]
    children = _children(nodes, node_id)
    for position, config in enumerate(layers):
        layer = model.get_layer(config["name"])
        if not layer.weights:
            continue
        child = children.get(f"layer-{position}")
        if child is None:
            raise InputError(f"{folder / 'variables'}: found no weights of layer {layer.name!r}, expected them")
        if isinstance(layer, keras.Model):
            yield from _walk(layer, {"class_name": config["class_name"], "config": config}, nodes, child, folder)
        else:
            yield from _match(layer, list(_stored_variables(nodes, child)), folder)


def _match(layer: Any, stored: list[tuple[str, str, str]], folder: Path) -> Iterator[tuple[Any, str]]:
    """Pair a layer's weights with what the checkpoint holds below it, surest sign first.

    The attribute's path is the same; the full name ends the same; the last part of the name is the same; only
    one is left (`depthwise_kernel` of Keras 2 is `kernel` in Keras 3). Each must leave no choice.
    """
    names = {id(variable): name_in_layer(layer, variable) for variable in layer.weights}
    left = {id(variable): variable for variable in layer.weights}
    signs: list[Callable[[str, str, str], bool]] = [
        lambda name, attribute, _: attribute == name,
        lambda name, _, full: full.endswith(f"/{name}"),
        lambda name, attribute, _: attribute.rsplit("/", 1)[-1] == name.rsplit("/", 1)[-1],
        lambda *_: len(left) == len(stored) == 1,
    ]
    for sign in signs:
        for key in list(left):
            same = [entry for entry in stored if sign(names[key], *entry[:2])]
            if len(same) == 1:
                stored.remove(same[0])
                yield left.pop(key), same[0][2]
    if left:
        name = names[next(iter(left))]
        found = f"{len(stored)} tensors that may be {name!r} of layer {layer.name!r}"
        raise InputError(f"{folder / 'variables'}: found {found}, expected one")


def _stored_variables(nodes: Any, top: int) -> Iterator[tuple[str, str, str]]:
    """Yield (attribute path, full name, tensor key) of the variables below an object."""
    queue, seen = [(top, "")], {top}
    while queue:
        node_id, path = queue.pop(0)
        for attribute in nodes[node_id].attributes:
            if attribute.name == "VARIABLE_VALUE":
                yield path, attribute.full_name, attribute.checkpoint_key
        for name, child in _children(nodes, node_id).items():
            if child not in seen and name not in SKIPPED_CHILDREN:
                seen.add(child)
                queue.append((child, f"{path}/{name}" if path else name))


def _children(nodes: Any, node_id: int) -> dict[str, int]:
    if not 0 <= node_id < len(nodes):
        return {}
    return {child.local_name: child.node_id for child in nodes[node_id].children}


def _check_graph(path: Path) -> None:
    """A graph cut short is a damaged model, even though this program does not need the graph."""
    tensorflow(path.parent)
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        if not SavedModel.FromString(path.read_bytes()).meta_graphs:
            raise DecodeError("no graph")
    except DecodeError as error:
        raise InputError(f"{path}: damaged ({reason(error)}), expected the graph of a SavedModel") from error


@cache
def metadata_class() -> Any:
    """The message of `keras_metadata.pb`, which newer TensorFlow versions no longer ship."""
    field = descriptor_pb2.FieldDescriptorProto
    package = "repair_dist.savedmodel"
    file = descriptor_pb2.FileDescriptorProto(name="repair_dist/saved_metadata.proto", package=package, syntax="proto3")
    saved_object = file.message_type.add(name="SavedObject")
    saved_object.field.add(name="node_id", number=2, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    for number, name in enumerate(("node_path", "identifier", "metadata"), start=3):
        saved_object.field.add(name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    metadata = file.message_type.add(name="SavedMetadata")
    metadata.field.add(
        name="nodes", number=1, type=field.TYPE_MESSAGE, type_name=f".{package}.SavedObject", label=field.LABEL_REPEATED
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.SavedMetadata"))


def checkpoint_hash(index: Path) -> int:
    """What `fingerprint.pb` holds as the hash of the checkpoint: FarmHash64 of its index file."""
    content = np.frombuffer(index.read_bytes(), np.uint8)[np.newaxis]
    value = tensorflow(index.parent.parent).raw_ops.Fingerprint(data=content, method="farmhash64").numpy()
    return int.from_bytes(value.tobytes(), "little")
