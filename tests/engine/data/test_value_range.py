from __future__ import annotations

import numpy as np
import pytest

from engine.data.value_range import ValueRange, value_range

UNIT, BYTE = ValueRange(0, 1), ValueRange(0, 255)


@pytest.mark.parametrize(
    ("found", "expected", "far"),
    [
        ((0, 1), UNIT, False),
        ((0.3, 0.4), UNIT, False),
        ((-1, 2), UNIT, False),
        ((-1.1, 1), UNIT, True),
        ((0, 2.1), UNIT, True),
        ((0, 0.021), UNIT, False),
        ((0, 0.019), UNIT, True),
        ((0, 0), UNIT, True),
        ((0, 255), UNIT, True),
        ((0, 1), BYTE, True),
        ((0, 30), BYTE, False),
        ((-255, 510), BYTE, False),
        ((-124, 152), BYTE, False),
        ((0, 255), ValueRange(-124, 152), False),
        ((0, 255), ValueRange(-2.1, 2.6), True),
    ],
)
def test_far(found: tuple[float, float], expected: ValueRange, far: bool) -> None:
    assert ValueRange(*found).far_from(expected) == far


def test_ranges_of_parts_join() -> None:
    rows = np.random.default_rng(0).normal(0, 3, (50, 4, 3, 1)).astype(np.float32)
    whole = value_range(rows)
    assert value_range(rows[:7]).joined(value_range(rows[7:])) == whole == ValueRange(rows.min(), rows.max())
    assert str(ValueRange(-0.5, 65535)) == "-0.5 to 6.554e+04"


@pytest.mark.parametrize(
    ("found", "scale"),
    [((0.2, 0.7), UNIT), ((0, 200), BYTE), ((-0.1, 1), ValueRange(-0.1, 1)), ((0, 1e4), ValueRange(0, 1e4))],
)
def test_scale(found: tuple[float, float], scale: ValueRange) -> None:
    assert ValueRange(*found).scale() == scale
