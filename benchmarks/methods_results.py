"""What the study of methods came to, gathered from its runs into two small Arrow files: repairs, and differences.

A row of `methods.arrow` is one reading of one repair, or says why it failed. `methods-differences.arrow` has what
differs from the reference, with the corrected interval of `engine.metrics.resampled`; that needs the classes of every
test row, which stay in the runs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from common import column, read_results, write_results
from study import Piece, Subject

from cluster.records.schema import SCHEMAS
from cluster.records.store import holds_run, read_facts, read_table
from engine.core.types import Int64
from engine.methods.registry import REFERENCE
from engine.metrics.against import MEASURES, READINGS, Judged, Part, difference

NAME, DIFFERENCES = "methods", "methods-differences"
"""Of the files."""

KEPT = (
    *("method", "seed", "reading", "offer", "note", "weights", "gain", "all", "worst", "worst_label"),
    *("fixed", "broken", "chance", "promised", "kept", "own", "best", "cpu"),
)
"""Columns of the table `outcomes` that are kept."""

CELL = [
    column("model", pa.string(), "of the study"),
    column("rows", pa.int64(), "of a draw", "rows"),
    column("label", pa.int64(), "under repair"),
]

OUTCOMES = [*CELL, *(SCHEMAS["outcomes"].field(name) for name in KEPT)]

DIFFERENCE_COLUMNS = [
    *CELL[:2],
    column("method", pa.string(), "as --methods takes it"),
    column("reading", pa.string(), "as of the outcomes"),
    column("measure", pa.string(), "gain or all"),
    column("draws", pa.int64(), "pairs; each is a mean over labels"),
    column("mean", pa.float64(), f"of the method less that of {REFERENCE}", "1"),
    column("low", pa.float64(), "end of the 95 % interval; null where there is none", "1"),
    column("high", pa.float64(), "its other end", "1"),
    column(
        "p",
        pa.float64(),
        "chance of such a difference where there is none; 1 where all is the same, else as `low`",
    ),
    column("why", pa.string(), "there is no interval"),
]


@dataclass(frozen=True)
class Results:
    """What the files say.

    Attributes:
        outcomes: rows of `OUTCOMES`.
        differences: rows of `DIFFERENCE_COLUMNS`.
        models: facts by name, see `_model_facts`.
        facts: machine, command, seconds, seeds, rows in words, cells planned, runs that failed or have no numbers,
            models left out.
    """

    outcomes: Sequence[Mapping[str, Any]]
    differences: Sequence[Mapping[str, Any]]
    models: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class _Run:
    """A piece that has ended: rows of `outcomes` with `after` (n,), and the test rows (n,) with what the model says."""

    piece: Piece
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    labels: Int64
    before: Int64


def gather(pieces: Sequence[Piece], runs: Path, output: Path, line: str, facts: Mapping[str, str]) -> Results:
    """Read all runs that have come to their end, and write both files; the others are named in the facts.

    Args:
        pieces: of the study.
        runs: folder with a directory for each.
        output: folder of the files.
        line: what `machine` said.
        facts: more to tell of the study.

    Raises:
        click.ClickException: no run has come to its end.
    """
    found = [run for piece in pieces if (run := _read(piece, runs / piece.name)) is not None]
    if not found:
        raise click.ClickException(f"{runs} has no run that came to its end, expected one; its logs say why")
    outcomes: list[dict[str, Any]] = [
        {"model": run.piece.cell.subject.name, "rows": run.piece.cell.rows, "label": run.piece.cell.label}
        | {name: row[name] for name in KEPT}
        for run in found
        for row in run.rows
    ]
    groups: dict[tuple[str, int], list[_Run]] = defaultdict(list)
    for run in found:
        groups[run.piece.cell.subject.name, run.piece.cell.rows].append(run)
    differences = [row for group in groups.values() for row in _differences(group)]
    models = {
        subject.name: _model_facts(subject, [run for run in found if run.piece.cell.subject is subject])
        for subject in dict.fromkeys(run.piece.cell.subject for run in found)
    }
    seeds = [row["seed"] for row in outcomes]
    ended = {run.piece.name for run in found}
    told = {
        **facts,
        "seeds": f"{min(seeds)} to {max(seeds)}",
        "models": json.dumps(models),
        "planned": json.dumps(_planned(pieces)),
        "missing": f"{len(pieces) - len(ended)} of {len(pieces)} runs" if len(ended) < len(pieces) else "",
    }
    write_results(output, NAME, OUTCOMES, outcomes, line, told)
    write_results(output, DIFFERENCES, DIFFERENCE_COLUMNS, differences, line)
    return read(output)


def read(folder: Path) -> Results:
    """What `gather` wrote."""
    outcomes, differences = (read_results(folder / f"{name}.arrow") for name in (NAME, DIFFERENCES))
    facts = {key.decode(): value.decode() for key, value in outcomes.schema.metadata.items()}
    return Results(outcomes.to_pylist(), differences.to_pylist(), json.loads(facts.pop("models")), facts)


def _planned(pieces: Sequence[Piece]) -> list[tuple[str, int, int, int]]:
    """Model, repair rows, label and draws of each cell."""
    draws: dict[tuple[str, int, int], int] = defaultdict(int)
    for piece in pieces:
        draws[piece.cell.subject.name, piece.cell.rows, piece.cell.label] += piece.draws
    return [(*cell, count) for cell, count in draws.items()]


def _read(piece: Piece, directory: Path) -> _Run | None:
    """A run; None where it has not begun or not ended: of a part of it, methods would have unlike draws."""
    if not holds_run(directory) or read_facts(directory).get("state") != "done":
        return None
    told, table = read_table(directory, "predictions"), read_table(directory, "outcomes")
    labels, before = (told[name].to_numpy().astype(np.int64) for name in ("label", "before"))
    rows = [
        {**row, "after": None if after.values is None else after.values.to_numpy().astype(np.int8)}
        for row, after in zip(table.drop_columns(["after"]).to_pylist(), table["after"], strict=True)
    ]
    return _Run(piece, read_facts(directory), rows, labels, before)


def _model_facts(subject: Subject, runs: Sequence[_Run]) -> dict[str, Any]:
    """Title, labels under repair, rows, and accuracies on test rows of the model as it is: of all and by label."""
    run = runs[0]
    totals = np.bincount(run.labels)
    right = np.bincount(run.labels[run.labels == run.before], minlength=len(totals))
    return {
        "title": subject.title,
        "labels": sorted({each.piece.cell.label for each in runs}),
        "pool": run.facts["pool"],
        "test": len(run.labels),
        "accuracy": float(right.sum() / totals.sum()),
        "by label": [float(value) for value in right / np.maximum(totals, 1)],
        "weights": sum(int(np.prod(shape)) for shape in run.facts["target"].values()),
        "trained": bool(subject.network),
        "checkpoints": bool(run.facts.get("identity", {}).get("checkpoints")),
    }


def _differences(runs: Sequence[_Run]) -> list[dict[str, Any]]:
    """Of every method, reading and measure of a group: one model and one number of rows, some labels, some draws."""
    judged: dict[tuple[str, str, int], dict[int, Judged]] = defaultdict(dict)
    for run in runs:
        for row in run.rows:
            values = {measure: row[measure] for measure in MEASURES}
            judged[row["method"], row["reading"], run.piece.cell.label][row["seed"]] = Judged(values, row["after"])
    methods = [name for name in dict.fromkeys(key[0] for key in judged if key[1] in READINGS) if name != REFERENCE]
    truths = {run.piece.cell.label: run.labels for run in runs}
    cell, shared = runs[0].piece.cell, min(1.0, runs[0].piece.cell.rows / runs[0].facts["pool"])
    found = []
    for method in methods:
        for reading in READINGS:
            parts = [
                Part(
                    (label,), truths[label], judged[method, reading, label], judged.get((REFERENCE, reading, label), {})
                )
                for label in sorted(truths)
                if (method, reading, label) in judged
            ]
            for measure in MEASURES:
                told = difference(parts, measure, shared)
                found.append(
                    {"model": cell.subject.name, "rows": cell.rows, "method": method, "reading": reading}
                    | {"measure": measure, "draws": told.draws, "mean": told.mean, "low": told.low, "high": told.high}
                    | {"p": told.p, "why": told.why}
                )
    return found
