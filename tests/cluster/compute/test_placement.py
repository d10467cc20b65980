"""Where work runs follows from measured cost."""

from __future__ import annotations

from dataclasses import replace

from cluster.compute.placement import Means, place_rows, place_search, place_tasks, round_trip

HERE = Means(0, asked=True, adds_hardware=False, only_workers=False, start_seconds=0.0)
LAPTOP = Means(4, asked=False, adds_hardware=False, only_workers=False, start_seconds=8.0)
CLUSTER = Means(8, asked=True, adds_hardware=True, only_workers=False, start_seconds=0.0)


def test_rows_go_to_workers_when_that_saves_time() -> None:
    assert place_rows(CLUSTER, blocks=90, block_seconds=0.5, compile_seconds=1.0).where == "workers"
    assert place_rows(CLUSTER, blocks=2, block_seconds=0.05, compile_seconds=1.0).where == "process"


def test_rows_stay_where_workers_add_nothing() -> None:
    assert place_rows(LAPTOP, blocks=90, block_seconds=0.5, compile_seconds=1.0).where == "process"
    assert place_rows(HERE, blocks=90, block_seconds=0.5, compile_seconds=1.0).where == "process"


def test_starting_workers_is_part_of_the_cost() -> None:
    joined = replace(CLUSTER, asked=False, start_seconds=4.0)
    assert place_rows(joined, blocks=10, block_seconds=0.1, compile_seconds=0.0).where == "process"
    assert place_rows(joined, blocks=100, block_seconds=0.1, compile_seconds=0.0).where == "workers"


def test_other_hardware_takes_all_work() -> None:
    gpus = replace(CLUSTER, only_workers=True)
    assert place_rows(gpus, blocks=1, block_seconds=0.0, compile_seconds=0.0).where == "workers"
    assert place_search(gpus, 1, 1, 100, 0.0, force_tiles=False).where == "workers"


def test_searches_go_to_the_workers_asked_for() -> None:
    assert place_search(CLUSTER, 2, 1, 100, 0.001, force_tiles=False).where == "workers"
    assert place_search(HERE, 2, 1, 100, 0.001, force_tiles=False).where == "process"


def test_unasked_workers_must_pay() -> None:
    assert place_search(LAPTOP, 2, 1, 100, 0.001, force_tiles=False).where == "process"
    assert place_search(LAPTOP, 100, 1, 100, 0.01, force_tiles=False).where == "workers"


def test_one_search_is_cut_into_tiles_when_an_iteration_outweighs_its_messages() -> None:
    cheap, dear = round_trip(8) / 2, round_trip(8) * 10
    assert place_search(CLUSTER, 1, 16, 100, cheap, force_tiles=False).where == "process"
    assert place_search(CLUSTER, 1, 16, 100, dear, force_tiles=False).where == "tiles"
    assert place_search(CLUSTER, 1, 1, 100, dear, force_tiles=False).where == "process"
    assert place_search(CLUSTER, 1, 1, 100, cheap, force_tiles=True).where == "tiles"


def test_tasks_go_to_the_workers_asked_for() -> None:
    found = place_tasks(CLUSTER, 1, 0.0)
    assert (found.where, found.reason) == ("workers", "8 workers were asked for")
    assert place_tasks(replace(LAPTOP, asked=True), 1, 0.001).where == "workers"
    found = place_tasks(HERE, 1000, 60.0)
    assert (found.where, found.reason) == ("process", "no workers were asked for")


def test_tasks_need_the_hardware_of_the_workers() -> None:
    found = place_tasks(replace(CLUSTER, asked=False, only_workers=True), 1, 0.0)
    assert (found.where, found.reason) == ("workers", "the workers' hardware differs from this process's")


def test_tasks_on_workers_that_were_not_asked_for_must_pay_for_starting_them() -> None:
    """Four workers that start in 8 s save three quarters of the time: from 10.7 s on."""
    assert place_tasks(LAPTOP, 10, 1.0).where == "process"
    found = place_tasks(LAPTOP, 11, 1.0)
    assert (found.where, found.reason) == ("workers", "11.0 s expected here, 10.8 s on 4 workers")
    # One that runs already computes no faster than this process.
    assert place_tasks(replace(LAPTOP, workers=1, start_seconds=0.0), 1000, 1.0).where == "process"
    assert place_tasks(replace(LAPTOP, start_seconds=0.0), 0, 1.0).where == "process"
