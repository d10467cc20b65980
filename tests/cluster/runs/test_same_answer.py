"""The same seed gives the same bits, wherever and among whatever else it runs, and when workers die.

Of the last layer of a model, and of a convolution, whose candidates go through the tail of the model.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ray.cluster_utils import Cluster

from cluster.compute.compute import Compute, ComputeOptions
from cluster.records.store import RunRecords, comparable, read_facts, read_table
from cluster.runs.optimize import repair
from engine.data.image_set import open_image_set, read_images
from engine.data.outcomes import write_targets
from engine.data.writer import write_image_set
from engine.fitness.priorities import Priorities
from engine.fitness.tiling import Tiling
from engine.metrics.requirements import Requirement, default_promises
from engine.models.load import load_model
from engine.search.optimisers import OPTIMISERS
from engine.search.swarm import SwarmSettings
from engine.targets.last_dense import find_target
from engine.targets.resolve import resolve_target
from tests.cluster.conftest import SETTINGS, Case, Finished, assert_same, run_repairs
from tests.support.batches import dying, here

DEEP_ROWS = 300


@pytest.fixture(scope="module")
def deep(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Weights of the second convolution; an iteration has twelve tiles, three of the rows by four of the particles."""
    data = tmp_path_factory.mktemp("deep")
    whole = open_image_set(case.data / "repair.h5")
    with write_image_set(data / "repair.h5", rows=DEEP_ROWS, image_shape=(32, 32, 3), classes=10) as writer:
        writer.append(read_images(whole, 0, DEEP_ROWS), np.eye(10, dtype=np.uint8)[whole.labels[:DEEP_ROWS]])
    model = case.model
    target = resolve_target(model.model, model.loss, model.classes, model.path, ["conv2d_1/*"])
    assert target.tail is not None
    with here() as compute:
        repair_set = open_image_set(data / "repair.h5")
        write_targets(repair_set, compute.predict(compute.handle(model, target), repair_set), data)
    rows = np.sort(np.random.default_rng(5).choice(len(target.kernel), 12, replace=False))
    target.write_localised(
        data / "negative" / "6", np.stack([rows, np.zeros_like(rows)], axis=1), target.kernel[rows, 0]
    )
    swarm, tiling = SwarmSettings(num_particles=8), Tiling(particles=2, rows=100)
    return Case(model, target, data, replace(SETTINGS, swarm=swarm, num_iterations=4, tiling=tiling))


