"""What localisation sums over rows; blocks of rows are added in order."""

from __future__ import annotations

from dataclasses import dataclass

from engine.core.types import Float64


@dataclass(frozen=True, eq=False)
class LocalisationSums:
    """Sums over rows for the last Dense layer.

    Attributes:
        gradient: (D, C) float64, sum over rows of the loss gradient by the kernel.
        impact: (D,) float64, sum over rows of |input of the layer|.
        first: (D,) float64, |input| of the first row alone.
        rows: number of rows summed.
    """

    gradient: Float64
    impact: Float64
    first: Float64
    rows: int

    def __add__(self, later: LocalisationSums) -> LocalisationSums:
        return LocalisationSums(
            self.gradient + later.gradient, self.impact + later.impact, self.first, self.rows + later.rows
        )


@dataclass(frozen=True, eq=False)
class PooledSums:
    """Sums over rows for weights of any layers.

    Attributes:
        gradient: (W,) float64, sum over rows of the loss gradient by each weight.
        impact: (W,) float64, sum over rows of its forward impact.
        rows: number of rows summed.
    """

    gradient: Float64
    impact: Float64
    rows: int

    def __add__(self, later: PooledSums) -> PooledSums:
        return PooledSums(self.gradient + later.gradient, self.impact + later.impact, self.rows + later.rows)
