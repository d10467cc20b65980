"""The evaluation of the candidates of one job, whatever layers are under repair."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.core.types import Float32, Float64
from engine.fitness.rows import SearchRows
from engine.fitness.tiling import Tile, one_ahead


@dataclass(frozen=True, eq=False)
class Resident:
    """The evaluation of one swarm whose candidates are made, and whose sums are wanted, on the device."""

    # of candidates (P, K) float32 and `arguments`, what `blocks` takes; for use inside a compiled function
    changes: Callable[..., Any]
    arguments: tuple[Any, ...]  # tensors
    weights: int  # K; a swarm with fewer is filled up with zeros
    # of changes and `constants`, inside a compiled function: summed loss and correct rows of blocks of rows, (P, b)
    # float32 each, the same bits as in `evaluate`
    blocks: Callable[..., tuple[Any, Any]]
    constants: tuple[Any, ...]  # tensors
    masks: Any  # (2, b) tensor, which blocks are of negative and which of positive rows


class Fitness(ABC):
    """The prepared evaluation of one job in this process.

    `TiledFitness` is that of weights of the last Dense layer, `TailFitness` of weights of any layers, `MixtureFitness`
    of mixed tunings. Sums are (.., S) float64: summed loss of negative and of positive rows, correct rows among the
    negative and among the positive, and what else the objective asks for.

    Attributes:
        tiles: of candidates and rows.
        sums: S.
        together: candidates that one call of a program evaluates at most; fewer are filled up.
    """

    def __init__(self, rows: SearchRows, tiles: tuple[Tile, ...], together: int, sums: int) -> None:
        self.tiles, self.together, self.sums = tiles, together, sums
        self._rows = rows
        self._made: dict[Any, Any] = {}

    @property
    def resident(self) -> Resident | None:
        """What a swarm needs that stays on the device, where that is offered."""
        return None

    def evaluate(self, candidates: Float32) -> Float64:
        """Evaluate every row here; (M, K) float32 -> (M, S), each candidate as it would be alone."""
        total = np.zeros((len(candidates), self.sums))
        pieces = self._pieces(len(candidates))
        starts = (functools.partial(self.start_rows, rows, candidates[part]) for rows, part in pieces)
        for (_, part), sums in zip(pieces, one_ahead(starts), strict=True):
            total[part] += sums
        return total

    def start_tile(self, tile: int, candidates: Float32) -> Callable[[], Float64]:
        """Start the evaluation of a tile of the whole swarm (P, K); what is returned ends it, so that the next one may
        be started before.
        """
        where = self.tiles[tile]
        return self.start_rows(where.rows, candidates[slice(*where.particles)])

    @abstractmethod
    def start_rows(self, rows: tuple[int, int], part: Float32) -> Callable[[], Float64]:
        """Start the sums (m, S) of candidates (m, K), at most `together`, over one range of rows."""

    @abstractmethod
    def _prepare(self, where: slice) -> Any:
        """What a range of rows brings along, the same for all candidates, on the device."""

    def _prepared(self, rows: tuple[int, int]) -> Any:
        return self._once(("rows", rows), lambda: self._prepare(slice(*rows)))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = make()
        return found

    def _ranges(self) -> list[tuple[int, int]]:
        return list(dict.fromkeys(tile.rows for tile in self.tiles))

    def _pieces(self, count: int) -> list[tuple[tuple[int, int], slice]]:
        """Each range of rows with each group of candidates that share a call, of so many."""
        starts = range(0, count, self.together)
        return [(rows, slice(start, min(start + self.together, count))) for rows in self._ranges() for start in starts]
