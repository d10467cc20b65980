"""The state of searches between two iterations, as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from cluster.records import values
from engine.core.types import Float64
from engine.search.loop import Iteration, SearchState
from engine.search.optimisers import OPTIMISERS


@dataclass(frozen=True, eq=False)
class Begun:
    """A search that has begun, with the iterations (n, 9) so far; see `cluster.records.rows.iteration_numbers`."""

    state: SearchState
    iterations: Float64


def pack(searches: Mapping[str, Begun]) -> bytes:
    return values.pack("searches", {name: _plain(begun) for name, begun in searches.items()})


def unpack(path: Path) -> dict[str, Begun]:
    """Searches by name; none from a file that is damaged, or of something else: they begin again."""
    try:
        _, searches = values.unpack(path)
        return {name: _begun(**plain) for name, plain in searches.items()}
    except Exception:  # what other values lead to is anything
        return {}


def _plain(begun: Begun) -> dict[str, Any]:
    state = begun.state
    kind = type(state.swarm)
    return {
        "optimiser": next(name for name, optimiser in OPTIMISERS.items() if optimiser.state is kind),
        "swarm": {field.name: getattr(state.swarm, field.name) for field in fields(kind)},
        "search": {"best_sums": state.best_sums, "start_fitness": float(state.start_fitness), "stop": state.stop},
        "iterations": np.asarray(begun.iterations, np.float64),
    }


def _begun(optimiser: str, swarm: dict[str, Any], search: dict[str, Any], iterations: Float64) -> Begun:
    state = SearchState(OPTIMISERS[optimiser].state(**swarm), **search)
    return Begun(state, iterations.reshape(-1, len(fields(Iteration))))
