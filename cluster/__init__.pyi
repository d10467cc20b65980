from .batch.estimate import Expectation, expect
from .batch.modes import BatchReport, run_batch
from .batch.run import run_recorded
from .batch.spec import Batch, ChunkFile, Weighting, check_batch, open_chunks
from .compute.compute import Compute, ComputeOptions
from .records.store import RunRecords, comparable, read_facts, read_table
from .runs.chunk import ChunkPaths, target_of
from .runs.evaluate import check_evaluation, evaluate
from .runs.evaluation import Evaluated, Evaluation, Setting
from .runs.localize import localise
from .runs.optimize import Repairs, repair
from .runs.output import save_repaired
from .runs.parts import Part, Parts, read_parts
from .runs.repair import MethodRepair, Watching, check_repair, run_repair
from .runs.reports import ChunkReport, Measured
from .workers.model import ModelHandle

__all__ = [
    "Batch",
    "BatchReport",
    "ChunkFile",
    "ChunkPaths",
    "ChunkReport",
    "Compute",
    "ComputeOptions",
    "Evaluated",
    "Evaluation",
    "Expectation",
    "Measured",
    "MethodRepair",
    "ModelHandle",
    "Part",
    "Parts",
    "Repairs",
    "RunRecords",
    "Setting",
    "Watching",
    "Weighting",
    "check_batch",
    "check_evaluation",
    "check_repair",
    "comparable",
    "evaluate",
    "expect",
    "localise",
    "open_chunks",
    "read_facts",
    "read_parts",
    "read_table",
    "repair",
    "run_batch",
    "run_recorded",
    "run_repair",
    "save_repaired",
    "target_of",
]
