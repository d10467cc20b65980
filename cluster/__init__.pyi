from .batch.run import run_recorded
from .batch.spec import Batch, ChunkFile, Weighting, check_batch, open_chunks
from .compute.compute import Compute, ComputeOptions
from .compute.searches import SearchOutcome, SearchTask
from .records.store import RunRecords, comparable, read_table
from .runs.chunk import ChunkPaths
from .runs.optimize import Repairs
from .runs.reports import ChunkReport

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
