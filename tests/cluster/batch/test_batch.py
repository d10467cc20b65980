"""A batch gives the same tables, patches and models wherever its searches run, and each search the same bits alone."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ray.cluster_utils import Cluster

from cluster.batch.run import run_recorded
from cluster.batch.spec import Batch, ChunkFile, Mode, tasks_of
from cluster.compute.compute import Compute, ComputeOptions
from cluster.compute.placement import Placement
from cluster.records.checkpoint import Begun
from cluster.records.rows import iteration_numbers
from cluster.records.schema import OF_METHODS, SCHEMAS
from cluster.records.store import RunRecords, comparable, read_facts, read_table
from cluster.runs.chunk import ChunkPaths
from cluster.runs.optimize import Repairs, repair
from cluster.workers.bundles import Bundles
from cluster.workers.harvest import TaskEvent
from cluster.workers.passes import ShippedRows
from cluster.workers.task import Base, TaskRunner
from engine.core.errors import InputError
from engine.data.image_set import open_image_set
from engine.data.outcomes import open_negatives, write_targets
from engine.localize.fronts import localize
from engine.localize.weights_file import write_weights
from tests.support.batches import CHUNKS, LABELS, MODES, SETTINGS, WORTHS, differences, here, small_batch, weightings

SKIPPED = ("step1-chunk3-label4", "step2-chunk3-label4", "step4-chunk3-label4")
"""Searches of the chunk that has no row of label 4: in rounds 1 and 2, and in iteration 4 of a chain."""


def test_undisturbed_batches_repair(undisturbed: dict[str, Path]) -> None:
    patches = set()
    for mode, directory in undisturbed.items():
        jobs = read_table(directory, "jobs").to_pylist()
        steps = {"independent": 1, "rounds": 2, "chain": CHUNKS}[mode]
        assert len(jobs) == steps * len(LABELS) * len(WORTHS) * (1 if mode == "chain" else CHUNKS)
        assert {row["state"] for row in jobs if row["job"].startswith(SKIPPED)} == {"skipped"}
        assert Counter(row["state"] for row in jobs if not row["job"].startswith(SKIPPED)).keys() == {"done"}
        assert any(row["chosen"] for row in jobs)
        saved = [row for row in read_table(directory, "patches").to_pylist() if row["job"] == "batch"]
        assert saved and all(row["old"] != row["new"] for row in saved)
        patches.add((directory / "patch.arrow").read_bytes())
        assert all(read_table(directory, name).num_rows for name in SCHEMAS.keys() - {"verdicts", *OF_METHODS})
        facts = read_facts(directory)
        assert (facts["state"], facts["exit_code"]) == ("done", 0)
    assert len(patches) == len(MODES)


@pytest.fixture(scope="module")
def two_workers(cluster: Cluster) -> Iterator[Compute]:
    """Two workers for several tests: starting them is what takes the time."""
    with Compute(ComputeOptions(num_workers=2), lambda line: None) as compute:
        yield compute


def check_modes(
    compute: Compute, chunks: Path, undisturbed: dict[str, Path], directory: Path, modes: Sequence[Mode] = MODES
) -> None:
    """The modes leave what they leave undisturbed in one process."""
    where = "tiles" if compute.options.tiles else "worker"
    for mode in modes:
        assert run_recorded(small_batch(chunks, directory / mode, mode), compute) == 0
        assert differences(directory / mode, undisturbed[mode]) == []
        assert set(read_table(directory / mode, "jobs")["where"].to_pylist()) == {where}


def test_one_worker(cluster: Cluster, chunks: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    with Compute(ComputeOptions(num_workers=1), lambda line: None) as compute:
        check_modes(compute, chunks, undisturbed, tmp_path)


@pytest.mark.parametrize("tiles", [False, True])
def test_two_workers(
    two_workers: Compute,
    chunks: Path,
    undisturbed: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiles: bool,
) -> None:
    monkeypatch.setattr(two_workers, "options", ComputeOptions(num_workers=2, tiles=tiles))
    check_modes(two_workers, chunks, undisturbed, tmp_path)


@pytest.mark.parametrize("visible", [True, False])
def test_digests_of_chunks_are_made_on_workers(
    two_workers: Compute, chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: bool
) -> None:
    """Of all but one that cannot be read to its end; also where workers see no file."""
    work = small_batch(chunks, tmp_path / "run")
    sets = [chunk.images for chunk in work.chunks if chunk.images is not None]
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(sets[-1].path.read_bytes())
    with h5py.File(damaged, "r+") as file:
        file["images"][-1] = np.nan
    sets += [open_image_set(damaged), replace(sets[0], path=tmp_path / "first.h5")]
    (tmp_path / "first.h5").write_bytes(sets[0].path.read_bytes())
    with here() as alone:
        expected = alone.digests(work.model, sets)
    monkeypatch.setattr("cluster.compute.compute.SETS_SECONDS", 0.0)
    monkeypatch.setattr("cluster.compute.compute.place_shares", lambda *_: Placement("workers", "asked for"))
    if not visible:  # another size than the file that a worker sees
        monkeypatch.setattr("cluster.compute.passes.ship_rows", lambda images: ShippedRows(images, -1))
    told: list[int] = []
    found = two_workers.digests(work.model, sets, told.append)
    assert any(line.startswith(f"digests of {len(sets) - 1} sets: on 2 workers") for line in two_workers.decisions)
    assert found.keys() == expected.keys() == {images.path for images in sets} - {damaged}
    assert all(np.array_equal(found[path], expected[path]) for path in expected)
    assert sum(told) == sum(images.rows for images in sets)


@pytest.mark.parametrize("lasts", [1e9, pytest.param(0.0, marks=pytest.mark.slow)])
def test_tasks_that_travel_together(
    two_workers: Compute,
    chunks: Path,
    undisturbed: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lasts: float,
) -> None:
    """Also where a call comes back before all of its tasks have begun."""
    together, original = [], two_workers.run_tasks

    def run_tasks(*arguments: Any) -> Iterator[TaskEvent]:
        for event in original(*arguments):
            together.append(len(event.tasks))
            yield event

    monkeypatch.setattr(Bundles, "size", lambda self, waiting: 3)
    monkeypatch.setattr("cluster.workers.bundles.CALL_SECONDS", lasts)
    monkeypatch.setattr("cluster.workers.bundles.SERVED_SECONDS", 0.0)
    monkeypatch.setattr(two_workers, "run_tasks", run_tasks)
    check_modes(two_workers, chunks, undisturbed, tmp_path, modes=["rounds"])
    assert sum(together) >= 2 * CHUNKS * len(LABELS) and max(together) == (3 if lasts else 1)


@pytest.mark.parametrize("waits", [0.0, 1e9])
@pytest.mark.parametrize("mode", ["rounds", pytest.param("chain", marks=pytest.mark.slow)])
def test_interrupted_after_some_files(
    chunks: Path,
    undisturbed: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    waits: float,
) -> None:
    """What had ended is judged again, and not searched again, also what waited for its file."""
    monkeypatch.setattr("cluster.runs.ledger.PROGRESS_SECONDS", waits)
    done, first = [], len(LABELS) * len(WORTHS) * (1 if mode == "chain" else CHUNKS)

    def interrupt(progress: Mapping[str, Any]) -> None:
        done.append(progress["jobs_done"])
        if done[-1] > first:
            raise KeyboardInterrupt

    directory = tmp_path / "run"
    with here() as compute, pytest.raises(KeyboardInterrupt):
        run_recorded(small_batch(chunks, directory, mode), compute, on_jobs=interrupt)
    before = {row["job"]: row["ended"] for row in read_table(directory, "jobs").to_pylist()}
    assert len(before) == done[-1]
    assert len(list((directory / "jobs").iterdir())) == (2 if waits else 1 + first // len(WORTHS))
    with here() as compute:
        assert run_recorded(small_batch(chunks, directory, mode), compute, resume=True) == 0
    assert differences(directory, undisturbed[mode]) == []
    after = {row["job"]: row["ended"] for row in read_table(directory, "jobs").to_pylist()}
    assert all(after[job] == ended for job, ended in before.items())


@pytest.mark.slow
def test_four_workers(
    cluster: Cluster,
    chunks: Path,
    undisturbed: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With tasks that come back after every iteration."""
    monkeypatch.setattr("cluster.compute.tasks.SEGMENT_SECONDS", 0.0)
    with Compute(ComputeOptions(num_workers=4), lambda line: None) as compute:
        check_modes(compute, chunks, undisturbed, tmp_path, modes=["rounds"])
        # Fewer searches than workers: after a first segment it is decided anew where they go on.
        check_alone(compute, chunks, undisturbed["independent"], tmp_path / "few", WORTHS)
        assert any(line.startswith("2 long tasks: ") for line in compute.decisions), compute.decisions


