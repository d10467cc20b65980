"""What localisation sums over rows; blocks of rows are added in order."""

from __future__ import annotations

from dataclasses import dataclass

from engine.core.types import Float64


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over rows.

    Attributes:
        gradient: of the loss gradient by the kernel, float64; (D, C) of the last Dense layer, (W,) of any others.
        impact: (D,) of |input of the last Dense layer|; (W,) of the forward impact of each weight.
        rows: number of rows summed.
        first: (D,) |input| of the first row alone; None where any other layers are summed over.
    """

    gradient: Float64
    impact: Float64
    rows: int
    first: Float64 | None = None

    def __add__(self, later: Sums) -> Sums:
        return Sums(self.gradient + later.gradient, self.impact + later.impact, self.rows + later.rows, self.first)
