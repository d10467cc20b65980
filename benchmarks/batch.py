"""Whole batches: repairs per second on one and two workers, against separate commands and a plain loop; and what the
scheduler itself costs.

python benchmarks/batch.py [--model MODEL] [--dataset-dir DIR] [--output FOLDER]
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # also of the commands started here
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import click
import numpy as np
import ray
from common import (
    COMMAND,
    Aim,
    dataset_option,
    images_of,
    machine,
    model_option,
    output_option,
    run_command,
    table,
    write_aims,
)
from modes import write

from cli.commands.batch import make_batch
from cluster.batch.estimate import expect
from cluster.batch.modes import run_batch
from cluster.batch.spec import Batch, ChunkFile
from cluster.compute.compute import Compute, ComputeOptions
from cluster.ray_cluster.connect import runtime_environment
from cluster.records.store import RunRecords, read_table
from cluster.runs.chunk import ChunkPaths
from cluster.runs.optimize import Repairs, repair
from cluster.workers.passes import SetRows, ShippedRows, set_rows
from cluster.workers.replica import Replica
from cluster.workers.task import RepairTask, TaskResult
from engine.backend import limit_threads
from engine.data.outcomes import open_negatives, write_targets
from engine.datasets.fashion_mnist import DEFAULT_PREPROCESS
from engine.search.loop import SearchSettings

COMMANDS_AIM, LOOP_AIM, OVERHEAD_AIM = 20.0, 3.0, 0.12
"""Times separate commands, times the loop, milliseconds of the driver for an empty job."""

WORKERS_AIMS = {3: 1.8, 12: 1.9}
"""Two workers times one, by seeds."""

LABELS = 10


def empty_replica(known: SetRows) -> type[Replica]:
    """A worker that finds nothing to do in chunks with these rows; made in a function, so that it travels by value."""

    class Empty(Replica):
        def run_sets(self, sets: Sequence[ShippedRows]) -> list[SetRows | str | None]:
            return [known for _ in sets]

        def run_task(self, model: Any, base: Any, task: RepairTask, *rest: Any) -> TaskResult:
            return TaskResult(note="nothing")

    return Empty


@click.command()
@model_option
@dataset_option
@click.option("--preprocess", default=DEFAULT_PREPROCESS, show_default=True, help="What the model was trained with.")
@click.option("--chunks", type=int, default=10, show_default=True, help="Chunks: the last training images.")
@click.option("--rows", type=int, default=1000, show_default=True, help="Images of a chunk.")
@click.option(
    "--seeds",
    type=int,
    multiple=True,
    default=tuple(WORKERS_AIMS),
    show_default=True,
    help="Searches of each chunk and label; several times. Loop and commands are compared with the first.",
)
@click.option("--rounds", type=int, default=2, show_default=True, help="Batches on each number of workers.")
@click.option("--loop-jobs", type=int, default=30, show_default=True, help="Jobs of the plain loop, multiplied.")
@click.option("--commands", type=int, default=3, show_default=True, help="Separate commands, multiplied.")
@click.option("--empty-jobs", type=click.IntRange(10), default=10_000, show_default=True, help="Jobs that do nothing.")
@output_option
def main(
    model_path: Path,
    dataset_dir: Path,
    preprocess: str,
    chunks: int,
    rows: int,
    seeds: tuple[int, ...],
    rounds: int,
    loop_jobs: int,
    commands: int,
    empty_jobs: int,
    output: Path | None,
) -> None:
    """Measure."""
    line = machine()
    click.echo(line)
    limit_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = images_of(dataset_dir, "train")
        for number in range(chunks):
            start = images - (number + 1) * rows
            write(root / "chunks" / str(number) / "repair.h5", dataset_dir, "train", preprocess, start, rows)
        write(root / "val.h5", dataset_dir, "train", preprocess, images - (chunks + 1) * rows, rows)
        (root / "empty").mkdir()
        # Workers of a cluster that was joined compute with one thread each; here it is this script's own cluster.
        ray.init(
            address="local",  # never somebody else's cluster on this machine
            num_cpus=3,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env=runtime_environment(root / "empty", ship_code=False),
        )
        click.echo(
            f"{chunks} chunks of {rows} images x {LABELS} labels, 100 particles x 100 iterations; one thread each; "
            f"without starting workers;\nbest of {rounds} batches; driver s: what the driver computes meanwhile; "
            f"loop: {loop_jobs} jobs measured, multiplied; commands: {commands} measured, multiplied"
        )
        aims: list[Aim] = []
        for count in seeds:
            work = a_batch(root, model_path, count)
            others = (loop_jobs, commands) if count == seeds[0] else None
            aims += compared(work, root / f"seeds-{count}", rounds, others, model_path)
        work = a_batch(root, model_path, seeds[0])
        aims.append(overhead(work, root, empty_jobs))
        ray.shutdown()
    write_aims(output, "batch", aims, line)


@dataclass(frozen=True)
class Took:
    """Seconds of a batch, of them what the driver computed, and searches done."""

    seconds: float
    driver: float
    done: int


def compared(work: Batch, root: Path, rounds: int, others: tuple[int, int] | None, model_path: Path) -> list[Aim]:
    """Run a batch on one worker and on two in turn, print a table, and return what was to be reached.

    Args:
        work: the batch.
        root: of its runs.
        rounds: batches on each.
        others: jobs of the plain loop and separate commands to compare it with.
        model_path: of the commands.
    """
    seeds = len(work.seeds)
    expected = expected_seconds(work)
    runs: dict[int, list[Took]] = {1: [], 2: []}
    for number in range(rounds):
        for workers, found in runs.items():
            found.append(measured(replace(work, output=root / f"run-{number}-{workers}"), workers))
    one, two = (min(found, key=lambda took: took.seconds) for found in runs.values())
    done, limit = one.done, WORKERS_AIMS.get(seeds)
    rows = [
        ("batch, 1 worker", one.seconds, f"{one.driver:.2f}", "-"),
        ("batch, 2 workers", two.seconds, f"{two.driver:.2f}", f"1 worker / this: {limit or '-'}"),
    ]
    aims = []
    if limit is not None:
        what = f"times as fast on two workers as on one, {seeds} seeds"
        aims.append(Aim(what, one.seconds / two.seconds, limit, at_least=True))
    if others is not None:
        loop = plain_loop(work, root / "loop", others[0]) * done
        separate = separate_commands(work, root / "loop", model_path, others[1]) * done
        rows += [
            ("plain loop, warm", loop, "-", f"this / 1 worker: {LOOP_AIM:g}"),
            ("separate optimize commands", separate, "-", f"this / 1 worker: {COMMANDS_AIM:g}"),
        ]
        aims.append(Aim("times as fast as a plain loop, one worker", loop / one.seconds, LOOP_AIM, at_least=True))
        what = "times as fast as separate commands, one worker"
        aims.append(Aim(what, separate / one.seconds, COMMANDS_AIM, at_least=True))
    click.echo(f"\n{seeds} seeds: {done} searches, the rest had no failures")
    cells = [
        [
            name,
            f"{took:.1f}",
            driver,
            f"{done / took:.1f}",
            f"{took / one.seconds:.2f}",
            f"{took / two.seconds:.2f}",
            aim,
        ]
        for name, took, driver, aim in rows
    ]
    click.echo(table(["", "seconds", "driver s", "repairs/s", "/ 1 worker", "/ 2 workers", "aim"], cells))
    first = runs[2][0].seconds
    click.echo(
        f"two workers are {one.seconds / two.seconds:.2f} times as fast as one\n--dry-run expected {expected:.1f} s "
        f"for two workers without their start, measured {first:.1f} s: {expected / first:.2f} times"
    )
    return aims


def a_batch(root: Path, model_path: Path, seeds: int) -> Batch:
    """The jobs of this benchmark."""
    return make_batch(
        output_dir=root / "run",
        model_dir=model_path,
        allow_custom_code=False,
        chunks=root / "chunks",
        labels="all",
        val_data=root / "val.h5",
        test_data=None,
        requirements=None,
        mode="independent",
        max_rounds=None,
        positive_weights="0.15x",
        seeds=seeds,
        seed=0,
        offers=3,
        positive_inputs_dir=(),
        num_grad=None,
        forward_impact="mean",
        fronts=1,
        settings=SearchSettings(),
        target_layer=(),
        allow_shared_rows=False,
    )


def compute_on(workers: int, actor_class: type[Replica] = Replica) -> Compute:
    """Workers of this script's cluster."""
    return Compute(ComputeOptions(num_workers=workers, address="auto"), lambda line: None, actor_class)


