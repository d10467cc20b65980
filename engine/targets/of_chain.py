"""Dense layers of a chain as a target: searches of single weights need no more of the model than these layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.backend import keras
from engine.core.errors import InputError
from engine.core.types import Float32
from engine.layers.dense_chain import DenseChain, last_alone
from engine.layers.flat_weights import FlatWeights
from engine.models.graph import cut_graph, graph_of
from engine.passes.batching import batches
from engine.passes.runners import LayerPasses
from engine.passes.sizes import BATCH_ROWS
from engine.targets.base import Target
from engine.targets.deep import DeepTarget
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
    _check_head(chain)
    kernel = alone.values[layer.kernel]
    dense = keras.layers.Dense(kernel.shape[1], use_bias=layer.bias is not None)
    dense.build((None, kernel.shape[0]))
    dense.set_weights([np.array(alone.values[path]) for path in layer.paths])
    target = TargetLayer(dense, 0, layer.kernel, alone.head)
    return ChainTarget(target, target.layer_passes(BATCH_ROWS)), features


def dense_target(chain: DenseChain, inputs: Float32, paths: Sequence[str]) -> tuple[ChainTarget, Float32]:
    """Weights of any layers of a chain as a target, and the values (n, F) that reach the first of these layers.

    Args:
        chain: of any number of layers.
        inputs: (n, D) of the chain.
        paths: of the weights, at least one; the kernel of the last layer alone gives `last_target`.

    Raises:
        InputError: a path is of no weight of the chain, or the last layer has an activation of its own in front of the
            head.
    """
    if unknown := [path for path in paths if path not in chain.values]:
        raise InputError(f"{unknown[0]!r} is no weight of the chain, expected one of {', '.join(chain.values)}")
    if list(paths) == [chain.layers[-1].kernel]:
        return last_target(chain, inputs)
    _check_head(chain)
    model, variables = _model_of(chain)
    wanted = [path for path in variables if path in set(paths)]  # in the order of the pass
    held = [variables[path] for path in wanted]
    cut = cut_graph(graph_of(model), held)
    target = DeepTarget(FlatWeights(chain.head, tuple(wanted), tuple(held), cut), tuple(wanted), {})
    if cut.before:
        reach = target.features_pass(model)
        blocks = (np.asarray(reach([batch]))[:count] for batch, count in batches(inputs, BATCH_ROWS))
        inputs = np.concatenate(list(blocks))
    return ChainTarget(target, target.layer_passes(BATCH_ROWS)), inputs


def _model_of(chain: DenseChain) -> tuple[Any, dict[str, Any]]:
    """A Keras model of the layers of a chain, and its variables by the paths of the chain.

    Names of layers, which may have a "/" in them, are Keras' own choice.
    """
    variables: dict[str, Any] = {}
    result = start = keras.Input((chain.values[chain.layers[0].kernel].shape[0],))
    for layer in chain.layers:
        units = chain.values[layer.kernel].shape[1]
        dense = keras.layers.Dense(units, activation=layer.activation, use_bias=layer.bias is not None)
        result = dense(result)
        dense.set_weights([np.array(chain.values[path]) for path in layer.paths])
        variables |= dict(zip(layer.paths, dense.weights, strict=True))
    return keras.Model(start, result), variables


def _check_head(chain: DenseChain) -> None:
    last = chain.layers[-1]
    if last.activation != "linear":
        raise InputError(f"{last.name} has the activation {last.activation} before the head, expected none")
