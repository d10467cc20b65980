"""A method as another package brings it, in three stages whose work can be counted, killed and changed from outside.

Gradients of parts of the rows; a line search along each of these and along their sum; a judge of what these found.
Environment variables say what happens besides:

- `STAGED_CALLS`: a file that gets a line with the name of each piece of work that runs.
- `STAGED_DIES`: a file; the first line search takes its process with it where there is none, and makes it.
- `STAGED_OTHER`: `arguments`: the line searches are called as before and look at other steps; `names`: they are called
  differently.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.plans import Plan, Work
from engine.core.rng import generator
from engine.methods.base import Method, MethodJob, Offer, Repair

PARTS, JUDGED = 4, 3
STEPS = np.geomspace(0.1, 30, 12)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows (n,) as the searches see them: logits (n, C), labels, and what each counts."""

    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def _ran(name: str) -> None:
    """Tell that a piece of work runs."""
    if "STAGED_CALLS" in os.environ:
        with Path(os.environ["STAGED_CALLS"]).open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")


def gradient(name: str, rows: Rows, part: np.ndarray) -> np.ndarray:
    """Of the weighted cross entropy of some rows, by offsets of labels (C,)."""
    _ran(name)
    logits = rows.logits[part].astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    odds[np.arange(len(part)), rows.labels[part]] -= 1
    return np.asarray((rows.weights[part, None] * odds).sum(axis=0))


def line_search(name: str, rows: Rows, direction: np.ndarray, steps: np.ndarray) -> dict[str, Any]:
    """The best of some steps along a direction, and the weight of the rows that it gets right."""
    _ran(name)
    dies = os.environ.get("STAGED_DIES")
    if dies and not Path(dies).exists():
        Path(dies).touch()
        os._exit(1)
    right = [float(rows.weights[_right(rows, step * direction)].sum()) for step in steps]
    best = int(np.argmax(right))
    return {"offsets": (steps[best] * direction).astype(np.float32), "right": right[best]}


def judge(name: str, rows: Rows, part: np.ndarray, offsets: np.ndarray) -> tuple[int, int]:
    """Rows of a part that offsets fix, and those that they break."""
    _ran(name)
    before, after = (_right(rows, added)[part] for added in (np.zeros_like(offsets), offsets))
    return int((after & ~before).sum()), int((before & ~after).sum())


def _right(rows: Rows, offsets: np.ndarray) -> np.ndarray:
    return np.asarray((rows.logits + offsets).argmax(axis=1) == rows.labels)


def repair(job: MethodJob) -> Plan[Repair]:
    """Yield the work of all three stages; each needs what the one before came to."""
    seen, other = job.rows, os.environ.get("STAGED_OTHER")
    weights = np.ones(len(seen.labels))
    weights[job.failures] = 3
    rows = Rows(seen.logits, seen.labels, weights)
    order = generator(job.seed, "staged", -1, "parts").permutation(len(seen.labels))
    parts = [np.sort(part) for part in np.array_split(order, PARTS)]
    names = [f"gradient-{number}-s{job.seed}" for number in range(PARTS)]
    gradients = yield [
        Work(name, gradient, (name, rows, part), "gradient") for name, part in zip(names, parts, strict=True)
    ]
    directions = [-found / np.linalg.norm(found) for found in (*gradients, sum(gradients))]
    called = "other" if other == "names" else "line"
    names = [f"{called}-{number}-s{job.seed}" for number in range(len(directions))]
    steps = STEPS[:-1] if other == "arguments" else STEPS
    lines = yield [
        Work(name, line_search, (name, rows, direction, steps), "line search")
        for name, direction in zip(names, directions, strict=True)
    ]
    lines.sort(key=lambda found: -found["right"])
    candidates = [found["offsets"] for found in lines[:JUDGED]]
    places = [
        (f"judge-{number}-{half}-s{job.seed}", number, half) for number in range(len(candidates)) for half in (0, 1)
    ]
    judged = yield [
        Work(name, judge, (name, rows, parts[half], candidates[number]), "judge") for name, number, half in places
    ]
    worth = [0] * len(candidates)
    for (_, number, _), (fixed, broken) in zip(places, judged, strict=True):
        worth[number] += fixed - broken
    best = max(range(len(candidates)), key=lambda number: worth[number])
    path = job.chain.offsets
    assert path is not None
    return Repair([Offer("best", {path: job.chain.values[path] + candidates[best]}, float(worth[best]))], 0.0)


METHOD = Method("staged", repair, "offsets of labels", "rows right", "a test", ("offsets",))
