"""What localisation sums over rows; blocks of rows are added in order."""

from __future__ import annotations

from dataclasses import dataclass

from engine.core.types import Float64


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over rows."""

    gradient: Float64  # of the loss gradient by the kernel, float64; (D, C) of the last Dense layer, (W,) of any others
    impact: Float64  # (D,) of |input of the last Dense layer|; (W,) of the forward impact of each weight
    rows: int  # number of rows summed
    first: Float64 | None = None  # (D,) |input| of the first row alone; None where any other layers are summed over

    def __add__(self, later: Sums) -> Sums:
        return Sums(self.gradient + later.gradient, self.impact + later.impact, self.rows + later.rows, self.first)
