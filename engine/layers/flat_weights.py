"""Weights of any layers as one flat vector: one after the other, each flattened in C order."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from engine.backend import ops
from engine.core.types import Float32, Int64
from engine.layers.head import Head
from engine.layers.weight_stats import WeightStats
from engine.models.graph import GraphCut


@dataclass(frozen=True, eq=False)
class FlatWeights:
    """Weights of any layers of a model, W numbers in all, and the graph behind them.

    Attributes:
        head: how the loss follows from the output of the tail.
        paths: of the weights, as patches name them.
        variables: Keras variables of the same.
        cut: the graph, cut before the first of their layers.
    """

    head: Head
    paths: tuple[str, ...]
    variables: tuple[Any, ...]
    cut: GraphCut

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each weight."""
        return tuple(math.prod(variable.shape) for variable in self.variables)

    @functools.cached_property
    def offsets(self) -> Int64:
        """Where each weight begins in the vector, and W; (weights + 1,) int64."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight by its path."""
        return {path: tuple(variable.shape) for path, variable in zip(self.paths, self.variables, strict=True)}

    @property
    def values(self) -> Float32:
        """The vector as it is, (W, 1) float32."""
        return np.concatenate([_array(variable).reshape(-1, 1) for variable in self.variables])

    def part(self, flat: Int64) -> Int64:
        """For places in the vector, which weight they belong to."""
        return (np.searchsorted(self.offsets, flat, side="right") - 1).astype(np.int64)

    def stats(self, values: Float32, flat: Int64) -> WeightStats:
        """What is known of the values of the weight that each of K places (K,) belongs to; arrays (K,)."""
        part = self.part(flat)
        of = {
            number: stats_of(values[self.offsets[number] : self.offsets[number + 1]]) for number in set(part.tolist())
        }
        return WeightStats(
            *(np.array([getattr(of[number], each.name) for number in part]) for each in fields(WeightStats))
        )


def _array(variable: Any) -> Float32:
    return np.asarray(ops.convert_to_numpy(variable), dtype=np.float32)


def stats_of(values: Float32) -> WeightStats:
    """What is known of the values of a weight."""
    found = WeightStats.of(values)
    if found.range > 0:
        return found
    # All values are equal (a fresh offset): the swarm would have no room to move.
    mean = float(values.flat[0])
    room = abs(mean) or 1.0
    return WeightStats(mean, room / 10, room, mean - room / 2, mean + room / 2)
