"""Runs as `batch` and `optimize` record them, written through RunRecords from random draws in place of searches."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cluster.records.rows import change_rows, prediction_rows, verdict_rows
from cluster.records.schema import SCHEMAS
from cluster.records.store import RunRecords
from engine.data.writer import write_image_set
from engine.datasets import fashion_mnist, gtsrb
from engine.metrics.accuracy import LabelChange, compare, paired_changes
from engine.metrics.requirements import Requirement, check_requirements

CLOTHES = fashion_mnist.LABEL_NAMES
SIGNS = (*gtsrb.LABEL_NAMES[:-1], "End of no passing by <vehicles> & others")

HOSTILE = (
    "n" * 400,
    "\x1b[31mred\x1b]0;title\x07",
    "\u202eright to left",
    "two\nlines\tand a tab",
    "שלום (1)",
    "とても長い名前" * 40,
    "e" + "\u0301" * 400,
    "</title><script>nothing()</script>",
    "\u2069\u202d out of its isolate",
    "plain",
)


@dataclass(frozen=True)
class Sample:
    """The shape of a run."""

    mode: str | None  # rounds, chain or independent; None for `optimize`
    names: tuple[str, ...] | None
    classes: int
    labels: tuple[int, ...]  # under repair
    # steps, chunks, seeds, weights: searches are steps × chunks × labels × weights × seeds; chunks are the same in
    # every step, but of a chain, where step i has chunk i
    steps: int = 1
    chunks: int = 1
    seeds: int = 1
    weights: tuple[float, ...] = (135.0,)
    rows: int = 1500  # of each held-out set
    splits: tuple[str, ...] = ("validation", "test")  # held-out sets there are
    iterations: int = 60  # at most, of each search
    skipped: int = 0  # of the searches
    failed: int = 0
    workers: int = 4  # that share them
    image_shape: tuple[int, int, int] = (28, 28, 1)
    brightest: float = 1.0
    required: bool = True  # whether requirements were stated
    running: bool = False  # the run goes on, half of its last step's searches are done


SAMPLES = {
    "rounds": Sample(
        "rounds", CLOTHES, 10, (4, 6), steps=3, chunks=5, seeds=2, weights=(80, 135, 220, 400, 800), skipped=6, failed=3
    ),
    "signs": Sample(
        "rounds",
        SIGNS,
        43,
        (1, 2, 3, 5, 7, 18, 27),
        steps=2,
        chunks=3,
        weights=(100, 200, 400),
        rows=6000,
        workers=16,
        image_shape=(32, 32, 3),
        brightest=255.0,
    ),
    "chain": Sample("chain", CLOTHES, 10, (6,), steps=10, seeds=3, failed=1, required=False),
    "independent": Sample(
        "independent", None, 10, (2, 3), chunks=4, seeds=2, weights=(100, 200), splits=("validation",), skipped=2
    ),
    "hostile": Sample(
        "rounds",
        HOSTILE,
        10,
        (0, 1, 2),
        steps=2,
        chunks=2,
        weights=(100, 200),
        workers=2,
        splits=("validation", "test"),
    ),
    "optimize": Sample(None, CLOTHES, 10, (6,), seeds=4, workers=2, required=False),
    "optimize-alone": Sample(None, None, 10, (6,), splits=(), workers=1, required=False),
    "running": Sample(
        "rounds",
        CLOTHES,
        10,
        (6,),
        steps=3,
        chunks=4,
        seeds=3,
        weights=(80, 135, 400),
        splits=("validation",),
        skipped=2,
        running=True,
    ),
}


def write_run(root: Path, name: str) -> Path:
    """Write a sample with its held-out image sets below `root`; returns the run directory."""
    return _Writer(root, SAMPLES[name]).write()


def write_images(path: Path, random: np.random.Generator, label: np.ndarray, sample: Sample) -> None:
    """Pictures as bright as their label is high, with noise; of the sample only its classes and the shape matter."""
    images = (
        random.uniform(0, 0.3, (len(label), *sample.image_shape)) + 0.7 * label.reshape(-1, 1, 1, 1) / sample.classes
    )
    with write_image_set(
        path, rows=len(label), image_shape=sample.image_shape, classes=sample.classes, label_names=sample.names
    ) as writer:
        writer.append(images * sample.brightest, np.eye(sample.classes)[label])


class _Task(NamedTuple):
    """Searches of one chunk, label and weight, by seed."""

    step: int
    chunk: int
    label: int
    weight: float

    def names(self, seeds: int) -> list[str]:
        step, chunk, label, weight = self
        return [f"{chunk:02d}{step:02d}c4ffee{chunk:02d}-{label}-w{weight:g}-s{seed}" for seed in range(seeds)]


class _Writer:
    def __init__(self, root: Path, sample: Sample) -> None:
        self.root, self.sample, self.splits = root, sample, sample.splits
        self.random = np.random.default_rng(7)
        self.truth = {split: self.random.integers(0, sample.classes, sample.rows) for split in self.splits}
        accuracy = self.random.uniform(0.8, 0.99, sample.classes)
        accuracy[list(sample.labels)] = self.random.uniform(0.5, 0.75, len(sample.labels))
        # Each label has one that it is mostly taken for.
        self.rival = (np.arange(sample.classes) + self.random.integers(1, 4, sample.classes)) % sample.classes
        self.before = {split: self._confuse(truth, accuracy) for split, truth in self.truth.items()}
        self.current = dict(self.before)
        self.busy_until = {f"{'node-a' if n < 8 else 'node-b'}:{4100 + n}": 6.5 for n in range(sample.workers)}
        self.tasks = [
            _Task(step, chunk, label, weight)
            for step in range(1, sample.steps + 1)
            for chunk in ([step - 1] if sample.mode == "chain" else range(sample.chunks))
            for label in sample.labels
            for weight in sample.weights
        ]
        names = [name for task in self.tasks for name in task.names(sample.seeds)]
        names = self.random.permutation(names).tolist()
        states = ["skipped"] * sample.skipped + ["failed"] * sample.failed
        self.not_run = dict(zip(names, states, strict=False))

    def write(self) -> Path:
        sample = self.sample
        held_out = {split: str(self.root / f"{split}.h5") for split in self.splits}
        for split, path in held_out.items():
            write_images(Path(path), self.random, self.truth[split], sample)
        facts = self._facts(held_out)
        records = RunRecords.create(self.root / "run", facts, overwrite=False)
        if sample.mode is not None:
            for split in self.splits:
                self._labels(records, "step0", "step", split, self.before[split], self.before[split])
        chosen = self._searches(records)
        if sample.running:
            return records.directory
        after = self._final(records, chosen)
        if sample.mode is None:
            records.compact(facts)
            return records.directory
        verdicts = [row for split in self.splits for row in self._verdicts(split, after[split])]
        if sample.required:
            records.replace("verdicts", "batch", verdicts)
        for split in self.splits:
            records.replace(
                "predictions", split, prediction_rows(split, self.truth[split], self.before[split], after[split])
            )
        met = all(row["met"] for row in verdicts) if sample.required else True
        records.compact({**facts, "exit_code": 0 if met else 3, "seconds": max(self.busy_until.values()) + 9.25})
        return records.directory

    def _facts(self, held_out: dict[str, str]) -> dict[str, Any]:
        sample = self.sample
        facts: dict[str, Any] = {
            "model": {"path": "/models/street <classifier>.keras", "fingerprint": "0f3c" * 16},
            "command": ["batch", "--target-data-dir", "repair sets", "--label", "6"],
            "arguments": {"seeds": list(range(sample.seeds)), "settings": {"num_iterations": sample.iterations}},
            "held_out": held_out,
            "label_names": list(sample.names) if sample.names else None,
            "hardware": "CPU x86_64 avx2",
            "versions": {"python": "3.11.9", "tensorflow": "2.19.0", "ray": "2.59.1", "repair-dist": "0.2.0"},
        }
        if sample.mode is None:
            return facts
        return facts | {
            "mode": sample.mode,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "classes": sample.classes,
            "labels": list(sample.labels),
            "requirements": ["accuracy of all labels together at least 80 %"] if sample.required else [],
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }

    def _confuse(self, truth: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
        wrong = self.random.random(len(truth)) > accuracy[truth]
        rival = self.random.random(len(truth)) < 0.7
        other = np.where(rival, self.rival[truth], self.random.integers(0, self.sample.classes, len(truth)))
        return np.where(wrong, other, truth)

    def _labels(
        self, records: RunRecords, job: str, stage: str, split: str, before: np.ndarray, after: np.ndarray
    ) -> None:
        changes = paired_changes(self.truth[split], before, after, self.sample.classes)
        records.replace("labels", f"{job}-{stage}-{split}", change_rows(job, stage, split, changes))

    def _searches(self, records: RunRecords) -> list[str]:
        """Write all searches; returns the names of those whose patches were taken."""
        sample, chosen = self.sample, []
        for step in range(1, sample.steps + 1):
            self.busy_until = dict.fromkeys(self.busy_until, max(self.busy_until.values()))
            tasks = [task for task in self.tasks if task.step == step]
            ending = len(tasks) // 2 if sample.running and step == 2 else len(tasks)
            best: dict[int, dict[str, Any]] = {}
            for number, task in enumerate(tasks):
                for row in self._task(records, task, ended=number < ending):
                    if row["state"] == "done":
                        best.setdefault(row["label"], row)
            if ending < len(tasks):
                break
            for row in best.values():
                records.replace("jobs", row["job"], [row | {"chosen": True}])
                chosen.append(row["job"])
            for split in self.splits:
                self.current[split] = self._repair(split, self.current[split], sample.labels, 135)
                if sample.mode is not None:
                    self._labels(records, f"step{step}", "step", split, self.before[split], self.current[split])
        return chosen

    def _task(self, records: RunRecords, task: _Task, *, ended: bool) -> list[dict[str, Any]]:
        """Write the searches of a task, one per seed, which one worker runs together and which end together."""
        rows = []
        for seed, name in enumerate(task.names(self.sample.seeds)):
            row = _job_row(name, task.step, f"/data/repairsets/{task.chunk}", task.label, seed)
            if name in self.not_run:
                note = {"skipped": "the label has no failures", "failed": "ValueError: weights.csv names layer <9>"}
                rows.append(row | {"state": self.not_run[name], "note": note[self.not_run[name]]})
                continue
            rows.append(row | self._search(records, name, task.weight, ended=ended))
            if ended and "validation" in self.splits:
                found = self._repair("validation", self.current["validation"], [task.label], task.weight)
                self._labels(records, name, "candidate", "validation", self.before["validation"], found)
        worker = min(self.busy_until, key=lambda candidate: self.busy_until[candidate])
        self.busy_until[worker] += sum(row["seconds"] or 0 for row in rows) + 0.2
        place = {"worker": worker, "host": worker.split(":")[0], "ended": self.busy_until[worker]}
        rows = [row if row["seconds"] is None else row | place for row in rows]
        for row in rows:
            records.replace("jobs", row["job"], [row])
        return rows

    def _search(self, records: RunRecords, name: str, weight: float, *, ended: bool) -> dict[str, Any]:
        count = int(self.random.integers(self.sample.iterations // 3, self.sample.iterations + 1))
        start = weight + 1.5
        gains = self.random.exponential(1, count) * np.exp(-np.arange(count) / (count / 4))
        gains[self.random.random(count) < 0.4] = 0
        best = start + np.cumsum(gains)
        shared = {"job": name, "loss_neg": 2.0, "loss_pos": 0.1, "seconds": 0.01}
        rows = [
            shared
            | {"iteration": number, "best": value, "mean": value * 0.9, "evaluations": 100 * number}
            | {"patched": int(value - start), "intact": 900 - int(20 * (value - start) / weight)}
            for number, value in enumerate(best.tolist(), 1)
        ]
        records.replace("swarm", name, rows)
        stop = "iterations" if count == self.sample.iterations else "no gain"
        counts = {"weights": 4, "negatives": 116, "positives": 900, "iterations": count, "redispatched": 0}
        ends = {each: rows[-1][each] for each in ("patched", "intact")} | {"fitness": rows[-1]["best"]}
        weighed = {"positive_weight": float(weight), "start_fitness": start}
        ending = {"stop": stop, "state": "done"} if ended else {"stop": "", "state": "running"}
        seconds = 0.08 * count * float(self.random.uniform(0.7, 1.3))
        return counts | ends | weighed | ending | {"data": name, "where": "worker", "seconds": seconds}

    def _repair(self, split: str, now: np.ndarray, labels: Sequence[int], weight: float) -> np.ndarray:
        """Fix some rows of the labels and break some of their rivals: the fewer, the greater the weight."""
        truth, random = self.truth[split], self.random
        mine = np.isin(truth, labels)
        fix = mine & (now != truth) & (random.random(len(truth)) < min(0.6, 45 / weight))
        rivals = np.isin(truth, self.rival[list(labels)]) & ~mine
        chance = np.where(rivals, min(0.4, 16 / weight), min(0.05, 1.5 / weight))
        harm = ~mine & (now == truth) & (random.random(len(truth)) < chance)
        taken = random.choice(np.asarray(labels), len(truth))
        luck = ~mine & (now != truth) & (random.random(len(truth)) < 0.02)
        return np.where(fix | luck, truth, np.where(harm, taken, now))

    def _final(self, records: RunRecords, chosen: Sequence[str]) -> dict[str, np.ndarray]:
        """What was saved, measured after loading it again."""
        name = "batch" if self.sample.mode else chosen[0]
        sets = {split: (self.truth[split], self.before[split], self.current[split]) for split in self.splits}
        if self.sample.mode is None:
            for split, label, right in (("negative", 6, False), ("positive", None, True)):
                truth = self.random.integers(0, 10, 300) if label is None else np.full(80, label)
                before = truth if right else (truth + 1) % 10
                after = np.where(self.random.random(len(truth)) < (0.95 if right else 0.4), truth, 0)
                sets[split] = truth, before, after
        rows = []
        for split, (truth, before, after) in sets.items():
            for change in paired_changes(truth, before, after, self.sample.classes):
                same = LabelChange(change.label, change.total, change.correct_before, change.correct_before, 0, 0)
                rows += change_rows(name, "base", split, [same]) + change_rows(name, "repaired", split, [change])
        records.replace("labels", name, rows)
        return {split: self.current[split] for split in self.splits}

    def _verdicts(self, split: str, after: np.ndarray) -> list[dict[str, Any]]:
        label, rival = self.sample.labels[0], int(self.rival[self.sample.labels[0]])
        name = f"{label} {self.sample.names[label]}" if self.sample.names else f"label {label}"
        stated = [
            Requirement("min_accuracy", 0.7, (label,), None, f"accuracy of {name} at least 70 %"),
            Requirement("max_drop", 0.01, None, None, "drop of all labels together at most 1 point"),
            Requirement("max_drop", 0.03, (rival,), None, "drop of its rival at most 3 points"),
            Requirement("min_gain", 0.06, (label,), None, f"gain of {name} at least 6 points"),
            Requirement("max_rate", 0.2, (label,), rival, f"{name} taken for its rival in at most 20 % of its rows"),
        ]
        compared = compare(self.truth[split], self.before[split], after, self.sample.classes)
        return verdict_rows(split, check_requirements(stated, compared))


def _job_row(name: str, step: int, chunk: str, label: int, seed: int) -> dict[str, Any]:
    """A search that has not run."""
    texts = dict.fromkeys(("data", "stop", "note", "where", "worker", "host"), "")
    known = {"job": name, "step": step, "chunk": chunk, "label": label, "seed": seed}
    return dict.fromkeys(SCHEMAS["jobs"].names) | texts | known | {"state": "skipped", "chosen": False}
