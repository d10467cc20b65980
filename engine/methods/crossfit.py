"""CrossFit: tunings on folds, mixed by a search and judged out of fold; see `engine.problem.crossfit`."""

from __future__ import annotations

from engine.core.plans import Plan
from engine.methods.base import Method
from engine.methods.mixtures import MixtureFit, MixtureMethod, searched, tuned
from engine.problem.crossfit import CrossFit


def _fit(job: CrossFit, seeds: tuple[int, ...]) -> Plan[MixtureFit]:
    changes = yield from tuned(job)
    return (yield from searched(job, changes, seeds))


METHOD = Method(
    name="CrossFit",
    repair=MixtureMethod(_fit, "coefficients of tunings and offsets of labels", promises=True, searches=True),
    searches="coefficients of tunings of all Dense layers at the end, and offsets of labels",
    objective="soft margins of the requirements, out of fold, then the gain of the labels under repair",
    source="this project",
    needs=("folds",),
)
