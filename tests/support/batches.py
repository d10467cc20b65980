"""Small batches on shipped images, what they leave in their run directories, and processes that die at a chosen moment.

Used by the tests and by `scripts/soak.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.batch.spec import Batch, Mode, Weighting, open_chunks
from cluster.compute.compute import Compute, ComputeOptions
from cluster.ray_cluster.connect import runtime_environment
from cluster.records.schema import SCHEMAS
from cluster.records.store import comparable, read_table
from cluster.runs.ledger import OnJobs
from cluster.workers.replica import Replica
from engine.data.image_set import open_image_set
from engine.data.preprocess import preprocess_images
from engine.data.writer import write_image_set
from engine.datasets.fashion_mnist import LABEL_NAMES, read_split
from engine.fitness.tiling import Tiling
from engine.metrics.requirements import default_goals
from engine.models.load import load_model
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from engine.targets.last_dense import find_target

SHIPPED = Path(__file__).parents[2] / "cli" / "quickstart_data"
MODEL = SHIPPED / "model.keras"
CHUNKS, CHUNK_ROWS, HELD_OUT_ROWS = 4, 320, 400
LABELS = (4, 6)
MODES: tuple[Mode, ...] = ("independent", "rounds", "chain")
WITHOUT = 3
"""The chunk that has no row of label 4."""

SETTINGS = SearchSettings(
    swarm=SwarmSettings(num_particles=16),
    num_iterations=6,
    min_iteration_range=50,
    tiling=Tiling(particles=8, rows=256),
)
WORTHS = (0.05, 0.15)
ROUNDS = 2
OPTIONS = ["--num-particles", "16", "--num-iterations", "6", "--min-iteration-range", "50"]
OPTIONS += ["--tile-particles", "8", "--tile-rows", "256", "--positive-weights", "0.05x,0.15x", "--labels", "4,6"]
OPTIONS += ["--fronts", "1"]
"""`small_batch` as options of the command."""


def write_rows(path: Path, rows: slice, *, without: int | None = None) -> None:
    """Write some of the shipped training images, all labels but one."""
    images, labels = (array[rows] for array in read_split(SHIPPED, "train"))
    kept = np.flatnonzero(labels != (-1 if without is None else without))
    with write_image_set(
        path, rows=len(kept), image_shape=(32, 32, 3), classes=10, label_names=LABEL_NAMES, preprocess="pad"
    ) as writer:
        writer.append(preprocess_images(images[kept], "pad"), np.eye(10, dtype=np.uint8)[labels[kept]])


def write_data(root: Path) -> Path:
    """`chunks/<i>/repair.h5`, `val.h5` and `test.h5` below a folder, which is returned."""
    for number in range(CHUNKS):
        rows = slice(number * CHUNK_ROWS, (number + 1) * CHUNK_ROWS)
        write_rows(root / "chunks" / str(number) / "repair.h5", rows, without=4 if number == WITHOUT else None)
    first = CHUNKS * CHUNK_ROWS
    for name in ("val", "test"):
        write_rows(root / f"{name}.h5", slice(first, first + HELD_OUT_ROWS))
        first += HELD_OUT_ROWS
    return root


def small_batch(data: Path, output: Path, mode: Mode = "independent", **changes: Any) -> Batch:
    """A batch on what `write_data` wrote."""
    model = load_model(MODEL)
    settings = changes.pop("settings", SETTINGS)
    values = {
        "model": model,
        "target": find_target(model.model, model.loss, model.classes, model.path),
        "chunks": open_chunks(data / "chunks", model),
        "labels": LABELS,
        "weightings": weightings(settings),
        "seeds": (0,),
        "mode": mode,
        "max_rounds": ROUNDS,
        "offers": 3,
        "num_grad": None,
        "impact": "mean",
        "fronts": 1,
        "requirements": default_goals(changes.get("labels", LABELS), LABEL_NAMES),
        "stated": False,
        "validation": open_image_set(data / "val.h5"),
        "test": open_image_set(data / "test.h5"),
        "positives": (),
        "output": output,
    }
    return Batch(**{**values, **changes})


def weightings(settings: SearchSettings = SETTINGS, worths: Sequence[float] = WORTHS) -> tuple[Weighting, ...]:
    """Weightings as `--positive-weights 0.05x,0.15x` gives them."""
    return tuple(Weighting(f"{worth:g}x", replace(settings, positive_worth=worth)) for worth in worths)


CALLS = 80
"""Calls of workers, and changes of the progress, in mode rounds where tasks come back after every iteration: at least
so many."""


def here() -> Compute:
    """Computing in this process."""
    return Compute(ComputeOptions(num_workers=0), lambda line: None)


def words_of(data: Path, output: Path, mode: Mode, *more: object) -> list[str]:
    """The command line of `small_batch`."""
    files = ["--model-dir", MODEL, "--chunks", data / "chunks", "--val-data", data / "val.h5"]
    files += ["--test-data", data / "test.h5", "--output-dir", output, "--mode", mode]
    rounds = ["--max-rounds", ROUNDS] if mode == "rounds" else []
    return [str(word) for word in ("batch", "--method", "Arachne", *files, *OPTIONS, *rounds, *more)]


def left(directory: Path) -> dict[str, Any]:
    """What a finished run left: its tables, without time and place, how it ended, and digests of all other files, also
    of those that nobody wants.
    """
    found: dict[str, Any] = {name: comparable(read_table(directory, name)) for name in SCHEMAS}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_file() and name != "run.json" and name.removesuffix(".arrow") not in SCHEMAS:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    return found | {"run.json": str([facts[name] for name in ("state", "exit_code", "notes")])}


def differences(one: Path, other: Path) -> list[str]:
    """Names of the tables and files in which two finished runs differ."""
    mine, theirs = left(one), left(other)
    return [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]


def dying(at: int, calls: Path, *methods: str, behind: bool = False) -> type[Replica]:
    """A replica that kills its process in call number `at` of some methods, of all replicas, before it answers.

    Each call adds a byte to the file `calls`; with `behind` only those of tasks that follow another one of their
    bundle. The class is made here so that it travels to the workers by value.
    """

    class Dying(Replica):
        _ended = 0  # tasks of those that were sent together

        def run_tasks(self, *arguments: Any) -> Any:
            self._ended = 0
            return super().run_tasks(*arguments)

        def _count(self) -> None:
            self._ended += 1
            if behind and self._ended == 1:
                return
            with calls.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0, os.SEEK_END)
                file.write(b".")
                file.flush()
                if file.tell() == at:
                    os.kill(os.getpid(), signal.SIGKILL)

    def counted(name: str) -> Callable[..., Any]:
        def call(self: Dying, *arguments: Any) -> Any:
            result = getattr(Replica, name)(self, *arguments)
            self._count()
            return result

        return call

    for name in methods or ("run_task", "evaluate_tiles"):
        setattr(Dying, name, counted(name))
    return Dying


@contextmanager
def three_nodes(empty: Path) -> Iterator[Cluster]:
    """A Ray cluster of 4, 2 and 2 CPUs on this machine, with this process as its driver; lost nodes show in seconds."""
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 4, "dashboard_port": None, "_system_config": health}  # another Ray here may have the usual port
    nodes = Cluster(initialize_head=True, head_node_args=head)
    nodes.add_node(num_cpus=2)
    nodes.add_node(num_cpus=2)
    environment = runtime_environment(empty, ship_code=False)
    ray.init(address=nodes.address, runtime_env=environment, log_to_driver=False, logging_level="ERROR")
    try:
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


@contextmanager
def on_doomed_node(cluster: Cluster, at: int) -> Iterator[tuple[Compute, OnJobs]]:
    """Two workers, one of them on a node of its own, which goes when the progress changes for the `at`-th time.

    Yields the computing and what has to be told of the progress; `three_nodes` are left with one free CPU.
    """
    taken = placement_group([{"CPU": 3}, {"CPU": 2}, {"CPU": 2}], strategy="STRICT_SPREAD")
    ray.get(taken.ready(), timeout=60)
    doomed = cluster.add_node(num_cpus=1)
    told = 0

    def tell(_: Mapping[str, Any]) -> None:
        nonlocal told
        told += 1
        if told == at:
            cluster.remove_node(doomed, allow_graceful=False)

    try:
        with Compute(ComputeOptions(num_workers=2), lambda line: None) as compute:
            yield compute, tell
        if told < at:
            raise RuntimeError(f"the progress changed {told} times, expected at least {at}")
    finally:
        if told < at:
            cluster.remove_node(doomed)
        remove_placement_group(taken)


_DOOMED = """
import fnmatch, os, signal, sys
number, pattern, at, output = sys.argv[1:5]
renames = matching = 0
def hook(event, arguments):
    global renames, matching
    if event != "os.rename" or not str(arguments[1]).startswith(output + "/"):
        return
    name = os.path.basename(arguments[1])
    if name == "progress.json":  # written by the clock
        return
    renames += 1
    matching += fnmatch.fnmatchcase(name, pattern)
    if matching == int(at) and fnmatch.fnmatchcase(name, pattern):
        os.killpg(0, int(number)) if int(number) == signal.SIGINT else os.kill(os.getpid(), int(number))
