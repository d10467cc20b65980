"""A Keras model as a list of steps: which operation turns which values into which.

Nested models are opened, so that a layer anywhere can be repaired; a model without a graph (a subclass) is one step.
The cut at the layers under repair follows the graph: what no layer under repair reaches is computed once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from engine.backend import keras
from engine.models.weight_paths import layers_below


@dataclass(frozen=True, eq=False)
class Step:
    """One call of an operation."""

    operation: Any  # a Keras layer or operation
    arguments: Any  # what it is called with; symbolic tensors stand for values
    slots: Mapping[int, int]  # number of the value that each symbolic tensor stands for here, by identity
    inputs: tuple[int, ...]  # numbers of the values it reads
    outputs: tuple[int, ...]  # numbers of the values it makes
    shapes: tuple[tuple[int | None, ...], ...]  # shapes, dtypes: of those; the first axis are the rows (None)
    dtypes: tuple[str, ...]
    linear: bool = False  # leave out the activation of the layer
    masks: bool = False  # a mask may travel beside its outputs

    @property
    def variables(self) -> list[Any]:
        """Weights and state of the operation."""
        return list(getattr(self.operation, "variables", ()))

    def run(self, values: Mapping[int, Any]) -> list[Any]:
        """Compute the outputs, in inference mode, from values by number."""
        if self.arguments is None:
            args, kwargs = (_one_or_all([values[number] for number in self.inputs]),), {}
        else:
            args, kwargs = self.arguments.fill_in({key: values[number] for key, number in self.slots.items()})
        if "training" in getattr(self.operation, "_call_context_args", ()):
            kwargs = {**kwargs, "training": False}
        if self.linear:
            with without_activation(self.operation):
                return flat(self.operation(*args, **kwargs))
        return flat(self.operation(*args, **kwargs))


@dataclass(frozen=True, eq=False)
class Graph:
    """Steps in an order in which they can run."""

    inputs: tuple[int, ...]  # numbers of the model's inputs, in its order
    input_shapes: tuple[tuple[int | None, ...], ...]  # input_shapes, input_dtypes: of those
    input_dtypes: tuple[str, ...]
    steps: tuple[Step, ...]  # all of them
    output: int  # number of the model's output


@dataclass(frozen=True, eq=False)
class GraphCut:
    """A graph cut at the layers under repair."""

    before: tuple[Step, ...]  # steps that no layer under repair reaches and others need
    crossing: tuple[int, ...]  # numbers of the values that the tail takes from them, or from the model's inputs
    shapes: tuple[tuple[int, ...], ...]  # shapes, dtypes: of those, for one row (without the first axis)
    dtypes: tuple[str, ...]
    tail: tuple[Step, ...]  # the first step under repair and all that depends on one
    output: int  # number of the result


def graph_of(model: Any) -> Graph:
    """Take a model with one output apart."""
    steps: list[Step] = []
    functional = _functional(model)
    if functional is None:
        from engine.models.inputs import input_specs

        specs = input_specs(model)
        spec = model.compute_output_spec(_one_or_all([keras.KerasTensor(*given) for given in specs]))
        shapes, dtypes = zip(*specs, strict=True)
        numbers, output = tuple(range(len(specs))), len(specs)
        dtype = keras.backend.standardize_dtype(spec.dtype)
        step = Step(model, None, {}, numbers, (output,), (tuple(spec.shape),), (dtype,))
        return Graph(numbers, shapes, dtypes, (step,), output)
    inputs = functional.inputs
    slots = {id(tensor): number for number, tensor in enumerate(inputs)}
    (output,) = _open(functional, slots, steps, itertools.count(len(inputs)))
    return Graph(
        tuple(range(len(inputs))),
        tuple(tuple(tensor.shape) for tensor in inputs),
        tuple(tensor.dtype for tensor in inputs),
        tuple(steps),
        output,
    )


def cut_graph(graph: Graph, variables: Sequence[Any]) -> GraphCut:
    """Cut a graph at the steps that hold any of these variables."""
    wanted = {id(variable) for variable in variables}
    needed = _needed(graph.steps, {graph.output})
    reached: set[int] = set()
    tail, others = [], []
    for step in needed:
        if reached.intersection(step.inputs) or any(id(variable) in wanted for variable in step.variables):
            reached.update(step.outputs)
            tail.append(step)
        else:
            others.append(step)
    if graph.output not in reached:
        raise ValueError("the output does not depend on these weights")
    if any(step.masks for step in needed):
        # A mask travels beside its tensor and would be lost at the cut.
        tail, others = list(needed), []
    made = {number for step in tail for number in step.outputs}
    crossing = tuple(dict.fromkeys(number for step in tail for number in step.inputs if number not in made))
    known = {
        number: (shape, dtype)
        for number, shape, dtype in [
            *zip(graph.inputs, graph.input_shapes, graph.input_dtypes, strict=True),
            *(value for step in others for value in zip(step.outputs, step.shapes, step.dtypes, strict=True)),
        ]
    }
    return GraphCut(
        before=tuple(_needed(others, set(crossing))),
        crossing=crossing,
        shapes=tuple(tuple(int(size) for size in known[number][0][1:] if size is not None) for number in crossing),
        dtypes=tuple(known[number][1] for number in crossing),
        tail=tuple(tail),
        output=graph.output,
    )


def run(steps: Sequence[Step], values: Mapping[int, Any], results: Sequence[int]) -> list[Any]:
    """Run steps and return the values with the numbers `results`; values no longer needed are let go."""
    last = {number: position for position, step in enumerate(steps) for number in step.inputs}
    known = dict(values)
    for position, step in enumerate(steps):
        known.update(zip(step.outputs, step.run(known), strict=True))
        for number in step.inputs:
            if last[number] == position and number not in results:
                known.pop(number, None)
    return [known[number] for number in results]


def uses(steps: Sequence[Step], number: int) -> list[Step]:
    return [step for step in steps if number in step.inputs]


@contextmanager
def without_activation(layer: Any) -> Iterator[None]:
    """Let a layer compute without its activation, for as long as a program is being traced."""
    activation = layer.activation
    layer.activation = None
    try:
        yield
    finally:
        layer.activation = activation


def flat(value: Any) -> list[Any]:
    """The tensors of a nested structure, in Keras' order."""
    return list(keras.tree.flatten(value))


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _functional(model: Any) -> Any:
    """The Functional form of a model, or None where there is no graph."""
    call = getattr(type(model), "call", None)  # a subclass may have its own
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None) if call is keras.Sequential.call else None
    kept_call = call is keras.src.models.functional.Functional.call
    return model if kept_call and hasattr(model, "_nodes_by_depth") else None


