"""What a repair that makes promises leaves in its run directory, beside what every run does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cluster.records.rows import requirement_cells
from cluster.records.schema import FrontierRow, MixtureRow, PromiseRow
from engine.methods.mixtures import Promised
from engine.metrics.promise import Frontier


def mixture_rows(promise: Promised) -> list[dict[str, Any]]:
    recipes, found = promise.fit.job.settings.recipes, promise.fit.found
    step = promise.frontier.point.step
    return [
        MixtureRow(
            position=position,
            kind="recipe" if position < len(recipes) else "offset",
            name=recipes[position].name if position < len(recipes) else "",
            label=-1 if position < len(recipes) else position - len(recipes),
            found=float(value),
            taken=float(np.float32(step) * value),
        ).cells
        for position, value in enumerate(found)
    ]


def frontier_rows(frontier: Frontier, repaired: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for number, point in enumerate(frontier.points):
        others = [label for label in range(len(point.changes)) if label not in repaired]
        known = [label for label in others if np.isfinite(point.changes[label])]
        worst = min(known, key=lambda label: point.changes[label], default=-1)
        rows.append(
            FrontierRow(
                step=point.step,
                chance=point.chance,
                met=point.met,
                gain=float(np.mean([point.changes[label] for label in repaired])),
                all=point.all,
                worst=None if worst < 0 else float(point.changes[worst]),
                worst_label=worst,
                fixed=point.fixed,
                broken=point.broken,
                enough=point.enough,
                taken=number == frontier.chosen,
            ).cells
        )
    return rows


def promise_rows(frontier: Frontier) -> list[dict[str, Any]]:
    """Rows of the table `promises`, of the step that was taken."""
    return [
        PromiseRow(
            **{name: value for name, value in asdict(promise).items() if name != "requirement"},
            **requirement_cells(number, promise.requirement),
            promised=frontier.promised,
        ).cells
        for number, promise in enumerate(frontier.point.promises)
    ]


def unpromised(frontier: Frontier) -> list[str]:
    """A line where requirements are not promised."""
    if frontier.promised:
        return []
    chance, asked = math.floor(1000 * frontier.point.chance) / 10, 100 * frontier.confidence
    return [f"promise: all requirements together have a chance of {chance:.1f} %, asked were {asked:g} %"]
