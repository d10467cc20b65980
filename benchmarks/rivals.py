"""The particle swarms of EvoX, evosax and PySwarms on the fitness of a last Dense layer, each in its own best way.

What is computed once is computed once here too: inputs, logits, and what the untouched units add to every row. Three
forms are tried, and all are timed:

- plain: all n x P x C logits from one matrix product, as one would write it first;
- dense: the same with classes outermost, so that what follows runs along rows, from the distinct inputs alone;
- touched: only the logits of the units that the weights belong to, one small product for each: this project's formula.

Each swarm keeps its own rule of moving: their costs differ little. Correct rows are those whose true logit is the
largest; exact ties, which a search has to break, are not looked at, in favour of these.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from problems import Job, by_numpy_of, kinds

from engine.core.types import Bool, Float32, Float64, Int64

STEPS = 50
"""Iterations in one call: what a loop over iterations pays once is shared, as in a long run."""

LOWEST = np.float32(-3e38)
UNROLLED = 16
"""Up to this many units XLA is fastest with one expression for each: it reduces badly over the first axis."""


@dataclass(frozen=True, eq=False)
class Rival:
    """One engine with one form of the fitness.

    Attributes:
        engine, form: names.
        sums: (P, 4) of candidates (P, K), as `TiledFitness.evaluate` has them.
        fitness: (P,) of candidates (P, K), of what `iterate` maximises.
        iterate: runs `STEPS` iterations and waits for them.
    """

    engine: str
    form: str
    sums: Callable[[Float32], Float64]
    fitness: Callable[[Float32], Float64]
    iterate: Callable[[], object]


@dataclass(frozen=True, eq=False)
class Groups:
    """The weights by unit, and what does not change.

    Attributes:
        form: name.
        slot: (u, w) positions in a row of K changes padded with one zero.
        inputs: (u, w, n), or (w, n) where all units read the same.
        base: (u, n) logits as they are.
        is_true: (u, n) bool.
        true: (n,) logits of true labels among the other units, else 0.
        largest, remainder: (n,) largest logit of the other units, and the logarithm of their summed exponentials; None
            where there are no others.
    """

    form: str
    slot: Int64
    inputs: Float32
    base: Float32
    is_true: Bool
    true: Float32
    largest: Float32 | None
    remainder: Float32 | None


def grouped(job: Job) -> list[Groups]:
    """The forms `dense` and `touched`."""
    rows, weights = job.rows, job.weights
    count, classes = len(weights.old), rows.logits.shape[1]
    columns, place = np.unique(weights.feature, return_inverse=True)
    slot = np.full((classes, len(columns)), count)
    slot[weights.unit, place] = np.arange(count)
    every = np.arange(classes)
    inputs = np.ascontiguousarray(rows.inputs[:, columns].T)
    forms = [Groups("dense", slot, inputs, *_rest(job, every))]

    touched = np.unique(weights.unit)
    members = [np.flatnonzero(weights.unit == unit) for unit in touched]
    slot = np.full((len(touched), max(map(len, members))), count)
    for group, member in zip(slot, members, strict=True):
        group[: len(member)] = member
    padded = np.append(rows.inputs[:, weights.feature], np.zeros((len(rows.labels), 1), np.float32), axis=1)
    inputs = np.ascontiguousarray(padded[:, slot].transpose(1, 2, 0))
    return [*forms, Groups("touched", slot, inputs, *_rest(job, touched))]


def _rest(job: Job, units: npt.NDArray[Any]) -> tuple[Any, ...]:
    logits, labels = job.rows.logits, job.rows.labels
    base, is_true = np.ascontiguousarray(logits[:, units].T), units[:, None] == labels
    free = np.ones(logits.shape[1], dtype=bool)
    free[units] = False
    true = np.where(free[labels], logits[np.arange(len(labels)), labels], np.float32(0))
    if not free.any():
        return base, is_true, true, None, None
    others = np.where(free, logits, -np.inf)
    return base, is_true, true, others.max(axis=1), np.logaddexp.reduce(others, axis=1).astype(np.float32)


def arachne(job: Job, sums: Any) -> Any:
    """`engine.fitness.objective.fitness` of sums (P, 4) in any library."""
    objective = job.objective
    positives = max(objective.positives, 1)
    worth = (objective.positive_weight or 0.0) / positives
    return (sums[:, 2] + 1.0) / (sums[:, 0] / objective.negatives + 1.0) + (worth * sums[:, 3] + 1.0) / (
        sums[:, 1] / positives + 1.0
    )


def evox(job: Job) -> Iterator[Rival]:  # noqa: PLR0915 - a closure for each form
    """EvoX's PSO in a workflow whose step is compiled as a whole by torch.compile."""
    import torch
    from evox.algorithms import PSO
    from evox.core import Problem
    from evox.workflows import StdWorkflow

    torch.compiler.reset()  # it compiles a function for so many objects and no more

    def tensor(array: Any) -> Any:
        return torch.from_numpy(np.array(array))

    of_kind, old = tensor(kinds(job.rows)), tensor(job.weights.old)
    particles, count = job.candidates.shape

    def plain() -> Callable[[Any], Any]:
        inputs, base = tensor(job.rows.inputs[:, job.weights.feature]), tensor(job.rows.logits)
        labels = tensor(job.rows.labels)
        rows, classes = base.shape
        one_hot = tensor(np.eye(classes, dtype=np.float32)[job.weights.unit])

        def sums(candidates: Any) -> Any:
            spread = ((candidates - old).T[:, :, None] * one_hot[:, None, :]).reshape(count, -1)
            logits = (inputs @ spread).reshape(rows, -1, classes) + base[:, None, :]
            true = torch.gather(logits, 2, labels[:, None, None].expand(rows, logits.shape[1], 1))[..., 0]
            loss = torch.logsumexp(logits, -1) - true
            correct = (logits.argmax(-1) == labels[:, None]).float()
            return torch.cat([loss.T @ of_kind, correct.T @ of_kind], 1)

        return sums

    def by_units(groups: Groups) -> Callable[[Any], Any]:
        slot, inputs, base = tensor(groups.slot), tensor(groups.inputs), tensor(groups.base)
        is_true, free_true = tensor(groups.is_true), tensor(groups.true)
        largest = None if groups.largest is None else tensor(groups.largest)
        remainder = None if groups.remainder is None else tensor(groups.remainder)
        units, rows = base.shape

        def sums(candidates: Any) -> Any:
            change = torch.nn.functional.pad(candidates - old, (0, 1))[:, slot].permute(1, 0, 2)
            if inputs.ndim == 3:
                moved = torch.bmm(change, inputs)
            else:
                moved = (change.reshape(-1, change.shape[2]) @ inputs).reshape(units, -1, rows)
            logits = moved + base[:, None, :]
            true = torch.where(is_true[:, None, :], logits, 0.0).sum(0) + free_true
            top = logits.amax(0)
            if largest is not None:
                top = torch.maximum(top, largest)
            mass = torch.exp(logits - top).sum(0)
            if remainder is not None:
                mass = mass + torch.exp(remainder - top)
            loss, correct = top + torch.log(mass) - true, (true >= top).float()
            return torch.cat([loss @ of_kind, correct @ of_kind], 1)

        return sums

    low = float(job.kernel.mean() - 3 * job.kernel.std())
    high = float(job.kernel.mean() + 3 * job.kernel.std())

    def rival(form: str, sums: Callable[[Any], Any]) -> Rival:
        class Repair(Problem):  # type: ignore[misc]  # EvoX is not there for mypy
            def evaluate(self, pop: Any) -> Any:
                return -arachne(job, sums(pop))

        workflow = StdWorkflow(PSO(particles, torch.full((count,), low), torch.full((count,), high)), Repair())
        workflow.init_step()
        step = torch.compile(workflow.step)

        def iterate() -> None:
            for _ in range(STEPS):
                step()

        once = torch.compile(sums)
        return Rival(
            "EvoX",
            form,
            lambda candidates: once(tensor(candidates)).numpy().astype(np.float64),
            lambda candidates: -Repair().evaluate(tensor(candidates)).numpy().astype(np.float64),
            iterate,
        )

    yield rival("plain", plain())
    for groups in grouped(job):
        yield rival(groups.form, by_units(groups))


