"""What workers on this machine cost, said or refused before any of them starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from engine.core.errors import InputError
from engine.core.memory import free_memory


@dataclass(frozen=True)
class WorkerCost:
    """What one worker takes; measured."""

    memory: int  # bytes
    start: float  # seconds of a core


MODELS = WorkerCost(900 << 20, 4.0)  # with TensorFlow and a small model
PICTURES = WorkerCost(200 << 20, 1.0)  # with NumPy and scikit-image


def unasked(cost: WorkerCost) -> int:
    """Workers on this machine where no number was asked for: one for each core, as far as free memory carries them."""
    return max(1, min(os.cpu_count() or 1, free_memory() // cost.memory))


def check_local(workers: int, cost: WorkerCost, say: Callable[[str], None]) -> None:
    """Refuse more workers than free memory carries; say what those beyond the cores cost."""
    free, cores = free_memory(), os.cpu_count() or 1
    if workers * cost.memory > free:
        raise InputError(
            f"num_workers is {workers}, which take {workers * cost.memory / 2**30:.3g} GiB and {free / 2**30:.3g} "
            f"GiB are free, expected at most {free // cost.memory} (more than {cores}, the cores here, are no faster)"
        )
    if workers > cores:
        say(
            f"warning: {workers} workers share {cores} cores: each takes {cost.memory / 2**30:.1f} GiB and "
            f"{cost.start:.0f} s of a core to start, more than {cores} are no faster; --num-workers {cores} would do"
        )
