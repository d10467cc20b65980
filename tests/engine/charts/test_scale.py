"""What charts on paper and on a page share."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.charts.style import shares_of, spoke_text, spoke_turns, ticks

ROOT = Path(__file__).parents[3]


def test_ticks_are_round() -> None:
    assert ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert ticks(0.3, 1, 4) == [0.4, 0.6, 0.8, 1]
    assert ticks(-3, 12, 6, outside=True) == [-5, -2.5, 0, 2.5, 5, 7.5, 10, 12.5]
    assert ticks(0, 3, 10, whole=True) == [0, 1, 2, 3]
    assert ticks(5, 5, 4) == [5, 5.25, 5.5, 5.75, 6]


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), count=st.integers(2, 12))
def test_ticks_stay_inside_or_enclose(low: float, span: float, count: int) -> None:
    inside, around = ticks(low, low + span, count), ticks(low, low + span, count, outside=True)
    slack = 1e-6 * max(abs(low), span, 1e-3)
    assert all(low - slack <= at <= low + span + slack for at in inside) and len(inside) <= count + 1
    assert around[0] <= low + slack and around[-1] >= low + span - slack


def test_names_of_spokes_are_never_upside_down() -> None:
    turns = spoke_turns(8)
    np.testing.assert_allclose(np.degrees(turns), [0, 45, 90, 135, 180, 225, 270, 315])
    flat = ["middle", "left", "left", "left", "middle", "right", "right", "right"]
    assert [spoke_text(turn, flat=True)[0] for turn in turns] == flat
    for turn in turns:
        side, slope = spoke_text(turn, flat=False)
        assert -90 - 1e-6 <= slope <= 90 + 1e-6
        outwards = math.radians(slope) if side == "left" else math.radians(slope) + math.pi
        np.testing.assert_allclose(
            [math.cos(outwards), math.sin(outwards)], [math.sin(turn), -math.cos(turn)], atol=1e-9
        )


def test_shares_of_no_rows_are_0() -> None:
    counts = np.array([[3, 1], [0, 0]])
    assert shares_of(counts, counts.sum(axis=1, keepdims=True)).tolist() == [[0.75, 0.25], [0, 0]]


@pytest.mark.parametrize("module", ["cli.run_report.page", "engine.charts.pareto", "engine.charts.radar"])
def test_what_draws_on_paper_is_loaded_when_it_draws(module: str) -> None:
    code = f"import sys, {module}; assert not [name for name in sys.modules if name.startswith('matplotlib')]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
