"""The records of a run: `run.json` and Arrow tables that can be read at any moment.

While a run goes on, a table is a folder of small Arrow IPC files, one per job and part, each written beside its place
and renamed; at its end the folder becomes one `<table>.arrow`, sorted by key. `read_table` reads either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from engine.errors import InputError
from engine.files import remove, replace_file


def _field(name: str, kind: pa.DataType, text: str, unit: str = "") -> pa.Field:
    metadata = {"description": text} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, metadata=metadata)


JOB = _field("job", pa.string(), "data fingerprint, label and seed of the job")

SCHEMAS: dict[str, pa.Schema] = {
    "swarm": pa.schema(
        [
            JOB,
            _field("iteration", pa.int32(), "from 1", "iterations"),
            _field("best", pa.float64(), "best fitness so far"),
            _field("mean", pa.float64(), "mean fitness of this iteration's particles"),
            _field("patched", pa.int64(), "negatives the best candidate gets right", "rows"),
            _field("intact", pa.int64(), "positives the best candidate gets right", "rows"),
            _field("loss_neg", pa.float64(), "mean loss of the best candidate over negatives", "nats"),
            _field("loss_pos", pa.float64(), "mean loss of the best candidate over positives", "nats"),
            _field("evaluations", pa.int64(), "fitness evaluations so far", "candidates"),
            _field("seconds", pa.float64(), "time of this iteration", "s"),
        ]
    ),
    "labels": pa.schema(
        [
            JOB,
            _field("stage", pa.string(), "base or repaired: the model measured"),
            _field("split", pa.string(), "negative, positive, validation or test: the rows measured"),
            _field("label", pa.int32(), "true class"),
            _field("total", pa.int64(), "rows of the label", "rows"),
            _field("correct", pa.int64(), "rows the saved model gets right", "rows"),
            _field("accuracy", pa.float64(), "correct / total", "1"),
            _field("repaired", pa.int64(), "rows the base model gets wrong and this one right", "rows"),
            _field("broken", pa.int64(), "rows the base model gets right and this one wrong", "rows"),
        ]
    ),
    "jobs": pa.schema(
        [
            JOB,
            _field("chunk", pa.string(), "folder of the negatives"),
            _field("data", pa.string(), "SHA-256 of the search rows and weights"),
            _field("label", pa.int32(), "true label under repair, -1 for several"),
            _field("seed", pa.int64(), "seed of the search"),
            _field("positive_weight", pa.float64(), "worth of all positives together", "negatives"),
            _field("weights", pa.int64(), "localised weights", "weights"),
            _field("negatives", pa.int64(), "negative rows searched on", "rows"),
            _field("positives", pa.int64(), "positive rows searched on", "rows"),
            _field("iterations", pa.int32(), "iterations run", "iterations"),
            _field("fitness", pa.float64(), "best fitness on the search rows"),
            _field("start_fitness", pa.float64(), "fitness of the model as it is"),
            _field("patched", pa.int64(), "negatives the search believes repaired", "rows"),
            _field("intact", pa.int64(), "positives the search believes intact", "rows"),
            _field("stop", pa.string(), "solved, no gain or iterations; empty while running"),
            _field("chosen", pa.bool_(), "this job's patch is in the saved model of its chunk"),
            _field("index", pa.list_(pa.int64()), "input of each searched weight, the i of weights.csv"),
            _field("unit", pa.list_(pa.int64()), "unit of each searched weight, the j of weights.csv"),
            _field("old", pa.list_(pa.float32()), "values of the searched weights in the model as it is"),
            _field("new", pa.list_(pa.float32()), "values of the best candidate"),
            _field("where", pa.string(), "process, worker or tiles"),
            _field("worker", pa.string(), "host and process that ran the end of it"),
            _field("host", pa.string(), "host that ran the end of it"),
            _field("redispatched", pa.int64(), "parts that ran again because a worker died", "calls"),
            _field("seconds", pa.float64(), "time in iterations", "s"),
        ]
    ),
}

KEYS: dict[str, list[str]] = {
    "swarm": ["job", "iteration"],
    "labels": ["job", "stage", "split", "label"],
    "jobs": ["job"],
}

VOLATILE = frozenset({"chunk", "where", "worker", "host", "redispatched", "seconds"})
"""Columns in which two equal runs may differ: time and place."""


class RunRecords:
    """Writes one run directory."""

    def __init__(self, directory: Path) -> None:
        """Claim a new directory; see `create`."""
        self.directory = directory
        self._parts: dict[tuple[str, str], int] = {}

    @staticmethod
    def create(directory: Path, facts: Mapping[str, Any], *, overwrite: bool) -> RunRecords:
        """Start a run directory with its `run.json`.

        Raises:
            InputError: something is there already and `overwrite` is not given, or it is no run directory.
        """
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            ours = (directory / "run.json").is_file()
            if not (overwrite and ours):
                found = "a run" if ours else "something that is not a run"
                hint = "expected a new name or --overwrite" if ours else "expected a new name"
                raise InputError(f"{directory}: {found} is there already, {hint}")
            for name in SCHEMAS:
                remove(directory / name)
                remove(directory / f"{name}.arrow")
            remove(directory / "run.json")
        directory.mkdir(parents=True, exist_ok=True)
        records = RunRecords(directory)
        records.write_facts({**facts, "state": "running"})
        return records

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Replace `run.json`."""
        with replace_file(self.directory / "run.json") as temporary:
            temporary.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def append(self, table: str, job: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one more part of a job's rows."""
        part = self._parts.get((table, job), 0)
        self._parts[table, job] = part + 1
        self._write(self.directory / table / f"{_file_name(job)}-{part:05d}.arrow", table, rows)

    def replace(self, table: str, job: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a job's rows in place of those before."""
        self._parts[table, job] = 1
        self._write(self.directory / table / f"{_file_name(job)}-00000.arrow", table, rows)

    def compact(self, facts: Mapping[str, Any]) -> None:
        """Turn every folder into one table and mark the run as done."""
        for name in SCHEMAS:
            table = read_table(self.directory, name)
            with replace_file(self.directory / f"{name}.arrow") as temporary:
                _write_table(temporary, table)
            remove(self.directory / name)
        self.write_facts({**facts, "state": "done"})

    def _write(self, path: Path, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        with replace_file(path) as temporary:
            _write_table(temporary, pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMAS[table]))


def read_table(directory: Path, name: str) -> pa.Table:
    """A table of a run, finished or not, sorted by its key; empty before its first part.

    Raises:
        InputError: the directory holds no run.
    """
    if not (directory / "run.json").is_file():
        raise InputError(f"{directory}: found no run.json, expected the directory of a run")
    whole = directory / f"{name}.arrow"
    while not whole.is_file():
        try:
            parts = [_read(path) for path in sorted((directory / name).glob("[!.]*.arrow"))]
        except FileNotFoundError:
            continue  # the run is being compacted: the whole table is there by now
        if whole.is_file():
            break  # compacted meanwhile: some parts may have gone before they were listed
        if not parts:
            return SCHEMAS[name].empty_table()
        return pa.concat_tables(parts).sort_by([(key, "ascending") for key in KEYS[name]])
    return _read(whole)


def comparable(table: pa.Table) -> pa.Table:
    """The columns in which equal runs are equal."""
    return table.select([name for name in table.column_names if name not in VOLATILE])


def _read(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _write_table(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _file_name(job: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", job)
