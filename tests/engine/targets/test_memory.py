"""Shapes of tiles and the memory they take, known before a search and a function of the job alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import backend
from engine.core.errors import InputError
from engine.fitness.rows import Weights
from engine.fitness.tail import MOST_IN_PLACE, TILE_BYTES, most_places, plan_shapes
from engine.fitness.tiling import SUM_ROWS, Tiling, plan_tiles
from engine.targets.memory import SearchSize, check_plan, check_searches


@given(
    per_row=st.integers(4, 1 << 22),
    rows=st.integers(1, 50_000),
    particles=st.integers(1, 500),
    tile_bytes=st.none() | st.integers(1, 1 << 32),
    folds=st.booleans(),
)
def test_tiles_cover_everything_once_and_fit(per_row, rows, particles, tile_bytes, folds):
    shapes = plan_shapes(per_row, None, folds, rows, particles, Tiling(bytes=tile_bytes))
    tiles = shapes.cut(particles, rows)
    area = sum((t.particles[1] - t.particles[0]) * (t.rows[1] - t.rows[0]) for t in tiles)
    assert area == particles * rows
    assert len({(t.particles, t.rows) for t in tiles}) == len(tiles)
    assert all(
        t.rows[1] - t.rows[0] <= shapes.rows and t.particles[1] - t.particles[0] <= shapes.together for t in tiles
    )
    smallest = per_row * most_places(min(rows, SUM_ROWS))
    assert shapes.tile_bytes <= max(tile_bytes or TILE_BYTES, smallest)
    assert shapes.together <= (MOST_IN_PLACE if folds else 1)
    assert len(tiles) == math.ceil(particles / shapes.together) * math.ceil(rows / shapes.rows)


@pytest.mark.parametrize("asked", [Tiling(particles=3), Tiling(rows=50), Tiling(particles=2, rows=33)])
def test_a_shape_that_was_asked_for(asked):
    shapes = plan_shapes(1000, None, True, 200, 10, asked)
    assert shapes.rows == (asked.rows or 200)
    assert shapes.together == (asked.particles or 5)  # of ten, at most eight


@pytest.mark.parametrize(("particles", "together"), [(7, 7), (8, 8), (9, 5), (16, 8), (17, 6), (100, 8)])
def test_no_slab_is_much_emptier_than_another(particles, together):
    assert plan_shapes(1000, None, True, 200, particles, Tiling()).together == together


def last_dense(subject, rows=1000, particles=100, searches=1, tiling=Tiling()):  # noqa: B008 (frozen)
    weights = Weights(np.arange(20), np.arange(20) % 4, np.zeros(20, np.float32))
    return subject.target.memory_plan(weights, SearchSize(rows, 32 * 32 * 3, 10, particles, tiling, searches=searches))


@pytest.mark.parametrize("tiling", [Tiling(), Tiling(rows=300), Tiling(particles=7, rows=256), Tiling(bytes=1 << 16)])
@pytest.mark.parametrize(("rows", "particles"), [(100, 3), (1000, 100), (30_000, 130)])
def test_the_plan_of_the_last_layer_has_its_tiles(quickstart, rows, particles, tiling):
    plan = last_dense(quickstart, rows, particles, tiling=tiling)
    tiles = plan_tiles(particles, rows, 6, tiling)
    first = tiles[0]
    cut = {name: plan.cut[name] for name in ("tiles", "particles", "rows")}
    assert cut == {"tiles": len(tiles), "particles": first.particles[1], "rows": first.rows[1]}


def test_what_fits_passes_and_what_does_not_says_what_would(quickstart, monkeypatch):
    monkeypatch.setattr(backend, "free_memory", lambda: 1 << 30)
    check_plan(last_dense(quickstart))
    for changes, name in (
        ({"particles": 10**11}, "particles"),
        ({"particles": 10**4, "searches": 10**7}, "searches"),
        ({"rows": 10**12}, "rows"),
    ):
        with pytest.raises(InputError) as refused:
            check_plan(last_dense(quickstart, **changes))
        message = str(refused.value)
        assert message.startswith("the search needs ")
        words = f"{changes[name]} {name}" + (" of 10000 particles each" if name == "searches" else "")
        assert f"of it for {words}) and 1.00 GiB are free, expected at most " in message
        fit = int(message.rpartition("expected at most ")[2].removesuffix(f" {name}"))
        check_plan(last_dense(quickstart, **(changes | {name: fit})))
        with pytest.raises(InputError):
            check_plan(last_dense(quickstart, **(changes | {name: fit + fit // 50 + 1})))


def test_more_searches_than_fit_whatever_they_search(monkeypatch):
    monkeypatch.setattr(backend, "free_memory", lambda: 1 << 30)
    with pytest.raises(
        InputError, match=r"^1000000000 searches of 50 particles each need at least .* GiB and"
    ) as refused:
        check_searches(10**9, 50)
    fit = int(str(refused.value).rpartition("expected at most ")[2].removesuffix(" searches"))
    check_searches(fit, 50)
    with pytest.raises(InputError):
        check_searches(fit + 1, 50)


def test_what_no_number_of_rows_makes_fit(quickstart, monkeypatch):
    monkeypatch.setattr(backend, "free_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"expected fewer rows and a machine with more memory$"):
        check_plan(last_dense(quickstart, rows=10**9))


def sizes(plan):
    return {part.told: part.size for part in plan.parts}


@pytest.fixture
def gpu(monkeypatch):
    """A process that computes on a GPU with so many free bytes; the host has others."""

    def fake(device, host):
        monkeypatch.setattr(backend, "gpu_count", lambda: 1)
        monkeypatch.setattr(backend, "device_memory_free", lambda: device)
        monkeypatch.setattr(backend, "free_memory", lambda: host)

    return fake


def test_on_a_gpu_its_memory_is_what_must_fit(quickstart, gpu):
    plan = last_dense(quickstart, rows=10**6)
    known = sizes(plan)
    on_device = sum(known[name] for name in ("model", "passes", "tiles", "rows"))
    gpu(device=on_device, host=known["rows"] + known["swarm"])
    check_plan(plan)
    gpu(device=on_device - 1, host=1 << 50)
    with pytest.raises(InputError, match=r"for 1000000 rows\) and .* are free on the GPU, expected at most \d+ rows$"):
        check_plan(plan)


def test_on_a_gpu_the_host_holds_rows_and_swarm(quickstart, gpu):
    plan = last_dense(quickstart, particles=10**7)
    known = sizes(plan)
    assert known["swarm"] > known["rows"]
    gpu(device=1 << 50, host=known["rows"] + known["swarm"])
    check_plan(plan)
    gpu(device=1 << 50, host=known["rows"] + known["swarm"] - 1)
    with pytest.raises(InputError, match=r"for 10000000 particles\) and .* are free, expected at most \d+ particles$"):
        check_plan(plan)


def test_tiles_that_only_the_gpu_holds_do_not_count_on_the_host(quickstart, gpu):
    plan = last_dense(quickstart, particles=200, tiling=Tiling(particles=200, rows=4096, bytes=1 << 40), rows=4096)
    known = sizes(plan)
    assert known["tiles"] > known["rows"] + known["swarm"]
    gpu(device=1 << 50, host=known["rows"] + known["swarm"])
    check_plan(plan)
