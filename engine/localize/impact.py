"""What localisation sums over rows for weights of any layers: loss gradients and forward impact.

The impact of a weight in a layer that is linear in its weights, for one row:

    |o[i] w[i,j]| / (sum over the inputs i' of unit j of |o[i'] w[i',j]|) * |dr/dz[j]|

o are the layer's inputs (1 for a bias), z its pre-activation and r the winning score, the logit of the predicted class;
of a convolution the mean over its places. With S = layer(|x|; |W|), the sums of all units and places, it is |W| times
the weight gradient of <layer(|x|; W), |dr/dz| / S>: one formula for all such layers.

For other layers |w dr/dw| stands for |o w| |dr/dz|. It is shared out among the inputs of a unit, all axes but the last,
in the same way, and the impact of the layer's output, |dr/dy|, stands for that of the unit. Biases and vectors, such as
the scale of a normalisation, have no inputs to be shared out among: theirs is |w dr/dw|.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine import backend
from engine.backend import keras, ops
from engine.core.types import Float32, Float64, Int64
from engine.layers.conv_like import CONVOLUTIONS
from engine.layers.head import row_losses
from engine.layers.tail import Tail, unpack
from engine.models.graph import Step

MOST_ROWS = 64
"""Rows of a gradient pass at most: it holds all values of the tail, and few rows should not be filled up to many."""

PASS_BYTES = 1 << 30  # values of the tail that a gradient pass holds at once, at most (one row is always taken)

_CONVOLUTIONS = (
    *CONVOLUTIONS,
    *(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
    *(keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose),
)


_mask = keras.src.backend.get_keras_mask


@dataclass(frozen=True, eq=False)
class Tap:
    """A step that holds weights under repair."""

    step: Step  # one call of a layer
    weights: tuple[int, ...]  # their numbers among the weights under repair
    linear: bool  # the layer is linear in its weights


class ImpactPasses:
    """Passes for the sums of one tail, compiled on first use."""

    def __init__(self, tail: Tail, batch_rows: int, *, normalised: bool = True) -> None:
        """Passes have `batch_rows` at most; not `normalised`, nothing is divided by sums over the inputs of a unit."""
        self._tail = tail
        self._normalised = normalised
        number = {id(variable): position for position, variable in enumerate(tail.variables)}
        taps = []
        for step in tail.cut.tail:
            held = tuple(number[id(variable)] for variable in step.variables if id(variable) in number)
            if held:
                taps.append(Tap(step, held, is_linear(step)))
        self._taps = taps
        self._opaque = [tap for tap in taps if not tap.linear]
        self.rows = self._plan(batch_rows)
        self._pass = backend.graph(self._sums)
        self._row_by_row = backend.graph(self._row_sums)

    def sums(self, features: Float32, won: Int64, labels: Int64, kernel: Float32) -> tuple[Float64, Float64]:
        """Sums (W,) over rows (n, F) of the loss gradient by each weight (W, 1), and of its forward impact.

        `won` (n,) are the classes that the model predicts.
        """
        offsets = self._tail.space.offsets
        classes = _width(self._tail.cut)
        flat = backend.on_device(np.ascontiguousarray(kernel[:, 0]))
        constants = self._tail.constants
        gradient, impact = np.zeros(offsets[-1]), np.zeros(offsets[-1])
        for start in range(0, len(labels), self.rows):
            # Rows that fill up are copies, so that nothing in them is out of range; they count nothing.
            count = min(self.rows, len(labels) - start)
            rows = start + np.minimum(np.arange(self.rows), count - 1)
            real = np.arange(self.rows) < count
            true, best = np.eye(classes)[labels[rows]], np.eye(classes)[won[rows]]
            slopes, share, kept = self._pass(
                backend.on_device(features[rows]),
                backend.on_device(true),
                backend.on_device((best * real[:, None]).astype(np.float32)),
                backend.on_device(real.astype(np.float64)),
                flat,
                *constants,
            )
            gradient += np.asarray(slopes)
            impact += np.asarray(share)
            if kept:
                numbers = [number for tap in self._opaque for number in tap.weights]
                for number, weight_impact in zip(numbers, self._row_by_row(kept, flat, *constants), strict=True):
                    places = slice(offsets[number], offsets[number + 1])
                    impact[places] += np.asarray(weight_impact).ravel()
        return gradient, impact

    def _plan(self, batch_rows: int) -> int:
        """Rows of a pass, a function of the model alone."""
        cut = self._tail.cut
        values = sum(_size(shape) for step in cut.tail for shape in step.shapes) + sum(map(math.prod, cut.shapes))
        # Values, their slopes, and sums of both, float32.
        return max(1, min(batch_rows, MOST_ROWS, PASS_BYTES // (4 * 4 * values)))

    def _sums(self, features: Any, true: Any, won: Any, real: Any, flat: Any, *constants: Any) -> Any:
        """One batch: sums (W,) float32 of gradients and of the impact of linear layers, and what the others need."""
        tail, cut = self._tail, self._tail.cut
        weights = tail.parts(flat)

        def loss(changed: Any) -> Any:
            wide = ops.cast(tail.logits(features, changed, constants), "float64")
            return ops.sum(row_losses(tail.head, wide, true) * real)

        with tail.scope(constants, weights):
            values, plain = self._values(features, None)
        counts = [len(group) for group in plain]

        def score(added: Any) -> Any:
            with tail.scope(constants, weights):
                moved, _ = self._values(features, _grouped(added, counts))
            return ops.sum(ops.cast(moved[cut.output], "float32") * won)

        slopes = backend.gradient(score, [ops.zeros_like(value) for group in plain for value in group])
        parts = [ops.zeros_like(weight) for weight in weights]
        kept = []
        for tap, slope in zip(self._taps, _grouped(slopes, counts), strict=True):
            if tap.linear:
                with tail.scope(constants, weights):
                    found = self._linear(tap, values, slope[0], features.shape[0])
                for number, impact in found.items():
                    parts[number] = parts[number] + impact
                continue
            inputs = {str(number): values[number] for number in tap.step.inputs}
            masks = {name: mask for name, value in inputs.items() if (mask := _mask(value)) is not None}
            kept.append(keras.tree.map_structure(_by_row(features.shape[0]), (inputs, masks, slope)))
        return _flat(backend.gradient(loss, weights)), _flat(parts), kept

    def _values(self, features: Any, added: Sequence[Sequence[Any]] | None) -> tuple[dict[int, Any], list[list[Any]]]:
        """All values of the tail, by number, and of each tap what was added to: see `_tapped`."""
        values = unpack(self._tail.cut, features)
        position = {id(tap.step): number for number, tap in enumerate(self._taps)}
        found: list[list[Any]] = []
        for step in self._tail.cut.tail:
            number = position.get(id(step))
            if number is None:
                outputs = step.run(values)
            else:
                outputs, plain = _tapped(self._taps[number], values, None if added is None else added[number])
                found.append(plain)
            values.update(zip(step.outputs, outputs, strict=True))
        return values, found

    def _linear(self, tap: Tap, values: Mapping[int, Any], slope: Any, rows: int) -> dict[int, Any]:
        """Impact of the weights of a linear layer by number, summed over rows."""
        step = replace(tap.step, linear=True)
        variables = step.variables
        sizes = [ops.abs(ops.convert_to_tensor(variable)) for variable in variables]
        inputs = {number: ops.abs(values[number]) for number in step.inputs}

        def through(changed: Any) -> Any:
            with keras.StatelessScope(list(zip(variables, changed, strict=True))):
                return step.run(inputs)[0]

        share = ops.abs(slope)
        if self._normalised:
            total = through(sizes)
            share = ops.where(total > 0, share / ops.where(total > 0, total, 1.0), 0.0)
        found = backend.gradient(lambda changed: ops.sum(through(changed) * share), sizes)
        impact = {id(variable): size * rise for variable, size, rise in zip(variables, sizes, found, strict=True)}
        places = math.prod(slope.shape) // (rows * _units(step))
        return {number: impact[id(self._tail.variables[number])] / places for number in tap.weights}

    def _row_sums(self, rows: Any, flat: Any, *constants: Any) -> list[Any]:
        """Impact of the weights of all layers that are not linear, summed over rows; one row after the other.

        Mapped rows take three times as long to compile, and TensorFlow (2.21) corrupts its memory with attention.
        """
        tail = self._tail
        weights = tail.parts(flat)

        def one(tap: Tap, inputs: Any, masks: Any, slopes: Any) -> list[Any]:
            values = {int(name): value for name, value in inputs.items()}
            for name, mask in masks.items():
                keras.src.backend.set_keras_mask(values[int(name)], mask)

            def score(changed: Any) -> Any:
                put = list(weights)
                for number, value in zip(tap.weights, changed, strict=True):
                    put[number] = value
                with tail.scope(constants, put):
                    outputs = [output for output in tap.step.run(values) if _is_float(output.dtype)]
                return sum(ops.sum(output * slope) for output, slope in zip(outputs, slopes, strict=True))

            held = [weights[number] for number in tap.weights]
            found = backend.gradient(score, held)
            products = [ops.abs(weight * slope) for weight, slope in zip(held, found, strict=True)]
            return [
                # Biases and vectors have no inputs of a unit to be shared out among.
                _shared_out(product, slopes)
                if self._normalised and len(product.shape) > 1 and not tail.space.paths[number].endswith("bias")
                else product
                for number, product in zip(tap.weights, products, strict=True)
            ]

        def add(total: Any, row: Any) -> tuple[Any, Any]:
            more = [impact for tap, values in zip(self._opaque, row, strict=True) for impact in one(tap, *values)]
            return [so_far + ops.cast(part, "float64") for so_far, part in zip(total, more, strict=True)], None

        numbers = [number for tap in self._opaque for number in tap.weights]
        nothing = [ops.zeros(tail.variables[number].shape, "float64") for number in numbers]
        found: list[Any] = ops.scan(add, nothing, rows)[0]
        return found


def is_linear(step: Step) -> bool:
    """Whether the pre-activation of a step is linear in its weights, and can be had."""
    layer = step.operation
    return (
        type(layer) in (*_CONVOLUTIONS, keras.layers.Dense, keras.layers.EinsumDense)
        and layer.compute_dtype == "float32"
        and not getattr(layer, "lora_enabled", False)
        and len(step.inputs) == 1
    )


def _units(step: Step) -> int:
    """Units of a linear layer: how many of the numbers that it makes of one row have weights of their own."""
    layer, shape = step.operation, step.shapes[0]
    if isinstance(layer, keras.layers.EinsumDense):
        read, made = layer.equation.replace(" ", "").split("->")
        of_kernel = read.split(",")[1]
        return math.prod(size for letter, size in zip(of_kernel, layer.kernel.shape, strict=True) if letter in made)
    size = shape[1] if getattr(layer, "data_format", "") == "channels_first" else shape[-1]
    assert size is not None
    return size


def _tapped(tap: Tap, values: Mapping[int, Any], added: Sequence[Any] | None) -> tuple[list[Any], list[Any]]:
    """Outputs of a step with something added to its pre-activation, or without one to its outputs; and to what."""
    step = tap.step
    if tap.linear:
        (plain,) = replace(step, linear=True).run(values)
        moved = plain if added is None else plain + added[0]
        activation = None if step.linear else step.operation.activation
        return [_masked(moved if activation is None else activation(moved), plain)], [plain]
    outputs = step.run(values)
    floats = [output for output in outputs if _is_float(output.dtype)]
    if added is not None:
        more = iter(added)
        outputs = [_masked(output + next(more), output) if _is_float(output.dtype) else output for output in outputs]
    return outputs, floats


def _shared_out(products: Any, slopes: Sequence[Any]) -> Any:
    """|w dr/dw| of one row and weight as shares of each unit, times the impact of the output behind it."""
    last = slopes[0].shape[-1]
    output = sum(
        ops.sum(ops.abs(slope), axis=tuple(range(len(slope.shape) - 1))) / _size(slope.shape[:-1])
        for slope in slopes
        if slope.shape[-1] == last
    )
    units = products.shape[-1]
    unit = ops.tile(output, units // last) if units % last == 0 else ops.sum(output) / last
    total = ops.sum(products, axis=tuple(range(len(products.shape) - 1)), keepdims=True)
    return ops.where(total > 0, products / ops.where(total > 0, total, 1.0), 0.0) * unit


def _grouped(flat: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    left = iter(flat)
    return [[next(left) for _ in range(count)] for count in counts]


def _by_row(rows: int) -> Any:
    """Gives values an axis of rows; a layer may have been given several in place of one (a reshape makes them)."""
    return lambda value: ops.reshape(value, (rows, -1, *value.shape[1:]))


def _is_float(dtype: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(dtype)


def _flat(parts: Sequence[Any]) -> Any:
    return ops.concatenate([ops.reshape(part, (-1,)) for part in parts])


def _size(shape: Sequence[int | None]) -> int:
    return math.prod(size for size in shape if size is not None)


def _width(cut: Any) -> int:
    (shape,) = [s for step in cut.tail for n, s in zip(step.outputs, step.shapes, strict=True) if n == cut.output]
    return int(shape[-1])


def _masked(value: Any, like: Any) -> Any:
    """A tensor with the mask of another, if that has one."""
    if (mask := _mask(like)) is not None:
        keras.src.backend.set_keras_mask(value, mask)
    return value
