"""What a ledger takes down, another one on the same directory knows: a resumed run decides as the first would have."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.records.checkpoint import Begun
from cluster.records.rows import patch_places
from cluster.records.store import RunRecords, comparable, read_facts, read_table
from cluster.runs.ledger import Ledger
from cluster.workers.harvest import TaskEvent, event_of
from cluster.workers.passes import ship_rows
from cluster.workers.task import ChunkLabel, ReadyCase, RepairTask, SearchJob, SearchResult, TaskResult
from engine.backend import keras
from engine.core.rng import RngKey
from engine.data.image_set import open_image_set
from engine.data.writer import write_image_set
from engine.fitness.objective import Objective
from engine.layers.weight_stats import WeightStats
from engine.models.loss import TrainingLoss
from engine.search import loop as search
from engine.search.loop import Search, SearchSettings, SearchState
from engine.search.swarm import SwarmSettings, SwarmState
from engine.targets.last_dense import find_target

SHAPE = (12, 3)
WEIGHT = "scores/kernel"
MODEL = keras.Sequential([keras.Input((12,)), keras.layers.Dense(3, activation="softmax", name="scores")])
TARGET = find_target(MODEL, TrainingLoss("categorical_crossentropy", False, True), 3, Path("model.keras"))
INDEX = np.array([(11, 2), (0, 1)])
OLD = np.array([0.1, -0.25], dtype=np.float32)
JUDGE = Objective(negatives=5, positives=9, positive_weight=3.0)
SETTINGS = SearchSettings(swarm=SwarmSettings(num_particles=6), num_iterations=6, min_iteration_range=50)
FACTS = {"identity": {"model": "m"}}


def bowl(candidates: np.ndarray) -> np.ndarray:
    """Sums that get better towards 1; a weight below 0 has no loss."""
    distance = np.abs(candidates.astype(np.float64) - 1).sum(axis=1)
    sums = np.stack([distance, distance, np.floor(50 * np.exp(-distance)), 9 - np.floor(distance)], axis=1)
    sums[candidates[:, 0] < -0.5, :2] = np.nan
    return sums


@pytest.fixture(scope="module")
def task_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RepairTask]:
    path = tmp_path_factory.mktemp("chunks") / "7" / "repair.h5"
    with write_image_set(path, rows=3, image_shape=(2, 2, 1), classes=3) as writer:
        writer.append(np.zeros((3, 2, 2, 1), np.float32), np.eye(3, dtype=np.uint8))
    shipped, folder = ship_rows(open_image_set(path)), path.parent

    def make(name: str = "step1-chunk7-label2+0", step: int = 1, seeds: int = 2) -> RepairTask:
        group = name.partition("+")[0]
        jobs = tuple(SearchJob(f"{group}-w3-s{seed}", SETTINGS, seed) for seed in range(seeds))
        return RepairTask(name, step, folder, 2, jobs, "base", ChunkLabel(shipped, None, "mean", 1), 3)

    return make


@pytest.fixture
def records(tmp_path: Path) -> RunRecords:
    return RunRecords.create(tmp_path / "run", FACTS, overwrite=False)


def ledger_of(records: RunRecords, on_jobs: Callable[[Mapping[str, Any]], None] | None = None) -> Ledger:
    return Ledger(records, TARGET, on_jobs)


def resumed(records: RunRecords) -> Ledger:
    """A fresh ledger, as another process would open it after this one died."""
    return ledger_of(RunRecords.resume(records.directory, FACTS))


@dataclass(frozen=True, eq=False)
class Ran:
    """What a segment of a task found, and what of it comes to the driver."""

    result: TaskResult
    event: TaskEvent

    @property
    def begun(self) -> Mapping[str, Begun]:
        return self.event.segments[0].begun


def event_from(task: RepairTask, begun: Mapping[str, Begun], result: TaskResult) -> TaskEvent:
    return event_of(task, begun, result, where="worker", worker="host:1", redispatched=2)


def run(task: RepairTask, begun: Mapping[str, Begun], iterations: Mapping[str, int]) -> Ran:
    """A segment of real searches: of each so many iterations, the others of the task as they are."""
    results = []
    for job in task.searches:
        one = Search(job.settings, RngKey(job.seed, "rows", task.label), JUDGE)
        state = search.start(one.settings, one.source, OLD, WeightStats(0.0, 0.5, 1.0))
        if job.name in begun:
            state = begun[job.name].state
        done = []
        for _ in range(iterations.get(job.name, 0)):
            state, more = search.advance(one.settings, one.source, JUDGE, state, bowl, 0.0)
            done += more
        found = search.offers(one, state, bowl, task.offers) if state.stop else []
        results.append(SearchResult(job.name, JUDGE, state, tuple(done), tuple(found)))
    case: Any = SimpleNamespace(index=INDEX, data="d" * 64)
    ready = ReadyCase(case, None, task.folder, patch_places(TARGET.patch(INDEX, OLD, OLD), TARGET.shapes))  # type: ignore[arg-type]
    result = TaskResult(tuple(results), ready=ready, seconds=0.5)
    return Ran(result, event_from(task, begun, result))


def all_of(task: RepairTask, count: int) -> dict[str, int]:
    return {job.name: count for job in task.searches}


def assert_same_state(mine: SearchState, theirs: SearchState) -> None:
    for field in fields(SwarmState):
        first = np.asarray(getattr(mine.swarm, field.name))
        second = np.asarray(getattr(theirs.swarm, field.name))
        assert first.tobytes() == second.tobytes(), field.name
    assert mine.best_sums.tobytes() == theirs.best_sums.tobytes()
    assert (mine.start_fitness, mine.stop) == (theirs.start_fitness, theirs.stop)


def tables(records: RunRecords) -> dict[str, str]:
    """What equal runs have in common, as text: there not-a-numbers are equal."""
    names = ("jobs", "swarm", "patches")
    return {name: str(comparable(read_table(records.directory, name)).to_pylist()) for name in names}


def test_an_ended_task_is_known_again(records: RunRecords, task_of: Callable[..., RepairTask]) -> None:
    task = task_of()
    event = run(task, {}, all_of(task, 6))
    ledger = ledger_of(records)
    ledger.begin(1, 2)
    ledger.take(event.event)
    names = [job.name for job in task.searches]
    again = resumed(records)
    assert [again.has(name) for name in names] == [True, True]
    assert not again.has("step1-chunk7-label2-w3-s9")
    for either_ledger in (ledger, again):
        assert either_ledger.counts == {"done": 2}
        assert either_ledger.failed == {}
        assert either_ledger.begun([task]) == {}
        # In the order asked for; of searches it does not know it says nothing.
        outcomes = either_ledger.ended([names[1], "other", names[0]])
        assert [outcome.job for outcome in outcomes] == [names[1], names[0]]
        for outcome, result in zip(outcomes, reversed(event.result.searches), strict=True):
            assert outcome.index.dtype == np.int64
            np.testing.assert_array_equal(outcome.index, INDEX)
            values = np.stack([offer.values for offer in result.offers])
            assert len(values) > 1
            assert (outcome.values.dtype, outcome.values.tobytes()) == (np.float32, values.tobytes())
    assert records.checkpoints() == []


def test_the_rows_of_an_ended_task(records: RunRecords, task_of: Callable[..., RepairTask]) -> None:
    task = task_of()
    event = run(task, {}, all_of(task, 6))
    ledger_of(records).take(event.event)
    jobs = read_table(records.directory, "jobs").to_pylist()
    for row, search_job, result in zip(jobs, task.searches, event.result.searches, strict=True):
        swarm = result.state.swarm
        expected = {
            "job": search_job.name, "step": 1, "label": 2, "seed": search_job.seed, "data": "d" * 64,
            "positive_weight": 3.0, "weights": 2, "negatives": 5, "positives": 9, "iterations": 6,
            "fitness": swarm.global_fitness, "start_fitness": result.state.start_fitness,
            "patched": int(result.state.best_sums[2]), "intact": int(result.state.best_sums[3]),
            "stop": "iterations", "state": "done", "note": "",
            "chosen": False, "where": "worker", "worker": "host:1", "host": socket.gethostname(), "redispatched": 2,
            "seconds": sum(iteration.seconds for iteration in result.iterations),
        }  # fmt: skip
        assert {name: row[name] for name in expected} == expected
        assert row["chunk"] == str(task.folder)
        mine = [
            entry for entry in read_table(records.directory, "swarm").to_pylist() if entry["job"] == search_job.name
        ]
        assert [entry["iteration"] for entry in mine] == [1, 2, 3, 4, 5, 6]
        assert [entry["best"] for entry in mine] == [iteration.best for iteration in result.iterations]
        patches = [
            entry for entry in read_table(records.directory, "patches").to_pylist() if entry["job"] == search_job.name
        ]
        assert [(entry["rank"], entry["position"]) for entry in patches] == [
            (rank, position) for rank in range(len(result.offers)) for position in range(2)
        ]
        assert [entry["flat_index"] for entry in patches[:2]] == [35, 1]
        assert [entry["index"] for entry in patches[:2]] == [[11, 2], [0, 1]]
        assert [np.float32(entry["old"]) for entry in patches[:2]] == OLD.tolist()
        assert patches[0]["fitness"] == swarm.global_fitness
        assert {entry["weight"] for entry in patches} == {WEIGHT}


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_task_in_segments_leaves_what_it_leaves_at_once(
    records: RunRecords, task_of: Callable[..., RepairTask], tmp_path: Path, cut: int
) -> None:
    task = task_of()
    at_once = RunRecords.create(tmp_path / "other", FACTS, overwrite=False)
    ledger_of(at_once).take(run(task, {}, all_of(task, 6)).event)
    ledger = ledger_of(records)
    first = run(task, {}, all_of(task, cut))
    ledger.take(first.event)
    assert ledger.begun([task]).keys() == {job.name for job in task.searches}
    assert ledger.counts == {}
    assert len(records.checkpoints()) == 1
    ledger.take(run(task, first.begun, all_of(task, 6 - cut)).event)
    assert records.checkpoints() == []
    assert tables(records) == tables(at_once)


def test_a_task_under_way_goes_on_from_its_last_segment(
    records: RunRecords, task_of: Callable[..., RepairTask], tmp_path: Path
) -> None:
    """One of its searches has ended before the other, which its table says; together they go on."""
    task, other = task_of(), task_of("step1-chunk8-label2+0")
    names = [job.name for job in task.searches]
    event = run(task, {}, {names[0]: 2, names[1]: 6})
    ledger = ledger_of(records)
    ledger.take(event.event)
    assert [row["state"] for row in read_table(records.directory, "jobs").to_pylist()] == ["running", "done"]
    again = resumed(records)
    assert read_table(records.directory, "jobs").num_rows == 0
    for name in names:
        assert not again.has(name)
        assert again.ended([name]) == []
        assert_same_state(again.begun([task])[name].state, event.begun[name].state)
    assert again.counts == {}
    assert again.begun([other]) == {}
    again.take(run(task, again.begun([task]), {names[0]: 4}).event)
    at_once = RunRecords.create(tmp_path / "other", FACTS, overwrite=False)
    ledger_of(at_once).take(run(task, {}, all_of(task, 6)).event)
    assert tables(records) == tables(at_once)
    last = resumed(records)
    assert last.counts == {"done": 2}
    assert len(last.ended(names)) == 2


def test_a_damaged_checkpoint_is_no_checkpoint(records: RunRecords, task_of: Callable[..., RepairTask]) -> None:
    task = task_of()
    ledger_of(records).take(run(task, {}, all_of(task, 2)).event)
    (path,) = records.checkpoints()
    path.write_bytes(path.read_bytes()[:-5])
    assert resumed(records).begun([task]) == {}


def test_a_checkpoint_of_an_ended_task_counts_for_nothing(
    records: RunRecords, task_of: Callable[..., RepairTask]
) -> None:
    """The process was killed before it could drop it."""
    task = task_of()
    ledger = ledger_of(records)
    first = run(task, {}, all_of(task, 3))
    ledger.take(first.event)
    (path,) = records.checkpoints()
    content = path.read_bytes()
    ledger.take(run(task, first.begun, all_of(task, 3)).event)
    records.write_checkpoint(task.name, content)
    again = resumed(records)
    assert again.begun([task]) == {}
    assert again.counts == {"done": 2}


def test_what_was_skipped_or_failed(records: RunRecords, task_of: Callable[..., RepairTask], tmp_path: Path) -> None:
    skipped, damaged = task_of(), task_of("step1-chunk8-label2+0")
    ledger = ledger_of(records)
    ledger.take(event_from(skipped, {}, TaskResult(note="all right")))
    ledger.take(event_from(damaged, {}, TaskResult(note="cut short", failed=True)))
    unreadable = task_of("step1-chunk9-label2+0").searches
    ledger.fail(1, tmp_path / "9", 2, unreadable, "no such file")
    assert ledger.counts == {"skipped": 2, "failed": 4}
    chunk = str(damaged.folder)
    assert ledger.failed == {chunk: "cut short", str(tmp_path / "9"): "no such file"}
    jobs = {row["job"]: row for row in read_table(records.directory, "jobs").to_pylist()}
    for search_job in damaged.searches:
        row = jobs[search_job.name]
        assert (row["state"], row["note"], row["fitness"], row["positive_weight"]) == (
            "failed",
            "cut short",
            None,
            None,
        )
    assert not any(ledger_of(records).has(search_job.name) for search_job in (*damaged.searches, *unreadable))
    # What failed is tried again, and counted only once.
    again = resumed(records)
    assert again.counts == {"skipped": 2}
    assert again.failed == {}
    assert [again.has(search_job.name) for search_job in (*skipped.searches, *damaged.searches, *unreadable)] == [
        True
    ] * 2 + [False] * 4
    assert again.ended([search_job.name for search_job in skipped.searches]) == []
    again.fail(1, tmp_path / "9", 2, unreadable, "no such file")
    assert again.counts == {"skipped": 2, "failed": 2}


def test_what_was_chosen_stays_chosen(records: RunRecords, task_of: Callable[..., RepairTask]) -> None:
    first, second = task_of(), task_of("step1-chunk7-label2+2", seeds=1)
    second = RepairTask(**{**vars(second), "searches": (SearchJob("step1-chunk7-label2-w3-s2", SETTINGS, 2),)})
    ledger = ledger_of(records)
    for task in (first, second):
        ledger.take(run(task, {}, all_of(task, 6)).event)
    ledger.flush()
    names = [job.name for task in (first, second) for job in task.searches]

    def chosen() -> list[str]:
        return [row["job"] for row in read_table(records.directory, "jobs").to_pylist() if row["chosen"]]

    before = tables(records)
    ledger.choose([])
    assert tables(records) == before
    ledger.choose([names[1]])
    assert chosen() == [names[1]]
    again = resumed(records)
    again.choose([names[0], names[2]])
    assert chosen() == names
    # Choosing changes nothing else, and a ledger after it knows as much.
    assert tables(records)["jobs"].replace("True", "False") == before["jobs"]
    last = resumed(records)
    assert last.counts == {"done": 3}
    for mine, theirs in zip(ledger.ended(names), last.ended(names), strict=True):
        assert mine.job == theirs.job
        assert mine.values.tobytes() == theirs.values.tobytes()
    # Once the tables are whole there is nothing to mark.
    records.compact(FACTS)
    whole = tables(records)
    ledger_of(records).choose(names)
    assert tables(records) == whole
    assert read_facts(records.directory)["state"] == "done"


def test_a_patch_that_a_batch_made_is_no_outcome(records: RunRecords, task_of: Callable[..., RepairTask]) -> None:
    task = task_of()
    ledger_of(records).take(run(task, {}, all_of(task, 6)).event)
    rows = [row | {"job": "batch", "fitness": None} for row in read_table(records.directory, "patches").to_pylist()]
    records.replace("patches", "batch", rows[:2])
    assert ledger_of(records).ended(["batch"]) == []


def test_progress_counts_jobs_over_a_resume(records: RunRecords, task_of: Callable[..., RepairTask]) -> None:
    told: list[dict[str, Any]] = []

    def on_jobs(progress: Mapping[str, Any]) -> None:
        told.append(dict(progress))

    first, second = task_of(), task_of("step1-chunk8-label2+0")
    ledger = ledger_of(records, on_jobs)
    ledger.plan(1, 4)
    ledger.begin(1, 4)
    ledger.take(run(first, {}, all_of(first, 6)).event)
    assert (told[0]["jobs_done"], told[0]["jobs"], told[0]["left"]) == (0, 4, None)
    last = told[-1]
    assert (last["jobs_done"], last["jobs"], last["searched_iterations"]) == (2, 4, 12)
    assert last["workers"] == {"host:1": 2}
    assert last["left"] == pytest.approx(last["elapsed"], rel=0.5)
    ledger.best("better")
    assert told[-1]["best"] == "better"
    again = Ledger(RunRecords.resume(records.directory, FACTS), TARGET, on_jobs)
    again.plan(1, 4)
    again.begin(1, 4)
    again.take(run(second, {}, all_of(second, 6)).event)
    final = told[-1]
    assert (final["jobs_done"], final["jobs"], final["searched_iterations"], final["left"]) == (4, 4, 24, 0)
    # Time goes on where it stopped.
    assert final["elapsed"] > last["elapsed"]
    ended = [row["ended"] for row in read_table(records.directory, "jobs").to_pylist()]
    assert ended == sorted(ended)
