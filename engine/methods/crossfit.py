"""CrossFit: tunings on folds, mixed by a search and judged out of fold; see `engine.problem.crossfit`."""

from __future__ import annotations

from engine.core.plans import Plan
from engine.methods.base import Method
from engine.methods.mixtures import Fitted, MixtureFit, MixtureMethod, searched, tuned


def _fit(to: Fitted) -> Plan[MixtureFit]:
    changes = yield from tuned(to.job)
    return (yield from searched(to.job, changes, to.seeds, to.held_out))


METHOD = Method(
    name="CrossFit",
    repair=MixtureMethod(_fit, "coefficients of tunings and offsets of labels", promises=True, searches=True),
    searches="coefficients of tunings of all Dense layers at the end, and offsets of labels",
    objective="soft margins of the requirements, out of fold, then the gain of the labels under repair",
    source="this project",
    needs=("folds",),
)
