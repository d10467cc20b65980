"""The last Dense layer fine-tuned, and taken as it is: the mean of one tuning without each fold."""

from __future__ import annotations

from engine.core.plans import Plan
from engine.methods.base import Method
from engine.methods.mixtures import MixtureFit, MixtureMethod, fine_tuned, last_layer
from engine.problem.crossfit import CrossFit


def _fit(job: CrossFit, _seeds: tuple[int, ...]) -> Plan[MixtureFit]:
    return fine_tuned(last_layer(job))


METHOD = Method(
    name="head",
    repair=MixtureMethod(_fit, "nothing: the last layer, fine-tuned", scaled=False),
    searches="the last Dense layer, by fine-tuning",
    objective="cross-entropy with the labels under repair counted twice, and the distance to the baseline model",
    source="fine-tuning",
    needs=("folds", "last layer"),
)
