"""CrossFit gives the same bits wherever it runs, in tiles or not, and when workers die."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from cluster.compute.compute import Compute, ComputeOptions
from cluster.records.schema import OF_METHODS
from cluster.records.store import comparable, read_facts, read_table
from cluster.runs.repair import MethodRepair, run_repair
from engine.data.outcomes import open_negatives, open_positives
from engine.fitness.tiling import Tiling
from engine.methods.base import MethodSettings
from engine.metrics.requirements import default_promises
from engine.patches.arrow import read_patch
from engine.patches.save import repaired_path
from engine.problem.crossfit import CrossFitSettings
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from engine.targets.resolve import resolve_tuned
from engine.tuning.recipes import read_recipes
from tests.cluster.conftest import Case
from tests.support.batches import dying

SETTINGS = CrossFitSettings(
    recipes=read_recipes("1:1:epochs=1,2:1:epochs=2,4:1:focal:epochs=2"),
    folds=3,
    search=SearchSettings(
        swarm=SwarmSettings(num_particles=8),
        num_iterations=4,
        min_iteration_range=50,
        tiling=Tiling(particles=4, rows=352),
    ),
)
TABLES = ("swarm", "labels", "jobs", "patches", *sorted(OF_METHODS))


@dataclass(frozen=True)
class Ended:
    facts: dict[str, Any]
    tables: dict[str, list[dict[str, Any]]]
    model: bytes
    compute: Compute
    redispatched: int


DEEP = ("conv2d_1", "dense_1")
"""Layers that are tuned through the tail of the model."""


def run(case: Case, root: Path, compute: Compute, layers: Sequence[str] = ()) -> Ended:
    model = case.model
    rows = open_negatives(case.data / "negative"), open_positives(case.data / "positive")
    target, chain = resolve_tuned(model.model, model.loss, model.classes, model.path, layers)
    required = default_promises(None, model.classes)
    repair = MethodRepair(
        model=model,
        target=target,
        chain=chain,
        rows=tuple(images for images in rows if images is not None),
        folder=case.data / "negative" / "6",
        repaired=(6,),
        requirements=required.limits,
        stated=False,
        method="CrossFit",
        settings=MethodSettings(SETTINGS),
        seeds=(0, 1),
        validation=None,
        test=None,
        output=root / "out",
    )
    with compute:
        run_repair(repair, compute, root / "run")
        redispatched = compute.redispatched
    tables = {name: comparable(read_table(root / "run", name)).to_pylist() for name in TABLES}
    repaired = repaired_path(model, root / "out").read_bytes()
    return Ended(read_facts(root / "run"), tables, repaired, compute, redispatched)


def options(workers: int, **more: Any) -> ComputeOptions:
    return ComputeOptions(num_workers=workers, threads=1, **more)


@pytest.fixture(scope="module")
def here(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return run(case, tmp_path_factory.mktemp("here"), Compute(options(0), lambda line: None))


def assert_same(one: Ended, other: Ended) -> None:
    assert one.tables == other.tables
    assert one.model == other.model


def test_it_repairs(here: Ended) -> None:
    assert here.facts["step"] > 0
    assert {row["kind"] for row in here.tables["mixture"]} == {"recipe", "offset"}
    assert len(here.tables["tunings"]) == 9 and len(here.tables["frontier"]) == 21
    assert [row["chosen"] for row in here.tables["jobs"]].count(True) == 1


@pytest.mark.parametrize(
    ("workers", "tiles", "spread"),
    [
        (2, False, True),
        pytest.param(2, True, False, marks=pytest.mark.slow),
        pytest.param(1, True, False, marks=pytest.mark.slow),
        pytest.param(4, False, False, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_workers(
    cluster: Cluster, case: Case, here: Ended, tmp_path: Path, workers: int, tiles: bool, spread: bool
) -> None:
    where = options(workers, tiles=tiles, spread_rows=spread)
    there = run(case, tmp_path, Compute(where, lambda line: None))
    assert_same(there, here)
    assert f"tuning 6 tasks: on {workers} workers" in " ".join(there.compute.decisions)
    assert any(f"{'in tiles ' if tiles else ''}on {workers} workers" in line for line in there.compute.decisions)


@pytest.mark.parametrize("method", ["run_work", pytest.param("run_task", marks=pytest.mark.slow)])
def test_a_killed_worker(cluster: Cluster, case: Case, here: Ended, tmp_path: Path, method: str) -> None:
    disturbed = run(case, tmp_path, Compute(options(2), lambda line: None, dying(1, tmp_path / "calls", method)))
    assert disturbed.redispatched >= 1
    assert_same(disturbed, here)


def test_any_layer(cluster: Cluster, case: Case, tmp_path: Path) -> None:
    one, two, tiles = (
        run(case, tmp_path / name, Compute(where, lambda line: None), DEEP)
        for name, where in (("one", options(1)), ("two", options(2)), ("tiles", options(2, tiles=True)))
    )
    assert {path.rpartition("/")[0] for path in read_patch(tmp_path / "one" / "out" / "patch.arrow").paths} == set(DEEP)
    assert_same(two, one)
    assert_same(tiles, one)
    assert "tuning 6 tasks: on 2 workers" in " ".join(two.compute.decisions)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["run_work", "run_task"])
def test_a_killed_worker_of_any_layer(cluster: Cluster, case: Case, tmp_path: Path, method: str) -> None:
    """The one in its place gets the model too."""
    undisturbed = run(case, tmp_path / "whole", Compute(options(1), lambda line: None), DEEP)
    there = Compute(options(2), lambda line: None, dying(1, tmp_path / "calls", method))
    disturbed = run(case, tmp_path / "killed", there, DEEP)
    assert disturbed.redispatched >= 1
    assert_same(disturbed, undisturbed)
