from .batch import Batch, ChunkFile, Weighting, check_batch, open_chunks
from .batch_run import run_recorded
from .compute import Compute, ComputeOptions
from .inputs import ChunkPaths
from .records import RunRecords, comparable, read_table
from .repair import Repairs
from .reports import ChunkReport
from .searches import SearchOutcome, SearchTask

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
