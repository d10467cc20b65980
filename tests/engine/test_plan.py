"""Shapes of tiles and the memory they take, known before a search and a function of the job alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fitness import BLOCK_ROWS, Tiling
from engine.tail_fitness import MOST_IN_PLACE, TILE_BYTES, most_places, plan_shapes


@given(
    per_row=st.integers(4, 1 << 22),
    rows=st.integers(1, 50_000),
    particles=st.integers(1, 500),
    tile_bytes=st.none() | st.integers(1, 1 << 32),
    folds=st.booleans(),
)
def test_tiles_cover_everything_once_and_fit(per_row, rows, particles, tile_bytes, folds):
    shapes = plan_shapes(per_row, None, folds, rows, particles, Tiling(bytes=tile_bytes))
    tiles = shapes.cut(particles, rows)
    area = sum((t.particles[1] - t.particles[0]) * (t.rows[1] - t.rows[0]) for t in tiles)
    assert area == particles * rows
    assert len({(t.particles, t.rows) for t in tiles}) == len(tiles)
    assert all(
        t.rows[1] - t.rows[0] <= shapes.rows and t.particles[1] - t.particles[0] <= shapes.together for t in tiles
    )
    smallest = per_row * most_places(min(rows, BLOCK_ROWS))
    assert shapes.tile_bytes <= max(tile_bytes or TILE_BYTES, smallest)
    assert shapes.together <= (MOST_IN_PLACE if folds else 1)
    assert len(tiles) == math.ceil(particles / shapes.together) * math.ceil(rows / shapes.rows)


@pytest.mark.parametrize("asked", [Tiling(particles=3), Tiling(rows=50), Tiling(particles=2, rows=33)])
def test_a_shape_that_was_asked_for(asked):
    shapes = plan_shapes(1000, None, True, 200, 10, asked)
    assert shapes.rows == (asked.rows or 200)
    assert shapes.together == (asked.particles or MOST_IN_PLACE)
