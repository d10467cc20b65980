"""Priorities of labels: a particle swarm over Arachne's weights in which rows of each label count by a weight.

Our own formulation (`engine.fitness.priorities`) of what the toolkit leaves `labels.json` to be edited for. Where no
priorities are stated they follow from the failures: a positive of a label that failures are taken for is worth the more
the more of them are, as it is what a repair breaks first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.fitness.priorities import Priorities
from engine.methods.base import Method, MethodJob
from engine.methods.weight_search import WORTHS, WeightSearch
from engine.search.loop import SearchSettings

RIVALRY = 4.0
"""A positive of the label that all failures are taken for is worth so many more of a label that none is taken for."""


def priorities_of(job: MethodJob) -> Priorities:
    """Priorities as stated, or as the failures of a job say."""
    if job.settings.priorities is not None:
        return job.settings.priorities
    failures = job.failures
    taken = np.bincount(job.rows.before[failures], minlength=job.chain.classes) / len(failures)
    return Priorities(
        repair=tuple((label, 1.0) for label in job.subject.repaired),
        protect=tuple((label, 1.0 + RIVALRY * float(share)) for label, share in enumerate(taken)),
    )


def _adapted(job: MethodJob, settings: SearchSettings) -> SearchSettings:
    return replace(settings, objective="priorities", priorities=priorities_of(job))


METHOD = Method(
    name="label-priorities",
    repair=WeightSearch(SearchSettings(), worths=WORTHS, adapt=_adapted),
    searches="weights of the last Dense layer on the Pareto front of gradient loss and forward impact",
    objective="Arachne's, rows weighed by their labels: positives of what failures are taken for count more",
    source="this project, after what eAI-Repair-Toolkit's labels.json is for",
    needs=("localised weights", "last layer"),
)
