"""The quickstart again and again: its shipped images divided anew by each seed, and what its repair does to the rest.

python benchmarks/resplits.py [--seeds 20] [--out FILE]

A seed divides the 10,000 shipped images into 4,000 repair rows, 1,000 of validation and 5,000 that judge, as many as
the quickstart has, and is the seed of the repair. The label and the requirements are found as the quickstart does.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from common import SHIPPED, machine, prepared_split, table
from ledger import Ledger, grouped, out_option, tables_option
from unseen import TAIL, Subject, drop, gain, subjects

from engine import backend
from engine.core.plans import run_here
from engine.methods.mixtures import searched, tuned
from engine.metrics.promise import Frontier
from engine.metrics.requirements import Requirement
from engine.models.load import load_model
from engine.problem.crossfit import CrossFitSettings, mixed_values

REPAIR, VALIDATION = 4000, 1000
"""Rows of the quickstart's `repair.h5` and `val.h5`."""


def required(label: int) -> tuple[Requirement, ...]:
    """The quickstart's requirements for the weakest label."""
    return (drop(0.01), *(drop(0.03, other) for other in range(10)), gain(0.03, label))


def repaired(subject: Subject, seed: int, ledger: Ledger) -> str:
    """Divide, repair and judge; a line about it."""
    order = np.random.default_rng(seed).permutation(len(subject.pool.before))
    drawn, validation, rest = np.split(order, [REPAIR, REPAIR + VALIDATION])
    wrong = subject.pool.before[drawn] != subject.pool.rows.labels[drawn]
    label = int(np.bincount(subject.pool.rows.labels[drawn][wrong]).argmax())
    requirements = required(label)
    settings = CrossFitSettings(promise_rows=len(rest) // subject.chain.classes)
    job = subject.job(drawn, label, requirements, seed, settings)
    changes = run_here(tuned(job))
    found = run_here(searched(job, changes)).found
    frontier, _ = job.frontier(changes, found, subject.pool.take(validation))
    values = mixed_values(job.chain, changes, found, frontier.point.step)
    outcome = subject.outcome(subject.pool, subject.predicted(subject.pool, values), rest, label, requirements)
    ledger.add(seed=seed, target=label, **_told(frontier), **asdict(outcome))
    return f"seed {seed}: label {label}, step {frontier.point.step:g}, {outcome}"


def _told(frontier: Frontier) -> dict[str, object]:
    return {"promised": frontier.promised, "step": frontier.point.step, "chance": frontier.point.chance}


@click.command()
@click.option("--seeds", default=20, show_default=True, help="Divisions of the rows.")
@out_option
@tables_option
def main(seeds: int, out: Path | None, tables: bool) -> None:
    """Repair the quickstart's model on its shipped images, divided anew by each seed."""
    ledger = Ledger(out, ("seed",))
    if not tables:
        backend.limit_threads(1)
        loaded = load_model(SHIPPED / "model.keras")
        splits = [prepared_split(SHIPPED, split, "pad", 0, None) for split in ("train", "t10k")]
        pool, labels = (np.concatenate(parts) for parts in zip(*splits, strict=True))
        subject = subjects(loaded, (pool, labels), (pool[:1], labels[:1]), [TAIL])[TAIL]
        for seed in range(seeds):
            if not ledger.has(seed=seed):
                click.echo(repaired(subject, seed, ledger), err=True)
    click.echo(machine())
    rows: list[list[object]] = []
    for (seed,), (line,) in grouped(ledger.lines, "seed").items():
        counts = f"{line['fixed']} / {line['broken']}"
        points = [f"{line[name]:+.2f}" for name in ("label", "all", "worst")]
        rows.append([seed, line["target"], "yes" if line["promised"] else "no", f"{line['step']:g}", *points, counts])
    click.echo(table(["seed", "label", "promised", "step", "label +", "all", "worst", "fixed / broken"], rows))
    lines = ledger.lines
    better = sum(line["fixed"] > line["broken"] for line in lines)
    held = sum(line["worst"] >= -3 for line in lines)
    promised = [line for line in lines if line["promised"]]
    kept = sum(line["kept"] for line in promised)
    click.echo(
        f"more fixed than broken: {better} of {len(lines)}; no label more than 3 points down: {held} of {len(lines)}; "
        f"promised: {len(promised)}, of which all requirements were kept: {kept}"
    )


if __name__ == "__main__":
    main()
