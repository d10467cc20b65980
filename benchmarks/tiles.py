"""Tiles of one search on one and on two one-thread actors, for a convolution, with the floor of benchmarks/layers.py.

python benchmarks/tiles.py [--model MODEL] [--layer conv2d_1] [--rows 1000]
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
from common import column, machine, model_option, output_option, shipped_images, side_by_side, table, write_results
from costs import measure_peak
from layers import Job, needed

from cluster.compute.compute import Compute, ComputeOptions
from cluster.compute.tasks import tiled
from engine.core.rng import RngKey
from engine.fitness.rows import SearchRows
from engine.fitness.tail import TailFitness
from engine.models.load import load_model
from engine.problem.problem import prepare, problem_of
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from engine.targets.model_runner import ModelRunner
from engine.targets.resolve import resolve_target

AIM, LEAST = 1.7, 0.2
"""Aim for two actors, where an iteration costs at least so many seconds."""

COLUMNS = [
    column("actors", pa.int32(), "one-thread actors", "actors"),
    column("seconds", pa.float64(), "of one iteration, median", "s"),
    column("gain", pa.float64(), "times one actor", "1"),
    column("floor", pa.float64(), "time of its multiply-adds at the rate of a large product on as many threads", "s"),
    column("ratio", pa.float64(), "seconds / floor", "1"),
]


@click.command()
@model_option
@click.option("--layer", default="conv2d_1", show_default=True, help="Target layer.")
@click.option("--rows", type=int, default=1000, show_default=True, help="Rows of the search.")
@click.option("--weights", type=int, default=16, show_default=True, help="Weights of the search.")
@click.option("--particles", type=int, default=100, show_default=True, help="Particles.")
@click.option("--rounds", type=int, default=5, show_default=True, help="Rounds of the medians.")
@output_option
def main(
    model_path: Path, layer: str, rows: int, weights: int, particles: int, rounds: int, output: Path | None
) -> None:
    """Time one iteration in tiles on one and on two actors of one thread each."""
    import ray

    from cluster.ray_cluster.connect import runtime_environment

    line = machine()
    click.echo(line)
    loaded = load_model(model_path)
    target = resolve_target(loaded.model, loaded.loss, loaded.classes, loaded.path, [layer])
    assert target.tail is not None
    images, labels = shipped_images(rows)
    features, logits = ModelRunner(loaded.model, target).features(images)
    rng = np.random.default_rng(0)
    places = np.sort(rng.choice(len(target.kernel), weights, replace=False))
    index = np.stack([places, np.zeros_like(places)], axis=1)
    problem = problem_of(
        target,
        target.kernel,
        index,
        target.search_weights(target.kernel, index)[1],
        name="tiles",
        source=RngKey(0, "tiles", 0),
        settings=SearchSettings(SwarmSettings(particles)),
    )
    searched = SearchRows(features, logits, labels, logits.argmax(axis=1) != labels)
    candidates = problem.start().swarm.position.astype(np.float32)
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="repair-dist-") as empty:
        # Workers of a cluster that was joined compute with one thread each; here it is this script's own cluster.
        ray.init(
            address="local",
            num_cpus=3,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env=runtime_environment(Path(empty), ship_code=False),
        )

        def options(workers: int) -> ComputeOptions:
            return ComputeOptions(num_workers=workers, address="auto", tiles=True)

        with Compute(options(1), lines.append) as one, Compute(options(2), lines.append) as two:
            tail = one.handle(loaded, target).tail_of(problem)
            assert tail is not None
            fitness = prepare(problem, searched, tail).fitness
            assert isinstance(fitness, TailFitness)
            tiles = fitness.tiles
            calls = {}
            for number, compute in ((1, one), (2, two)):
                compute.start()
                model = ray.put(compute.handle(loaded, target).shipped)
                calls[str(number)] = partial(tiled(compute.pool(), problem, searched, tiles, model), candidates)
            same = np.array_equal(calls["1"](), calls["2"]())
            times = side_by_side(calls, rounds)
        ray.shutdown()
    click.echo(
        f"{model_path.name}, {layer}: {rows} rows, {weights} weights, {particles} particles, {len(tiles)} tiles of an "
        f"iteration; medians of {rounds} rounds"
    )
    job = Job(target, tail, images, searched, places, candidates, loaded.model, loaded.loss.name)
    work = needed(job, fitness, fitness._route)
    one_thread = measure_peak().multiply_adds / (os.cpu_count() or 1)
    floors = {name: particles * work.multiply_adds / one_thread / int(name) for name in times}
    first = times["1"]
    aim = f"{AIM:g}" if first >= LEAST else "-"
    cells = [
        [
            name,
            f"{seconds:.3f}",
            f"{first / seconds:.2f}",
            aim if name == "2" else "-",
            f"{floors[name]:.3f}",
            f"{seconds / floors[name]:.1f}",
        ]
        for name, seconds in times.items()
    ]
    click.echo(table(["actors", "seconds per iteration", "times one", "aim", "floor", "seconds / floor"], cells))
    click.echo(f"results of 1 and 2 actors are {'equal bit for bit' if same else 'DIFFERENT'}")
    found = [
        {
            "actors": int(name),
            "seconds": seconds,
            "gain": first / seconds,
            "floor": floors[name],
            "ratio": seconds / floors[name],
        }
        for name, seconds in times.items()
    ]
    write_results(output, "tiles", COLUMNS, found, line)


if __name__ == "__main__":
    main()
