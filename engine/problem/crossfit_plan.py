"""The memory of a CrossFit repair, stated before it starts; it follows from the job and its options alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine import backend
from engine.core.errors import InputError
from engine.fitness.mixture import tile_shape
from engine.layers.tail_chain import Chain
from engine.problem.crossfit import SEARCH_ROWS, CrossFitSettings
from engine.targets.memory import PROCESS, refusal, size_text
from engine.tuning.train import BATCH_ROWS

PATCH_BYTES = 140
"""Of a weight in a patch while that is made and written (measured)."""

_SLOPES = 3
"""Numbers that a tuning holds of each that a row of a step makes: itself, its slope, and a temporary."""

_COPIES = 9
"""Of the weights of a tuning that a program holds: weights and two moments before and after, slopes, two temporaries
(measured)."""


@dataclass(frozen=True)
class CrossFitPlan:
    """Bytes in the process that needs most."""

    rows: int  # of the repair and of validation
    tunings: int  # recipes times folds
    features: int  # of all rows, as they are put together
    tuning: int  # of the tunings of a task
    changes: int  # of all tunings, as they are put together
    search: int  # what the rows of a search keep, and its tiles
    patch: int  # the changes of the model, as they are saved

    @property
    def memory(self) -> int:
        """Bytes of all, at most: tunings have ended when the search begins."""
        return PROCESS + self.features + self.changes + max(self.tuning, self.search, self.patch)

    def facts(self) -> dict[str, Any]:
        """For `run.json`."""
        return {"tunings": self.tunings, "memory": self.memory}

    def sentences(self) -> list[str]:
        """For people."""
        return [
            f"memory: at most {size_text(self.memory)} in one process: {size_text(PROCESS)} TensorFlow and programs, "
            f"{size_text(self.features)} features of {self.rows} rows, {size_text(self.changes)} changes of "
            f"{self.tunings} tunings, {size_text(self.tuning)} while they run, {size_text(self.search)} the search, "
            f"{size_text(self.patch)} the patch"
        ]


def plan_of(chain: Chain, rows: int, held_out: int, settings: CrossFitSettings) -> CrossFitPlan:
    """Plan a repair of so many rows, with so many of validation."""
    width = chain.width
    recipes, weights = len(settings.recipes), 4 * chain.tuned_values
    tunings = recipes * settings.folds
    search, judged = settings.search, max(rows, held_out)
    searched = min(rows, SEARCH_ROWS)
    together, wide = tile_shape(chain, settings.folds, searched, search.swarm.num_particles, search.tiling)
    return CrossFitPlan(
        rows=rows + held_out,
        tunings=tunings,
        features=4 * (rows + held_out) * (2 * width + 4 * chain.classes),
        tuning=recipes * (weights * _COPIES + 4 * _SLOPES * BATCH_ROWS * chain.all_values)
        + 4 * rows * (width + 4 * chain.classes)
        + chain.unfolded_bytes,
        changes=2 * (tunings + recipes) * weights,
        search=4 * (searched + judged) * (chain.kept_values * (recipes + 1) + width)
        + 6 * 4 * together * wide * chain.widest
        + 2 * together * weights
        + chain.unfolded_bytes,
        patch=PATCH_BYTES * chain.tuned_values,
    )


def check_plan(plan: CrossFitPlan) -> None:
    """Raise InputError where a repair cannot fit in the free memory of this machine."""
    if refused := too_large(plan):
        raise InputError(refused)


def too_large(plan: CrossFitPlan) -> str | None:
    """What needs most of the free memory of this machine, and what would need less; None where a repair fits."""
    parts = {
        f"features of {plan.rows} rows": (plan.features, "fewer rows"),
        f"changes of {plan.tunings} tunings": (plan.changes, "fewer --recipes or --folds, or a smaller --target-layer"),
        "tunings while they run": (plan.tuning, "fewer --recipes, or a smaller --target-layer"),
        "the patch": (plan.patch, "a smaller --target-layer"),
        "the search": (plan.search, "fewer rows, fewer --num-particles or smaller --tile-bytes"),
    }
    # The process is there already.
    return refusal("repair", plan.memory - PROCESS, parts, backend.free_memory(), "are free")
