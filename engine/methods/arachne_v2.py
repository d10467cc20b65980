"""Arachne v2: differential evolution over the same weights, by losses alone, within a bound of the layer's weights.

The later Arachne of the same authors, as their published code has it: see `engine.search.differential_evolution` and
`engine.fitness.objective.loss_fitness`.
"""

from __future__ import annotations

from engine.methods.base import Method
from engine.methods.weight_search import WORTHS, WeightSearch
from engine.search.differential_evolution import DifferentialSettings
from engine.search.loop import SearchSettings

BOUND = 2.0
"""Candidates stay within so many times the smallest and largest weight of the layer."""

METHOD = Method(
    name="Arachne-v2",
    repair=WeightSearch(SearchSettings(swarm=DifferentialSettings(bound=BOUND), objective="loss"), worths=WORTHS),
    searches="weights of the last Dense layer on the Pareto front of gradient loss and forward impact",
    objective="1 for each row that is right, 1 / (loss + 1) for each that is wrong",
    source="Sohn et al., Arachne, TOSEM 2023, published code of its second version",
    needs=("localised weights", "last layer"),
)
