"""The tail of a model: everything that weights under repair can change, as a function of them.

What lies before is computed once per row; its values at the cut, flattened one after the other, are the features of a
row, a vector (F,) float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine import backend
from engine.backend import keras, ops
from engine.layers import conv_like
from engine.layers.head import Head
from engine.layers.space import Space
from engine.models.graph import GraphCut, Step, run


def pack(cut: GraphCut, values: Sequence[Any]) -> Any:
    """Values at the cut, (n, ..) each, as features (n, F) float32."""
    rows = [ops.reshape(ops.cast(value, "float32"), (value.shape[0], -1)) for value in values]
    return rows[0] if len(rows) == 1 else ops.concatenate(rows, axis=1)


def unpack(cut: GraphCut, features: Any) -> dict[int, Any]:
    """Features (n, F) as values by number, of the types that they had."""
    values = {}
    start = 0
    for number, shape, dtype in zip(cut.crossing, cut.shapes, cut.dtypes, strict=True):
        size = math.prod(shape)
        value = ops.reshape(features[:, start : start + size], (features.shape[0], *shape))
        values[number] = ops.cast(value, dtype)
        start += size
    return values


def features_width(cut: GraphCut) -> int:
    """F."""
    return sum(math.prod(shape) for shape in cut.shapes)


def made_bytes(steps: Sequence[Step]) -> dict[int, int]:
    """Bytes of each value that steps make of one row, by number."""
    return {
        number: 4 * math.prod(length or 1 for length in shape[1:])
        for step in steps
        for number, shape in zip(step.outputs, step.shapes, strict=True)
    }


def most_live(steps: Sequence[Step], size: Mapping[int, int], start: Collection[int], kept: Collection[int]) -> int:
    """Bytes of the values that are held at once, at most: those that steps start from, and those that they still need
    or that are kept.
    """
    last = {number: position for position, step in enumerate(steps) for number in step.inputs}
    live = set(start)
    most = sum(size[number] for number in live)
    for position, step in enumerate(steps):
        live.update(step.outputs, step.inputs)
        most = max(most, sum(size.get(number, 0) for number in live))
        live = {number for number in live if last.get(number, -1) > position or number in kept}
    return most


class Tail:
    """The tail as functions to be traced, of a graph that is cut before the first layer under repair.

    Weights that are not under repair are arguments of every program, as they are when they are first used.
    """

    def __init__(self, head: Head, space: Space, variables: Sequence[Any], cut: GraphCut) -> None:
        self.head, self.space, self.variables, self.cut = head, space, tuple(variables), cut
        wanted = {id(variable) for variable in variables}
        others = {
            id(variable): variable for step in cut.tail for variable in step.variables if id(variable) not in wanted
        }
        self._others = list(others.values())
        self._wanted = wanted
        self.folds = all(not step.masks and all(shape[0] is None for shape in step.shapes) for step in cut.tail)
        """Rows of several candidates may stand one after the other."""
        shapes = _row_shapes(cut)
        self._places = {
            id(step): places
            for step in cut.tail
            if (places := _few_places(step, shapes)) and not any(id(variable) in wanted for variable in step.variables)
        }
        """Convolutions that run as one product, with the places of their input (`engine.layers.conv_like.unfolds`)."""

    @functools.cached_property
    def constants(self) -> tuple[Any, ...]:
        """The variables that are not under repair, as arguments of a program; then unfolded kernels."""
        steps = [step for step in self.cut.tail if id(step) in self._places]
        matrices = (conv_like.unfolded(step.operation, self._places[id(step)]) for step in steps)
        variables = (ops.convert_to_tensor(variable) for variable in self._others)
        return (*variables, *map(backend.on_device, matrices))

    @property
    def unfolded_bytes(self) -> int:
        """Of the unfolded kernels."""
        return sum(
            4 * math.prod(places) * step.operation.kernel.shape[-2] * math.prod(map(int, filter(None, step.shapes[0])))
            for step in self.cut.tail
            if (places := self._places.get(id(step)))
        )

    def _run(self, step: Step, values: Mapping[int, Any], constants: Sequence[Any]) -> list[Any]:
        """Run a step that holds no weight under repair, within `scope`."""
        if id(step) not in self._places:
            return step.run(values)
        matrix = constants[len(self._others) + list(self._places).index(id(step))]
        rows, layer = values[step.inputs[0]], step.operation
        result = ops.matmul(ops.reshape(rows, (rows.shape[0], -1)), matrix)
        result = ops.reshape(result, (rows.shape[0], *step.shapes[0][1:]))
        if layer.use_bias:
            result = result + layer.bias
        return [result if step.linear else layer.activation(result)]

    def scope(self, constants: Sequence[Any], changed: Sequence[Any] | None = None) -> Any:
        """Read constants in place of variables, and changed values in place of the weights under repair."""
        mapping = list(zip(self._others, constants, strict=False))
        if changed is not None:
            mapping += list(zip(self.variables, changed, strict=True))
        return keras.StatelessScope(mapping)

    def parts(self, flat: Any) -> list[Any]:
        """The flat vector (W,) as the weights under repair."""
        ends = self.space.offsets
        return [
            ops.reshape(flat[int(start) : int(stop)], tuple(variable.shape))
            for variable, start, stop in zip(self.variables, ends, ends[1:], strict=False)
        ]

    def logits(self, features: Any, weights: Sequence[Any], constants: Sequence[Any]) -> Any:
        """Logits (n, C) float32 of features (n, F) under the weights."""
        cut = self.cut
        with self.scope(constants, weights):
            (result,) = run(cut.tail, unpack(cut, features), [cut.output])
        return ops.cast(result, "float32")

    def folded(
        self,
        steps: Sequence[Step],
        shared: Mapping[int, Any],
        folded: Mapping[int, Any],
        weights: Sequence[Sequence[Any]],
        constants: Sequence[Any],
        alike: bool = False,
    ) -> Any:
        """Logits (h * n, C) float32 of h candidates: rows of candidate 0, then of candidate 1, and so on.

        A step that holds weights under repair runs for one candidate after the other, with its `weights`, any other for
        all at once; with `alike` the weights are the same for all. Values `shared` (n, ..) are the same for all
        candidates, those `folded` (h * n, ..) are not; both by number.
        """
        count = len(weights)
        one, many = dict(shared), dict(folded)
        for step in steps:
            if not alike and any(id(variable) in self._wanted for variable in step.variables):
                parts = []
                for candidate, values in enumerate(weights):
                    own = {number: _rows_of(many[number], candidate, count) for number in step.inputs if number in many}
                    with self.scope(constants, values):
                        parts.append(step.run({**one, **own}))
                results = [
                    outputs[0] if count == 1 else ops.concatenate(outputs, axis=0)
                    for outputs in zip(*parts, strict=True)
                ]
                many.update(zip(step.outputs, results, strict=True))
                continue
            with self.scope(constants, weights[0]):
                if not any(number in many for number in step.inputs):
                    one.update(zip(step.outputs, self._run(step, one, constants), strict=True))
                    continue
                for number in step.inputs:
                    if number not in many:
                        many[number] = _repeated(one[number], count)
                many.update(zip(step.outputs, self._run(step, many, constants), strict=True))
        return ops.cast(many[self.cut.output], "float32")


def _row_shapes(cut: GraphCut) -> dict[int, tuple[int | None, ...]]:
    """Shape, without the axis of rows, of every value that the tail takes or makes, by number."""
    known: dict[int, tuple[int | None, ...]] = dict(zip(cut.crossing, cut.shapes, strict=True))
    for step in cut.tail:
        known.update((number, shape[1:]) for number, shape in zip(step.outputs, step.shapes, strict=True))
    return known


def _few_places(step: Step, shapes: Mapping[int, tuple[int | None, ...]]) -> tuple[int, ...] | None:
    """The places of the input of a convolution over few of them; None for all other steps."""
    if not conv_like.takes_units(step.operation):
        return None
    shape = shapes[step.inputs[0]]
    places = tuple(size for size in shape[:-1] if size is not None)
    return places if len(places) == len(shape) - 1 and conv_like.unfolds(step.operation, places) else None


def _rows_of(value: Any, candidate: int, count: int) -> Any:
    if count == 1:
        return value  # with its mask
    rows = value.shape[0] // count
    return value[candidate * rows : (candidate + 1) * rows]


def _repeated(value: Any, count: int) -> Any:
    return value if count == 1 else ops.concatenate([value] * count, axis=0)
