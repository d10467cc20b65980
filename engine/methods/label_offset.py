"""One offset for the labels under repair, the simplest repair of all."""

from __future__ import annotations

import numpy as np

from engine.core.plans import Plan
from engine.methods.base import Method
from engine.methods.mixtures import Fitted, MixtureFit, MixtureMethod, untuned
from engine.problem.problem import prepare

OFFSETS = 64
"""Offsets that are tried, besides none."""


def _fit(to: Fitted) -> Plan[MixtureFit]:
    """Of the offsets that get a share of the wrong rows of the labels right, the fittest."""
    job = to.job
    yield []
    last, nothing = untuned(job)
    case, problem = last.case(nothing, last.settings.search)
    prepared = prepare(problem, case.rows)
    wrong = np.flatnonzero((job.before != job.rows.labels) & np.isin(job.rows.labels, job.repaired))
    lacking = job.logits[wrong].max(axis=1) - job.logits[wrong, job.rows.labels[wrong]]
    levels = np.quantile(lacking, np.linspace(0, 1, OFFSETS)) if len(wrong) else []
    candidates = np.zeros((1 + len(levels), last.chain.classes), np.float32)
    candidates[1:, list(job.repaired)] = np.reshape(levels, (-1, 1))
    fitness = prepared.objective.fitness(prepared.fitness.evaluate(candidates))
    best = int(fitness.argmax())
    return MixtureFit(last, nothing, candidates[best], float(fitness[best]), float(fitness[0]))


METHOD = Method(
    name="label-offset",
    repair=MixtureMethod(_fit, "one offset, of the labels under repair"),
    searches="one offset of the logits of the labels under repair",
    objective="soft margins of the requirements, then the gain of the labels under repair",
    source="the simplest repair there is",
    needs=("folds", "offsets"),
)