def _open(functional: Any, slots: dict[int, int], steps: list[Step], numbers: Iterator[int]) -> tuple[int, ...]:
    """Append the steps of a model whose inputs are known by number; returns the numbers of its outputs."""
    by_depth = functional._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if not node.operation or node.is_input:
                continue
            if any(id(tensor) not in slots for tensor in node.input_tensors):
                continue
            here = {id(tensor): slots[id(tensor)] for tensor in node.input_tensors}
            inner = _functional(node.operation) if isinstance(node.operation, keras.Model) else None
            if inner is not None and _in_order(inner, node):
                given = {
                    id(tensor): here[id(outer)] for tensor, outer in zip(inner.inputs, node.input_tensors, strict=True)
                }
                outputs = _open(inner, given, steps, numbers)
            else:
                outputs = tuple(next(numbers) for _ in node.outputs)
                steps.append(
                    Step(
                        operation=node.operation,
                        arguments=node.arguments,
                        slots=here,
                        inputs=tuple(dict.fromkeys(here.values())),
                        outputs=outputs,
                        shapes=tuple(tuple(tensor.shape) for tensor in node.outputs),
                        dtypes=tuple(tensor.dtype for tensor in node.outputs),
                        masks=_makes_masks(node),
                    )
                )
            slots.update(zip(map(id, node.outputs), outputs, strict=True))
    return tuple(slots[id(tensor)] for tensor in functional.outputs)


def _in_order(functional: Any, node: Any) -> bool:
    """Whether the call of a nested model passes its inputs one by one, in their order; a dictionary may name them."""
    arguments = node.arguments.args
    if len(arguments) != 1 or len(functional.inputs) != len(node.input_tensors):
        return False
    return isinstance(arguments[0], dict) == isinstance(functional._inputs_struct, dict)


def _needed(steps: Sequence[Step], results: set[int]) -> list[Step]:
    """The steps that lead to results, in their order."""
    wanted = set(results)
    kept = []
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            wanted.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def _makes_masks(node: Any) -> bool:
    """Whether a mask leaves a layer, or may, as one inside makes masks."""
    if any(getattr(tensor, "_keras_mask", None) is not None for tensor in node.outputs):
        return True
    below = layers_below(node.operation) if isinstance(node.operation, keras.Layer) else ()
    return any(isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False) for _, layer in below)
