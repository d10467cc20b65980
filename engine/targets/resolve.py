"""The weights under repair, as `--target-layer` names them: of one layer, of several, or of all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.backend import keras
from engine.core.errors import InputError
from engine.core.names import in_words, listed, suggestion
from engine.layers.dense_chain import DenseChain, chain_of
from engine.layers.head import Head, activation_name, head_of
from engine.layers.tail_chain import Chain, tail_chain_of
from engine.models.graph import Graph, Step, cut_graph, graph_of, uses
from engine.models.loss import TrainingLoss
from engine.models.weight_paths import is_own, layer_at, weight_variables
from engine.targets.base import Target, deep_target
from engine.targets.last_dense import find_target

STATE = frozenset({"moving_mean", "moving_variance", "mean", "variance", "count", "vector_u"})
"""Variables that are measured, not learnt."""

ALL = "all"


def resolve_target(model: Any, loss: TrainingLoss, classes: int, path: Path, names: Sequence[str] = ()) -> Target:
    """Find the weights under repair.

    Args:
        model: Keras model with one output (n, C).
        loss: its training loss.
        classes: C.
        path: of the model, for messages.
        names: each a layer by name or number (-1 is the last), `<layer>/<weight>` for one weight, or `all`. A layer
            stands for its kernels, or its scale and offset; with `/*` behind it for its biases too. None at all: the
            last Dense layer.

    Raises:
        InputError: there is no such layer or weight, it has no weights, they are not float32, or the output does not
            depend on them.
    """
    if not names:
        return find_target(model, loss, classes, path)
    chosen = _chosen(model, names, path)
    last = _last_dense(model, loss, classes, path)
    if last is not None and list(chosen) == [last.path]:
        return last
    for name, variable in chosen.items():
        if variable.dtype != "float32":
            raise InputError(
                f"{path}: weight {name!r} {_layer(model, name)} is {variable.dtype}, expected float32 "
                "(layers of mixed_float16 have that)"
            )
    graph, head = headed(graph_of(model), loss, path)
    try:
        cut = cut_graph(graph, list(chosen.values()))
    except ValueError:
        raise _unused(model, next(iter(chosen)), path) from None
    reached = {id(variable) for step in cut.tail for variable in step.variables}
    if lost := [name for name, variable in chosen.items() if id(variable) not in reached]:
        raise _unused(model, lost[0], path)
    return deep_target(head, chosen, cut, tuple(names), _dense(model, chosen))


def resolve_chain(
    model: Any, loss: TrainingLoss, classes: int, path: Path, names: Sequence[str] = ()
) -> tuple[Target, DenseChain]:
    """Find Dense layers at the end of a model that are to be tuned, as a target and as a chain of matrices.

    Args:
        model, loss, classes, path: as of `resolve_target`.
        names: as of `resolve_target`; a layer stands for its bias too. None at all: the Dense layers behind the last
            layer that is not one.

    Raises:
        InputError: as `resolve_target` does, or a layer is not one of those.
    """
    graph, head = headed(graph_of(model), loss, path)
    chain = chain_of(model, graph, head, path, tuple(_chosen(model, names, path)) if names else ())
    return _target_of(chain, model, loss, classes, path), chain


def resolve_tuned(
    model: Any, loss: TrainingLoss, classes: int, path: Path, names: Sequence[str] = ()
) -> tuple[Target, Chain]:
    """Find weights that are to be tuned and mixed, of any layers: as `resolve_chain` where it has all of them.

    A layer stands for all that it learnt. Refused is what `resolve_target` refuses, and nothing named where the last
    layer is no Dense layer.
    """
    graph, head = headed(graph_of(model), loss, path)
    wanted = _chosen(model, names, path, whole=True)
    try:
        last = chain_of(model, graph, head, path)
    except InputError as error:
        target = resolve_target(model, loss, classes, path, tuple(wanted)) if names else None
        if target is None or target.tail is None:
            raise error from None
        return target, tail_chain_of(target.tail, classes, None)
    if set(wanted) <= set(last.values):
        chain = chain_of(model, graph, head, path, tuple(wanted))
        return _target_of(chain, model, loss, classes, path), chain
    target = resolve_target(model, loss, classes, path, tuple(wanted))
    assert target.tail is not None  # the last Dense layer is a part of the chain
    return target, tail_chain_of(target.tail, classes, last)


def _target_of(chain: DenseChain, model: Any, loss: TrainingLoss, classes: int, path: Path) -> Target:
    kernels = tuple(layer.kernel for layer in chain.layers if layer.tuned)
    return resolve_target(model, loss, classes, path, kernels)


def dense_names(model: Any, numbers: Iterable[int]) -> tuple[str, ...]:
    """The kernels of Dense layers at the top level of a model, by the toolkit's numbers; none unless all are such."""
    kernels = {number: path for path, number in _dense(model, weight_variables(model)).items()}
    wanted = sorted(set(numbers))
    return tuple(kernels[number] for number in wanted) if all(number in kernels for number in wanted) else ()


