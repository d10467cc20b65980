"""Somebody who reads the tables of a run while it goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.dataset

from cluster.records.schema import SCHEMAS
from cluster.records.store import read_table


class Reader:
    """Looks at a run again and again, and remembers what it has seen."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.done: dict[str, int] = {}
        """Patch rows of the searches that had ended."""

    def look(self) -> None:
        """Read everything; AssertionError where something is torn, or was there already and is no more."""
        jobs = {row["job"]: row for row in read_table(self.directory, "jobs").to_pylist() if row["state"] == "done"}
        assert jobs.keys() >= self.done.keys(), f"{self.done.keys() - jobs.keys()} are no longer done"
        tables = {name: read_table(self.directory, name) for name in SCHEMAS}
        assert all(table.schema.equals(SCHEMAS[name]) for name, table in tables.items())
        swarm = Counter(tables["swarm"]["job"].to_pylist())
        patches = Counter(tables["patches"]["job"].to_pylist())
        for job, row in jobs.items():
            # A search that is in the table as done has everything else in its place.
            assert swarm[job] == row["iterations"], f"{job}: {swarm[job]} iterations of {row['iterations']}"
            assert patches[job] >= self.done.get(job, row["weights"]), f"{job}: {patches[job]} patch rows"
        self.done = {job: patches[job] for job in jobs}
        folder = _folder(self.directory / "swarm")
        if folder is None:
            assert not jobs or (self.directory / "swarm.arrow").is_file()
        else:
            assert duckdb.sql("select count(*) from folder").fetchall() == [(folder.num_rows,)]
            assert folder.num_rows >= sum(row["iterations"] for row in jobs.values())
        assert polars.from_arrow(tables["jobs"]).height == len(tables["jobs"].to_pandas())


def _folder(path: Path) -> pa.Table | None:
    """The files in the folder of a table, read without our help; None before its first and once they are joined."""
    try:
        found = pyarrow.dataset.dataset(path, format="ipc").to_table()
    except FileNotFoundError:
        return None
    return found if found.num_columns else None