def expected_seconds(work: Batch) -> float:
    """What `--dry-run` expects for two workers, but for their start."""
    with compute_on(2) as compute:
        found = expect(work, compute)
    assert found.total is not None
    return found.total - found.start


def measured(work: Batch, workers: int) -> Took:
    """A whole batch on new workers, after their start."""
    with compute_on(workers) as compute:
        compute.start()
        begun, cpu = time.perf_counter(), time.process_time()
        records = RunRecords.create(work.output, {}, overwrite=False)
        report = run_batch(work, compute, lambda: records)
        records.compact({})
        seconds, driver = time.perf_counter() - begun, time.process_time() - cpu
    return Took(seconds, driver, report.counts["done"])


def plain_loop(work: Batch, folder: Path, jobs: int) -> float:
    """Seconds of a job in a loop over localise and repair in this process, warm; targets are there already."""
    rng = np.random.default_rng(0)
    order = [(int(c), int(label)) for c in range(len(work.chunks)) for label in range(LABELS)]
    rng.shuffle(order)
    target, kernel = work.target, work.target.kernel
    seconds: list[float] = []
    with Compute(ComputeOptions(num_workers=0), lambda line: None) as compute:
        handle = compute.handle(work.model, work.target)
        for chunk in work.chunks:
            assert chunk.images is not None
            write_targets(chunk.images, compute.predict(handle, chunk.images), folder / chunk.name)
        for number, (chunk_number, label) in enumerate(order):
            negative = folder / str(chunk_number) / "negative" / str(label)
            negatives = open_negatives(negative)
            if negatives is None:
                continue
            begun = time.perf_counter()
            sums = compute.localisation_sums(handle, negatives)
            index = target.localise(sums, None, kernel, num_grad=None, impact="mean", fronts=1).index
            target.write_localised(negative, index, kernel[index[:, 0], index[:, 1]])
            paths = ChunkPaths(negative, folder / str(chunk_number) / "positive", folder / "out" / str(number))
            repairs = Repairs(work.model, work.target, [paths], [number % len(work.seeds)], SearchSettings())
            directory = folder / "runs" / str(number)

            def create(facts: Mapping[str, Any], directory: Path = directory) -> RunRecords:
                return RunRecords.create(directory, facts, overwrite=False)

            repair(repairs, compute, create)
            seconds.append(time.perf_counter() - begun)
            if len(seconds) == jobs + 3:
                break
    return float(np.mean(seconds[3:]))  # the first ones warm up