def test_a_search_that_had_stopped_is_told_with_the_others(
    two_workers: Compute, chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In tiles too."""
    batch = small_batch(chunks, tmp_path / "run")
    base = Base(batch.target.kernel)
    tasks = list(tasks_of(batch, 1, batch.chunks[1:2], base.key, 0))[:1]
    with here() as compute:
        undisturbed = TaskRunner().run(compute.handle(batch.model, batch.target), base, tasks[0], {}, 1e9)
    assert len(undisturbed.searches) == 2
    monkeypatch.setattr(two_workers, "options", ComputeOptions(num_workers=2, tiles=True))
    handle = two_workers.handle(batch.model, batch.target)
    for stopped in undisturbed.searches:
        begun = {stopped.name: Begun(stopped.state, iteration_numbers(stopped.iterations))}
        *before, last = (event.segments[0] for event in two_workers.run_tasks(handle, base, tasks, begun))
        assert not any(segment.ended for segment in before) and last.ended
        for mine, theirs in zip(last.found, undisturbed.searches, strict=True):
            assert mine.values.tobytes() == b"".join(offer.values.tobytes() for offer in theirs.offers)


def merging(chunks: Path, directory: Path) -> Batch:
    searches = weightings(replace(SETTINGS, num_iterations=8), WORTHS[1:])
    return small_batch(chunks, directory, "rounds", merge="search", max_rounds=1, weightings=searches)


@pytest.fixture(scope="module")
def merged_by_search(chunks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("search") / "run"
    with here() as compute:
        run_recorded(merging(chunks, directory), compute)
    return directory


def test_merged_by_search(chunks: Path, merged_by_search: Path, tmp_path: Path) -> None:
    rows = read_table(merged_by_search, "patches").to_pylist()
    values: dict[bool, set[Any]] = {True: set(), False: set()}
    for row in rows:
        values[row["job"] == "batch"].add((row["weight"], row["flat_index"], row["new"]))
    assert values[True] - values[False]
    assert sum(row["chosen"] for row in read_table(merged_by_search, "jobs").to_pylist()) > 1

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    batch = merging(chunks, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch, here() as compute, pytest.raises(KeyboardInterrupt):
        patch.setattr("cluster.batch.modes.searched", interrupt)
        run_recorded(batch, compute)
    says = 'was begun with merge "search" and this command has "greedy"'
    with here() as compute, pytest.raises(InputError, match=says):
        run_recorded(replace(batch, merge="greedy"), compute, resume=True)
    with here() as compute:
        run_recorded(batch, compute, resume=True)
    assert differences(tmp_path / "run", merged_by_search) == []


def test_in_segments(
    chunks: Path, undisturbed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.compute.compute.SEGMENT_SECONDS", 0.0)
    with here() as compute:
        run_recorded(small_batch(chunks, tmp_path / "run"), compute)
    assert differences(tmp_path / "run", undisturbed["independent"]) == []


def test_a_search_alone_and_among_others(chunks: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    with here() as compute:
        check_alone(compute, chunks, undisturbed["independent"], tmp_path / "run")


def check_alone(
    compute: Compute, chunks: Path, among: Path, directory: Path, worths: Sequence[float] = WORTHS[1:]
) -> None:
    """Few searches of one label of one chunk leave the same rows as the run `among` whose searches they are."""
    whole = small_batch(chunks, directory, labels=(6,), weightings=weightings(worths=worths))
    run_recorded(replace(whole, chunks=whole.chunks[1:2]), compute)
    jobs = read_table(directory, "jobs")["job"].to_pylist()
    assert len(jobs) == len(worths)
    for job, table in itertools.product(jobs, ("jobs", "swarm", "patches")):
        mine, theirs = rows_of(directory, table, job), rows_of(among, table, job)
        assert mine and mine == theirs


def rows_of(directory: Path, table: str, job: str) -> list[dict[str, Any]]:
    rows = comparable(read_table(directory, table)).to_pylist()
    return [{key: row[key] for key in row if key != "chosen"} for row in rows if row["job"] == job]


def test_a_search_through_files(chunks: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    """`target`, `localize` and `optimize` find what a batch finds, bit for bit."""
    batch = small_batch(chunks, tmp_path / "run")
    images = open_image_set(chunks / "chunks" / "1" / "repair.h5")
    kernel = np.asarray(batch.target.layer.kernel)
    with here() as compute:
        handle = compute.handle(batch.model, batch.target)
        write_targets(images, compute.predict(handle, images), tmp_path)
        for label in LABELS:
            negatives = open_negatives(tmp_path / "negative" / str(label))
            assert negatives is not None
            found = localize(compute.localisation_sums(handle, negatives), kernel)
            index = found.index
            weights = tmp_path / "negative" / str(label) / "weights.csv"
            write_weights(weights, batch.target.number, index, kernel[index[:, 0], index[:, 1]])
            paths = ChunkPaths(weights.parent, tmp_path / "positive", tmp_path / "out" / str(label))
            for weighting in batch.weightings:
                directory = tmp_path / f"{label}-{weighting.text}"

                def records(facts: Any, directory: Path = directory) -> RunRecords:
                    return RunRecords.create(directory, facts, overwrite=False)

                repair(Repairs(batch.model, batch.target, [paths], [0], weighting.settings), compute, records)
                check_same_search(
                    directory, undisturbed["independent"], f"step1-chunk1-label{label}-w{weighting.text}-s0"
                )


def check_same_search(optimized: Path, among: Path, job: str) -> None:
    """The only search of an `optimize` against the search `job` of a batch."""
    (name,) = read_table(optimized, "jobs")["job"].to_pylist()
    for table, own in (("jobs", ("job",)), ("swarm", ("job",)), ("patches", ("job",))):
        mine, theirs = rows_of(optimized, table, name), rows_of(among, table, job)
        if table == "patches":
            theirs = [row for row in theirs if row["rank"] == 0]
        assert mine
        assert [without(row, own) for row in mine] == [without(row, own) for row in theirs]


def without(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in names}


def test_another_number_of_seeds_and_labels(chunks: Path, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    """Six searches in a task: more than are evaluated at once. Those of the smaller batch are among them, unchanged."""
    with here() as compute:
        run_recorded(small_batch(chunks, tmp_path / "run", seeds=(0, 1, 2), labels=(2, 4, 6)), compute)
    for table in ("jobs", "swarm", "patches"):
        few = {row["job"] for row in read_table(undisturbed["independent"], "jobs").to_pylist()}
        for job in few:
            assert rows_of(tmp_path / "run", table, job) == rows_of(undisturbed["independent"], table, job)


def test_one_compute_for_two_batches(chunks: Path, tmp_path: Path) -> None:
    """What a process keeps of one batch does not leak into another one with tasks of the same names."""

    def other(name: str) -> Any:
        settings = replace(small_batch(chunks, tmp_path / name).weightings[0].settings, num_iterations=3)
        return small_batch(chunks, tmp_path / name, "chain", settings=settings)

    with here() as compute:
        run_recorded(small_batch(chunks, tmp_path / "first", "chain"), compute)
        run_recorded(other("second"), compute)
    with here() as compute:
        run_recorded(other("alone"), compute)
    assert differences(tmp_path / "second", tmp_path / "alone") == []


@pytest.mark.parametrize("where", ["here", "workers", "tiles"])
def test_damaged_rows(
    request: pytest.FixtureRequest,
    chunks: Path,
    undisturbed: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """A chunk with a pixel that is no number fails and is named; the others end as they do without it."""
    whole, among = small_batch(chunks, tmp_path / "run"), undisturbed["independent"]
    damaged = tmp_path / "damaged" / "repair.h5"
    damaged.parent.mkdir()
    with h5py.File(chunks / "chunks" / "0" / "repair.h5") as source, h5py.File(damaged, "w") as file:
        pixels = source["images"][...]
        pixels[200, 3, 3, 0] = np.nan
        file["images"], file["labels"] = pixels, source["labels"][...]
    with here() as alone, damaged.open("rb") as opened:
        compute = alone if where == "here" else request.getfixturevalue("two_workers")
        if where == "tiles":
            monkeypatch.setattr(compute, "options", ComputeOptions(num_workers=2, tiles=True))
        # A path that means this process's open file here, and nothing or something else in a worker.
        images = replace(open_image_set(damaged), path=Path(f"/proc/self/fd/{opened.fileno()}"))
        bad = ChunkFile("bad", damaged.parent, images)
        assert run_recorded(replace(whole, chunks=(bad, *whole.chunks)), compute) == 4
    jobs = {row["job"]: row for row in read_table(tmp_path / "run", "jobs").to_pylist()}
    failed = {job for job, row in jobs.items() if row["state"] == "failed"}
    assert failed == {f"step1-chunkbad-label{label}-w{worth:g}x-s0" for label in LABELS for worth in WORTHS}
    assert all("row 200 has pixels that are NaN" in jobs[job]["note"] for job in failed)
    for job in jobs.keys() - failed:
        assert rows_of(tmp_path / "run", "swarm", job) == rows_of(among, "swarm", job)
    assert (tmp_path / "run" / "patch.arrow").read_bytes() == (among / "patch.arrow").read_bytes()
