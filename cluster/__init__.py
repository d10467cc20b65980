"""Where work runs: Ray start-up, replica actors, the scheduler and the records of a run.

The names of `__all__` are the public surface; each is imported when it is first used, because TensorFlow and Ray take
seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.batch import Batch, ChunkFile, Weighting, check_batch, open_chunks
    from cluster.batch_run import run_recorded
    from cluster.compute import Compute, ComputeOptions
    from cluster.inputs import ChunkPaths
    from cluster.records import RunRecords, comparable, read_table
    from cluster.repair import Repairs
    from cluster.reports import ChunkReport
    from cluster.searches import SearchOutcome, SearchTask

_MODULES = {
    "Batch": "batch",
    "ChunkFile": "batch",
    "ChunkPaths": "inputs",
    "ChunkReport": "reports",
    "Compute": "compute",
    "ComputeOptions": "compute",
    "Repairs": "repair",
    "RunRecords": "records",
    "SearchOutcome": "searches",
    "SearchTask": "searches",
    "Weighting": "batch",
    "check_batch": "batch",
    "comparable": "records",
    "open_chunks": "batch",
    "read_table": "records",
    "run_recorded": "batch_run",
}

__all__ = [
    "Batch",
    "ChunkFile",
    "ChunkPaths",
    "ChunkReport",
    "Compute",
    "ComputeOptions",
    "Repairs",
    "RunRecords",
    "SearchOutcome",
    "SearchTask",
    "Weighting",
    "check_batch",
    "comparable",
    "open_chunks",
    "read_table",
    "run_recorded",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cluster' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cluster.{_MODULES[name]}"), name)
