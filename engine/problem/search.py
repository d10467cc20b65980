"""A whole search as a piece of work."""

from __future__ import annotations

from typing import NamedTuple

from engine.core.plans import Work
from engine.core.types import Float32
from engine.layers.tail import Tail
from engine.problem.case import RepairCase
from engine.problem.problem import Problem, prepare
from engine.search import loop


class SearchEnd(NamedTuple):
    """How a search ended: the values (K,) of its best candidate, their fitness, and that of the first candidate."""

    values: Float32
    fitness: float
    start_fitness: float


def search(case: RepairCase, problem: Problem, tail: Tail | None = None) -> tuple[Float32, float, float]:
    """Search a problem on the rows of a case to its end; see `SearchEnd`."""
    prepared = prepare(problem, case.rows, tail)
    state, _ = loop.advance(
        problem.settings,
        problem.source,
        prepared.objective,
        problem.start(),
        prepared.fitness.evaluate,
        resident=prepared.fitness.resident,
    )
    return loop.result(state), state.swarm.global_fitness, state.start_fitness


def search_work(name: str, case: RepairCase, problem: Problem) -> Work:
    """The search of a problem on the rows of a case."""
    return Work(name, search, (case, problem), "search", model=problem.needs_tail)