def headed(graph: Graph, loss: TrainingLoss, path: Path) -> tuple[Graph, Head]:
    """The graph up to its logits, and what follows them: the last activation is taken off where it is Keras' own."""
    output = graph.output
    steps = list(graph.steps)
    while True:
        step = next((maker for maker in steps if output in maker.outputs), None)
        if step is None or len(uses(steps, output)) > 0:
            return replace(graph, output=output), head_of("linear", loss, path)
        operation = step.operation
        if isinstance(operation, keras.layers.Dropout):
            output = step.inputs[0]
            steps.remove(step)
            continue
        name = _activation_name(step)
        if name is None:
            return replace(graph, output=output, steps=tuple(steps)), head_of("linear", loss, path)
        if name == "linear" and isinstance(operation, keras.layers.Activation):
            output = step.inputs[0]
            steps.remove(step)
            continue
        head = head_of(name, loss, path)
        if isinstance(operation, keras.layers.Activation | keras.layers.Softmax):
            steps.remove(step)
            return replace(graph, output=step.inputs[0], steps=tuple(steps)), head
        steps[steps.index(step)] = replace(step, linear=True)
        return replace(graph, output=output, steps=tuple(steps)), head


def _activation_name(step: Step) -> str | None:
    """The last activation of a step, `linear` where it has none; None where it cannot be told apart."""
    operation = step.operation
    if not is_own(operation) or len(step.inputs) != 1:
        return None  # only Keras' own layers are sure to end with what they call their activation
    if isinstance(operation, keras.layers.Softmax):
        return "softmax" if operation.axis in (-1, len(step.shapes[0]) - 1) else None
    if not hasattr(operation, "activation") or hasattr(operation, "recurrent_activation"):
        return None
    if isinstance(operation, keras.layers.RNN):
        return None
    return activation_name(operation.activation)


def _chosen(model: Any, names: Sequence[str], path: Path, *, whole: bool = False) -> dict[str, Any]:
    """Path and variable of every weight that is asked for, in model order; with biases where layers are meant whole."""
    known = {
        name: variable
        for name, variable in weight_variables(model).items()
        if name.rsplit("/", 1)[-1] not in STATE and variable.dtype not in ("bool", "int32", "int64", "uint32")
    }
    chosen: set[str] = set()
    for asked in names:
        layer = _layer_name(model, asked.removesuffix("/*"))
        everything = whole or asked.endswith("/*")
        found = [name for name in known if layer in (ALL, name) or name.startswith(f"{layer}/")]
        if layer not in known and not everything:
            found = [name for name in found if not name.rsplit("/", 1)[-1].endswith("bias")]
        if not found:
            raise _unknown(model, asked, layer, known, path)
        chosen.update(found)
    return {name: variable for name, variable in known.items() if name in chosen}


def _dense(model: Any, chosen: Mapping[str, Any]) -> dict[str, int]:
    """The toolkit's number of the layer of each 2-D kernel at the top level of the model."""
    numbers = {f"{layer.name}/kernel": number for number, layer in enumerate(getattr(model, "layers", ()))}
    return {name: numbers[name] for name, variable in chosen.items() if name in numbers and len(variable.shape) == 2}


def _layer_name(model: Any, asked: str) -> str:
    number, slash, rest = asked.partition("/")
    if not re.fullmatch(r"-?\d{1,18}", number):
        return asked
    position = int(number)
    if -len(model.layers) <= position < 0:  # as the toolkit counts: from the end
        position += len(model.layers)
    return f"{layer_at(model, position).name}{slash}{rest}"


def _unknown(model: Any, asked: str, layer: str, known: dict[str, Any], path: Path) -> InputError:
    layers = list(dict.fromkeys(name.rsplit("/", 1)[0] for name in known))
    layer_name = layer.split("/", maxsplit=1)[0]
    same = next((model_layer for model_layer in getattr(model, "layers", ()) if model_layer.name == layer_name), None)
    if same is None:
        what = f"is no layer of the model{suggestion(layer, [*known, *layers])}"
    elif "/" in layer:
        own = [name for name in known if name.startswith(f"{same.name}/")]
        what = f"is no weight of {same.name} ({type(same).__name__}){suggestion(layer, own)}"
    else:
        what = f"({same.name}, {type(same).__name__}) has no weights"
    return InputError(f"{path}: target layer {in_words(asked)} {what}, expected {ALL} or layers of {listed(layers)}")


def _unused(model: Any, name: str, path: Path) -> InputError:
    layer = _layer(model, name)
    return InputError(f"{path}: the model's output does not depend on {name!r} {layer}, expected weights that it uses")


def _layer(model: Any, weight: str) -> str:
    """Name and type of the layer of the model's own that holds a weight."""
    name = weight.split("/", maxsplit=1)[0]
    found = next((layer for layer in getattr(model, "layers", ()) if layer.name == name), model)
    return f"({found.name}, {type(found).__name__})"


def _last_dense(model: Any, loss: TrainingLoss, classes: int, path: Path) -> Target | None:
    try:
        return find_target(model, loss, classes, path)
    except InputError:
        return None
