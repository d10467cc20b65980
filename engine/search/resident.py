"""A swarm that stays on the device: moves, fitness and bookkeeping of a block of iterations in one compiled program.

The same bits as `engine.search.swarm`, on any backend: float64 operations one by one, with the host's random numbers,
and the fitness by the formula that evaluates candidates anyway, compiled by itself. The host reads one short row of
each iteration when a block has ended.

Compiling takes as long as hundreds of iterations save, so that programs are made for shapes that are searched for
long; a search may change over in any iteration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from engine import backend
from engine.backend import ops
from engine.core.rng import RngKey
from engine.core.types import Float64
from engine.fitness.base import Resident
from engine.fitness.objective import Objective, worth
from engine.fitness.tiling import filled_up, kind_sums
from engine.search import swarm
from engine.search.swarm import SwarmSettings, SwarmState

WORTH_COMPILING = 700
"""Iterations on the host in this process after which a program is made for swarms of their shape.

A program that was kept takes 0.2 s to make, a new one 0.5, and an iteration on the device saves 0.3 ms of 0.9 where
three or four swarms share calls on the host, 0.6 of 1.1 of a swarm alone (measured, 100 particles on 1,000 rows).
"""

MOST_ITERATIONS = 16
"""Of one block; what a call costs is shared by so many."""

DRAWN_BYTES = 2 << 20
"""Random numbers of a block at most, where it is of more than one iteration."""

FACTS = 6
"""Global fitness, since_gain, and the sums of the best candidate."""

KEPT_PROGRAMS = 16
"""Six serve a batch of ten chunks of 1,000 rows; of chunks of many sizes few are used again."""

_seen: Counter[tuple[Any, ...]] = Counter()
_programs: dict[tuple[Any, ...], Callable[..., Any]] = {}


def due(resident: Resident, settings: SwarmSettings, state: SwarmState, swarms: int) -> bool:
    """Whether an iteration of such swarms belongs on the device; where it does not, it counts as one on the host."""
    key = _key(resident, settings, len(state.position))
    _seen[key] += swarms
    return _seen[key] > WORTH_COMPILING


def _key(resident: Resident, settings: SwarmSettings, particles: int) -> tuple[Any, ...]:
    tensors = (*resident.arguments, resident.masks, *resident.constants)
    shapes = tuple(tuple(tensor.shape) for tensor in tensors)
    return (resident.blocks, shapes, settings.velocity_floor, particles)


class ResidentSwarm:
    """One swarm in the iterations of a segment."""

    def __init__(
        self,
        settings: SwarmSettings,
        source: RngKey,
        objective: Objective,
        resident: Resident,
        state: SwarmState,
        best_sums: Float64,
    ) -> None:
        """Copy a swarm to the device; the fitness that stays there is Arachne's own."""
        assert objective.positive_weight is not None
        self._source, self._state = source, state
        particles, self._weights = state.position.shape
        filled = resident.weights
        facts = np.array([state.global_fitness, state.since_gain, *best_sums], dtype=np.float64)
        moved = (state.position, state.velocity, state.best_position)
        arrays = (
            *(filled_up(array, filled) for array in moved),
            state.best_fitness,
            filled_up(state.global_position, filled),
            facts,
        )
        self._arrays = [backend.on_device(array) for array in arrays]
        positives = max(objective.positives, 1)
        numbers = [-np.inf, settings.attraction, settings.constriction, objective.positive_weight / positives]
        # One for each particle: division by one number for all becomes a product with its inverse.
        counts = np.repeat(np.array([[objective.negatives], [positives]], dtype=np.float64), particles, axis=1)
        bound = np.asarray(state.bound, dtype=np.float64)
        if bound.ndim:
            bound = filled_up(bound, filled)
        # What solves it; without negatives nothing does.
        solved = [objective.negatives or -1, objective.positives]
        self._numbers = [
            backend.on_device(np.asarray(values, dtype=np.float64))
            for values in (numbers, counts, 5.0 * bound, bound / 5.0, solved)
        ]
        self._others = (resident.masks, *resident.arguments, *resident.constants)
        self._ahead: Any = None
        self._block = max(1, min(MOST_ITERATIONS, DRAWN_BYTES // (16 * particles * filled)))
        self._buffers = [np.zeros((self._block, 2, particles, filled)) for _ in range(2)]
        self._move = np.zeros((2, particles, self._weights))
        key = (*_key(resident, settings, particles), bound.shape)
        if key not in _programs:
            program = _program(resident.changes, resident.blocks, len(resident.arguments), settings.velocity_floor)
            example = (self._arrays, self._drawn(1), self._limits(1, 1), self._numbers, list(self._others))
            if len(_programs) >= KEPT_PROGRAMS:
                del _programs[next(iter(_programs))]
            _programs[key] = backend.for_shapes(program, example)
        self._program = _programs[key]

    def advance(self, iterations: int, without_gain: int) -> list[tuple[SwarmState, Float64, Float64]]:
        """Run a block of at least one iteration, which ends after so many, or without gain for so many, or solved.

        Returns of each iteration the state, whose numbers alone are new; the fitness (P,) of the candidates; the sums
        (4,) of the best.
        """
        count = min(iterations, self._block)
        drawn, self._ahead = self._drawn(count) if self._ahead is None else self._ahead, None
        limits = self._limits(count, without_gain)
        *arrays, rows, run = self._program(self._arrays, drawn, limits, self._numbers, list(self._others))
        self._arrays = arrays
        if iterations > count:
            # While the device computes, where a call does not wait for it; of a search that ends they are not used.
            self._ahead = self._drawn(min(iterations - count, self._block), count)
        told = []
        for row in np.array(rows)[: int(np.asarray(run))]:
            best, since_gain = row[-FACTS : 2 - FACTS]
            iteration = self._state.iteration + 1
            self._state = replace(
                self._state, iteration=iteration, global_fitness=float(best), since_gain=int(since_gain)
            )
            told.append((self._state, row[:-FACTS], row[2 - FACTS :]))
        return told

    def fetched(self) -> SwarmState:
        position, velocity, best_position, best_fitness, global_position, _ = map(np.asarray, self._arrays)
        mine = slice(self._weights)
        return replace(
            self._state,
            position=position[:, mine].copy(),
            velocity=velocity[:, mine].copy(),
            best_position=best_position[:, mine].copy(),
            best_fitness=best_fitness.copy(),
            global_position=global_position[mine].copy(),
        )

    def _limits(self, iterations: int, without_gain: int) -> Any:
        return backend.on_device(np.array([iterations, without_gain], dtype=np.int32))

    def _drawn(self, count: int, after: int = 0) -> Any:
        """Random numbers (T, 2, P, K) of the iterations `after` so many more."""
        # Of the two buffers the other one may be read just now; new ones would cost more than drawing.
        self._buffers.reverse()
        for number in range(count):
            swarm.draw(self._source, self._state.iteration + after + number, self._move)
            self._buffers[0][number, ..., : self._weights] = self._move
        return backend.lent(self._buffers[0])


def _rounded(lowest: Any) -> Callable[[Any], Any]:
    """What keeps a compiler, which does not know `lowest`, from making one operation of a product and a sum."""
    return lambda product: _at_least(product, lowest)


def _at_least(values: Any, least: Any) -> Any:
    """In a fraction of the instructions of `maximum`; what is not a number stays."""
    return ops.where(values < least, least, values)


@lru_cache(KEPT_PROGRAMS)
def _program(
    changes: Callable[..., Any],
    blocks: Callable[..., tuple[Any, Any]],
    arguments: int,
    velocity_floor: bool,
) -> Callable[..., Any]:
    """A block of iterations, compiled: `engine.search.swarm.ask` and `tell` and what a search keeps beside them."""

    def iteration(arrays: Any, drawn: Any, numbers: Any, others: Any) -> tuple[list[Any], Any]:
        position, velocity, best_position, best_fitness, global_position, facts = arrays
        told, counts, top, floor, _ = numbers
        lowest, attraction, constriction, scale = ops.unstack(told)
        negatives, positives = ops.unstack(counts)
        rho1, rho2 = ops.unstack(drawn)
        masks, *others = others
        (change,) = backend.apart([changes(ops.cast(position, "float32"), *others[:arguments])])
        loss, correct = backend.apart(list(blocks(change, *others[arguments:])))

        parts = [kind_sums(ops.cast(values, "float64"), masks, ops) for values in (loss, correct)]
        sums = ops.concatenate(parts, axis=1)
        fitness = worth(ops.unstack(sums, axis=1), negatives, positives, scale, _rounded(lowest))
        counted = ops.where(fitness <= np.inf, fitness, lowest)  # where it is a number
        better = counted > best_fitness
        best_position = ops.where(ops.expand_dims(better, 1), position, best_position)
        best_fitness = ops.where(better, counted, best_fitness)
        best = ops.max(best_fitness)
        count = best_fitness.shape[0]
        leader = ops.min(ops.where(best_fitness == best, ops.arange(count, dtype="int32"), count - 1))
        gained = best > ops.take(facts, 0)
        global_position = ops.where(gained, ops.take(best_position, leader, axis=0), global_position)
        # Where it gains, the leader is a candidate of this iteration.
        news = ops.concatenate([ops.stack([best, ops.zeros_like(best)]), ops.take(sums, leader, axis=0)])
        facts = ops.where(gained, news, facts + ops.cast(ops.arange(FACTS) == 1, "float64"))

        own = _rounded(lowest)((best_position - position) * (rho1 * attraction))
        social = _rounded(lowest)((global_position - position) * (rho2 * attraction))
        velocity = ((own + velocity) + social) * constriction
        if velocity_floor:
            size = ops.minimum(ops.maximum(ops.abs(velocity), floor), top)
            velocity = ops.where(velocity > 0, size, -size)
        else:
            velocity = _at_least(velocity, -top)
            velocity = ops.where(velocity > top, top, velocity)
        arrays = [position, velocity, best_position, best_fitness, global_position, facts]
        return arrays, ops.concatenate([fitness, facts])

    def run(arrays: Any, drawn: Any, limits: Any, numbers: Any, others: Any) -> tuple[Any, ...]:
        all_patched, all_intact = ops.unstack(numbers[-1])
        iterations, without_gain = ops.unstack(limits)

        def goes_on(number: Any, over: Any, *_: Any) -> Any:
            return ops.logical_and(number < iterations, ops.logical_not(over))

        def step(number: Any, over: Any, rows: Any, position: Any, velocity: Any, *arrays: Any) -> tuple[Any, ...]:
            # Here and not where the velocity is found: compilers would find it twice, for itself and for the sum.
            position = ops.where(number > 0, position + velocity, position)
            after, row = iteration((position, velocity, *arrays), ops.take(drawn, number, axis=0), numbers, others)
            _, since_gain, *_, patched, intact = ops.unstack(after[-1])
            solved = ops.logical_and(patched == all_patched, intact == all_intact)
            over = ops.logical_or(solved, since_gain >= ops.cast(without_gain, "float64"))
            rows = ops.slice_update(rows, (number, ops.zeros_like(number)), ops.expand_dims(row, 0))
            return (number + 1, over, rows, *after)

        count, particles = drawn.shape[0], drawn.shape[2]
        rows = ops.zeros((count, particles + FACTS), dtype="float64")
        none = ops.zeros((), dtype="int32")
        done, _, rows, position, velocity, *arrays = ops.while_loop(goes_on, step, (none, none > 0, rows, *arrays))
        return (position + velocity, velocity, *arrays, rows, done)

    program: Callable[..., Any] = backend.compiled(run)
    return program
