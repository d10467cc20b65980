"""The row of a search in the table `jobs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


def _column(kind: pa.DataType, text: str, unit: str = "", **default: Any) -> Any:
    return field(metadata={"kind": kind, "text": text, "unit": unit}, **default)


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """The columns of `jobs`, with what they are where nothing was searched."""

    job: str = _column(pa.string(), "name of the search; `stepN` or `batch` for what a batch made of its searches")
    step: int = _column(pa.int32(), "round of mode rounds, iteration of mode chain, else 1; from 1")
    chunk: str = _column(pa.string(), "folder of the repair rows")
    data: str = _column(
        pa.string(), "SHA-256 of the search rows and weights; empty where nothing was searched", default=""
    )
    label: int = _column(pa.int32(), "true label under repair, -1 for several")
    seed: int = _column(pa.int64(), "seed of the search")
    positive_weight: float | None = _column(pa.float64(), "worth of all positives together", "negatives", default=None)
    weights: int = _column(pa.int64(), "localised weights", "weights", default=0)
    negatives: int = _column(pa.int64(), "negative rows searched on", "rows", default=0)
    positives: int = _column(pa.int64(), "positive rows searched on", "rows", default=0)
    iterations: int = _column(pa.int32(), "iterations run", "iterations", default=0)
    fitness: float | None = _column(pa.float64(), "best fitness on the search rows", default=None)
    start_fitness: float | None = _column(
        pa.float64(), "fitness of the model as it is, or of the mean of the recipes", default=None
    )
    patched: int = _column(pa.int64(), "negatives the search believes repaired", "rows", default=0)
    intact: int = _column(pa.int64(), "positives the search believes intact", "rows", default=0)
    stop: str = _column(pa.string(), "solved, no gain or iterations; empty while running", default="")
    state: str = _column(pa.string(), "running, done, skipped (nothing to repair) or failed")
    note: str = _column(pa.string(), "why it was skipped or failed; empty otherwise", default="")
    chosen: bool = _column(pa.bool_(), "a patch of this job is in the model that its step ended with", default=False)
    where: str = _column(pa.string(), "process, worker or tiles", default="")
    worker: str = _column(pa.string(), "host and process that ran the end of it", default="")
    host: str = _column(pa.string(), "host that ran the end of it", default="")
    redispatched: int = _column(pa.int64(), "parts that ran again because a worker died", "calls", default=0)
    ended: float = _column(pa.float64(), "time of its end, after the start of the run", "s", default=0.0)
    seconds: float = _column(pa.float64(), "time in iterations", "s", default=0.0)

    @property
    def cells(self) -> Mapping[str, Any]:
        """Values by column."""
        return vars(self)
