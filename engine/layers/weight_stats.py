"""Mean, deviation and range of weights: where a search starts and how far it moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from engine.core.types import Float64


@dataclass(frozen=True)
class WeightStats:
    """Mean, standard deviation, range (max - min), smallest and largest of all weights of the layer under repair.

    Numbers for one layer; arrays (K,) where the K weights of a search are of several.
    """

    mean: float | Float64
    std: float | Float64
    range: float | Float64
    low: float | Float64 = -math.inf
    high: float | Float64 = math.inf

    @staticmethod
    def of(weights: npt.NDArray[np.floating]) -> WeightStats:
        """Measure weights of any shape, in float64."""
        wide = weights.astype(np.float64)
        low, high = float(wide.min()), float(wide.max())
        return WeightStats(float(wide.mean()), float(wide.std()), float(wide.max() - wide.min()), low, high)

    @staticmethod
    def with_room(weights: npt.NDArray[np.floating]) -> WeightStats:
        """The same; if all are equal (a fresh offset), as if they were not, so that the swarm has room to move."""
        found = WeightStats.of(weights)
        if np.all(found.range > 0):
            return found
        mean = float(weights.flat[0])
        room = abs(mean) or 1.0
        return WeightStats(mean, room / 10, room, mean - room / 2, mean + room / 2)

    @staticmethod
    def joined(each: Sequence[WeightStats]) -> WeightStats:
        """Those of K weights as arrays (K,)."""
        columns = ([getattr(stats, field.name) for stats in each] for field in fields(WeightStats))
        return WeightStats(*map(np.array, columns))
