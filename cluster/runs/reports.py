"""What is told of a finished repair: reports for people, rows for the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.records.rows import change_rows
from cluster.runs.chunk import ChunkPaths
from engine.fitness.objective import Objective
from engine.metrics.accuracy import LabelChange
from engine.patches.patch import Patch


@dataclass(frozen=True, eq=False)
class Measured:
    """The reloaded repaired model against the base model on one set of rows.

    Attributes:
        split: negative, positive, validation or test.
        changes: per label with rows.
        label_names: of the set, or None.
    """

    split: str
    changes: tuple[LabelChange, ...]
    label_names: tuple[str, ...] | None


@dataclass(frozen=True, eq=False)
class ChunkReport:
    """How one chunk ended.

    Attributes:
        paths: of the chunk.
        label: true label under repair, -1 for several or none.
        model: path of the repaired model.
        patch: what changed; empty when nothing did.
        job: name of the chosen search, or None.
        objective: numbers of rows and the positive weight of the search, or None.
        believed: (patched, intact) counts of the chosen search, or None.
        measured: on the saved model, loaded again.
        note: why there was nothing to search, or what validation warns of, or None.
    """

    paths: ChunkPaths
    label: int
    model: Path
    patch: Patch
    job: str | None
    objective: Objective | None
    believed: tuple[int, int] | None
    measured: tuple[Measured, ...]
    note: str | None


def label_rows(job: str, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Rows of the table `labels`: before and after, for every set of rows and label."""
    rows = []
    for measurement in measured:
        for change in measurement.changes:
            base = LabelChange(change.label, change.total, change.correct_before, change.correct_before, 0, 0)
            rows += change_rows(job, "base", measurement.split, [base])
            rows += change_rows(job, "repaired", measurement.split, [change])
    return rows
