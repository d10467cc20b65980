"""Rows of the tables from what the engine found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from cluster.records.schema import LabelRow, RequirementRow, VerdictRow
from engine.core.types import Int64
from engine.metrics.accuracy import LabelChange
from engine.metrics.requirements import Requirement, Verdict


def change_rows(job: str, stage: str, split: str, changes: Sequence[LabelChange]) -> list[dict[str, Any]]:
    """Rows of the table `labels` for a model against the base model on one set of rows."""
    return [
        LabelRow(
            job=job,
            stage=stage,
            split=split,
            label=change.label,
            total=change.total,
            correct=change.correct_after,
            accuracy=change.correct_after / change.total,
            repaired=change.fixed,
            broken=change.broken,
        ).cells
        for change in changes
    ]


def requirement_cells(number: int, requirement: Requirement) -> dict[str, Any]:
    labels = requirement.labels
    return RequirementRow(
        requirement=number,
        text=requirement.text,
        kind=requirement.kind,
        label=labels[0] if labels and len(labels) == 1 else -1,
        predicted=-1 if requirement.predicted is None else requirement.predicted,
        limit=requirement.limit,
    ).cells


def verdict_rows(split: str, verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    return [
        VerdictRow(
            split=split,
            **requirement_cells(number, verdict.requirement),
            **{each.name: getattr(verdict, each.name) for each in fields(verdict) if each.name != "requirement"},
        ).cells
        for number, verdict in enumerate(verdicts)
    ]


def prediction_rows(split: str, labels: Int64, before: Int64, after: Int64) -> list[dict[str, Any]]:
    """Rows of the table `predictions`; as they are many, dictionaries, which take a fifth of the time."""
    return [
        {"split": split, "row": row, "label": int(label), "before": int(old), "after": int(new)}
        for row, (label, old, new) in enumerate(zip(labels, before, after, strict=True))
    ]
