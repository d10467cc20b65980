"""The range of the numbers that a model was trained on, where `train` left it beside the model."""

from __future__ import annotations

import json
import math

from engine.data.value_range import ValueRange
from engine.models.load import LoadedModel

TRAINING_FACTS = "training.json"
"""What `train` writes beside a model."""


def trained_values(model: LoadedModel) -> ValueRange | None:
    """The range of the rows that `train` made the model from; None where nothing tells of this very model."""
    path = model.path.parent / TRAINING_FACTS
    try:
        facts = json.loads(path.read_bytes())
        low, high = (float(value) for value in facts["data"]["values"])
        same = facts["fingerprint"] == model.fingerprint
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # not there, of an earlier version, or not ours
        return None
    return ValueRange(low, high) if same and math.isfinite(low) and math.isfinite(high) and low < high else None
