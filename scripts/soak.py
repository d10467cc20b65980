"""Kill workers, nodes and drivers of small batches at random moments, and compare what is left with undisturbed runs.

    python -m scripts.soak --times 20 --seed 0

Run it from the root of the repository. Each kill is one line; its moment follows from the kind, the seed and a number.
Exit code 1 if any run ends with other tables, patches or files than the undisturbed one. Takes 20 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from ray.cluster_utils import Cluster

import cluster.compute.compute
import cluster.compute.tasks
from cluster.batch.run import run_recorded
from cluster.batch.spec import Mode
from cluster.compute.compute import Compute, ComputeOptions
from cluster.records.store import read_table
from tests.support.batches import (
    MODES,
    differences,
    doomed,
    dying,
    here,
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


KINDS: dict[str, Callable[[Ground, Mode, random.Random, Path], Kill]] = {
    "actor": kill_actor,
    "node": kill_node,
    "driver": kill_driver,
}


def prepare(root: Path, nodes: Cluster) -> Ground:
    """Run what the others are compared with, and count its moments."""
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
    """Kill, compare, print; returns the exit code."""
    parser = argparse.ArgumentParser(description="Kill workers, nodes and drivers of small batches.")
    parser.add_argument("--times", type=int, default=20, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    # Tasks come back after every iteration, so that there are many moments.
    cluster.compute.compute.SEGMENT_SECONDS = cluster.compute.tasks.SEGMENT_SECONDS = 0.0
    begun = time.monotonic()
    equal = kills = redispatched = 0
    with tempfile.TemporaryDirectory(prefix="repair-dist-soak-") as folder:
        root = Path(folder)
        (root / "empty").mkdir()
        with three_nodes(root / "empty") as nodes:
            ground = prepare(root, nodes)
            for kind, kill in KINDS.items():
                for number in range(options.times):
                    draw = random.Random(f"{kind} {options.seed} {number}")
                    mode = draw.choice(MODES)
                    directory = root / f"{kind}-{number}"
                    one = kill(ground, mode, draw, directory)
                    found = differences(directory, ground.undisturbed[mode])
                    kills += 1
                    equal += one.happened and not found
                    redispatched += one.redispatched
                    verdict = (
                        f"NO: {', '.join(found)}" if found else "yes" if one.happened else "NO: nothing was killed"
                    )
                    print(
                        f"{kind:6} seed {options.seed}/{number:<2} {mode:11} {one.moment}; "
                        f"ran again {one.redispatched}; equal {verdict}",
                        flush=True,
                    )
    print(
        f"{kills} kills: {equal} ended like the undisturbed run, {kills - equal} did not; "
        f"{redispatched} calls ran again; {(time.monotonic() - begun) / 60:.0f} min"
    )
    return 0 if equal == kills else 1


if __name__ == "__main__":
    sys.exit(main())
