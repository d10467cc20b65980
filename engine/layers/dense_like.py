"""Layers that multiply their last axis by a matrix: Dense, and EinsumDense where its equation says the same.

z[.., u] = sum over i of x[.., i] * w[i, u] + b[u]: a weight (i, u) adds its change times the column x[.., i] to unit u.
"""

from __future__ import annotations

import re
from typing import Any

from engine.backend import keras, ops
from engine.core.types import Int64

_PLAIN = re.compile(r"^(?P<rows>[^,>]*)(?P<input>\w),(?P=input)(?P<unit>\w)->(?P=rows)(?P=unit)$")


def is_dense_like(layer: Any) -> bool:
    """Whether a layer is of this family."""
    if getattr(layer, "lora_enabled", False):  # its kernel is the sum of a weight and a product of two
        return False
    if type(layer) is keras.layers.EinsumDense:
        return bool(_PLAIN.match(layer.equation.replace(" ", ""))) and (layer.bias is None or layer.bias.ndim == 1)
    return type(layer) is keras.layers.Dense


def units(layer: Any, places: Int64) -> Int64:
    """The unit (K,) that each of K flat places in the kernel belongs to."""
    found: Int64 = places % layer.kernel.shape[1]
    return found


def reads(layer: Any, inputs: Any, places: Int64) -> Any:
    """What changes at K flat places of the kernel are multiplied by, (K, n, S); inputs (n, .., D) have S places."""
    taken = ops.take(inputs, places // layer.kernel.shape[1], axis=-1)
    return ops.transpose(ops.reshape(taken, (inputs.shape[0], -1, len(places))), (2, 0, 1))


def from_units(layer: Any, change: Any, chosen: Int64) -> Any:
    """What a change of some of the layer's inputs (n, .., U) adds to its pre-activation (n, .., C)."""
    return ops.matmul(change, ops.take(layer.kernel, chosen, axis=0))
