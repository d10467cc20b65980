"""The Dense layers under repair fine-tuned, and taken as they are: the mean of one tuning without each fold.

These are all at the end of the model, or those of them that `--target-layer` names.
"""

from __future__ import annotations

from engine.methods.base import Method
from engine.methods.mixtures import MixtureMethod, fine_tuned

METHOD = Method(
    name="tail",
    repair=MixtureMethod(fine_tuned, "nothing: all layers, fine-tuned", scaled=False),
    searches="all Dense layers at the end, by fine-tuning",
    objective="cross-entropy with the labels under repair counted twice, and the distance to the baseline model",
    source="fine-tuning",
    needs=("folds",),
)
