"""Where work runs follows from measured cost."""

from __future__ import annotations

from dataclasses import replace

from cluster.placement import Means, place_rows, place_search, round_trip

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
