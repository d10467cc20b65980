"""A simulation of batches on 8 to 1,024 workers: where the driver or the slowest task becomes the limit.

python benchmarks/scale.py [--model MODEL] [--dataset-dir DIR]

Measured here and put into the simulation: how long the tasks of a chunk take on one thread, how long the driver
computes to send, receive and record one, and how long it takes to ask Ray which of many answers have come. The
simulation is checked against real runs on 1, 2 and 4 workers whose tasks wait for the recorded time instead of
computing, so that they do not compete for this machine's cores. No GPU was measured: the tasks of a GPU worker are
taken to be as long as those of one thread here, and a tenth of that.
"""

from __future__ import annotations

import heapq
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import ray
from batch import a_batch, compute_on
from common import dataset_option, images_of, machine, model_option, side_by_side, table
from modes import write

from cluster.batch.modes import run_batch
from cluster.batch.spec import Batch, ChunkFile, tasks_of
from cluster.ray_cluster.connect import runtime_environment
from cluster.records.store import RunRecords
from cluster.workers.replica import Replica
from cluster.workers.task import Base, RepairTask, TaskResult
from engine.datasets.fashion_mnist import DEFAULT_PREPROCESS

LABELS = (2, 4, 6)
TASKS = 10_000
WORKERS = (8, 32, 128, 256, 512, 1024)
DEPTH = 2
"""Tasks with one worker at a time, as `cluster.compute.tasks` has it."""


@dataclass(frozen=True)
class Costs:
    """Seconds, measured.

    Attributes:
        tasks: each a task of one label of one chunk, features included where it computed them.
        driver: of the driver's processor to send, receive and record one task.
        per_answer: to ask whether one of the answers under way has come.
    """

    tasks: tuple[float, ...]
    driver: float
    per_answer: float


@dataclass(frozen=True)
class Simulated:
    """How a simulated batch went: seconds, share of it the driver was busy, seconds of the longest task."""

    seconds: float
    driver: float
    longest: float


def simulate(costs: Costs, workers: int, tasks: int, scale: float = 1.0, seed: int = 0) -> Simulated:
    """Tasks on workers with a driver that does one thing at a time.

    Args:
        costs: measured.
        workers: that ask the driver for tasks and bring results.
        tasks: their times are drawn from the measured ones.
        scale: of the times of tasks.
        seed: of the draw.
    """
    rng = random.Random(seed)
    left = [scale * rng.choice(costs.tasks) for _ in range(tasks)]
    longest = max(left)
    waiting: list[list[float]] = [[] for _ in range(workers)]
    computing = [False] * workers
    ends: list[tuple[float, int]] = []  # (a task ends, worker)
    now = busy = 0.0

    def send(worker: int) -> None:
        if left:
            waiting[worker].append(left.pop())
            start(worker, now)

    def start(worker: int, at: float) -> None:
        if waiting[worker] and not computing[worker]:
            computing[worker] = True
            heapq.heappush(ends, (at + waiting[worker].pop(0), worker))

    for _ in range(DEPTH):
        for worker in range(workers):
            now += costs.driver / 2
            busy += costs.driver / 2
            send(worker)
    under_way = DEPTH * workers
    while ends:
        now = max(now, ends[0][0])
        took = costs.per_answer * under_way
        now, busy = now + took, busy + took
        answered = []
        while ends and ends[0][0] <= now:
            ended, worker = heapq.heappop(ends)
            computing[worker] = False
            start(worker, ended)  # the next one is at the worker already
            answered.append(worker)
        for worker in answered:
            now, busy = now + costs.driver, busy + costs.driver
            send(worker)
    return Simulated(now, busy / now, longest)


def waiting_replica(results: Sequence[TaskResult]) -> type[Replica]:
    """A worker that waits as long as a recorded task took, and answers what that answered; travels by value."""

    class Waiting(Replica):
        def run_task(self, model: Any, base: Any, task: RepairTask, *rest: Any) -> TaskResult:
            result = results[int(task.name.split("chunk")[1].split("-")[0]) % len(results)]
            time.sleep(result.seconds)
            renamed = [
                replace(search, name=spec.name) for search, spec in zip(result.searches, task.searches, strict=False)
            ]
            return replace(result, searches=tuple(renamed))

    return Waiting


