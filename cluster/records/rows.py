"""Rows of the tables from what the engine found, one by one or as the Arrow batches in which searches bring them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from cluster.records.schema import SCHEMAS, LabelRow, RequirementRow, VerdictRow
from engine.core.types import Float32, Float64, Int64
from engine.metrics.accuracy import LabelChange
from engine.metrics.requirements import Requirement, Verdict
from engine.patches.patch import Patch
from engine.search.loop import Iteration

_COLUMNS = [field.name for field in fields(Iteration)]

# Threads cost more than such columns take.
_WRITING = pa.ipc.IpcWriteOptions(compression="lz4" if pa.Codec.is_available("lz4") else None, use_threads=False)
_READING = pa.ipc.IpcReadOptions(use_threads=False)


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of some tasks, without what only the driver knows: where and when they ended."""

    jobs: int  # rows in the table `jobs`
    messages: Mapping[str, bytes]  # of each table, see `packed`

    @property
    def size(self) -> int:
        """Bytes that they take on their way, about."""
        return sum(map(len, self.messages.values()))


def patch_places(patch: Patch, shapes: Mapping[str, tuple[int, ...]]) -> pa.RecordBatch:
    """Columns of the table `patches` about the K places of a patch, with its old values, in weights of these shapes."""
    schema = SCHEMAS["patches"]
    places = [np.unravel_index(flat, shapes[path]) for path, flat in zip(patch.weight, patch.flat_index, strict=True)]
    columns = {
        "weight": list(patch.weight),
        "flat_index": patch.flat_index,
        "index": [[int(coordinate) for coordinate in place] for place in places],
        "old": patch.old,
    }
    arrays = [pa.array(values, schema.field(name).type) for name, values in columns.items()]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(map(schema.field, columns)))


def iteration_numbers(iterations: Sequence[Iteration]) -> Float64:
    """Iterations (n, 9), a column for each field; float64 holds every field exactly: counts are below 2**53."""
    rows = [[getattr(iteration, name) for name in _COLUMNS] for iteration in iterations]
    return np.array(rows, np.float64).reshape(-1, len(_COLUMNS))


def swarm_batch(searches: Mapping[str, Float64]) -> pa.RecordBatch:
    """Rows of the table `swarm`, of iterations (n, 9) by search; see `iteration_numbers`."""
    numbers = np.concatenate(list(searches.values()))
    columns: dict[str, Any] = {"job": _repeated(list(searches), [len(rows) for rows in searches.values()])}
    for name, values in zip(_COLUMNS, numbers.T, strict=True):
        kind = SCHEMAS["swarm"].field(name).type
        columns[name] = np.ascontiguousarray(values).astype(kind.to_pandas_dtype())
    return _batch("swarm", columns)


def patches_batch(
    offers: Mapping[str, Sequence[tuple[float | None, Float32]]], places: pa.RecordBatch
) -> pa.RecordBatch:
    """Rows of the table `patches`: fitness and values (K,) of what each job offers, best first, at `patch_places`."""
    count, found = len(places), [offer for offered in offers.values() for offer in offered]
    ranks = np.concatenate([np.arange(len(offered)) for offered in offers.values()])
    known = places.take(pa.array(np.tile(np.arange(count), len(found))))
    columns: dict[str, Any] = {
        "job": _repeated(list(offers), [count * len(offered) for offered in offers.values()]),
        "rank": np.repeat(ranks, count).astype(np.int32),
        "fitness": _repeated([fitness for fitness, _ in found], [count] * len(found), pa.float64()),
        "position": np.tile(np.arange(count, dtype=np.int32), len(found)),
        **{name: known.column(name) for name in known.schema.names},
        "new": np.concatenate([values for _, values in found]),
    }
    return _batch("patches", columns)


def labels_batch(changes: Mapping[str, Sequence[LabelChange]]) -> pa.RecordBatch:
    """Rows of the table `labels`: what the best patch of each search changes on the validation rows."""
    rows = [row for job, changed in changes.items() for row in change_rows(job, "candidate", "validation", changed)]
    return rows_batch("labels", rows)


def rows_batch(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    return _batch(table, {name: [row[name] for row in rows] for name in SCHEMAS[table].names})


def with_columns(table: pa.Table, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """A table with other values (n) in some columns."""
    for name, values in columns.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    (whole,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return whole


def packed(table: str, batch: pa.RecordBatch) -> bytes:
    """A batch of a table as it travels: a message of Arrow's IPC format, compressed, as columns repeat themselves."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMAS[table], options=_WRITING) as writer:
        writer.write_batch(batch)
        end = sink.tell()
    message: bytes = sink.getvalue()[len(_beginning(table)) : end].to_pybytes()
    return message


def unpacked(table: str, messages: Iterable[bytes]) -> pa.Table:
    """What `packed` made of batches of a table; read as one stream, as its schema takes longer than its rows."""
    with pa.ipc.open_stream(b"".join([_beginning(table), *messages]), options=_READING) as reader:
        return reader.read_all()


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


@functools.cache
def _beginning(table: str) -> bytes:
    content: bytes = SCHEMAS[table].serialize().to_pybytes()
    return content


def _repeated(values: Sequence[Any], counts: Sequence[int], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(values, kind or pa.string()).take(pa.array(np.repeat(np.arange(len(values)), counts)))


def _batch(table: str, columns: Mapping[str, Any]) -> pa.RecordBatch:
    schema = SCHEMAS[table]
    arrays = [
        columns[field.name] if isinstance(columns[field.name], pa.Array) else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
