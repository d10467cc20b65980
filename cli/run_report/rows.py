"""Rows of a run's tables as values of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from engine.metrics.accuracy import LabelChange
from engine.metrics.requirements import Requirement, Verdict

if TYPE_CHECKING:
    from engine.metrics.promise import Promise


def change_of(row: Mapping[str, Any]) -> LabelChange:
    """A row of `labels` against the base model, whose count follows from what was repaired and broken."""
    before = row["correct"] - row["repaired"] + row["broken"]
    return LabelChange(row["label"], row["total"], before, row["correct"], row["repaired"], row["broken"])


def verdict_of(row: Mapping[str, Any]) -> Verdict:
    """A row of `verdicts`."""
    judged = {field.name: row[field.name] for field in fields(Verdict) if field.name != "requirement"}
    return Verdict(requirement=_requirement_of(row), **judged)


def promise_of(row: Mapping[str, Any]) -> Promise:
    """A row of `promises`."""
    from engine.metrics.promise import Promise

    judged = {field.name: row[field.name] for field in fields(Promise) if field.name != "requirement"}
    return Promise(requirement=_requirement_of(row), **judged)


def _requirement_of(row: Mapping[str, Any]) -> Requirement:
    """Of labels judged together it names none."""
    labels = None if row["label"] < 0 else (row["label"],)
    predicted = None if row["predicted"] < 0 else row["predicted"]
    return Requirement(row["kind"], row["limit"], labels, predicted, row["text"])