def separate_commands(work: Batch, folder: Path, model_path: Path, count: int) -> float:
    """Seconds of one `optimize` command, as a process of its own."""
    ready = sorted(path.parent for path in folder.glob("*/negative/*/weights.csv"))[:count]
    seconds = []
    for number, negative in enumerate(ready):
        words = ["optimize", "--model-dir", model_path, "--target-data-dir", negative, "--num-workers", 0]
        words += ["--output-dir", folder / f"command-{number}"]
        seconds.append(run_command([sys.executable, "-c", COMMAND, *words], folder))
    return float(np.mean(seconds))


def overhead(work: Batch, root: Path, empty_jobs: int) -> Aim:
    """Milliseconds of the driver's processor for a job that does nothing; its memory is printed too."""
    images = work.chunks[0].images
    assert images is not None
    known = set_rows(images)
    assert known is not None
    chunks = tuple(ChunkFile(str(name), Path(f"/{name}"), images) for name in range(empty_jobs // LABELS))
    empty = replace(work, chunks=chunks, seeds=(0,), output=root / "empty-run")
    memory: list[int] = []
    moments: list[tuple[float, float]] = []

    def watch(progress: Mapping[str, Any]) -> None:
        now = time.perf_counter(), time.process_time()
        if (progress["step"] == 1 and not moments) or (len(moments) == 1 and progress["jobs_done"] == progress["jobs"]):
            moments.append(now)
        if progress["jobs_done"] >= (len(memory) + 1) * empty_jobs // 10:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            memory.append(pages * resource.getpagesize())

    with compute_on(2, empty_replica(known)) as compute:
        compute.start()
        records = RunRecords.create(empty.output, {}, overwrite=False)
        run_batch(empty, compute, lambda: records, on_jobs=watch)
        records.compact({})
    jobs = read_table(empty.output, "jobs").num_rows
    wall, cpu = (1e3 * (after - before) / jobs for before, after in zip(*moments, strict=True))
    click.echo(
        f"{jobs} empty jobs: {wall:.2f} ms each, of which the driver computes {cpu:.3f} ms (aim: {OVERHEAD_AIM:g} ms)\n"
        "driver memory from 10 % to the end: " + ", ".join(f"{size / 1e6:.0f}" for size in memory) + " MB"
    )
    return Aim(f"ms of the driver for one of {jobs} empty jobs", float(cpu), OVERHEAD_AIM)


if __name__ == "__main__":
    main()
