"""What charts on paper and charts on a page share: colours, round numbers on axes, spokes, and shares of rows.

Nothing is drawn here, so that a page is made without loading what draws on paper. Colours are those of Okabe and Ito,
which colour-blind people can tell apart; no chart tells by colour alone.
"""

from __future__ import annotations

import math

import numpy as np

from engine.core.types import Float64, Int64

BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
GREY = "#555555"

FEW = 14
"""Up to so many labels there is room: names around a circle lie flat, and cells have numbers."""


def ticks(low: float, high: float, count: int, *, outside: bool = False, whole: bool = False) -> list[float]:
    """About `count` round numbers from `low` to `high`; `outside`: that enclose both."""
    if high <= low:
        high = low + 1
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1, math.ceil(step))
    first = math.floor(low / step + 1e-9) if outside else math.ceil(low / step - 1e-9)
    last = math.ceil(high / step - 1e-9) if outside else math.floor(high / step + 1e-9)
    return [round(at * step, 10) for at in range(first, last + 1)]


def spoke_turns(count: int) -> Float64:
    """Turns (count,) of evenly spaced spokes in radians, clockwise from the top."""
    turns: Float64 = 2 * np.pi * np.arange(count) / count
    return turns


def spoke_text(turn: float, *, flat: bool) -> tuple[str, float]:
    """How a name stands at the end of a spoke: its side at the spoke and its slope.

    The side is `left`, `right` or `middle`, the slope in degrees, clockwise. Names that are not flat point outwards
    and are never upside down.
    """
    sine = math.sin(turn)
    if flat:
        return "middle" if abs(sine) < 0.1 else "left" if sine > 0 else "right", 0.0
    upright = sine >= -1e-9
    return "left" if upright else "right", math.degrees(turn) - (90 if upright else 270)


def shares_of(counts: Int64, totals: Int64) -> Float64:
    """Counts divided by totals of a shape that fits; 0 where there are no rows."""
    shares: Float64 = counts / np.maximum(totals, 1)
    return shares
