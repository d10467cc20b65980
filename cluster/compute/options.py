"""Where a command may compute; TensorFlow is not imported here, so that workers may start before it is."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from engine.core.errors import InputError
from engine.core.stated import stated
from engine.passes.sizes import BATCH_ROWS

LARGEST_BATCH = 1 << 16  # rows of a pass, which takes memory for as many, however few there are

_stated = functools.partial(stated, section="Where it runs", place=True)


@dataclass(frozen=True)
class ComputeOptions:
    """Where a command may compute.

    Attributes:
        num_workers: actors; 0 forces this process, None decides by cost.
        address: of a running Ray cluster; None starts one here when workers are needed.
        gpus_per_worker: None shares the GPUs that the cluster has.
        tiles: force the tiles of every iteration onto the workers.
        spread_rows: force row blocks onto the workers.
        batch_rows: rows of one forward or gradient pass.
        threads: of each worker; None shares the cores out.
    """

    num_workers: int | None = _stated(None, "Ray workers; 0: this process [default: by measured cost].", rare=False)
    address: str | None = _stated(None, "Of a running Ray cluster [default: start one if it pays].", rare=False)
    gpus_per_worker: float | None = _stated(None, "GPUs of each worker, fractions allowed [default: an equal share].")
    tiles: bool = _stated(False, "Send pieces of every iteration to the workers, whatever that costs.")
    spread_rows: bool = _stated(False, "Send row blocks to the workers, whatever that costs.")
    batch_rows: int = _stated(
        BATCH_ROWS, "Rows of one forward or gradient pass.", name="batch_size", shown=True, place=False
    )
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.num_workers is not None and self.num_workers < 0:
            raise InputError(f"num_workers is {self.num_workers}, expected 0 (this process) or more")
        if self.num_workers == 0 and self.address is not None:
            raise InputError(
                f"num_workers is 0 (this process) and address is {self.address!r}, expected one without the other"
            )
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker < math.inf:
            raise InputError(f"gpus_per_worker is {self.gpus_per_worker}, expected 0 or more")
        if not 1 <= self.batch_rows <= LARGEST_BATCH:
            raise InputError(f"batch_size is {self.batch_rows}, expected 1 to {LARGEST_BATCH}")
        if self.num_workers == 0 and (self.tiles or self.spread_rows):
            raise InputError("tiles and spread rows go to workers and num_workers is 0, expected at least 1 worker")
