"""Arachne: a particle swarm over the weights of the last Dense layer that localisation blames.

Sohn et al., "Arachne: Search-Based Repair of Deep Neural Networks", TOSEM 2023, with our default worth of a positive
(`engine.search.loop.POSITIVE_WORTH`): the search of `optimize --method Arachne`.
"""

from __future__ import annotations

from engine.methods.base import Method
from engine.methods.weight_search import WeightSearch
from engine.search.loop import SearchSettings

METHOD = Method(
    name="Arachne",
    repair=WeightSearch(SearchSettings()),
    searches="weights of the last Dense layer on the Pareto front of gradient loss and forward impact",
    objective="counts of repaired negatives and intact positives over their mean losses",
    source="Sohn et al., Arachne, TOSEM 2023",
    needs=("localised weights", "last layer"),
)
