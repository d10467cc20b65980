"""Do small batches harm at random moments, and compare what is left with undisturbed runs.

    python -m scripts.soak --times 7 --seed 0

Run it from the root of the repository. Kinds of harm: a killed worker, a lost node, a killed command, one that is told
to end (SIGTERM), a second command in the same directory, and a full disk. Each is one line; its moment follows from the
kind, the seed and a number. The folder keeps what was done: the same command goes on where an earlier one stopped.
Exit code 1 if any run ends with other tables, patches or files than the undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from ray.cluster_utils import Cluster

import cluster.compute.compute
import cluster.compute.tasks
from cluster.batch.run import run_recorded
from cluster.batch.spec import Mode
from cluster.compute.compute import Compute, ComputeOptions
from cluster.records.store import read_table
from engine.core.files import remove
from tests.support.batches import (
    MODES,
    begin_doomed,
    differences,
    doomed,
    dying,
    here,
    is_stopped,
    on_doomed_node,
    small_batch,
    three_nodes,
    words_of,
    write_data,
)


@dataclass(frozen=True)
class Ground:
    """What all kills share.

    Attributes:
        data: chunks and held-out rows.
        nodes: the cluster.
        undisturbed: directories of the undisturbed runs.
        calls: by mode, the iterations of all tasks: each is a call of a worker, and a change of the progress.
        files: by mode, how many files a run puts in their places.
    """

    data: Path
    nodes: Cluster
    undisturbed: dict[Mode, Path]
    calls: dict[Mode, int]
    files: dict[Mode, int]


@dataclass(frozen=True)
class Kill:
    """How one went: its moment in words, calls that ran again, and whether the process was killed at all."""

    moment: str
    redispatched: int
    happened: bool


def kill_actor(ground: Ground, mode: Mode, draw: random.Random, directory: Path) -> Kill:
    """A worker dies in one of its calls; every third run is in tiles."""
    tiles = draw.random() < 1 / 3
    at = draw.randint(1, ground.calls[mode])
    calls = directory.with_suffix(".calls")
    options = ComputeOptions(num_workers=2, tiles=tiles)
    with Compute(options, lambda line: None, dying(at, calls)) as compute:
        run_recorded(small_batch(ground.data, directory, mode), compute)
        return Kill(f"call {at}{' in tiles' if tiles else ''}", compute.redispatched, calls.stat().st_size > at)


def kill_node(ground: Ground, mode: Mode, draw: random.Random, directory: Path) -> Kill:
    """The node of one of two workers goes when the progress changes."""
    at = draw.randint(1, ground.calls[mode])
    with on_doomed_node(ground.nodes, at) as (compute, tell):
        run_recorded(small_batch(ground.data, directory, mode), compute, on_jobs=tell)
        return Kill(f"change {at}", compute.redispatched, True)


def kill_driver(ground: Ground, mode: Mode, draw: random.Random, directory: Path) -> Kill:
    """The command dies before it puts a file in its place, and is resumed; every second one has workers."""
    workers = draw.choice((0, 2))
    at = draw.randint(1, ground.files[mode])
    ended = doomed(at, directory, words_of(ground.data, directory, mode, "--num-workers", workers))
    done = read_table(directory, "jobs")["state"].to_pylist() if (directory / "run.json").exists() else []
    with here() as compute:
        run_recorded(small_batch(ground.data, directory, mode), compute, resume=True)
    moment = f"file {at} with {workers} workers, {sum(state != 'running' for state in done)} searches had ended"
    return Kill(moment, 0, ended.returncode == -signal.SIGKILL)


def tell_driver(ground: Ground, mode: Mode, draw: random.Random, directory: Path) -> Kill:
    """The command is told to end before it puts a file in its place, and is resumed; every second one has workers."""
    workers = draw.choice((0, 2))
    at = draw.randint(1, ground.files[mode])
    words = words_of(ground.data, directory, mode, "--num-workers", workers)
    ended = doomed(at, directory, words, number=signal.SIGTERM)
    with here() as compute:
        run_recorded(small_batch(ground.data, directory, mode), compute, resume=True)
    return Kill(f"file {at} with {workers} workers", 0, ended.returncode == 143)


def two_commands(ground: Ground, mode: Mode, draw: random.Random, directory: Path) -> Kill:
    """A second command comes while the first puts a file in its place; then the first goes on, or is killed."""
    at = draw.randint(1, ground.files[mode])
    killed = draw.random() < 1 / 2
    words = words_of(ground.data, directory, mode, "--num-workers", "0", "--resume")
    first = begin_doomed(at, directory, words, number=signal.SIGSTOP)
    stopped = is_stopped(first)
    second = doomed(0, directory, words)
    os.kill(first.pid, signal.SIGKILL if killed else signal.SIGCONT)
    _, err = first.communicate()
    refused = second.returncode == 2 and f"is held by process {first.pid} on" in second.stderr
    ended = first.returncode == -signal.SIGKILL if killed else first.returncode == 0
    if killed:
        with here() as compute:
            run_recorded(small_batch(ground.data, directory, mode), compute, resume=True)
    if not (stopped and refused and ended):
        print(f"the first said: {err}\nthe second said: {second.stderr}", file=sys.stderr)
    moment = f"file {at}, the second was refused, the first {'killed and followed' if killed else 'went on'}"
    return Kill(moment, 0, stopped and refused and ended)


FULL = """
import json, os, shutil, subprocess, sys
from pathlib import Path
disk, output, free, words = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
status = os.statvfs(disk)
(disk / "ballast").write_bytes(bytes(status.f_bavail * status.f_frsize - free))
import cluster.compute.compute
cluster.compute.compute.SEGMENT_SECONDS = 0.0
from cli.main import run
full = run([*words, "--output-dir", str(disk / "run")])
subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
code = run([*words, "--output-dir", str(disk / "run"), "--resume"])
shutil.copytree(disk / "run", output)
sys.exit(0 if (full, code) == (1, 0) else 1)
"""


def fill_disk(ground: Ground, mode: Mode, draw: random.Random, directory: Path) -> Kill:
    """The disk has too little room for a run; given more, it is resumed. On a disk of its own in a user namespace."""
    free = draw.randint(16, 400) << 10
    disk = directory.with_suffix(".disk")
    disk.mkdir(exist_ok=True)
    words = words_of(ground.data, directory, mode, "--num-workers", "0", "--verbose", "0")
    given = [*ALONE, sys.executable, "-c", FULL, disk, directory, free, json.dumps(words)]
    done = subprocess.run([str(word) for word in given], capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    return Kill(f"{free >> 10} KiB free", 0, done.returncode == 0 and "no space is left on the disk" in done.stderr)


ALONE = ("unshare", "--user", "--map-root-user", "--mount")


def can_mount(folder: Path) -> bool:
    """Whether this machine lets us have a disk of our own."""
    words = [*ALONE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return (
        shutil.which(ALONE[0]) is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )


KINDS: dict[str, Callable[[Ground, Mode, random.Random, Path], Kill]] = {
    "actor": kill_actor,
    "node": kill_node,
    "driver": kill_driver,
    "sigterm": tell_driver,
    "two": two_commands,
    "disk": fill_disk,
}


EQUAL, NOT_HERE = "equal yes", "left out: no disk of our own in a user namespace"


@dataclass(frozen=True)
class Fault:
    """What was done and how it ended."""

    kind: str
    seed: int
    number: int
    mode: str
    moment: str
    redispatched: int
    verdict: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.kind:7} seed {self.seed}/{self.number:<2} {self.mode:11} {self.moment}; "
            f"ran again {self.redispatched}; {self.verdict}"
        )


def do_harm(ground: Ground, kind: str, seed: int, number: int, root: Path) -> Fault:
    """One fault of a kind, and whether the run ended as the undisturbed one."""
    draw = random.Random(f"{kind} {seed} {number}")
    mode = draw.choice(MODES)
    if kind == "disk" and not can_mount(root / "empty"):
        return Fault(kind, seed, number, mode, "", 0, NOT_HERE, 0.0)
    directory = root / f"{kind}-{seed}-{number}"
    places = [directory.with_suffix(suffix) for suffix in ("", ".calls", ".disk")]
    for path in places:  # of an earlier command that did not come to its end
        remove(path)
    begun = time.monotonic()
    kill = KINDS[kind](ground, mode, draw, directory)
    found = differences(directory, ground.undisturbed[mode])
    verdict = f"equal NO: {', '.join(found)}" if found else EQUAL if kill.happened else "equal NO: nothing happened"
    for path in places if verdict == EQUAL else ():
        remove(path)
    return Fault(kind, seed, number, mode, kill.moment, kill.redispatched, verdict, time.monotonic() - begun)


def prepare(root: Path, nodes: Cluster) -> Ground:
    """Run what the others are compared with, and count its moments."""
    for path in (*root.glob("undisturbed-*"), *root.glob("counted-*"), root / "data"):
        remove(path)
    data = write_data(root / "data")
    undisturbed: dict[Mode, Path] = {}
    calls: dict[Mode, int] = {}
    files: dict[Mode, int] = {}
    for mode in MODES:
        undisturbed[mode] = root / f"undisturbed-{mode}"
        with here() as compute:
            run_recorded(small_batch(data, undisturbed[mode], mode), compute)
        tasks: dict[str, int] = {}
        for row in read_table(undisturbed[mode], "jobs").to_pylist():
            task = row["job"].partition("-w")[0]
            tasks[task] = max(tasks.get(task, 1), row["iterations"])
        calls[mode] = sum(tasks.values())
        directory = root / f"counted-{mode}"
        counted = doomed(0, directory, words_of(data, directory, mode, "--num-workers", "0"))
        files[mode] = int(counted.stdout.rsplit("files: ", 1)[1])
    return Ground(data, nodes, undisturbed, calls, files)


def main() -> int:
    """Harm, compare, print; returns the exit code."""
    parser = argparse.ArgumentParser(description="Do small batches harm and compare how they end.")
    parser.add_argument("--times", type=int, default=7, help="of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="some of the kinds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "repair-dist-soak", help="keeps what was done"
    )
    options = parser.parse_args()
    # Tasks come back after every iteration, so that there are many moments.
    cluster.compute.compute.SEGMENT_SECONDS = cluster.compute.tasks.SEGMENT_SECONDS = 0.0
    root = options.folder.absolute()
    (root / "empty").mkdir(parents=True, exist_ok=True)
    journal = root / "done.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    before = {(line["kind"], line["seed"], line["number"]): Fault(**line) for line in map(json.loads, lines)}
    faults = []
    with three_nodes(root / "empty") as nodes:
        ground = prepare(root, nodes)
        for number in range(options.times):
            for kind in options.kinds.split(","):
                fault = before.get((kind, options.seed, number))
                if fault is None:
                    fault = do_harm(ground, kind, options.seed, number, root)
                    with journal.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(fault)) + "\n")
                if fault.verdict != NOT_HERE:
                    faults.append(fault)
                print(fault, flush=True)
    equal = sum(fault.verdict == EQUAL for fault in faults)
    print(
        f"{len(faults)} faults: {equal} ended like the undisturbed run, {len(faults) - equal} did not; "
        f"{sum(fault.redispatched for fault in faults)} calls ran again; "
        f"{sum(fault.seconds for fault in faults) / 60:.0f} min"
    )
    return 0 if equal == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
