"""One Ray cluster of three nodes on this machine for all tests of the package, and one small repair on real images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from cluster.batch.run import run_recorded
from cluster.compute.compute import Compute, ComputeOptions
from cluster.records.store import RunRecords, comparable, read_table
from cluster.runs.chunk import ChunkPaths
from cluster.runs.optimize import Repairs, repair
from cluster.runs.reports import ChunkReport
from engine.data.image_set import open_image_set
from engine.data.outcomes import open_negatives, write_targets
from engine.data.preprocess import preprocess_images
from engine.data.writer import write_image_set
from engine.datasets.fashion_mnist import LABEL_NAMES, read_split
from engine.fitness.tiling import Tiling
from engine.localize.fronts import localize
from engine.localize.weights_file import write_weights
from engine.models.load import load_model
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from engine.targets.last_dense import find_target
from tests.support.batches import MODES, here, small_batch, three_nodes, write_data

SHIPPED = Path(__file__).parents[2] / "cli" / "quickstart_data"
ROWS = 2400

# Nine tiles per iteration, so that two workers have several each.
SETTINGS = SearchSettings(
    swarm=SwarmSettings(num_particles=24),
    num_iterations=6,
    min_iteration_range=50,
    tiling=Tiling(particles=8, rows=800),
)


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head and two nodes that notice a lost node within seconds; this process is its driver."""
    with three_nodes(tmp_path_factory.mktemp("empty")) as nodes:
        yield nodes


@dataclass(frozen=True)
class Case:
    """A model and a repair set with targets and weights for several labels."""

    model: Any
    target: Any
    data: Path
    settings: SearchSettings = SETTINGS

    def repairs(self, output: Path, labels: tuple[int, ...] = (6,), seeds: int = 2, **changes: Any) -> Repairs:
        chunks = [
            ChunkPaths(self.data / "negative" / str(label), self.data / "positive", output / str(label))
            for label in labels
        ]
        return Repairs(self.model, self.target, chunks, range(seeds), replace(self.settings, **changes))


@pytest.fixture(scope="package")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Targets and localised weights of labels 4 and 6 of the shipped model on 2,400 shipped images."""
    data = tmp_path_factory.mktemp("data")
    images, labels = read_split(SHIPPED, "train")
    with write_image_set(
        data / "repair.h5", rows=ROWS, image_shape=(32, 32, 3), classes=10, label_names=LABEL_NAMES, preprocess="pad"
    ) as writer:
        writer.append(preprocess_images(images[:ROWS], "pad"), np.eye(10, dtype=np.uint8)[labels[:ROWS]])
    model = load_model(SHIPPED / "model.keras")
    target = find_target(model.model, model.loss, model.classes, model.path)
    kernel = np.asarray(target.layer.kernel)
    with Compute(ComputeOptions(num_workers=0), lambda line: None) as compute:
        handle = compute.handle(model, target)
        repair_set = open_image_set(data / "repair.h5")
        write_targets(repair_set, compute.predict(handle, repair_set), data)
        for label in (4, 6):
            folder = data / "negative" / str(label)
            negatives = open_negatives(folder)
            assert negatives is not None
            found = localize(compute.localisation_sums(handle, negatives), kernel)
            index = found.index
            write_weights(folder / "weights.csv", target.number, index, kernel[index[:, 0], index[:, 1]])
    return Case(model, target, data)


@dataclass(frozen=True)
class Finished:
    """What a run left: reports, tables without time and place, and the computing that did it."""

    reports: list[ChunkReport]
    tables: dict[str, list[dict[str, Any]]]
    compute: Compute
    redispatched: int

    def job(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """The rows of one job."""
        return {table: [row for row in rows if row["job"] == name] for table, rows in self.tables.items()}


def run_repairs(repairs: Repairs, directory: Path, compute: Compute) -> Finished:
    """Run, and read back what was recorded."""
    with compute:
        reports = repair(repairs, compute, lambda facts: RunRecords.create(directory, facts, overwrite=False))
        redispatched = compute.redispatched
    tables = {name: comparable(read_table(directory, name)).to_pylist() for name in ("swarm", "labels", "jobs")}
    return Finished(reports, tables, compute, redispatched)


@pytest.fixture(scope="package")
def alone(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The undisturbed run in this process that every other run must equal."""
    directory = tmp_path_factory.mktemp("alone")
    compute = Compute(ComputeOptions(num_workers=0), lambda line: None)
    return run_repairs(case.repairs(directory / "out"), directory / "run", compute)


def assert_same(one: Finished, other: Finished) -> None:
    """Bit-identical patches and tables."""
    for mine, theirs in zip(one.reports, other.reports, strict=True):
        assert mine.patch.weight == theirs.patch.weight
        for name in ("flat_index", "old", "new"):
            np.testing.assert_array_equal(getattr(mine.patch, name), getattr(theirs.patch, name))
    assert one.tables == other.tables


@pytest.fixture(scope="package")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chunks and held-out rows, see `tests.support.batches.write_data`."""
    return write_data(tmp_path_factory.mktemp("chunks"))


@pytest.fixture(scope="package")
def undisturbed(chunks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By mode, the directory of an undisturbed batch in this process; every other one must leave the same."""
    found = {mode: tmp_path_factory.mktemp("undisturbed") / mode for mode in MODES}
    for mode in MODES:
        with here() as compute:
            run_recorded(small_batch(chunks, found[mode], mode), compute)
    return found
