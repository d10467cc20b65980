"""Mean, deviation and range of weights: where a search starts and how far it moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
