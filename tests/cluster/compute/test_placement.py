"""Where work runs follows from measured cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.compute.compute import Compute, ComputeOptions
from cluster.compute.placement import (
    Cost,
    Means,
    cost_of,
    place_by_cost,
    place_rows,
    place_tasks,
    place_tiles,
    round_trip,
)
from cluster.workers.task import ReadyCase, RepairTask, SearchJob, SearchResult, TaskResult
from engine.core.rng import RngKey
from engine.fitness.mixture import Mixture
from engine.fitness.objective import Objective
from engine.fitness.rows import SearchRows
from engine.fitness.tiling import Tiling
from engine.layers.weight_stats import WeightStats
from engine.search.loop import Iteration, Offer, SearchSettings, SearchState, start
from tests.support.chains import net, random_changes

HERE = Means(0, asked=True, adds_hardware=False, only_workers=False, start_seconds=0.0)
LAPTOP = Means(4, asked=False, adds_hardware=False, only_workers=False, start_seconds=8.0)
CLUSTER = Means(8, asked=True, adds_hardware=True, only_workers=False, start_seconds=0.0)


@pytest.mark.parametrize(
    ("means", "blocks", "block", "compiling", "where"),
    [
        (CLUSTER, 90, 0.5, 1.0, "workers"),
        (CLUSTER, 2, 0.05, 1.0, "process"),
        (LAPTOP, 90, 0.5, 1.0, "process"),  # workers add nothing
        (HERE, 90, 0.5, 1.0, "process"),
        (replace(CLUSTER, asked=False, start_seconds=4.0), 10, 0.1, 0.0, "process"),  # starting costs too
        (replace(CLUSTER, asked=False, start_seconds=4.0), 100, 0.1, 0.0, "workers"),
        (replace(CLUSTER, only_workers=True), 1, 0.0, 0.0, "workers"),
    ],
)
def test_rows_go_to_workers_when_that_saves_time(
    means: Means, blocks: int, block: float, compiling: float, where: str
) -> None:
    assert place_rows(means, blocks, block, compiling).where == where


@pytest.mark.parametrize(
    ("means", "searches", "tiles", "expected"),
    [
        (CLUSTER, 2, False, ("workers", "2 searches on the 8 workers asked for")),
        (HERE, 1000, False, ("process", "no workers were asked for")),
        (
            replace(CLUSTER, only_workers=True),
            1,
            False,
            ("workers", "the workers' hardware differs from this process's"),
        ),
        (CLUSTER, 1, True, ("tiles", "asked for")),
        (CLUSTER, 1, False, None),  # it is measured
        (LAPTOP, 100, False, None),
    ],
)
def test_where_searches_run_before_anything_is_measured(
    means: Means, searches: int, tiles: bool, expected: tuple[str, str] | None
) -> None:
    found = place_tasks(means, searches, tiles)
    assert (None if found is None else (found.where, found.reason)) == expected


def test_workers_that_were_not_asked_for_must_pay_for_starting_them() -> None:
    """Four workers that start in 8 s save three quarters of the time: from 10.7 s on."""
    task = task_of()
    assert place_by_cost(LAPTOP, Cost(10, 10.0, (task, 0.1))).where == "process"
    found = place_by_cost(LAPTOP, Cost(11, 11.0, (task, 0.1)))
    assert (found.where, found.reason) == ("workers", "11.0 s expected here, 10.8 s on 4 workers")
    # Two searches occupy two workers.
    assert place_by_cost(LAPTOP, Cost(2, 15.0, (task, 0.1))).where == "process"
    # One that runs already computes no faster than this process.
    assert place_by_cost(replace(LAPTOP, workers=1, start_seconds=0.0), Cost(9, 1000.0, (task, 0.1))).where == "process"
    assert place_by_cost(LAPTOP, Cost(0, 0.0, None)).where == "process"


def test_one_search_is_cut_into_tiles_when_an_iteration_outweighs_its_messages() -> None:
    cheap, dear = round_trip(8) / 2, round_trip(8) * 10
    many, one = task_of(Tiling(particles=5, rows=100)), task_of()
    assert place_tiles(CLUSTER, many, cheap).where == "process"
    assert place_tiles(CLUSTER, many, dear).where == "tiles"
    assert place_tiles(CLUSTER, one, dear).where == "process"
    assert place_by_cost(CLUSTER, Cost(1, 100 * dear, (many, dear))).where == "tiles"


def test_what_is_left_follows_from_the_first_segment() -> None:
    """Compiling is paid again for each task, and iterations that are done are not."""
    task = task_of(searches=2)
    ended, half = segment(task, 100, [0.5, *[0.1] * 99]), segment(task, 50, [0.5, *[0.1] * 49])
    found = cost_of([task] * 3, task, ended, 25.0)
    assert (found.searches, found.seconds) == (6, 75.0)
    # 100 iterations of 0.1 s are left of this task, and the others take as long as all of it.
    found = cost_of([task] * 3, task, half, 13.0)
    np.testing.assert_allclose(found.seconds, 10 + 2 * 23)
    assert cost_of([], task, ended, 25.0).longest is None


def segment(task: RepairTask, iterations: int, seconds: list[float]) -> TaskResult:
    """So many iterations of each search; it has ended when they are all."""
    job = task.searches[0]
    swarm = replace(
        start(job.settings, RngKey(0, "rows", 6), np.ones(2, np.float32), WeightStats(0.0, 1.0, 1.0)).swarm,
        iteration=iterations,
    )
    state = SearchState(swarm, np.zeros(4), 0.0, "iterations" if iterations == job.settings.num_iterations else None)
    done = tuple(Iteration(number, 0.0, 0.0, 0, 0, 0.0, 0.0, 0, took) for number, took in enumerate(seconds, start=1))
    objective = Objective(5, 995, 100.0)
    offered = () if state.stop is None else (Offer(0.0, np.ones(2, np.float32)),)
    return TaskResult(tuple(SearchResult(one.name, objective, state, done, offered) for one in task.searches))


def task_of(tiling: Tiling = Tiling(), searches: int = 1) -> RepairTask:  # noqa: B008
    """Searches of 100 particles on 1,000 rows."""
    rows = SearchRows(np.zeros((1000, 2)), np.zeros((1000, 3)), np.zeros(1000, np.int64), np.arange(1000) < 5)
    case: Any = SimpleNamespace(rows=rows, data="rows")
    ready = ReadyCase(case, None, Path("negative/6"), None)  # type: ignore[arg-type]
    jobs = tuple(SearchJob(f"s{seed}", SearchSettings(tiling=tiling), seed) for seed in range(searches))
    return RepairTask("task", 1, Path("negative/6"), 6, jobs, "", ready, 1)


@pytest.mark.parametrize(
    ("workers", "threads", "cores", "adds"),
    [(2, 1, 2, True), (2, None, 2, False), (1, 1, 2, False), (2, 1, 1, False), (None, 1, 4, True), (4, 2, 2, False)],
)
def test_workers_add_the_cores_that_one_thread_leaves_idle(
    workers: int | None, threads: int | None, cores: int, adds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they have started, on this machine."""
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr("cluster.compute.compute.unasked", lambda cost: cores)
    means = Compute(ComputeOptions(num_workers=workers, threads=threads), say=lambda line: None).means()
    assert means.adds_hardware is adds


def test_a_mixture_has_the_tiles_of_its_own_evaluation() -> None:
    """For each of nine groups of rows one of each half of the hundred particles."""
    subject = net("two")
    group = np.repeat(np.arange(9), 10)
    mixture = Mixture(subject.chain, tuple(random_changes(subject.chain, 2, seed) for seed in range(9)), 0.5)
    problem: Any = SimpleNamespace(mixture=mixture)
    case: Any = SimpleNamespace(rows=subject.rows(np.arange(90), group))
    task = replace(task_of(), source=ReadyCase(case, problem, Path("folder"), None))  # type: ignore[arg-type]
    found = place_tiles(replace(CLUSTER, workers=27), task, 1.0)
    assert (found.where, found.reason) == ("tiles", "1000.00 ms per iteration, 18 tiles over 27 workers save 936.7 ms")
