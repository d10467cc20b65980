"""What the swarm and the scheduler see of the evaluation of one job, whatever layers are under repair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from engine.core.types import Float32, Float64
from engine.fitness.tiling import Tile


class Goal(Protocol):
    """What turns sums into fitness: `Objective`, `PriorityObjective`, `Steered`, or `Steering` of mixtures."""

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


@dataclass(frozen=True, eq=False)
class Resident:
    """The evaluation of one swarm whose candidates are made, and whose sums are wanted, on the device.

    Attributes:
        changes: of candidates (P, K) float32 and `arguments`, what `blocks` takes; for use inside a compiled function.
        arguments: tensors.
        weights: K; a swarm with fewer is filled up with zeros.
        blocks: of changes and `constants`, inside a compiled function: summed loss and correct rows of blocks of rows,
            (P, b) float32 each, the same bits as in `evaluate`.
        constants: tensors.
        masks: (2, b) tensor, which blocks are of negative and which of positive rows.
    """

    changes: Callable[..., Any]
    arguments: tuple[Any, ...]
    weights: int
    blocks: Callable[..., tuple[Any, Any]]
    constants: tuple[Any, ...]
    masks: Any


class Fitness(Protocol):
    """The prepared evaluation of one job in this process: `TiledFitness`, `TailFitness` for any other layers, or
    `MixtureFitness` of tunings.

    Sums are (.., S) float64: summed loss of negative and of positive rows, correct rows among the negative and among
    the positive, and what else the goal asks for.
    """

    tiles: tuple[Tile, ...]

    @property
    def resident(self) -> Resident | None:
        """What a swarm needs that stays on the device of this process, where that is offered."""

    def evaluate(self, candidates: Float32) -> Float64:
        """Evaluate every row here; (M, K) float32 -> (M, S), each candidate as it would be alone."""

    def start_tile(self, tile: int, candidates: Float32) -> Callable[[], Float64]:
        """Start the evaluation of a tile of the whole swarm (P, K); what is returned ends it, so that the next one may
        be started before.
        """
