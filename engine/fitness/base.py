"""What the swarm and the scheduler see of the evaluation of one job, whatever layers are under repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.core.types import Float32, Float64
from engine.fitness.tiling import Tile


class Fitness(Protocol):
    """The prepared evaluation of one job in this process: `TiledFitness`, or `TailFitness` for any other layers.

    Sums are (.., 4) float64: summed loss of negative and of positive rows, correct rows among the negative and among
    the positive.
    """

    tiles: tuple[Tile, ...]

    def evaluate(self, candidates: Float32) -> Float64:
        """Evaluate every row here; (M, K) float32 -> (M, 4), each candidate as it would be alone."""

    def start_tile(self, tile: int, candidates: Float32) -> Callable[[], Float64]:
        """Start the evaluation of a tile of the whole swarm (P, K); what is returned ends it, so that the next one may
        be started before.
        """
