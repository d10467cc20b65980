"""All tunings of a repair on one and on two one-thread Ray workers, from the first task to the last result.

python benchmarks/tunings.py [--model MODEL] [--rows N]
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import click
import numpy as np
from common import machine, model_option, shipped_images, table
from unseen import TAIL, drop, others_drop, subjects

from cluster.compute.compute import Compute, ComputeOptions
from cluster.compute.works import Works
from cluster.workers.model import ModelHandle
from engine import backend
from engine.core.plans import Forgetful, Work, carry_out
from engine.methods.mixtures import tuned
from engine.models.load import load_model
from engine.problem.crossfit import CrossFit, CrossFitSettings

LABEL, AIM = 6, 1.7


@click.command()
@model_option
@click.option("--rows", type=int, default=4000, show_default=True, help="Repair rows, of the shipped images.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Rounds of the medians; each is another seed.")
def main(model_path: Path, rows: int, rounds: int) -> None:
    """Time the tunings of a repair on one and on two workers, in turn."""
    backend.limit_threads(1)
    click.echo(machine())
    loaded = load_model(model_path)
    images, labels = shipped_images(rows)
    subject = subjects(loaded, (images, labels), (images[:1], labels[:1]), [TAIL])[TAIL]
    requirements = (drop(0.0), *others_drop(0.03, LABEL))
    drawn = np.arange(len(labels))
    jobs = [subject.job(drawn, LABEL, requirements, seed, CrossFitSettings()) for seed in range(rounds + 1)]
    times: dict[int, list[float]] = {1: [], 2: []}
    for workers, found in times.items():
        with Compute(ComputeOptions(num_workers=workers, threads=1), lambda line: None) as compute:
            model = compute.handle(loaded)
            timed(compute, model, jobs[0])  # which starts the workers
            found += [timed(compute, model, job) for job in jobs[1:]]
    one_worker, two_workers = (median(times[workers]) for workers in (1, 2))
    ratio = f"{one_worker / two_workers:.2f}"
    tunings = len(jobs[0].tasks), jobs[0].chain.tuned_values
    line = [f"{rows}", *map(str, tunings), f"{one_worker:.2f}", f"{two_workers:.2f}", ratio, f"{AIM}"]
    click.echo(table(["rows", "tasks", "weights", "one worker, s", "two workers, s", "one / two", "aim"], [line]))


def timed(compute: Compute, model: ModelHandle, job: CrossFit) -> float:
    """Seconds of all tunings of a job; programs are compiled anew for each."""
    begun = time.perf_counter()
    works = Works(compute, model, opens=True)
    for _ in carry_out([Work("tunings", tuned, (job,))], works, Forgetful()):
        pass
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
