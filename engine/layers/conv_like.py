"""Convolutions, unfolded: a weight at (offset, input channel, unit) reads one shifted channel of the input.

z[p, u] = sum over offsets a and channels c of x[p * stride + a * dilation, c] * w[a, c, u] + b[u], so that a
convolution is dense in its unfolded inputs. Conv1D, Conv2D, Conv3D (strides, padding, dilation, groups), channels last.
Depthwise convolutions gain too little by it: 1.2 times over weights in place (MobileNetV2, benchmarks/layers.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.backend import keras, ops
from engine.core.types import Float32, Int64

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def is_convolution_like(layer: Any) -> bool:
    """Whether a layer is of this family."""
    if getattr(layer, "lora_enabled", False):  # its kernel is the sum of a weight and a product of two
        return False
    return type(layer) in CONVOLUTIONS and layer.data_format == "channels_last"


def units(layer: Any, places: Int64) -> Int64:
    """The unit (K,), an output channel, that each of K flat places in the kernel belongs to."""
    found: Int64 = places % layer.kernel.shape[-1]
    return found


def reads(layer: Any, inputs: Any, places: Int64) -> Any:
    """What changes at K flat places of the kernel are multiplied by, (K, n, S); inputs (n, .., D), S output places."""
    kernel, strides, dilations = tuple(layer.kernel.shape), _each(layer, "strides"), _each(layer, "dilation_rate")
    *offsets, channel, last = np.unravel_index(places, kernel)
    channel = channel + last // (layer.filters // layer.groups) * kernel[-2]
    pads, sizes = _frame(layer, inputs.shape[1:-1])
    padded = ops.pad(inputs, [(0, 0), *pads, (0, 0)])
    offset = np.stack(offsets, axis=1)
    found, order = [], []
    for shift in np.unique(offset, axis=0):  # one shift of the input serves all weights at an offset
        members = np.flatnonzero((offset == shift).all(axis=1))
        starts = [int(start) * dilation for start, dilation in zip(shift, dilations, strict=True)]
        window = [
            slice(start, start + (out - 1) * stride + 1, stride)
            for start, out, stride in zip(starts, sizes, strides, strict=True)
        ]
        taken = ops.take(padded[(slice(None), *window)], channel[members], axis=-1)
        found.append(ops.reshape(taken, (inputs.shape[0], -1, len(members))))
        order.append(members)
    joined = ops.take(ops.concatenate(found, axis=-1), np.argsort(np.concatenate(order)), axis=-1)
    return ops.transpose(joined, (2, 0, 1))


def takes_units(layer: Any) -> bool:
    """Whether `from_units` can be asked of this layer."""
    return is_convolution_like(layer) and layer.groups == 1 and layer.padding != "causal"


def from_units(layer: Any, change: Any, chosen: Int64) -> Any:
    """What a change of some of the layer's input channels (n, .., U) adds to its pre-activation (n, .., C)."""
    kernel = ops.take(layer.kernel, chosen, axis=-2)
    return ops.conv(
        change,
        kernel,
        strides=_each(layer, "strides"),
        padding=layer.padding,
        dilation_rate=_each(layer, "dilation_rate"),
        data_format="channels_last",
    )


def unfolds(layer: Any, places: Sequence[int]) -> bool:
    """Whether one product with the unfolded kernel does at most half of the multiply-adds of the convolution.

    A convolution over few places (3 x 3 offsets over 2 x 2 places) multiplies padding most of the time.
    """
    return takes_units(layer) and 2 * math.prod(places) <= math.prod(layer.kernel_size)


def unfolded(layer: Any, places: Sequence[int]) -> Float32:
    """The matrix (inputs, outputs) that is the convolution over so many places: rows (place, channel), columns too."""
    kernel = np.asarray(ops.convert_to_numpy(layer.kernel))
    pads, sizes = _frame(layer, places)
    strides, dilations = _each(layer, "strides"), _each(layer, "dilation_rate")
    matrix = np.zeros((*places, kernel.shape[-2], *sizes, kernel.shape[-1]), np.float32)
    for offset in np.ndindex(*kernel.shape[:-2]):
        for out in itertools.product(*map(range, sizes)):
            where = tuple(
                o * stride + a * dilation - before
                for o, a, stride, dilation, (before, _) in zip(out, offset, strides, dilations, pads, strict=True)
            )
            if all(0 <= at < size for at, size in zip(where, places, strict=True)):
                matrix[(*where, slice(None), *out)] = kernel[offset]
    return matrix.reshape(math.prod(places) * kernel.shape[-2], -1)


def _frame(layer: Any, places: Sequence[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """Padding before and behind, and the number of output places, for each axis of so many input places."""
    pads, sizes = [], []
    settings = zip(places, layer.kernel_size, _each(layer, "strides"), _each(layer, "dilation_rate"), strict=True)
    for length, size, stride, dilation in settings:
        span = (size - 1) * dilation + 1
        out = -(-length // stride) if layer.padding in ("same", "causal") else (length - span) // stride + 1
        missing = max((out - 1) * stride + span - length, 0) if layer.padding == "same" else 0
        pads.append((span - 1, 0) if layer.padding == "causal" else (missing // 2, missing - missing // 2))
        sizes.append(out)
    return pads, sizes


def _each(layer: Any, name: str) -> tuple[int, ...]:
    """A setting of a layer for each of its axes."""
    value = getattr(layer, name)
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * len(layer.kernel_size)
