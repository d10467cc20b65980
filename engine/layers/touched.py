"""The short way through the layers behind a layer that is linear in its weights.

A patch touches few units of the layer under repair. Their pre-activations are z0 plus the changes times columns of the
input. What follows channel by channel (activations, pooling, batch normalisation) is computed for the touched units
alone, and so is their part in the next layer, where that is linear too: y = y0 + W[touched] (a - a0). Only behind it
all units move. Everything with a 0 is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.backend import keras, ops
from engine.core.types import Int64
from engine.layers import conv_like, dense_like
from engine.layers.head import ELEMENTWISE, activation_name
from engine.models.graph import GraphCut, Step, uses

_POOLING = tuple(
    getattr(keras.layers, f"{kind}{axes}D")
    for kind in (
        "MaxPooling",
        "AveragePooling",
        "GlobalMaxPooling",
        "GlobalAveragePooling",
        "ZeroPadding",
        "UpSampling",
    )
    for axes in (1, 2, 3)
)
_ELEMENTWISE = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, keras.layers.Dropout)


@dataclass(frozen=True, eq=False)
class Route:
    """How touched units travel."""

    first: Step  # the step under repair
    chain: tuple[Step, ...]  # steps behind it that keep units apart
    # the linear step that mixes them again; None where they are put back among the others as they are
    joint: Step | None
    rest: tuple[Step, ...]  # the steps behind that, from the value `number` on
    number: int  # of the value that they start from

    @property
    def family(self) -> Any:
        """The module of the layer's family."""
        return _family(self.first.operation)


def plan_route(cut: GraphCut, variables: Sequence[Any]) -> Route | None:
    """The short way for changes of these weights, or None where there is none."""
    wanted = {id(variable) for variable in variables}
    holders = [step for step in cut.tail if any(id(variable) in wanted for variable in step.variables)]
    if len(holders) != 1 or holders[0] is not cut.tail[0]:
        return None
    first = holders[0]
    layer = first.operation
    if _family(layer) is None or layer.compute_dtype != "float32" or layer.dtype_policy.quantization_mode is not None:
        return None
    if len(first.inputs) != 1 or any(size is None for size in first.shapes[0][1:]):
        return None
    if not first.linear and not _is_elementwise(layer.activation):
        return None
    later = list(cut.tail[1:])
    number = first.outputs[0]
    chain: list[Step] = []
    while (step := _only_user(later, number, cut.output)) is not None and _keeps_apart(step, chain):
        chain.append(step)
        later.remove(step)
        number = step.outputs[0]
    joint = _only_user(later, number, cut.output)
    if joint is not None and _joins(joint, chain):
        later.remove(joint)
        number = joint.outputs[0]
    else:
        joint = None
    return Route(first, tuple(chain), joint, tuple(later), number)


def places_per_row(route: Route) -> int:
    """Output places of the layer under repair in one row, S."""
    return math.prod(size or 1 for size in route.first.shapes[0][1:-1])


def base_values(route: Route, values: dict[int, Any]) -> tuple[Any, Any]:
    """Pre-activation of the step under repair (n, .., C), and the value (n, ..) that changes are added to."""
    (before,) = replace(route.first, linear=True).run(values)
    activated = before if route.first.linear else route.first.operation.activation(before)
    known = {**values, route.first.outputs[0]: activated}
    for step in route.chain:
        known[step.outputs[0]] = step.run(known)[0]
    if route.joint is None:
        return before, known[route.number]
    return before, replace(route.joint, linear=True).run(known)[0]


def through_chain(route: Route, touched: Any, chosen: Int64) -> Any:
    """Pre-activations (n, .., U) of the chosen units (U,) -> the same units at the end of the chain."""
    value = touched if route.first.linear else route.first.operation.activation(touched)
    for step in route.chain:
        layer = step.operation
        if isinstance(layer, keras.layers.BatchNormalization):
            scale = ops.rsqrt(ops.take(layer.moving_variance, chosen) + layer.epsilon)
            if layer.scale:
                scale = scale * ops.take(layer.gamma, chosen)
            shift = -ops.take(layer.moving_mean, chosen) * scale
            if layer.center:
                shift = shift + ops.take(layer.beta, chosen)
            value = value * scale + shift
        elif isinstance(layer, keras.layers.Flatten):
            value = ops.reshape(value, (value.shape[0], -1, value.shape[-1]))
        elif isinstance(layer, keras.layers.Dropout):
            continue
        else:
            value = layer(value)
    return value


def into_rest(route: Route, base: Any, change: Any, chosen: Int64) -> Any:
    """The value (n, ..) that the rest starts from: `base` (n, ..) of `base_values` with the change (n, .., U) of the
    chosen units (U,) behind the chain.
    """
    flattened = any(isinstance(step.operation, keras.layers.Flatten) for step in route.chain)
    if route.joint is None:
        units = route.first.shapes[0][-1]
        spread = ops.matmul(change, ops.one_hot(chosen, units, dtype="float32"))
        return base + ops.reshape(spread, base.shape)
    layer = route.joint.operation
    if flattened:
        places = change.shape[1]
        kernel = ops.reshape(layer.kernel, (places, -1, layer.kernel.shape[1]))
        kernel = ops.reshape(ops.take(kernel, chosen, axis=1), (-1, layer.kernel.shape[1]))
        added = ops.matmul(ops.reshape(change, (change.shape[0], -1)), kernel)
    else:
        added = _family(layer).from_units(layer, change, chosen)
    value = base + added
    return value if route.joint.linear else layer.activation(value)


def _family(layer: Any) -> Any:
    if dense_like.is_dense_like(layer):
        return dense_like
    return conv_like if conv_like.is_convolution_like(layer) else None


def _is_elementwise(activation: Any) -> bool:
    return activation_name(activation) in ELEMENTWISE


def _only_user(steps: Sequence[Step], number: int, output: int) -> Step | None:
    """The one step that reads a value and nothing else; None where there are others, or the value is the result."""
    readers = uses(steps, number)
    if number == output or len(readers) != 1 or readers[0].inputs != (number,) or len(readers[0].outputs) != 1:
        return None
    return readers[0]


def _keeps_apart(step: Step, chain: Sequence[Step]) -> bool:
    """Whether a step computes every unit (last axis) from itself alone."""
    layer = step.operation
    if getattr(layer, "compute_dtype", "float32") != "float32":
        return False
    if isinstance(layer, _ELEMENTWISE):
        return True
    if isinstance(layer, keras.layers.Activation):
        return _is_elementwise(layer.activation)
    if any(isinstance(earlier.operation, keras.layers.Flatten) for earlier in chain):
        return False
    if isinstance(layer, keras.layers.Flatten):
        return len(step.shapes[0]) == 2 and layer.data_format == "channels_last"
    if isinstance(layer, keras.layers.BatchNormalization):
        return layer.axis in (-1, len(step.shapes[0]) - 1)
    return isinstance(layer, _POOLING) and getattr(layer, "data_format", "channels_last") == "channels_last"


def _joins(step: Step, chain: Sequence[Step]) -> bool:
    layer = step.operation
    if getattr(layer, "compute_dtype", "") != "float32" or layer.dtype_policy.quantization_mode is not None:
        return False
    flattened = any(isinstance(earlier.operation, keras.layers.Flatten) for earlier in chain)
    return dense_like.is_dense_like(layer) or (not flattened and conv_like.takes_units(layer))
