from __future__ import annotations

from dataclasses import dataclass

from engine.core.types import Float32

FEW = 50  # a set whose numbers are so many times smaller than expected was divided once too often, or not multiplied


@dataclass(frozen=True)
class ValueRange:
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g}"

    def joined(self, other: ValueRange) -> ValueRange:
        return ValueRange(min(self.low, other.low), max(self.high, other.high))

    def far_from(self, expected: ValueRange) -> bool:
        """Whether it reaches further beyond `expected` than that is wide, or no further from 0 than a `FEW`-th."""
        width = expected.high - expected.low
        beyond = self.low < expected.low - width or self.high > expected.high + width
        return beyond or _size(self) < _size(expected) / FEW

    def scale(self) -> ValueRange:
        """What pictures with such numbers are scaled to, as far as one set of them tells: 0 to 1, 0 to 255 or this."""
        return next((known for known in SCALES if known.low <= self.low and self.high <= known.high), self)


SCALES = (ValueRange(0.0, 1.0), ValueRange(0.0, 255.0))  # what pictures usually have


def value_range(rows: Float32) -> ValueRange:
    return ValueRange(float(rows.min()) + 0.0, float(rows.max()) + 0.0)  # of -0.0 this makes 0.0


def _size(values: ValueRange) -> float:
    return max(abs(values.low), abs(values.high))