sys.addaudithook(hook)
import cluster.compute.compute, cluster.compute.tasks
cluster.compute.compute.SEGMENT_SECONDS = cluster.compute.tasks.SEGMENT_SECONDS = 0.0
from cli.main import run
code = run(sys.argv[5:])
print(f"files: {renames}")
sys.exit(code)
"""


At = int | str | tuple[str, int]
"""A file that a command puts in its place: by its number, its name, or its number among those of a pattern."""


def doomed(
    at: At,
    output: Path,
    words: Sequence[str],
    *,
    number: signal.Signals = signal.SIGKILL,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command that is killed before it puts the file `at` in its place; 0 is none.

    A run is files that appear one after the other, so these are all moments there are. Searches come back after every
    iteration. A command that lives on says how many files it wrote.
    """
    process = begin_doomed(at, output, words, number=number, environment=environment)
    try:
        out, err = process.communicate(timeout=300)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def begin_doomed(
    at: At,
    output: Path,
    words: Sequence[str],
    *,
    number: signal.Signals,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """As `doomed`, without waiting for its end."""
    pattern, count = at if isinstance(at, tuple) else ("*", at) if isinstance(at, int) else (at, 1)
    return subprocess.Popen(
        [sys.executable, "-c", _DOOMED, str(int(number)), pattern, str(count), str(output), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )


def is_stopped(process: subprocess.Popen[str]) -> bool:
    """Whether a process stands still until SIGCONT, once it has come so far; False if it has ended before."""
    while process.poll() is None:
        if Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].startswith("T"):
            return True
        time.sleep(0.02)
    return False
