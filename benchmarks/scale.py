"""A simulation of batches on 8 to 1,024 workers: where the driver or the slowest task becomes the limit.

python benchmarks/scale.py [--model MODEL] [--dataset-dir DIR] [--output DIR]

Measured here and put into the simulation: how long the tasks of a chunk take on one thread, what they answer, and how
long the driver's processor takes for a call, for a task in it, and to ask Ray which of many answers have come. The
simulation is checked against real runs on 1 to 16 workers whose tasks wait for the recorded time instead of computing,
so that they do not compete for this machine's cores. No GPU was measured: the tasks of a GPU worker are taken to be as
long as those of one thread here, and a tenth of that.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, cast

import click
import ray
from batch import a_batch
from common import Aim, dataset_option, images_of, machine, model_option, output_option, side_by_side, table, write_aims
from modes import write
from simulation import DEPTH, Costs, Simulation

from cluster.batch.modes import run_batch
from cluster.batch.spec import Batch, ChunkFile, tasks_of
from cluster.compute.compute import Compute, ComputeOptions
from cluster.ray_cluster.connect import runtime_environment
from cluster.records.store import RunRecords
from cluster.workers import bundles
from cluster.workers.harvest import Reaper, TaskEvent
from cluster.workers.judge import Judge
from cluster.workers.replica import Replica
from cluster.workers.task import Base, RepairTask, TaskResult, TaskRunner
from engine.backend import hardware_kind, limit_threads
from engine.core.types import Uint8
from engine.data.image_set import ImageSet
from engine.datasets.fashion_mnist import DEFAULT_PREPROCESS
from engine.passes.runners import LayerPasses

LABELS = (2, 4, 6)
TASKS = 10_000
WORKERS = (8, 32, 128, 256, 512, 1024)
DRIVER_AIM, EFFICIENCY_AIM = 0.12, 0.85
"""Milliseconds of the driver's processor for a search; share of the ideal."""

AIMS = ((128, 0.07), (1024, 1.0))
"""Workers, and mean seconds of a task of three searches, for which the efficiency is an aim."""

AIM_TASKS = 40
"""Tasks of each of these workers: of 10 some 0.11 would be lost at the end, where the last ones are not as long."""


@dataclass(frozen=True)
class Measured:
    """A real run, from its first search to its last.

    Attributes:
        seconds: of the clock.
        processor: seconds of the driver's.
        calls, tasks: answered.
        size: bytes of an answer for each task.
    """

    seconds: float
    processor: float
    calls: int
    tasks: int
    size: float


class Pickled:
    """Travels as its bytes, and arrives as what they are of: who sends it on need not know what that is."""

    def __init__(self, content: bytes) -> None:
        """Of what was pickled."""
        self._content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._content,)


def waiting_replica(seconds: Sequence[float], answers: Any, kind: str) -> type[Replica]:
    """A worker that waits as long as recorded tasks took, and answers what as many of them answered.

    It does not import the package, which would take 0.6 GB: what it is sent stays packed. Travels by value.

    Args:
        seconds: of tasks, in turn.
        answers: a reference to pickled harvests, by number of tasks.
        kind: of hardware.
    """

    class Waiting:
        def __init__(self, threads: int) -> None:
            self._answers: dict[int, bytes] = {}

        def describe(self) -> tuple[str, int, str]:
            return socket.gethostname(), os.getpid(), kind

        def warm_up(self, *_: Any) -> None:
            """There is nothing to get ready."""

        def run_tasks(self, model: Any, base: Any, judge: Any, tasks: bytes, *rest: Any) -> Any:
            numbers = [int(number) for number in re.findall(rb"chunk(\d+)-label\d+\+", tasks)]
            self._answers = self._answers or ray.get(answers)
            time.sleep(sum(seconds[number % len(seconds)] for number in numbers))
            return Pickled(self._answers[len(numbers)])

    return cast("type[Replica]", Waiting)


@dataclass(frozen=True)
class Recorded:
    """Real tasks: what each found with the seconds that it took, and how they are judged."""

    results: tuple[TaskResult, ...]
    tasks: tuple[RepairTask, ...]
    judge: Judge
    layer: LayerPasses

    @property
    def seconds(self) -> tuple[float, ...]:
        """Of each task, with its rows and judgements."""
        return tuple(result.seconds for result in self.results)

    def answers(self, scale: float) -> dict[int, bytes]:
        """Pickled harvests of as many tasks as a call may have, each as long as their mean times `scale`."""
        found = {}
        reaper = Reaper(self.judge)
        for number in range(bundles.CALL_TASKS):
            which = number % len(self.results)
            reaper.add(self.tasks[which], {}, self.results[which], self.layer)
            found[number + 1] = pickle.dumps(reaper.harvest((number + 1) * scale * mean(self.seconds)), protocol=5)
        return found


