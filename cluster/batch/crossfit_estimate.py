"""How long a CrossFit batch will take, from a few hundred of its rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cluster.batch import estimate
from cluster.batch.estimate import MEASURED_ROWS, row_seconds, timed
from cluster.compute.compute import Compute
from cluster.runs.repair import MethodRepair, memory_plan
from cluster.workers.model import ModelHandle
from engine.core.types import Float32, Int64
from engine.passes.classes import predicted_classes
from engine.problem.crossfit import SEARCH_ROWS, CrossFit
from engine.problem.problem import build_fitness
from engine.targets.memory import Plan
from engine.tuning.recipes import Recipe, epochs_of
from engine.tuning.train import BATCH_ROWS, Changes, FoldRows, Tuner

_MEASURED_EPOCHS = 2


@dataclass(frozen=True)
class CrossFitExpectation:
    """What a batch will take; seconds are None where they were not measured."""

    repairs: int  # of one label each, or 1 of all; at most, as labels without failures are left out
    rows: int  # of the chunks
    plan: Plan  # memory of a repair
    resources: str  # what there is to compute with, in words
    start: float  # seconds to start the workers
    passes: float | None  # seconds of the passes over all rows
    tunings: float | None  # seconds of the tunings of a repair
    search: float | None  # seconds of its search and of judging what was found

    @property
    def total(self) -> float | None:
        """Seconds in all; None where something was not measured."""
        if self.passes is None or self.tunings is None or self.search is None:
            return None
        return self.start + self.passes + self.repairs * (self.tunings + self.search)


def expect(repair: MethodRepair, compute: Compute, *, separate: bool) -> CrossFitExpectation:
    """Run a little of the work, compiling included, for `cluster.batch.estimate.BUDGET` seconds at most.

    What is unfinished then is given up: no further work should be given to `compute`.

    Raises:
        InputError: rows cannot be read.
    """
    start, workers = timed(compute.start)
    measured: dict[str, float] = {}
    handle = compute.handle(repair.model, repair.target)
    # Workers of this machine share its cores.
    spread = workers if compute.options.address else min(workers, os.cpu_count() or 1)
    with estimate.given_up_after(estimate.BUDGET):
        _measure(repair, handle, spread, measured)
    asked = len(repair.repaired) or repair.model.classes
    return CrossFitExpectation(
        repairs=asked if separate else 1,
        rows=sum(images.rows for images in repair.rows),
        plan=memory_plan(repair),
        resources=compute.resources(),
        start=start,
        passes=measured.get("passes"),
        tunings=measured.get("tunings"),
        search=measured.get("search"),
    )


def _measure(repair: MethodRepair, handle: ModelHandle, workers: int, measured: dict[str, float]) -> None:
    """Seconds of the parts of the work, each once it is known."""
    rows = sum(images.rows for images in repair.rows)
    images = max(repair.rows, key=lambda images: images.rows)
    seconds, inputs = row_seconds(handle, images)
    # Held-out rows are predicted before and after, and validation rows are needed as features too.
    times = {"validation": 3, "test": 2}
    passed = rows + sum(times[split] * held_out.rows for split, held_out in repair.held_out.items())
    measured["passes"] = passed * seconds / max(1, workers)
    taken = np.arange(min(MEASURED_ROWS, rows)) % len(inputs)
    small = _fit(repair, inputs[taken], images.labels[taken])
    changes, tunings = _tunings(small, _fit(repair, _no_values(rows, inputs), np.zeros(rows, np.int64)), workers)
    measured["tunings"] = tunings
    measured["search"] = _search(small, changes, rows, len(repair.seeds), workers)


def _tunings(small: CrossFit, whole: CrossFit, workers: int) -> tuple[Changes, float]:
    """Changes of all recipes from a few epochs of a few rows, and seconds of all tunings of all rows."""
    tuner, recipes = Tuner(small.job), small.settings.recipes
    of_fold = [task for task in whole.tasks if task.fold == 0]
    seen = len(whole.rows.labels) - len(whole.rows.labels) // whole.rows.folds
    found: list[Changes] = []
    compiling = total = 0.0
    for task in of_fold:
        group = [recipes[number] for number in task.recipes]
        first, _ = timed(partial(tuner.run, 0, _of_epochs(group, 1)))
        again, _ = timed(partial(tuner.run, 0, _of_epochs(group, 1)))
        longer, changes = timed(partial(tuner.run, 0, _of_epochs(group, 1 + _MEASURED_EPOCHS)))
        found.append(changes)
        compiling += max(0.0, first - again)
        steps = max(1, (small.rows.fewest // BATCH_ROWS) * _MEASURED_EPOCHS)
        wanted = epochs_of(recipes[task.recipes[0]], seen) * max(1, seen // BATCH_ROWS)
        total += again + max(0.0, longer - again) / steps * wanted
    rounds = -(-len(whole.tasks) // max(1, workers))
    joined = {path: np.concatenate([changes[path] for changes in found]) for path in small.chain.tuned}
    return joined, compiling + rounds * total / len(of_fold)


def _of_epochs(recipes: Sequence[Recipe], epochs: int) -> list[Recipe]:
    return [replace(recipe, epochs=epochs) for recipe in recipes]


def _search(small: CrossFit, changes: Changes, rows: int, seeds: int, workers: int) -> float:
    """Seconds of the searches, on workers in tiles where there are some, and of judging all rows at every step."""
    settings = small.settings.search
    case, problem = small.case([changes] * small.rows.folds, settings)
    fitness = build_fitness(problem, case.rows)
    candidates = np.zeros((settings.swarm.num_particles, problem.weights.old.size), np.float32)
    first, _ = timed(lambda: fitness.evaluate(candidates))
    again, _ = timed(lambda: fitness.evaluate(candidates))
    per_row = again / len(case.rows.labels)
    searched = seeds * settings.num_iterations * min(rows, SEARCH_ROWS) / max(1, workers)
    judged = rows * len(small.settings.steps) / len(candidates)
    return 2 * max(0.0, first - again) + (searched + judged) * per_row  # the judge compiles too


def _fit(repair: MethodRepair, inputs: Float32, labels: Int64) -> CrossFit:
    """A repair of rows that are dealt into folds one after the other; all labels are under repair."""
    fold = np.arange(len(labels)) % repair.settings.crossfit.folds
    logits = np.zeros((len(labels), repair.chain.classes), np.float32)
    before = predicted_classes(repair.chain.head, logits)
    present = tuple(np.unique(labels).tolist())
    rows = FoldRows(inputs, labels, fold, "calibration")
    return CrossFit(repair.chain, rows, logits, before, present, repair.requirements, repair.settings.crossfit, 0)


def _no_values(rows: int, like: Float32) -> Float32:
    """Features (rows, D) that take no memory."""
    return np.broadcast_to(np.zeros(1, np.float32), (rows, like.shape[1]))
