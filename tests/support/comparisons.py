"""Comparisons as `compare` records them, written through RunRecords from random draws in place of repairs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from cluster.records.rows import prediction_rows
from cluster.records.store import RunRecords
from tests.support.run_samples import CLOTHES, Sample, write_images

REASON = "NeuRecover compares checkpoints of the training and 0 are known, expected two (--weights-dir)"


@dataclass(frozen=True)
class Effect:
    """What a method does: the share of the failures of the label under repair that it fixes, and of other rows that it
    breaks; `kind` is `repair`, `nothing` or `failed`; `promises` the share of its draws that are promised.
    """

    fixes: float = 0.0
    breaks: float = 0.0
    kind: str = "repair"
    promises: float = 0.0


EFFECTS: Mapping[str, Effect] = {
    "CrossFit": Effect(0.45, 0.004, promises=0.8),
    "Arachne": Effect(0.1, 0.05),
    "NeuRecover": Effect(kind="failed"),
    "head": Effect(0.4, 0.012, promises=0.5),
    "<offset> & more": Effect(kind="nothing"),
}


@dataclass(frozen=True)
class Written:
    """A comparison: its directory, and what its test rows are; each (n,)."""

    directory: Path
    label: np.ndarray
    before: np.ndarray


def write_comparison(
    root: Path,
    effects: Mapping[str, Effect] = EFFECTS,
    *,
    draws: int = 5,
    rows: int | None = 60,
    pool: int = 300,
    labels: Sequence[int] = (6,),
    names: Sequence[str] | None = CLOTHES,
    test_rows: int = 400,
    ended: int | None = None,
    failing_draws: Mapping[str, Sequence[int]] | None = None,
) -> Written:
    """Write a comparison with its test set below `root`; the first of the methods in `effects` is the reference.

    `ended` is how many repairs, methods times draws in this order, have ended of a run that goes on; None of a finished
    one. `failing_draws` are those of methods that can run in others.
    """
    random = np.random.default_rng(11)
    label = random.integers(0, 10, test_rows)
    wrong = random.random(test_rows) < np.where(np.isin(label, labels), 0.4, 0.08)
    before = np.where(wrong, (label + 1) % 10, label)
    facts = _facts(root, list(effects), draws=draws, rows=rows, pool=pool, labels=labels, names=names)
    shape = Sample("compare", None if names is None else tuple(names), 10, tuple(labels), image_shape=(8, 8, 1))
    write_images(root / "test.h5", random, label, shape)
    records = RunRecords.create(root / "run", facts, overwrite=False)
    records.replace("predictions", "test", prediction_rows("test", label, before, before))
    done = 0
    total = len(effects) * draws
    for method, effect in effects.items():
        for draw in range(draws):
            if ended is not None and done == ended:
                records.write_progress({"step": 1, "steps": 1, "jobs_done": done, "jobs": total})
                return Written(records.directory, label, before)
            done += 1
            if effect.kind == "failed" or draw in (failing_draws or {}).get(method, ()):
                found = [_row(method, draw, "failed") | {"note": REASON}]
            else:
                found = _readings(random, method, draw, effect, label, before, labels)
            records.replace("outcomes", f"{method}-{draw}", found)
    if ended is None:
        records.compact({**facts, "seconds": 83.0, "exit_code": 0})
    else:
        records.write_progress({"step": 1, "steps": 1, "jobs_done": done, "jobs": total})
    return Written(records.directory, label, before)


def _facts(root: Path, methods: list[str], **stated: Any) -> dict[str, Any]:
    names = stated.pop("names")
    return {
        "kind": "compare",
        "reference": methods[0],
        "methods": methods,
        **{name: list(value) if name == "labels" else value for name, value in stated.items()},
        "label_names": None if names is None else list(names),
        "requirements": ["drop of all labels together at most 1 point"],
        "confidence": 0.95,
        "target": {"last/kernel": [64, 10], "last/bias": [10]},
        "held_out": {"validation": str(root / "val.h5"), "test": str(root / "test.h5")},
        "model": {"path": "/models/street <classifier>.keras", "fingerprint": "0f3c" * 16},
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": ["compare", "--label", "6"],
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def _readings(
    random: np.random.Generator,
    method: str,
    draw: int,
    effect: Effect,
    label: np.ndarray,
    before: np.ndarray,
    labels: Sequence[int],
) -> list[dict[str, Any]]:
    """What is chosen, and what is found, which breaks three times as much."""
    mine = np.isin(label, labels)
    luck = random.random(len(label))
    fixes = mine & (before != label) & (luck < effect.fixes)
    rows = []
    for reading, breaks in (("found", 3 * effect.breaks), ("chosen", effect.breaks)):
        broken = ~mine & (before == label) & (luck < breaks)
        after = np.where(fixes, label, np.where(broken, labels[0], before))
        overall = float((after == label).mean() - (before == label).mean())
        changes = {
            each: float((after == label)[label == each].mean() - (before == label)[label == each].mean())
            for each in range(10)
            if each not in labels
        }
        worst = min(changes, key=lambda each: changes[each])
        # Of a model that is left as it is, all that is required is sure, and nobody's merit.
        promised = effect.kind == "nothing" or (draw < effect.promises * 5 and reading == "chosen")
        rows.append(
            _row(method, draw, reading)
            | {
                # What changes no weight is nothing, whatever it is called.
                "offer": "step 0" if effect.kind == "nothing" else "step 1",
                "weights": 0 if effect.kind == "nothing" else 650,
                "gain": float((after == label)[mine].mean() - (before == label)[mine].mean()),
                "all": overall,
                "worst": changes[worst],
                "worst_label": worst,
                "fixed": int(((before != label) & (after == label)).sum()),
                "broken": int(((before == label) & (after != label)).sum()),
                "chance": 0.97 if promised else 0.4,
                "promised": promised,
                "kept": overall >= -0.01 and draw != 3,
                "where": "worker",
                "worker": f"node-a:{4100 + draw % 2}",
                "seconds": 2.0 + draw,
                "cpu": 1.0 + draw,
                "after": after.tolist(),
            }
        )
    return rows


def _row(method: str, draw: int, reading: str) -> dict[str, Any]:
    from cluster.records.schema import SCHEMAS

    blank = dict.fromkeys(SCHEMAS["outcomes"].names)
    return blank | {"method": method, "draw": draw, "reading": reading, "seed": draw, "note": "", "rows": 60}
