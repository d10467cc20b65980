"""Rows of the tables from what the engine found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.core.types import Int64
from engine.metrics.accuracy import LabelChange
from engine.metrics.requirements import Verdict
from engine.patches.patch import Patch


def patch_rows(
    job: str, rank: int, fitness: float | None, patch: Patch, shapes: Mapping[str, tuple[int, ...]]
) -> list[dict[str, Any]]:
    """Rows of the table `patches`."""
    return [
        {
            "job": job,
            "rank": rank,
            "fitness": fitness,
            "position": position,
            "weight": weight,
            "flat_index": int(flat),
            "index": [int(coordinate) for coordinate in np.unravel_index(flat, shapes[weight])],
            "old": float(old),
            "new": float(new),
        }
        for position, (weight, flat, old, new) in enumerate(
            zip(patch.weight, patch.flat_index, patch.old, patch.new, strict=True)
        )
    ]


def change_rows(job: str, stage: str, split: str, changes: Sequence[LabelChange]) -> list[dict[str, Any]]:
    """Rows of the table `labels` for a model against the base model on one set of rows."""
    return [
        {
            "job": job,
            "stage": stage,
            "split": split,
            "label": change.label,
            "total": change.total,
            "correct": change.correct_after,
            "accuracy": change.correct_after / change.total,
            "repaired": change.fixed,
            "broken": change.broken,
        }
        for change in changes
    ]


def verdict_rows(split: str, verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Rows of the table `verdicts`."""
    return [
        {
            "split": split,
            "requirement": number,
            "text": verdict.requirement.text,
            "kind": verdict.requirement.kind,
            "label": verdict.requirement.labels[0]
            if verdict.requirement.labels and len(verdict.requirement.labels) == 1
            else -1,
            "predicted": -1 if verdict.requirement.predicted is None else verdict.requirement.predicted,
            "limit": verdict.requirement.limit,
            **{
                name: getattr(verdict, name)
                for name in ("base", "value", "low", "high", "total", "count_before", "count_after", "margin", "met")
            },
        }
        for number, verdict in enumerate(verdicts)
    ]


def prediction_rows(split: str, labels: Int64, before: Int64, after: Int64) -> list[dict[str, Any]]:
    """Rows of the table `predictions`."""
    return [
        {"split": split, "row": row, "label": int(label), "before": int(old), "after": int(new)}
        for row, (label, old, new) in enumerate(zip(labels, before, after, strict=True))
    ]