@click.command()
@model_option
@dataset_option
@output_option
@click.option("--preprocess", default=DEFAULT_PREPROCESS, show_default=True, help="What the model was trained with.")
@click.option("--chunks", type=int, default=4, show_default=True, help="Chunks measured: the last training images.")
@click.option("--rows", type=int, default=1000, show_default=True, help="Images of a chunk.")
@click.option("--driver-tasks", type=int, default=3000, show_default=True, help="Tasks that take no time.")
@click.option("--check-tasks", type=int, default=100, show_default=True, help="Tasks of a real run for each worker.")
@click.option(
    "--check-workers",
    type=int,
    multiple=True,
    default=(1, 2, 4, 8, 16),
    show_default=True,
    help="Workers of a real run, which wait; may be given several times.",
)
def main(
    model_path: Path,
    dataset_dir: Path,
    output: Path | None,
    preprocess: str,
    chunks: int,
    rows: int,
    driver_tasks: int,
    check_tasks: int,
    check_workers: tuple[int, ...],
) -> None:
    """Measure, check the simulation, simulate."""
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
        ray.init(
            address="local",  # never somebody else's cluster on this machine
            num_cpus=max(check_workers) + 1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env=runtime_environment(root / "empty", ship_code=False),
        )
        work = replace(a_batch(root, model_path, 3), labels=LABELS)
        real = recorded(work)
        costs, per_search = calibrated(work, root, real, driver_tasks)
        click.echo(
            f"measured: {len(real.tasks)} tasks of {len(work.seeds)} searches, {1e3 * min(costs.tasks):.0f} to "
            f"{1e3 * max(costs.tasks):.0f} ms, mean {1e3 * mean(costs.tasks):.0f} ms on one thread with their rows, "
            f"{costs.size / 1e3:.1f} kB of an answer each\n"
            f"the driver computes {1e3 * costs.call:.2f} ms for a call and {1e3 * costs.task:.3f} ms for each task in "
            f"it, and asks {1e6 * costs.per_answer:.2f} us for each answer under way\n"
            f"a search of tasks that take no time: {1e3 * per_search:.3f} ms of the driver (aim: {DRIVER_AIM:g})"
        )
        check(work, root, real, costs, check_tasks, check_workers)
        ray.shutdown()
    aims = [Aim("ms of the driver for a search, Ray's calls included", 1e3 * per_search, DRIVER_AIM)]
    for workers, seconds in AIMS:
        scale = seconds / mean(costs.tasks)
        found = Simulation(costs, workers, AIM_TASKS * workers, scale).run()
        share = seconds * AIM_TASKS / found.seconds
        what = f"share of the ideal, simulated: {workers} workers, {1e3 * seconds:g} ms for three searches"
        aims.append(Aim(what, share, EFFICIENCY_AIM, at_least=True))
        click.echo(
            f"\n{what}, {AIM_TASKS} tasks each: {share:.2f} (aim: {EFFICIENCY_AIM:g}), {found.together:.1f} tasks of a "
            f"call, driver busy {100 * found.driver:.0f} %"
        )
    for scale in (1.0, 0.1):
        tell(costs, scale)
    write_aims(output, "scale", aims, line)


def tell(costs: Costs, scale: float) -> None:
    """Print a table of simulated batches."""
    click.echo(f"\nsimulated: {TASKS} chunks, one task each, tasks {scale:g} times as long as on one thread here")
    lines = []
    for workers in WORKERS:
        found = Simulation(costs, workers, TASKS, scale).run()
        ideal = scale * mean(costs.tasks) * TASKS / workers
        limit = "driver" if found.driver > 0.9 else "slowest task" if found.longest > 0.2 * found.seconds else "-"
        cells = [f"{found.seconds:.1f}", f"{ideal / found.seconds:.2f}", f"{100 * found.driver:.0f} %"]
        lines.append([workers, *cells, f"{found.together:.1f}", limit])
    click.echo(table(["workers", "seconds", "of ideal", "driver busy", "tasks of a call", "limit"], lines))


def recorded(work: Batch) -> Recorded:
    """Real tasks in this process."""
    with Compute(ComputeOptions(num_workers=0), lambda line: None) as compute:
        handle = compute.handle(work.model, work.target)
        layer, kernel = handle.runner.layer, work.target.kernel
        rows = compute.layer_inputs(handle, work.validation)
        logits = layer.logits(rows.inputs, kernel)
        judge = Judge(kernel, rows, layer.predicted(logits), logits, work.requirements)
        found: list[tuple[TaskResult, RepairTask]] = []
        for _ in range(2):  # the first time around compiles
            runner, found = TaskRunner(), []
            for task in tasks_of(work, 1, work.chunks, "base", 1):
                begun = time.perf_counter()
                result = runner.run(handle, Base(kernel), task, {}, math.inf)
                reaper = Reaper(judge)
                reaper.add(task, {}, result, layer)
                reaper.harvest()
                if result.searches:
                    found.append((replace(result, seconds=time.perf_counter() - begun), task))
    results, tasks = zip(*found, strict=True)
    return Recorded(results, tasks, judge, layer)


