"""The state of searches between two iterations, as bytes: a NumPy archive of plain arrays."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.types import Float64
from engine.search.loop import Iteration, SearchState
from engine.search.optimisers import OPTIMISERS
from engine.search.population import Population


@dataclass(frozen=True, eq=False)
class Begun:
    """A search that has begun.

    Attributes:
        state: where it is.
        iterations: (n, 9) that led there, see `cluster.records.batches.iteration_numbers`.
    """

    state: SearchState
    iterations: Float64


def pack(searches: Mapping[str, Begun]) -> bytes:
    """Searches by name."""
    arrays: dict[str, Any] = {"names": np.array(list(searches), dtype=np.str_)}
    for number, begun in enumerate(searches.values()):
        swarm = begun.state.swarm
        arrays[f"{number}.optimiser"] = np.asarray(_name_of(swarm))
        for name in _names(type(swarm)):
            arrays[f"{number}.{name}"] = np.asarray(getattr(swarm, name))
        arrays[f"{number}.best_sums"] = begun.state.best_sums
        arrays[f"{number}.start_fitness"] = np.asarray(begun.state.start_fitness)
        arrays[f"{number}.stop"] = np.asarray(begun.state.stop or "")
        arrays[f"{number}.iterations"] = begun.iterations
    with io.BytesIO() as content:
        np.savez(content, **arrays)
        return content.getvalue()


def _name_of(state: Population) -> str:
    """The optimiser that a state is of."""
    return next(name for name, optimiser in OPTIMISERS.items() if optimiser.state is type(state))


def _names(kind: type[Population]) -> list[str]:
    return [field.name for field in fields(kind)]


def unpack(path: Path) -> dict[str, Begun]:
    """Searches by name; none from a file that is damaged: they will begin again."""
    try:
        # Opened here: of a damaged archive NumPy leaves the file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {str(name): _begun(arrays, number) for number, name in enumerate(arrays["names"])}
    except Exception:  # what the readers of archives and arrays raise for damaged bytes is anything
        return {}


def _begun(arrays: Mapping[str, Any], number: int) -> Begun:
    def read(name: str) -> Any:
        return arrays[f"{number}.{name}"]

    kind = OPTIMISERS[str(read("optimiser"))].state
    swarm = kind(**{name: value if (value := read(name)).ndim else value.item() for name in _names(kind)})
    stop: Any = str(read("stop")) or None
    state = SearchState(swarm, read("best_sums"), float(read("start_fitness")), stop)
    return Begun(state, read("iterations").reshape(-1, len(fields(Iteration))))
