"""What a CrossFit repair leaves in its run directory, beside what every run does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from cluster.compute.tunings import TuningEvent
from cluster.records.rows import change_rows, requirement_cells, verdict_rows
from cluster.records.schema import FrontierRow, MixtureRow, PromiseRow, TuningRow
from cluster.records.store import RunRecords
from cluster.runs.crossfit import CrossFitReport
from cluster.runs.output import missed
from cluster.runs.reports import label_rows
from engine.core.types import Float32
from engine.metrics.promise import Frontier
from engine.problem.crossfit import CrossFit
from engine.tuning.recipes import epochs_of, rate_of


def tuning_rows(fit: CrossFit, event: TuningEvent) -> list[dict[str, Any]]:
    """Rows of the table `tunings`: one for each recipe of a task."""
    rows = int((fit.rows.fold != event.task.fold).sum())
    layers = fit.chain.tuned_layers
    found = []
    for position, number in enumerate(event.task.recipes):
        recipe = fit.settings.recipes[number]
        squares = sum(float(np.square(change[position], dtype=np.float64).sum()) for change in event.changes.values())
        found.append(
            TuningRow(
                recipe=recipe.name,
                fold=event.task.fold,
                class_weight=recipe.class_weight,
                strength=recipe.strength,
                anchor=recipe.anchor,
                rate=rate_of(recipe, layers),
                epochs=epochs_of(recipe, fit.rows.fewest),
                rows=rows,
                weights=fit.chain.tuned_values,
                change=float(np.sqrt(squares / fit.chain.tuned_values)),
                where=event.where,
                worker=event.worker,
                seconds=event.seconds,
            ).cells
        )
    return found


def mixture_rows(fit: CrossFit, found: Float32, step: float) -> list[dict[str, Any]]:
    """Rows of the table `mixture`."""
    recipes = fit.settings.recipes
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
    """Rows of the table `frontier`."""
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


def record_outcome(records: RunRecords, report: CrossFitReport, fit: CrossFit) -> None:
    """What a repair came to, as rows of the tables."""
    name = "crossfit"
    rows = label_rows(name, report.measured)
    for change in report.judged:
        as_it_was = replace(change, correct_after=change.correct_before, fixed=0, broken=0)
        rows += change_rows(name, "base", "out of fold", [as_it_was])
        rows += change_rows(name, "step", "out of fold", [change])
    records.replace("labels", name, rows)
    for split, verdicts in report.verdicts.items():
        records.replace("verdicts", split, verdict_rows(split, verdicts))
    records.replace("promises", name, promise_rows(report.frontier))
    if report.found is not None:
        records.replace("mixture", name, mixture_rows(fit, report.found, report.frontier.point.step))
        records.replace("frontier", name, frontier_rows(report.frontier, report.repair.repaired))


def outcome_of(report: CrossFitReport) -> dict[str, Any]:
    """For `run.json`: what was promised, what else is to be said, and the exit code."""
    frontier = report.frontier
    return {
        "notes": list(report.notes),
        "promised": report.promised,
        "step": frontier.point.step,
        "chance": frontier.point.chance,
        "enough": None if frontier.easiest is None else frontier.easiest.enough,
        "exit_code": report.exit_code,
    }


def missing_of(report: CrossFitReport) -> list[str]:
    """What a repair does not promise, and what it misses on held-out rows; a line for each."""
    frontier, lines = report.frontier, []
    if not report.promised:
        chance, asked = math.floor(1000 * frontier.point.chance) / 10, 100 * frontier.confidence
        lines.append(f"promise: all requirements together have a chance of {chance:.1f} %, asked were {asked:g} %")
    return lines + missed(report.verdicts)
