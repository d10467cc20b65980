"""Dense layers of a chain as a target: searches of single weights need no more of the model than these layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.backend import keras
from engine.core.errors import InputError
from engine.core.types import Float32
from engine.layers.dense_chain import DenseChain, last_alone
from engine.passes.runners import LayerPasses
from engine.passes.sizes import BATCH_ROWS
from engine.targets.base import Target
from engine.targets.last_dense import TargetLayer


@dataclass(frozen=True, eq=False)
class ChainTarget:
    """A target with its passes, as `engine.problem.case.find_case` takes it.

    Attributes:
        target: the weights under repair.
        layer: their passes.
    """

    target: Target
    layer: LayerPasses


def last_target(chain: DenseChain, inputs: Float32) -> tuple[ChainTarget, Float32]:
    """The last layer of a chain as a target, and the values (n, U) that reach it.

    Args:
        chain: of any number of layers.
        inputs: (n, D) of the chain.

    Raises:
        InputError: the layer has an activation of its own in front of the head.
    """
    alone, features = last_alone(chain, inputs)
    (layer,) = alone.layers
    if layer.activation != "linear":
        raise InputError(f"{layer.name} has the activation {layer.activation} before the head, expected none")
    kernel = alone.values[layer.kernel]
    dense = keras.layers.Dense(kernel.shape[1], use_bias=layer.bias is not None)
    dense.build((None, kernel.shape[0]))
    dense.set_weights([np.array(alone.values[path]) for path in layer.paths])
    target = TargetLayer(dense, 0, layer.kernel, alone.head)
    return ChainTarget(target, target.layer_passes(BATCH_ROWS)), features
