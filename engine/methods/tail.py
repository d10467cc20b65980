"""All Dense layers at the end fine-tuned, and taken as they are: the mean of one tuning without each fold."""

from __future__ import annotations

from dataclasses import replace

from engine.methods.base import Method
from engine.methods.mixtures import MixtureFit, MixtureMethod, fine_tuned
from engine.problem.crossfit import CrossFit


def fit_tail(job: CrossFit) -> MixtureFit:
    """All layers of the chain fine-tuned."""
    layers = tuple(replace(layer, tuned=True) for layer in job.chain.layers)
    return fine_tuned(replace(job, chain=replace(job.chain, layers=layers)))


METHOD = Method(
    name="tail",
    repair=MixtureMethod(fit_tail, "nothing: all layers, fine-tuned", scaled=False),
    searches="all Dense layers at the end, by fine-tuning",
    objective="cross-entropy with the labels under repair counted twice, and the distance to the model as it is",
    source="fine-tuning",
    needs=("folds",),
)
