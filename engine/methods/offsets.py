"""Offsets of all labels, found as CrossFit finds its mixtures, of no tunings.

After Mai et al., "Fine-tuning is fine, if calibrated", NeurIPS 2024, which adds one offset to the logits of some
labels.
"""

from __future__ import annotations

from engine.core.plans import Plan
from engine.methods.base import Method
from engine.methods.mixtures import MixtureFit, MixtureMethod, searched, untuned
from engine.problem.crossfit import CrossFit


def _fit(job: CrossFit, seeds: tuple[int, ...]) -> Plan[MixtureFit]:
    return searched(*untuned(job), seeds)


METHOD = Method(
    name="offsets",
    repair=MixtureMethod(_fit, "offsets of all labels", searches=True),
    searches="an offset of the logit of each label",
    objective="soft margins of the requirements, then the gain of the labels under repair",
    source="after Mai et al., Fine-tuning is fine, if calibrated, NeurIPS 2024",
    needs=("folds", "offsets"),
)
