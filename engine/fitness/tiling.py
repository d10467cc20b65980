"""How particles and rows are cut into tiles and put together again: pure functions of the job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.core.types import Bool, Float64
from engine.fitness.shapes import Tiling as Tiling  # noqa: PLC0414 - its users find it here

TILE_ELEMENTS = 1 << 24
"""Touched logits of one tile at most: 64 MiB of float32."""

UNIT_WEIGHTS = (4, 6, 10, 16)
"""Weights per unit that programs are compiled for. Of whole batches, half to two thirds of the compiling is saved."""

SUM_ROWS = 32
"""Rows of one kind, negative or positive, that the program adds up in float32."""


@dataclass(frozen=True)
class Tile:
    """Half-open ranges of particles and rows."""

    particles: tuple[int, int]
    rows: tuple[int, int]


def bucket(count: int, steps: Sequence[int] = ()) -> int:
    """The next of `steps`; above them the smallest m * 2**e >= count with 8 <= m <= 16, which wastes at most 1/8."""
    for step in steps:
        if count <= step:
            return step
    if count <= 16:
        return count
    step = 1 << (count.bit_length() - 4)
    return -(-count // step) * step


def filled_up(values: Float64, count: int) -> Float64:
    filled = np.zeros((*values.shape[:-1], count))
    filled[..., : values.shape[-1]] = values
    return filled


def plan_tiles(particles: int, rows: int, units: int, tiling: Tiling) -> tuple[Tile, ...]:
    """Cut P x n into tiles, rows varying fastest: a pure function of the job and of `tiling`."""
    high, wide = tile_shape(particles, units, tiling)
    return tuple(
        Tile((p, min(p + high, particles)), (r, min(r + wide, rows)))
        for p in range(0, particles, high)
        for r in range(0, rows, wide)
    )


def tile_shape(particles: int, units: int, tiling: Tiling) -> tuple[int, int]:
    """Particles and rows of a tile; the last ones may be smaller."""
    high = min(particles, tiling.particles or even(particles, 128))
    elements = TILE_ELEMENTS if tiling.bytes is None else tiling.bytes // 4
    return high, tiling.rows or 1 << max(8, min(13, (elements // (high * max(units, 1))).bit_length() - 1))


def even(count: int, most: int) -> int:
    """The size of as few parts as can be of at most `most`, so that the last one is hardly smaller."""
    return -(-count // max(1, -(-count // most)))


def one_ahead(starts: Iterable[Callable[[], Callable[[], Float64]]]) -> Iterator[Float64]:
    """Results of pieces of work in their order, each started before the one in front of it is waited for."""
    waiting: Callable[[], Float64] | None = None
    for start in starts:
        started = start()
        if waiting is not None:
            yield waiting()
        waiting = started
    if waiting is not None:
        yield waiting()


def kind_masks(kinds: Sequence[slice], blocks: int) -> Bool:
    masks = np.zeros((len(kinds), blocks), dtype=np.bool_)
    for mask, kind in zip(masks, kinds, strict=True):
        mask[kind] = True
    return masks


def kind_sums(values: Any, masks: Any, ops: Any) -> Any:
    """Sums (m, 2) of values (m, b) float64 over the blocks of each kind, see `kind_masks`.

    They are added in one order whatever computes them, NumPy or `keras.ops`, and however many blocks are of a kind.
    """
    width = values.shape[-1]
    levels = max(width - 1, 0).bit_length()
    # No product with masks, which would carry over what is not finite.
    sums = ops.pad(ops.where(masks, ops.expand_dims(values, 1), 0.0), ((0, 0), (0, 0), (0, (1 << levels) - width)))
    for _ in range(levels):
        first, second = ops.split(sums, 2, axis=-1)
        sums = first + second
    return ops.squeeze(sums, -1)


def combine(tiles: Sequence[Tile], parts: Sequence[Float64]) -> Float64:
    """Add the parts of all tiles in tile order; (P, S) float64."""
    particles = max(tile.particles[1] for tile in tiles)
    total = np.zeros((particles, parts[0].shape[1]))
    for tile, part in zip(tiles, parts, strict=True):
        total[slice(*tile.particles)] += part
    return total
