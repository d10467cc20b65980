"""Repairs behind one small protocol: CrossFit, and the simple ones that it has to be better than.

All of them get the same rows, folds, requirements and step rule: each is fitted once without each fold, judged out of
fold, and scaled by one step. A new method is one entry of `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from engine.core.errors import InputError
from engine.core.types import Float32, Int64
from engine.layers.dense_chain import last_alone
from engine.metrics.promise import Frontier
from engine.problem.crossfit import CrossFit, joined_changes
from engine.problem.mixed import mixed_values
from engine.problem.problem import prepare
from engine.search import loop
from engine.tuning.recipes import Recipe
from engine.tuning.train import Changes, Tuner

FINE_TUNED = Recipe(class_weight=2.0, strength=1.0)
"""Of the baselines that are tuned: plain fine-tuning, anchored."""

OFFSETS = 64
"""Offsets of one label that are tried, besides none."""


class Fit(Protocol):
    """A method, fitted on the rows of a repair."""

    def predicted(self, steps: Sequence[float]) -> Int64:
        """Classes (T, n) of the rows at each of T steps, each row by what did not see it; 0 is the model as it is."""

    def values(self, step: float) -> dict[str, Float32]:
        """New values, by path, of the weights that the method changes, at a step."""


@dataclass(frozen=True)
class Method:
    """One way to repair.

    Attributes:
        name: unique.
        knob: what a step scales, in words.
        fit: the method on the rows of a repair.
        scaled: steps between 0 and 1 are tried; otherwise what was fitted is taken whole or left.
    """

    name: str
    knob: str
    fit: Callable[[CrossFit], Fit]
    scaled: bool = True

    def steps(self, job: CrossFit) -> tuple[float, ...]:
        """Steps that are judged, the largest or the wanted one first."""
        return job.settings.steps if self.scaled else (1.0, 0.0)

    def frontier(self, job: CrossFit, fit: Fit) -> Frontier:
        """Judge every step by the requirements of a repair, hard and out of fold, and take one."""
        steps = self.steps(job)
        return job.judged(fit.predicted(steps), steps)


@dataclass(frozen=True, eq=False)
class MixtureFit:
    """A `Fit` that is a mixture, of no tuning, of one or of several.

    Attributes:
        job: with the layers that it changes.
        changes: of each fold.
        found: (R + C,) coefficients and offsets.
    """

    job: CrossFit
    changes: tuple[Changes, ...]
    found: Float32

    def predicted(self, steps: Sequence[float]) -> Int64:
        """See `Fit`."""
        return self.job.predicted(self.changes, self.found, steps)

    def values(self, step: float) -> dict[str, Float32]:
        """See `Fit`; what was tuned without each fold counts alike."""
        return mixed_values(self.job.chain, self.changes, self.found, step)


def tuned(job: CrossFit) -> tuple[Changes, ...]:
    """All tunings of a repair in this process, one task after the other: changes of each fold."""
    tuner, recipes = Tuner(job.job), job.settings.recipes
    changes = {task.name: tuner.run(task.fold, [recipes[number] for number in task.recipes]) for task in job.tasks}
    return joined_changes(job, changes)


def searched(job: CrossFit, changes: Sequence[Changes]) -> Float32:
    """The best mixture (R + C,) of a search in this process."""
    settings = job.settings.search
    case, problem = job.case(changes, settings)
    prepared = prepare(problem, case.rows)
    state, _ = loop.advance(settings, problem.source, prepared.objective, problem.start(), prepared.fitness.evaluate)
    return loop.result(state)


def _crossfit(job: CrossFit) -> MixtureFit:
    changes = tuned(job)
    return MixtureFit(job, changes, searched(job, changes))


def _offsets(job: CrossFit) -> MixtureFit:
    """Offsets of all labels, found as CrossFit finds its mixtures, of no tunings."""
    last, nothing = _untuned(job)
    return MixtureFit(last, nothing, searched(last, nothing))


def _label_offset(job: CrossFit) -> MixtureFit:
    """One offset for the labels under repair: of those that get a share of their wrong rows right, the fittest."""
    last, nothing = _untuned(job)
    case, problem = last.case(nothing, last.settings.search)
    prepared = prepare(problem, case.rows)
    wrong = np.flatnonzero((job.before != job.rows.labels) & np.isin(job.rows.labels, job.repaired))
    lacking = job.logits[wrong].max(axis=1) - job.logits[wrong, job.rows.labels[wrong]]
    levels = np.quantile(lacking, np.linspace(0, 1, OFFSETS)) if len(wrong) else []
    candidates = np.zeros((1 + len(levels), last.chain.classes), np.float32)
    candidates[1:, list(job.repaired)] = np.reshape(levels, (-1, 1))
    fitness = prepared.objective.fitness(prepared.fitness.evaluate(candidates))
    return MixtureFit(last, nothing, candidates[int(fitness.argmax())])


def _head(job: CrossFit) -> MixtureFit:
    """The last layer fine-tuned."""
    return _fine_tuned(_last(job))


def _tail(job: CrossFit) -> MixtureFit:
    """All layers of the chain fine-tuned."""
    layers = tuple(replace(layer, tuned=True) for layer in job.chain.layers)
    return _fine_tuned(replace(job, chain=replace(job.chain, layers=layers)))


METHODS = (
    Method("CrossFit", "coefficients of tunings and offsets of labels", _crossfit),
    Method("label offset", "one offset, of the labels under repair", _label_offset),
    Method("offsets", "offsets of all labels", _offsets),
    Method("head", "nothing: the last layer, fine-tuned", _head, scaled=False),
    Method("tail", "nothing: all layers, fine-tuned", _tail, scaled=False),
    Method("interpolated", "the way from the model as it is to `tail`", _tail),
)
"""All that are compared; methods of one `fit` differ in their steps alone."""


def _last(job: CrossFit) -> CrossFit:
    """The same repair of the last layer alone."""
    chain, inputs = last_alone(job.chain, job.rows.inputs)
    return replace(job, chain=chain, rows=replace(job.rows, inputs=inputs))


def _untuned(job: CrossFit) -> tuple[CrossFit, tuple[Changes, ...]]:
    """The repair of the last layer, and the changes by no recipe.

    Raises:
        InputError: there is no bias to fold offsets into.
    """
    last = _last(job)
    if last.chain.offsets is None:
        raise InputError(f"{last.chain.layers[-1].name} has no bias, expected one that offsets of labels go into")
    nothing = {path: np.zeros((0, *value.shape), np.float32) for path, value in last.chain.values.items()}
    return last, (nothing,) * job.rows.folds


def _fine_tuned(job: CrossFit) -> MixtureFit:
    """Tune by one recipe, and take it as it is."""
    job = replace(job, settings=replace(job.settings, recipes=(FINE_TUNED,)))
    offsets = 0 if job.chain.offsets is None else job.chain.classes
    return MixtureFit(job, tuned(job), np.concatenate([np.ones(1, np.float32), np.zeros(offsets, np.float32)]))
