"""A run as one JSON object, from the view that text and page are made of; docs/records.md describes it."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cli.run_report.rows import Row
from engine.metrics.accuracy import LabelChange, total_change

if TYPE_CHECKING:
    from cli.run_report.comparison import ComparisonView, MethodView, ReadingView
    from cli.run_report.view import CrossFitView, OutcomeView, RunView
    from engine.metrics.promise import Promise
    from engine.metrics.requirements import Verdict

FORMAT = 1  # grows where a key goes or gets another meaning, not where one is added
MARK = '"report_format": '  # the first key, by which a file of ours is known
_MEANS = ("gain", "all", "worst", "fixed", "broken")


def render_json(run: RunView) -> str:
    """ASCII, numbers as they are stored, null in place of NaN."""
    return json.dumps(_plain(run_object(run)), indent=2, allow_nan=False) + "\n"


def run_object(run: RunView) -> dict[str, Any]:
    """All keys are there of every kind of run."""
    model = (run.facts.get("model") or {}).get("path")
    return {
        "report_format": FORMAT,
        **_of(run, "kind", "state"),
        "part": run.part or None,
        "model": _place(run, model),
        **_of(run, "started", "seconds", "exit_code"),
        "method": run.facts.get("method"),
        **_of(run, "labels", "label_names", "requirements"),
        "confidence": run.facts.get("confidence"),
        "held_out": {split: _place(run, path) for split, path in run.held_out.items()},
        "judged_by": run.judged_by,
        "notes": run.facts.get("notes") or (),
        "verdicts": {split: list(map(_judged, verdicts)) for split, verdicts in run.verdicts.items()},
        "outcomes": list(map(_outcome, run.outcomes)),
        "steps": list(map(_outcome, run.steps)),
        "saved_step": run.saved_step,
        "searches": {
            "states": dict(Counter(job.state for job in run.jobs)),
            "rows": [{**vars(job), "chunk": _place(run, job.chunk)} for job in run.jobs],
        },
        "workers": [{"name": each.name, "searches": len(each.jobs), "busy": each.busy} for each in run.workers],
        "promise": _promise(run.crossfit) if run.crossfit is not None and run.crossfit.judges else None,
        "crossfit": None if run.crossfit is None else _crossfit(run.crossfit),
        "comparison": None if run.comparison is None else _comparison(run.comparison),
    }


def _of(view: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(view, name) for name in names}


def _place(run: RunView, path: str | Path | None) -> str | None:
    """A path from the run directory; a relative one is from the current directory, as for the pictures of the page."""
    return Path(os.path.relpath(path, run.directory)).as_posix() if path else None


def _outcome(outcome: OutcomeView) -> dict[str, Any]:
    return {"job": outcome.job, "splits": {split: _counts(changes) for split, changes in outcome.changes.items()}}


def _counts(changes: Sequence[LabelChange]) -> dict[str, Any]:
    total = asdict(total_change(changes))
    del total["label"]
    return {"all": total, "labels": list(map(asdict, changes))}


def _judged(judged: Verdict | Promise) -> dict[str, Any]:
    """A verdict or a promise beside what it is about."""
    values = asdict(judged)
    requirement = values.pop("requirement")
    return {**{name: requirement[name] for name in ("text", "kind", "limit", "labels", "predicted")}, **values}


def _promise(found: CrossFitView) -> dict[str, Any]:
    easiest = found.easiest
    return {
        **_of(found, "promised", "chance", "confidence", "new_rows"),
        "enough": None if found.promised else found.enough,
        "easiest_step": None if found.promised or easiest is None else easiest.step,
        "requirements_stated": found.stated,
        "requirements": list(map(_judged, found.promises)),
    }


def _crossfit(found: CrossFitView) -> dict[str, Any]:
    return {
        **_of(found, "folds", "layers", "weights"),
        "tunings_ended": found.tuned,
        "step": found.step if found.frontier else None,
        "step_asked_for": found.asked_step,
        "recipes": found.recipes,
        "offsets": [_of(each, "label", "found", "taken") for each in found.offsets],
        "frontier": found.frontier,
        "out_of_fold": _counts(found.judged) if found.judged else None,
    }


def _comparison(found: ComparisonView) -> dict[str, Any]:
    return {
        **_of(found, "reference", "draws", "rows", "pool"),
        "test_rows": None if found.test is None else len(found.test.label),
        "repairs": found.total,
        "repairs_ended": found.ended,
        "methods": [_method(method) for method in found.methods],
    }


def _method(method: MethodView) -> dict[str, Any]:
    return {
        "name": method.name,
        "draws_ended": method.done,
        "seconds": method.seconds,
        "failed": [{"reason": reason, "draws": draws} for reason, draws in method.failed],
        "readings": {name: _reading(method, name, reading) for name, reading in method.readings.items()},
    }


def _reading(method: MethodView, name: str, found: ReadingView) -> dict[str, Any]:
    pairs = {"kept": found.kept, "promised": found.promised, "held": found.held}
    return {
        "verdict": method.verdict(name),
        "means": {column: found.mean(column) for column in _MEANS},
        "worst_label": None if found.worst_label < 0 else found.worst_label,
        **{column: {"draws": count, "of": of} for column, (count, of) in pairs.items()},
        "left": found.left,
        "against": found.against,
        "outcomes": [
            {column: value for column, value in vars(row).items() if column not in ("method", "reading", "after")}
            for row in found.repairs
        ],
    }


def _plain(value: Any) -> Any:
    """Only what JSON has."""
    if isinstance(value, Row):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