def evosax(job: Job) -> Iterator[Rival]:  # noqa: PLR0915 - a closure for each form
    """evosax's PSO, ask, fitness and tell in one jax.jit."""
    logging.getLogger("jax").setLevel(logging.ERROR)  # it tells of accelerators that are not there
    import jax
    import jax.numpy as jnp
    from evosax.algorithms import PSO

    # Its swarm is float32 also where KERAS_BACKEND=jax has this project's sums in float64.
    narrow: Callable[[], contextlib.AbstractContextManager[Any]] = lambda: jax.enable_x64(False)  # noqa: E731
    of_kind, old = kinds(job.rows), job.weights.old
    particles, count = job.candidates.shape

    def plain(candidates: Any) -> Any:
        base, labels = job.rows.logits, job.rows.labels.astype(np.int32)
        inputs = np.ascontiguousarray(job.rows.inputs[:, job.weights.feature])
        one_hot = np.eye(base.shape[1], dtype=np.float32)[job.weights.unit]
        spread = ((candidates - old).T[:, :, None] * one_hot[:, None, :]).reshape(count, -1)
        logits = (inputs @ spread).reshape(len(base), -1, base.shape[1]) + base[:, None, :]
        true = jnp.take_along_axis(logits, labels[:, None, None], axis=-1)[..., 0]
        loss = jax.nn.logsumexp(logits, axis=-1) - true
        correct = (jnp.argmax(logits, axis=-1) == labels[:, None]).astype(jnp.float32)
        return jnp.concatenate([loss.T @ of_kind, correct.T @ of_kind], axis=1)

    def by_units(groups: Groups) -> Callable[[Any], Any]:
        units, rows = groups.base.shape

        def sums(candidates: Any) -> Any:
            change = jnp.pad(candidates - old, ((0, 0), (0, 1)))[:, groups.slot].transpose(1, 0, 2)
            if groups.inputs.ndim == 3:
                moved = jnp.matmul(change, groups.inputs)
            else:
                moved = (change.reshape(-1, change.shape[2]) @ groups.inputs).reshape(units, -1, rows)
            step = 1 if units <= UNROLLED else units
            parts = [slice(start, start + step) for start in range(0, units, step)]
            logits = [moved[part] + groups.base[part, None, :] for part in parts]
            true = groups.true + sum(
                jnp.where(groups.is_true[part, None, :], values, 0.0).sum(axis=0)
                for part, values in zip(parts, logits, strict=True)
            )
            top = jnp.broadcast_to(LOWEST if groups.largest is None else groups.largest, true.shape)
            for values in logits:
                top = jnp.maximum(top, values.max(axis=0))
            mass = 0.0 if groups.remainder is None else jnp.exp(groups.remainder - top)
            for values in logits:
                mass = mass + jnp.exp(values - top).sum(axis=0)
            loss, correct = top + jnp.log(mass) - true, (true >= top).astype(jnp.float32)
            return jnp.concatenate([loss @ of_kind, correct @ of_kind], axis=1)

        return sums

    def rival(form: str, sums: Callable[[Any], Any]) -> Rival:
        swarm = PSO(particles, jnp.zeros(count))
        settings = swarm.default_params

        def move(key: Any, state: Any) -> Any:
            key, ask, tell = jax.random.split(key, 3)
            candidates, state = swarm.ask(ask, state, settings)
            state, _ = swarm.tell(tell, candidates, -arachne(job, sums(candidates)), state, settings)
            return key, state

        step, once = jax.jit(move), jax.jit(sums)
        key = jax.random.key(0)
        fitness = jax.jit(lambda candidates: arachne(job, sums(candidates)))
        reached = key, swarm.init(key, jnp.asarray(job.candidates), -fitness(jnp.asarray(job.candidates)), settings)

        def iterate() -> None:
            nonlocal reached
            with narrow():
                for _ in range(STEPS):
                    reached = step(*reached)
                jax.block_until_ready(reached)

        def in_numpy(function: Callable[[Any], Any]) -> Callable[[Float32], Float64]:
            def call(candidates: Float32) -> Float64:
                with narrow():
                    return np.asarray(function(jnp.asarray(candidates))).astype(np.float64)

            return call

        return Rival("evosax", form, in_numpy(once), in_numpy(fitness), iterate)

    forms = {"plain": plain} | {groups.form: by_units(groups) for groups in grouped(job)}
    for form, sums in forms.items():
        with narrow():
            made = rival(form, sums)
        yield made


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Work in a folder that is removed: PySwarms leaves an empty report.log in the current one."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)


