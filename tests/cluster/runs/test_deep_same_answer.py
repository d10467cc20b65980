"""A convolution under repair: the same bits on any number of workers with tiles forced, and when one is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from cluster.compute.compute import Compute, ComputeOptions
from cluster.records.store import read_facts
from cluster.runs.chunk import ChunkPaths
from cluster.runs.optimize import Repairs
from engine.data.image_set import open_image_set, read_images
from engine.data.outcomes import write_targets
from engine.data.writer import write_image_set
from engine.fitness.tiling import Tiling
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from engine.targets.resolve import resolve_target
from tests.cluster.conftest import Case, Finished, assert_same, run_repairs
from tests.cluster.runs.test_same_answer import OBJECTIVES
from tests.support.batches import dying

ROWS = 300

# Twelve tiles of an iteration: three parts of the rows, four of the particles.
SETTINGS = SearchSettings(
    swarm=SwarmSettings(num_particles=8),
    num_iterations=4,
    min_iteration_range=50,
    tiling=Tiling(particles=2, rows=100),
)


@pytest.fixture(scope="module")
def deep(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Repairs:
    """Weights of the second convolution of the shipped model, on a few hundred shipped images; not yet placed."""
    data = tmp_path_factory.mktemp("deep")
    whole = open_image_set(case.data / "repair.h5")
    with write_image_set(data / "repair.h5", rows=ROWS, image_shape=(32, 32, 3), classes=10) as writer:
        writer.append(read_images(whole, 0, ROWS), np.eye(10, dtype=np.uint8)[whole.labels[:ROWS]])
    model = case.model
    target = resolve_target(model.model, model.loss, model.classes, model.path, ["conv2d_1/*"])
    assert target.tail is not None
    with Compute(ComputeOptions(num_workers=0), lambda line: None) as compute:
        repair_set = open_image_set(data / "repair.h5")
        write_targets(repair_set, compute.predict(compute.handle(model, target), repair_set), data)
    rows = np.sort(np.random.default_rng(5).choice(len(target.kernel), 12, replace=False))
    index = np.stack([rows, np.zeros_like(rows)], axis=1)
    folder = data / "negative" / "6"
    target.write_localised(folder, index, target.kernel[rows, 0])
    return Repairs(model, target, [ChunkPaths(folder, data / "positive", data / "out")], range(2), SETTINGS)


def placed(repairs: Repairs, output: Path) -> Repairs:
    (paths,) = repairs.chunks
    moved = ChunkPaths(paths.negatives, paths.positives, output)
    return Repairs(repairs.model, repairs.target, [moved], repairs.seeds, repairs.settings)


@pytest.fixture(scope="module")
def here(deep: Repairs, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The undisturbed run in this process."""
    directory = tmp_path_factory.mktemp("here")
    compute = Compute(ComputeOptions(num_workers=0), lambda line: None)
    found = run_repairs(placed(deep, directory / "out"), directory / "run", compute)
    (tiles,) = read_facts(directory / "run")["tiles"]
    assert (tiles["particles"], tiles["rows"], tiles["tiles"], tiles["route"]) == (2, 100, 12, "touched units")
    return found


def test_undisturbed_run_changes_the_convolution(here: Finished) -> None:
    (report,) = here.reports
    assert set(report.patch.weight) <= {"conv2d_1/kernel", "conv2d_1/bias"}
    assert not np.array_equal(report.patch.new, report.patch.old)
    assert all(row["fitness"] > row["start_fitness"] for row in here.tables["jobs"])


@pytest.mark.parametrize(("workers", "tiles"), [pytest.param(3, True, marks=pytest.mark.slow), (2, False)])
def test_any_number_of_workers(
    cluster: Cluster, deep: Repairs, here: Finished, tmp_path: Path, workers: int, tiles: bool
) -> None:
    options = ComputeOptions(num_workers=workers, tiles=tiles, spread_rows=tiles)
    there = run_repairs(placed(deep, tmp_path / "out"), tmp_path / "run", Compute(options, lambda line: None))
    assert_same(there, here)
    search = next(line for line in there.compute.decisions if line.startswith("search"))
    assert f"{workers} workers" in search and ("in tiles" in search) == tiles


@pytest.mark.slow
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_other_objectives_on_workers_in_tiles(cluster: Cluster, deep: Repairs, tmp_path: Path, objective: str) -> None:
    runs = []
    for workers in (0, 2):
        root, compute = tmp_path / str(workers), Compute(ComputeOptions(num_workers=workers, tiles=workers > 0), print)
        settings = replace(SETTINGS, **OBJECTIVES[objective])
        runs.append(run_repairs(replace(placed(deep, root / "out"), settings=settings), root / "run", compute))
    assert_same(runs[1], runs[0])


@pytest.mark.slow
@pytest.mark.parametrize("at", [28])
def test_worker_killed_in_a_tile(cluster: Cluster, deep: Repairs, here: Finished, tmp_path: Path, at: int) -> None:
    options = ComputeOptions(num_workers=2, tiles=True)
    compute = Compute(options, lambda line: None, dying(at, tmp_path / "calls", "start_tile"))
    disturbed = run_repairs(placed(deep, tmp_path / "out"), tmp_path / "run", compute)
    assert disturbed.redispatched >= 1
    assert_same(disturbed, here)
