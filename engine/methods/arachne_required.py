"""Arachne's weights, searched by the requirements themselves: soft margins of each, then the gain of the labels."""

from __future__ import annotations

from dataclasses import replace

from engine.methods.base import Method, MethodJob
from engine.methods.weight_search import WeightSearch
from engine.search.loop import SearchSettings


def _adapted(job: MethodJob, settings: SearchSettings) -> SearchSettings:
    return replace(
        settings,
        objective="requirements",
        positive_weight=None,
        requirements=job.subject.requirements,
        promise_rows=job.settings.crossfit.promise_rows,
    )


METHOD = Method(
    name="Arachne-required",
    repair=WeightSearch(SearchSettings(), steered=True, adapt=_adapted),
    searches="weights of the last Dense layer on the Pareto front of gradient loss and forward impact",
    objective="soft margins of the requirements, then the gain of the labels under repair",
    source="this project, after Sohn et al., Arachne, TOSEM 2023",
    needs=("localised weights", "last layer"),
)
