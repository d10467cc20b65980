"""The last Dense layer fine-tuned, and taken as it is: the mean of one tuning without each fold."""

from __future__ import annotations

from dataclasses import replace

from engine.core.plans import Plan
from engine.methods.base import Method
from engine.methods.mixtures import Fitted, MixtureFit, MixtureMethod, fine_tuned, last_layer


def _fit(to: Fitted) -> Plan[MixtureFit]:
    return fine_tuned(replace(to, job=last_layer(to.job)))


METHOD = Method(
    name="head",
    repair=MixtureMethod(_fit, "nothing: the last layer, fine-tuned", scaled=False),
    searches="the last Dense layer, by fine-tuning",
    objective="cross-entropy with the labels under repair counted twice, and the distance to the model as it is",
    source="fine-tuning",
    needs=("folds", "last layer"),
)
