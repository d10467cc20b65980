"""What the study of methods came to, gathered from its runs into two small Arrow files: repairs, and differences.

A row of `methods.arrow` is one reading of one repair, or says why it failed. `methods-differences.arrow` has what
differs from the reference, with the corrected interval of `engine.metrics.resampled`; that needs the classes of every
test row, which stay in the runs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np
import pyarrow as pa
from common import column, read_results, write_results
from study import Piece, Subject

from cluster.records.schema import SCHEMAS
from cluster.records.store import holds_run, read_facts, read_table
from engine.core.types import Float64, Int64
from engine.methods.outcome import CHOSEN, FOUND
from engine.methods.registry import REFERENCE
from engine.metrics.resampled import paired_difference

NAME, DIFFERENCES = "methods", "methods-differences"
"""Of the files."""

READINGS = (CHOSEN, FOUND)

MEASURES = ("gain", "all")
"""Columns in which methods are held against the reference."""

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
    column("p", pa.float64(), "chance of such a difference where there is none; null without an interval"),
    column("why", pa.string(), "there is no interval"),
]


@dataclass(frozen=True)
class Results:
    """What the files say.

    Attributes:
        outcomes: rows of `OUTCOMES`.
        differences: rows of `DIFFERENCE_COLUMNS`.
        models: facts by name, see `_model_facts`.
        facts: machine, command, seconds, seeds, runs that failed, models left out.
    """

    outcomes: Sequence[Mapping[str, Any]]
    differences: Sequence[Mapping[str, Any]]
    models: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class _Run:
    """A piece: rows of `outcomes`, `after` as int8 (n,), and the test rows (n,) with what the model says of them."""

    piece: Piece
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    labels: Int64
    before: Int64


def gather(pieces: Sequence[Piece], runs: Path, output: Path, line: str, facts: Mapping[str, str]) -> Results:
    """Read all runs that have begun and write both files.

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
    told = {**facts, "seeds": f"{min(seeds)} to {max(seeds)}", "models": json.dumps(models)}
    write_results(output, NAME, OUTCOMES, outcomes, line, told)
    write_results(output, DIFFERENCES, DIFFERENCE_COLUMNS, differences, line)
    return read(output)


def read(folder: Path) -> Results:
    """What `gather` wrote."""
    outcomes, differences = (read_results(folder / f"{name}.arrow") for name in (NAME, DIFFERENCES))
    facts = {key.decode(): value.decode() for key, value in outcomes.schema.metadata.items()}
    return Results(outcomes.to_pylist(), differences.to_pylist(), json.loads(facts.pop("models")), facts)


def _read(piece: Piece, directory: Path) -> _Run | None:
    if not holds_run(directory):
        return None
    told, table = read_table(directory, "predictions"), read_table(directory, "outcomes")
    if not told.num_rows:  # it was cut: the classes of the test rows come at the end
        return None
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
    }


def _differences(runs: Sequence[_Run]) -> list[dict[str, Any]]:
    """Of every method, reading and measure of a group: one model and one number of rows, some labels, some draws."""
    by_key: dict[tuple[str, str, int, int], tuple[_Run, Mapping[str, Any]]] = {}
    for run in runs:
        for row in run.rows:
            if row["reading"] in READINGS:
                by_key[row["method"], row["reading"], run.piece.cell.label, row["seed"]] = run, row
    methods = [method for method in dict.fromkeys(key[0] for key in by_key) if method != REFERENCE]
    labels = sorted({run.piece.cell.label for run in runs})
    cell, shared = runs[0].piece.cell, min(1.0, runs[0].piece.cell.rows / runs[0].facts["pool"])
    found = []
    for method in methods:
        for reading in READINGS:
            mine = [label for label in labels if any(key[:3] == (method, reading, label) for key in by_key)]
            seeds = [
                seed
                for seed in sorted({key[3] for key in by_key})
                if all((name, reading, label, seed) in by_key for name in (method, REFERENCE) for label in mine)
            ]
            pairs = {
                (label, seed): (by_key[method, reading, label, seed], by_key[REFERENCE, reading, label, seed])
                for label in mine
                for seed in seeds
            }
            for measure in MEASURES:
                values = np.array([mean(_difference(pairs[one, seed], measure) for one in mine) for seed in seeds])
                rows = _per_row(pairs, mine, seeds, measure) if mine and seeds else None
                told = paired_difference(values, shared, rows)
                found.append(
                    {"model": cell.subject.name, "rows": cell.rows, "method": method, "reading": reading}
                    | {"measure": measure, "draws": told.draws, "mean": told.mean, "low": told.low, "high": told.high}
                    | {"p": told.p, "why": told.why}
                )
    return found


_Pair = tuple[tuple[_Run, Mapping[str, Any]], tuple[_Run, Mapping[str, Any]]]
"""The repair of a draw by a method, and that by the reference."""


def _difference(pair: _Pair, measure: str) -> float:
    (_, mine), (_, theirs) = pair
    return float(mine[measure] - theirs[measure])


def _per_row(
    pairs: Mapping[tuple[int, int], _Pair], labels: Sequence[int], seeds: Sequence[int], measure: str
) -> Float64:
    """What each test row adds: right(method) - right(reference), averaged over draws and over labels under repair.

    A gain counts the rows of the label under repair, so its mean over L labels is one over all of their rows, of which
    those of a label with m of M rows weigh M / (L m).
    """
    by_label = {label: _mean_right([pairs[label, seed] for seed in seeds]) for label in labels}
    if measure == "all":
        return np.mean(list(by_label.values()), axis=0)  # type: ignore[no-any-return]
    truth = next(iter(pairs.values()))[0][0].labels
    total = sum(int((truth == label).sum()) for label in labels)
    parts = [by_label[label][truth == label] for label in labels]
    return np.concatenate([part * (total / (len(labels) * len(part))) for part in parts])


def _mean_right(pairs: Iterable[_Pair]) -> Float64:
    rights = [
        (mine["after"] == run.labels).astype(np.float64) - (theirs["after"] == run.labels)
        for (run, mine), (_, theirs) in pairs
    ]
    return np.mean(rights, axis=0)  # type: ignore[no-any-return]