def calibrated(work: Batch, root: Path, real: Recorded, tasks: int) -> tuple[Costs, float]:
    """The driver's costs, and its seconds for a search, from tasks that take no time.

    In one run every call has one task, in the other as many as usual: from both follow what a call and a task cost.
    """
    run(work, root, "warm-up", 2, real, 0.0, max(10, tasks // 10))
    usual, bundles.CALL_TASKS = bundles.CALL_TASKS, 1
    alone = run(work, root, "alone", 2, real, 0.0, tasks)
    bundles.CALL_TASKS = usual
    together = run(work, root, "together", 2, real, 0.0, tasks)
    if alone.calls == together.calls:
        raise click.ClickException(f"found no call of several among {tasks} tasks, expected more --driver-tasks")
    call = max(0.0, (alone.processor - together.processor) / (alone.calls - together.calls))
    task = max(0.0, together.processor - call * together.calls) / together.tasks
    costs = Costs(real.seconds, together.size, call, task, seconds_per_answer())
    return costs, together.processor / together.tasks / len(work.seeds)


def check(work: Batch, root: Path, real: Recorded, costs: Costs, tasks: int, numbers: Sequence[int]) -> None:
    """Print the simulation beside real runs whose workers wait, three searches in as long as in the first aim."""
    scale = AIMS[0][1] / mean(costs.tasks)
    click.echo(
        f"\nsimulation against real runs: {tasks} tasks for each worker, which wait {1e3 * AIMS[0][1]:g} ms on average"
    )
    lines = []
    for workers in numbers:
        measured = run(work, root, f"waiting-{workers}", workers, real, scale, tasks * workers)
        found = Simulation(costs, workers, tasks * workers, scale).run()
        ratio = found.seconds / measured.seconds
        share = AIMS[0][1] * tasks / measured.seconds
        cells = [f"{measured.seconds:.2f}", f"{found.seconds:.2f}", f"{100 * (ratio - 1):+.1f} %", f"{share:.2f}"]
        lines.append([workers, *cells, f"{measured.tasks / measured.calls:.1f}", f"{found.together:.1f}"])
    columns = ["workers", "measured s", "simulated s", "error", "of ideal", "tasks of a call", "simulated"]
    click.echo(table(columns, lines))


def seconds_per_answer() -> float:
    """Seconds that the pool's question to Ray takes for each answer that has not come."""

    class Sleeper:
        def nap(self) -> None:
            time.sleep(3600)

    sleeper = ray.remote(num_cpus=0)(Sleeper).remote()
    answers = [sleeper.nap.remote() for _ in range(DEPTH * max(WORKERS))]
    few = answers[: DEPTH * min(WORKERS)]

    def ask(some: list[Any]) -> None:
        ray.wait(some, num_returns=1, timeout=0)

    times = side_by_side({"few": lambda: ask(few), "many": lambda: ask(answers)}, rounds=20)
    ray.kill(sleeper)
    return max(0.0, (times["many"] - times["few"]) / (len(answers) - len(few)))


def run(work: Batch, root: Path, name: str, workers: int, real: Recorded, scale: float, count: int) -> Measured:
    """So many tasks of a batch whose workers wait for recorded times times `scale`."""
    chunks = tuple(ChunkFile(str(n), Path(f"/{n}"), work.chunks[0].images) for n in range(count))
    answers = ray.put(real.answers(scale))
    actor = waiting_replica([scale * seconds for seconds in real.seconds], answers, hardware_kind())
    waiting = replace(work, chunks=chunks, labels=work.labels[:1], output=root / name)
    begun: tuple[float, float] | None = None
    took = (0.0, 0.0)

    def on_jobs(progress: Mapping[str, Any]) -> None:
        nonlocal begun, took
        now = time.perf_counter(), time.process_time()
        if begun is None and progress["step"] == 1:
            begun = now
        elif begun is not None and took[0] == 0 and progress["jobs_done"] == progress["jobs"]:
            took = now[0] - begun[0], now[1] - begun[1]

    found = Counted(ComputeOptions(num_workers=workers, address="auto"), lambda line: None, actor)
    with found as compute:
        compute.start()
        records = RunRecords.create(waiting.output, {}, overwrite=False)
        run_batch(waiting, compute, lambda: records, on_jobs=on_jobs)
    return Measured(*took, found.calls, count, found.bytes / count)


class Counted(Compute):
    """Counts calls, and bytes of the rows that they brought; the workers need nothing of what tasks need."""

    calls = bytes = 0

    def run_tasks(
        self, model: Any, base: Any, tasks: Any, begun: Any, judge: Judge | None = None
    ) -> Iterator[TaskEvent]:
        """See `Compute`."""
        for event in super().run_tasks(model, None, tasks, begun):
            self.calls += 1
            self.bytes += 0 if event.rows is None else event.rows.size
            yield event

    def handle(self, loaded: Any, target: Any = None) -> Any:
        """See `Compute`; workers that wait build no model, nor import what that needs."""
        handle = super().handle(loaded, target)
        handle.__dict__["shipped"] = Pickled(pickle.dumps(None))
        return handle

    def digests(self, model: Any, sets: Sequence[ImageSet], tick: Any = None) -> dict[Path, Uint8]:
        """All chunks are one here."""
        return super().digests(model, sets[:1])


if __name__ == "__main__":
    main()
