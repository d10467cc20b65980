"""The optimisers by name: what their settings and states are, and their `init`, `ask` and `tell`.

A new one is a file with a state and two functions, an entry here, and settings with an entry in
`engine.search.settings`, of which its options, their help and what is refused are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.core.types import Float32
from engine.search import differential_evolution, random_search, swarm
from engine.search.population import Population, PopulationSettings, ask


@dataclass(frozen=True)
class Optimiser:
    """One optimiser; see `engine.search.population`.

    Attributes:
        settings, state: their types.
        init: (settings, source, original, stats) -> state.
        tell: (settings, source, state, fitness) -> state.
        ask: state -> candidates (P, K) float32.
    """

    settings: type[PopulationSettings]
    state: type[Population]
    init: Callable[..., Any]
    tell: Callable[..., Any]
    ask: Callable[[Population], Float32] = ask


OPTIMISERS = {
    "PSO": Optimiser(swarm.SwarmSettings, swarm.SwarmState, swarm.init, swarm.tell),
    "DE": Optimiser(
        differential_evolution.DifferentialSettings,
        differential_evolution.DifferentialState,
        differential_evolution.init,
        differential_evolution.tell,
    ),
    "random": Optimiser(
        random_search.RandomSettings, random_search.RandomState, random_search.init, random_search.tell
    ),
}


def optimiser_of(settings: PopulationSettings) -> Optimiser:
    """The optimiser that settings are of."""
    return OPTIMISERS[settings.optimiser]
