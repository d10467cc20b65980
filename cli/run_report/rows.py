"""Rows of a run's tables, as they are or as values of the engine."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace as Row
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from engine.core.errors import InputError, reason
from engine.metrics.accuracy import LabelChange
from engine.metrics.requirements import Requirement, Verdict

if TYPE_CHECKING:
    from engine.metrics.promise import Promise

__all__ = ["Row", "change_of", "columns_of", "judged_of", "read_rows", "read_whole"]

Judged = TypeVar("Judged", Verdict, "Promise")


def read_whole(directory: Path, name: str) -> Any:
    """An Arrow table of a run with all its columns."""
    import pyarrow as pa

    from cluster.records.schema import SCHEMAS
    from cluster.records.store import read_table

    try:
        table = read_table(directory, name)
    except pa.ArrowException as error:
        raise InputError(f"{directory}: the table {name} is damaged ({reason(error)}), expected a whole one") from error
    for column in SCHEMAS[name].names:
        if column not in table.column_names:
            raise InputError(f"{directory}: the table {name} has no column {column}, expected a run of this version")
    return table


def read_rows(directory: Path, name: str) -> list[Row]:
    return [Row(**row) for row in read_whole(directory, name).to_pylist()]


def columns_of(table: Any, *names: str) -> Row:
    """Columns of numbers, (n,) int64."""
    return Row(**{name: np.asarray(table[name], np.int64) for name in names})


def change_of(row: Row) -> LabelChange:
    """A row of `labels`, without the count of the base model, as a change."""
    before = row.correct - row.repaired + row.broken
    return LabelChange(row.label, row.total, before, row.correct, row.repaired, row.broken)


def judged_of(kind: type[Judged], row: Row) -> Judged:
    """A row of `verdicts` or `promises`; label -1 is all labels together."""
    labels = None if row.label < 0 else (row.label,)
    predicted = None if row.predicted < 0 else row.predicted
    requirement = Requirement(row.kind, row.limit, labels, predicted, row.text)
    values = {field.name: getattr(row, field.name) for field in fields(kind) if field.name != "requirement"}
    return kind(requirement=requirement, **values)
