"""What is known of the rows that a model was trained or repaired with, where `train` or a repair left it beside it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.core.files import remove, replace_file
from engine.data.value_range import ValueRange
from engine.models.load import LoadedModel, fingerprint_of

TRAINING_FACTS = "training.json"
"""What `train` writes beside a model."""

REPAIR_FACTS = "repaired.json"
"""What a repair writes beside a model."""


@dataclass(frozen=True)
class KnownData:
    """Rows that a model was made with."""

    values: ValueRange | None  # the range of their numbers, or None where it was not noted
    preprocess: str | None  # how their pixels were made, or None where that is not known
    verb: str = "trained"  # `trained` or `repaired`, of the preprocessing


def known_data(model: LoadedModel) -> KnownData | None:
    """What a file beside a model tells of it; None where none tells of this very model."""
    for name in (TRAINING_FACTS, REPAIR_FACTS):
        try:
            facts = json.loads((model.path.parent / name).read_bytes())
            if facts["fingerprint"] != model.fingerprint:
                continue
            data, verb = facts["data"], facts.get("verb", "trained")
            if verb not in ("trained", "repaired"):
                continue
            method = data.get("preprocess")
            known = KnownData(_values(data), method if isinstance(method, str) else None, verb)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # not there, of an earlier version, or not ours
        if known.values is not None or known.preprocess is not None:
            return known
    return None


def keep_known_data(model: LoadedModel, saved: Path, preprocess: str | None) -> None:
    """Write beside a repaired model what is known of the model before, or how the rows of its repair were made."""
    known = known_data(model) or KnownData(None, None)
    if known.preprocess is None:
        known = KnownData(known.values, preprocess, "repaired")
    path = saved.parent / REPAIR_FACTS
    if known.values is None and known.preprocess is None:
        remove(path)
        return
    values = None if known.values is None else list(asdict(known.values).values())
    facts = {
        "fingerprint": fingerprint_of(saved, model.format),
        "verb": known.verb,
        "data": {"preprocess": known.preprocess, "values": values},
    }
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=4), encoding="utf-8")


def _values(data: Any) -> ValueRange | None:
    if data.get("values") is None:
        return None
    low, high = (float(value) for value in data["values"])
    return ValueRange(low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None