@pytest.fixture(scope="module")
def deep_alone(deep: Case, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    directory = tmp_path_factory.mktemp("deep-alone")
    found = run_repairs(deep.repairs(directory / "out"), directory / "run", here())
    (tiles,) = read_facts(directory / "run")["tiles"]
    assert (tiles["particles"], tiles["rows"], tiles["tiles"], tiles["route"]) == (2, 100, 12, "touched units")
    return found


@pytest.fixture
def searched(kind: str, request: pytest.FixtureRequest) -> tuple[Case, Finished]:
    """A case, and its undisturbed run in this process."""
    names = {"last": ("case", "alone"), "deep": ("deep", "deep_alone")}[kind]
    found, undisturbed = map(request.getfixturevalue, names)
    return found, undisturbed


def test_undisturbed_run_of_a_convolution(deep_alone: Finished) -> None:
    (report,) = deep_alone.reports
    assert set(report.patch.weight) <= {"conv2d_1/kernel", "conv2d_1/bias"}
    assert not np.array_equal(report.patch.new, report.patch.old)
    assert all(row["fitness"] > row["start_fitness"] for row in deep_alone.tables["jobs"])


def test_undisturbed_run_repairs(alone: Finished) -> None:
    (report,) = alone.reports
    assert len(report.patch) and not np.array_equal(report.patch.new, report.patch.old)
    jobs = {row["job"]: row for row in alone.tables["jobs"]}
    assert len(jobs) == 2
    assert all(row["fitness"] > row["start_fitness"] for row in jobs.values())
    assert [row["chosen"] for row in jobs.values()].count(True) == 1


@pytest.mark.parametrize(
    ("kind", "workers", "tiles", "spread"),
    [
        ("last", 1, False, True),
        ("last", 2, True, True),
        pytest.param("last", 4, False, False, marks=pytest.mark.slow),
        pytest.param("last", 1, True, False, marks=pytest.mark.slow),
        ("deep", 2, False, False),
        pytest.param("deep", 3, True, True, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_workers(
    cluster: Cluster, searched: tuple[Case, Finished], tmp_path: Path, workers: int, tiles: bool, spread: bool
) -> None:
    case, alone = searched
    options = ComputeOptions(num_workers=workers, tiles=tiles, spread_rows=spread)
    there = run_repairs(case.repairs(tmp_path / "out"), tmp_path / "run", Compute(options, lambda line: None))
    assert_same(there, alone)
    search = next(line for line in there.compute.decisions if line.startswith("search"))
    assert f"{workers} workers" in search
    assert ("in tiles" in search) == tiles
    rows = [line for line in there.compute.decisions if line.startswith("features")]
    assert all((f"on {workers} workers" in line) == spread for line in rows)


OBJECTIVES: dict[str, dict[str, Any]] = {
    "loss": {"objective": "loss"},
    "requirements": {
        "objective": "requirements",
        "requirements": (*default_promises(None, 10).limits, Requirement("max_rate", 0.2, (6,), 0, "rate")),
        "num_input_pos_sampled": 1000,
    },
    "priorities": {
        "objective": "priorities",
        "priorities": Priorities(((6, 3.0),), tuple((label, 1.0 + label) for label in range(9))),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "objective"),
    [
        *(("last", name, "loss") for name in OPTIMISERS if name != "PSO"),
        ("last", "PSO", "requirements"),
        ("last", "DE", "requirements"),
        ("last", "PSO", "priorities"),
        *(("deep", "PSO", objective) for objective in OBJECTIVES),
    ],
)
def test_other_optimisers_and_objectives_on_workers(
    cluster: Cluster, searched: tuple[Case, Finished], tmp_path: Path, name: str, objective: str
) -> None:
    case, _ = searched
    swarm = OPTIMISERS[name].settings(num_particles=case.settings.swarm.num_particles)
    settings = replace(case.settings, swarm=swarm, **OBJECTIVES[objective])
    runs = []
    for workers, tiles in ((0, False), (2, False), (2, True)):
        root = tmp_path / f"{workers}-{tiles}"
        compute = Compute(ComputeOptions(num_workers=workers, tiles=tiles), lambda line: None)
        runs.append(run_repairs(replace(case.repairs(root / "out"), settings=settings), root / "run", compute))
    for there in runs[1:]:
        assert_same(there, runs[0])
    assert all(row["fitness"] >= row["start_fitness"] for row in runs[0].tables["jobs"])


def test_a_job_alone_and_among_others(case: Case, alone: Finished, tmp_path: Path) -> None:
    compute = here()
    together = run_repairs(case.repairs(tmp_path / "out", labels=(4, 6), seeds=3), tmp_path / "run", compute)
    ignored = ("chosen",)
    for row in alone.tables["jobs"]:
        mine, theirs = alone.job(row["job"]), together.job(row["job"])
        assert mine["swarm"] == theirs["swarm"]
        strip = [{key: value for key, value in entry.items() if key not in ignored} for entry in mine["jobs"]]
        assert strip == [{key: value for key, value in entry.items() if key not in ignored} for entry in theirs["jobs"]]


def test_two_models_on_the_same_rows(case: Case, tmp_path: Path) -> None:
    """What is kept of a task is of its model."""
    other = keras.models.load_model(case.model.path)
    kernel, *rest = other.layers[-1].get_weights()
    other.layers[-1].set_weights([kernel * np.float32(0.9), *rest])
    other.save(tmp_path / "other.keras")
    model = load_model(tmp_path / "other.keras")
    changed = replace(case, model=model, target=find_target(model.model, model.loss, model.classes, model.path))
    alone = run_repairs(changed.repairs(tmp_path / "alone"), tmp_path / "run", here())
    with here() as compute:
        for name, one in (("first", case), ("second", changed)):
            open_records = functools.partial(RunRecords.create, tmp_path / name, overwrite=False)
            repair(one.repairs(tmp_path / f"out-{name}"), compute, open_records)
    assert comparable(read_table(tmp_path / "second", "jobs")).to_pylist() == alone.tables["jobs"]


TILES = 9
"""Tiles of one iteration: 24 particles in eights, at least 2,000 rows in 800s."""

FIRST, MIDDLE, LAST = 1, TILES * 3, TILES * SETTINGS.num_iterations * 2
"""Tiles of the two searches, which are counted over all iterations."""


@pytest.mark.parametrize(
    ("kind", "at"),
    [
        ("last", LAST),
        *(
            pytest.param(*killed, marks=pytest.mark.slow)
            for killed in (("last", FIRST), ("last", MIDDLE), ("deep", 28))
        ),
    ],
)
def test_worker_killed_in_a_tile(cluster: Cluster, searched: tuple[Case, Finished], tmp_path: Path, at: int) -> None:
    case, alone = searched
    options = ComputeOptions(num_workers=2, tiles=True)
    compute = Compute(options, lambda line: None, dying(at, tmp_path / "calls", "start_tile"))
    disturbed = run_repairs(case.repairs(tmp_path / "out"), tmp_path / "run", compute)
    assert disturbed.redispatched >= 1
    assert_same(disturbed, alone)


@pytest.mark.slow
def test_worker_killed_in_a_search_and_in_a_row_block(
    cluster: Cluster, case: Case, alone: Finished, tmp_path: Path
) -> None:
    for method in ("run_task", "run_block"):
        options = ComputeOptions(num_workers=2, spread_rows=True)
        compute = Compute(options, lambda line: None, dying(1, tmp_path / method, method))
        disturbed = run_repairs(case.repairs(tmp_path / f"out-{method}"), tmp_path / f"run-{method}", compute)
        assert disturbed.redispatched >= 1
        assert_same(disturbed, alone)


def test_a_file_that_workers_do_not_see(cluster: Cluster, case: Case) -> None:
    """The rows are sent instead: the path below means this process's open file here, and another one in a worker."""
    with (case.data / "repair.h5").open("rb") as file:
        images = open_image_set(case.data / "repair.h5")
        hidden = replace(images, path=Path(f"/proc/self/fd/{file.fileno()}"))
        with Compute(ComputeOptions(num_workers=1, spread_rows=True), lambda line: None) as compute:
            sent = compute.predict(compute.handle(case.model), hidden)
            assert compute.decisions == [f"predict {images.rows} rows: on 1 workers (asked for)"]
    with here() as compute:
        np.testing.assert_array_equal(sent, compute.predict(compute.handle(case.model), images))


@pytest.mark.slow
def test_lost_node(cluster: Cluster, case: Case, alone: Finished, tmp_path: Path) -> None:
    extra = cluster.add_node(num_cpus=2)
    options = ComputeOptions(num_workers=8, tiles=False, spread_rows=True)
    gone = []

    def say(line: str) -> None:
        if line.startswith("workers") and not gone:
            gone.append(line)
            cluster.remove_node(extra, allow_graceful=False)

    disturbed = run_repairs(case.repairs(tmp_path / "out"), tmp_path / "run", Compute(options, say))
    assert gone
    assert_same(disturbed, alone)