def pyswarms(job: Job) -> Iterator[Rival]:
    """PySwarms' GlobalBestPSO with a cost in NumPy, vectorised over the whole swarm."""
    with elsewhere():
        from pyswarms.single import GlobalBestPSO

    of_kind, old = kinds(job.rows), job.weights.old
    particles, count = job.candidates.shape

    def by_units(groups: Groups) -> Callable[[Any], Any]:
        units, rows = groups.base.shape

        def sums(candidates: Any) -> Any:
            change = np.zeros((len(candidates), count + 1), np.float32)
            change[:, :-1] = candidates - old
            change = change[:, groups.slot].transpose(1, 0, 2)
            if groups.inputs.ndim == 3:
                logits = np.matmul(change, groups.inputs)
            else:
                logits = (change.reshape(-1, change.shape[2]) @ groups.inputs).reshape(units, -1, rows)
            logits += groups.base[:, None, :]
            true = np.where(groups.is_true[:, None, :], logits, np.float32(0)).sum(axis=0) + groups.true
            top = logits.max(axis=0)
            if groups.largest is not None:
                np.maximum(top, groups.largest, out=top)
            logits -= top
            np.exp(logits, out=logits)
            mass = logits.sum(axis=0)
            if groups.remainder is not None:
                mass += np.exp(groups.remainder - top)
            loss, correct = top + np.log(mass) - true, (true >= top).astype(np.float32)
            return np.concatenate([loss @ of_kind, correct @ of_kind], axis=1)

        return sums

    def rival(form: str, sums: Callable[[Any], Any]) -> Rival:
        options = {"c1": 1.5, "c2": 1.5, "w": 0.7}
        start = job.candidates.astype(np.float64)
        with elsewhere():
            swarm = GlobalBestPSO(n_particles=particles, dimensions=count, options=options, init_pos=start)

        def iterate() -> None:
            swarm.optimize(lambda position: -arachne(job, sums(position)), iters=STEPS, verbose=False)
            swarm.pos_history.clear()  # it keeps every position of every iteration
            swarm.velocity_history.clear()

        return Rival(
            "PySwarms",
            form,
            lambda candidates: sums(candidates).astype(np.float64),
            lambda candidates: arachne(job, sums(candidates)).astype(np.float64),
            iterate,
        )

    yield rival("plain", lambda candidates: by_numpy_of(job, candidates))
    for groups in grouped(job):
        yield rival(groups.form, by_units(groups))


ENGINES: dict[str, tuple[tuple[str, ...], Callable[[Job], Iterator[Rival]]]] = {
    "EvoX": (("evox", "torch"), evox),
    "evosax": (("evosax", "jax"), evosax),
    "PySwarms": (("pyswarms",), pyswarms),
}
"""By name, the modules that an engine needs, and its rivals for a job."""
