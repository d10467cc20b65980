"""The way from the baseline model to its fine-tuned tail, of which rows of validation choose a point.

Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022.
"""

from __future__ import annotations

from engine.methods.base import Method
from engine.methods.mixtures import MixtureMethod, fine_tuned

METHOD = Method(
    name="WiSE-FT",
    repair=MixtureMethod(fine_tuned, "the way from the baseline model to `tail`"),
    searches="how far to go from the baseline model to `tail`",
    objective="as of `tail`; rows of validation choose how far",
    source="Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022",
    needs=("folds",),
)
