"""What the swarm and the scheduler see of the evaluation of one job, whatever layers are under repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.core.types import Float32, Float64
from engine.fitness.tiling import Tile


class Goal(Protocol):
    """What turns sums into fitness: `Objective`, or `Steering` of mixtures."""

    @property
    def negatives(self) -> int:
        """Rows to get right."""

    @property
    def positives(self) -> int:
        """Rows to keep right."""

    @property
    def positive_weight(self) -> float | None:
        """Worth of all positives together, in negatives, where that decides."""

    def fitness(self, sums: Float64) -> Float64:
        """(P, S) sums -> (P,) fitness."""


class Fitness(Protocol):
    """The prepared evaluation of one job in this process: `TiledFitness`, `TailFitness` for any other layers, or
    `MixtureFitness` of tunings.

    Sums are (.., S) float64: summed loss of negative and of positive rows, correct rows among the negative and among
    the positive, and what else the goal asks for.
    """

    tiles: tuple[Tile, ...]

    def evaluate(self, candidates: Float32) -> Float64:
        """Evaluate every row here; (M, K) float32 -> (M, S), each candidate as it would be alone."""

    def start_tile(self, tile: int, candidates: Float32) -> Callable[[], Float64]:
        """Start the evaluation of a tile of the whole swarm (P, K); what is returned ends it, so that the next one may
        be started before.
        """