@click.command()
@model_option
@dataset_option
@click.option("--preprocess", default=DEFAULT_PREPROCESS, show_default=True, help="What the model was trained with.")
@click.option("--chunks", type=int, default=4, show_default=True, help="Chunks measured: the last training images.")
@click.option("--rows", type=int, default=1000, show_default=True, help="Images of a chunk.")
@click.option("--check-tasks", type=int, default=600, show_default=True, help="Tasks of a real run, which wait.")
@click.option(
    "--check-workers",
    type=int,
    multiple=True,
    default=(1, 2, 4),
    show_default=True,
    help="Workers of a real run; may be given several times.",
)
def main(
    model_path: Path,
    dataset_dir: Path,
    preprocess: str,
    chunks: int,
    rows: int,
    check_tasks: int,
    check_workers: tuple[int, ...],
) -> None:
    """Measure, check the simulation, simulate."""
    click.echo(machine())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = images_of(dataset_dir, "train")
        for number in range(chunks):
            start = images - (number + 1) * rows
            write(root / "chunks" / str(number) / "repair.h5", dataset_dir, "train", preprocess, start, rows)
        write(root / "val.h5", dataset_dir, "train", preprocess, images - (chunks + 1) * rows, rows)
        (root / "empty").mkdir()
        ray.init(
            address="local",  # never somebody else's cluster on this machine
            num_cpus=5,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env=runtime_environment(root / "empty", ship_code=False),
        )
        work = replace(a_batch(root, model_path, 3), labels=LABELS)
        results = recorded(work)
        costs, real = calibrated(work, root, results, check_tasks, check_workers)
        ray.shutdown()
    seconds = sorted(costs.tasks)
    click.echo(
        f"measured: {len(seconds)} tasks of {len(work.seeds)} searches, {1e3 * seconds[0]:.0f} to "
        f"{1e3 * seconds[-1]:.0f} ms, mean {1e3 * sum(seconds) / len(seconds):.0f} ms on one thread; "
        f"the driver computes {1e3 * costs.driver:.2f} ms for a task and asks {1e6 * costs.per_answer:.2f} us for each "
        "answer under way\n\n"
        f"simulation against real runs of {check_tasks} tasks that wait for the recorded time"
    )
    lines = []
    for workers, measured in real.items():
        found = simulate(costs, workers, check_tasks)
        lines.append([workers, f"{measured:.1f}", f"{found.seconds:.1f}", f"{found.seconds / measured:.2f}"])
    click.echo(table(["workers", "measured s", "simulated s", "ratio"], lines))
    for scale in (1.0, 0.1):
        click.echo(f"\nsimulated: {TASKS} chunks, one task each, tasks {scale:g} times as long as on one thread here")
        lines = []
        for workers in WORKERS:
            found = simulate(costs, workers, TASKS, scale)
            ideal = scale * sum(costs.tasks) / len(costs.tasks) * TASKS / workers
            limit = "driver" if found.driver > 0.9 else "slowest task" if found.longest > 0.2 * found.seconds else "-"
            cells = [f"{found.seconds:.1f}", f"{ideal / found.seconds:.2f}", f"{100 * found.driver:.0f} %", limit]
            lines.append([workers, *cells])
        click.echo(table(["workers", "seconds", "of ideal", "driver busy", "limit"], lines))


def recorded(work: Batch) -> list[TaskResult]:
    """Real tasks on one worker: what they answered and how long they took."""
    results: list[TaskResult] = []

    with compute_on(1) as compute:
        compute.start()
        handle = compute.handle(work.model, work.target)
        base = Base(work.target.kernel)
        for name in ("warm-up ", ""):  # the first time around compiles
            tasks = list(tasks_of(work, 1, work.chunks, base.key + name, 1, prefix=name))
            results = [
                event.result
                for event in compute.run_tasks(handle, base, tasks, {})
                if event.result.ended and event.result.searches
            ]
    return results


def calibrated(
    work: Batch, root: Path, results: list[TaskResult], count: int, numbers: Sequence[int]
) -> tuple[Costs, dict[int, float]]:
    """The driver's costs, from tasks that take no time, and seconds of real runs of waiting tasks by workers.

    Args:
        work: the batch.
        root: folder for its runs.
        results: of real tasks.
        count: tasks of a run.
        numbers: of workers.
    """
    instant = [replace(result, seconds=0.0) for result in results]
    _, driver = run(work, root, "instant", 2, instant, count)
    costs = Costs(tuple(result.seconds for result in results), driver / count, seconds_per_answer())
    real = {workers: run(work, root, f"waiting-{workers}", workers, results, count)[0] for workers in numbers}
    return costs, real


def seconds_per_answer() -> float:
    """Seconds that the pool's two questions to Ray take for each answer that has not come."""

    class Sleeper:
        def nap(self) -> None:
            time.sleep(3600)

    sleeper = ray.remote(num_cpus=0)(Sleeper).remote()
    answers = [sleeper.nap.remote() for _ in range(DEPTH * max(WORKERS))]
    few = answers[: DEPTH * min(WORKERS)]

    def ask(some: list[Any]) -> None:
        ray.wait(some, num_returns=1, timeout=0)
        ray.wait(some, num_returns=len(some), timeout=0)

    times = side_by_side({"few": lambda: ask(few), "many": lambda: ask(answers)}, rounds=20)
    ray.kill(sleeper)
    return max(0.0, (times["many"] - times["few"]) / (len(answers) - len(few)))


def run(work: Batch, root: Path, name: str, workers: int, results: list[TaskResult], count: int) -> tuple[float, float]:
    """Seconds of so many tasks of a batch whose workers wait, and of the driver's processor."""
    chunks = tuple(ChunkFile(str(n), Path(f"/{n}"), work.chunks[0].images) for n in range(count))
    waiting = replace(work, chunks=chunks, labels=work.labels[:1], output=root / name)
    with compute_on(workers, waiting_replica(results)) as compute:
        compute.start()
        records = RunRecords.create(waiting.output, {}, overwrite=False)
        begun, computed = time.perf_counter(), time.process_time()
        run_batch(waiting, compute, lambda: records)
        return time.perf_counter() - begun, time.process_time() - computed


if __name__ == "__main__":
    main()
