"""Searches come back from their bytes bit for bit, and damaged bytes are no searches."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from cluster.records.checkpoint import Begun, pack, unpack
from cluster.records.rows import iteration_numbers
from engine.core.rng import RngKey
from engine.fitness.objective import Objective
from engine.layers.weight_stats import WeightStats
from engine.search import loop as search
from engine.search.loop import SearchSettings
from engine.search.optimisers import OPTIMISERS
from engine.search.swarm import SwarmSettings


@pytest.fixture(scope="module")
def searches() -> dict[str, Begun]:
    """A search before its first iteration, one under way, and one that has ended with a candidate without fitness."""
    settings = SearchSettings(swarm=SwarmSettings(num_particles=5), num_iterations=4)
    source = RngKey(3, "rows", 6)
    start = search.start(settings, source, np.array([0.1, -0.2], np.float32), WeightStats(0.0, 0.1, 1.0))
    rng = np.random.default_rng(0)

    def evaluate(candidates: np.ndarray) -> np.ndarray:
        sums = rng.uniform(0, 9, (len(candidates), 4))
        sums[0, 0] = np.nan
        return sums

    one, first = search.advance(settings, source, Objective(9, 9, 2.0), start, evaluate, 0.0)
    end, others = search.advance(settings, source, Objective(9, 9, 2.0), one, evaluate)
    assert start.swarm.global_fitness == -np.inf and len(first) == 1 and end.stop == "iterations"
    return {
        "not begun": Begun(start, iteration_numbers([])),
        "step1-chunk0-label6-w0.15x-s0": Begun(one, iteration_numbers(first)),
        "ended": Begun(end, iteration_numbers([*first, *others])),
    }


def test_round_trip(searches: dict[str, Begun], tmp_path: Path) -> None:
    (tmp_path / "some.npz").write_bytes(pack(searches))
    found = unpack(tmp_path / "some.npz")
    assert list(found) == list(searches)
    for name, begun in searches.items():
        theirs = found[name]
        for field in fields(begun.state.swarm):
            mine, other = getattr(begun.state.swarm, field.name), getattr(theirs.state.swarm, field.name)
            assert type(mine) is type(other)
            np.testing.assert_array_equal(mine, other)
        np.testing.assert_array_equal(begun.state.best_sums, theirs.state.best_sums)
        np.testing.assert_equal(begun.state.start_fitness, theirs.state.start_fitness)
        assert begun.state.stop == theirs.state.stop
        assert begun.iterations.tobytes() == theirs.iterations.tobytes()
        assert begun.iterations.shape == theirs.iterations.shape


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_goes_on_from_bytes(name: str, tmp_path: Path) -> None:
    """To the bits of a search that was never put down, in arrays where weights are of several layers too."""
    settings = SearchSettings(OPTIMISERS[name].settings(num_particles=7), num_iterations=9, min_iteration_range=99)
    source, objective = RngKey(3, "rows", 6), Objective(9, 9, 2.0)
    low, high = np.array([-1.0, -2.0]), np.array([3.0, 4.0])
    stats = WeightStats(np.zeros(2), np.array([0.1, 0.4]), high - low, low, high)

    def evaluate(candidates: np.ndarray) -> np.ndarray:
        return np.abs(candidates[:, [0, 1, 0, 1]] - 0.7).astype(np.float64)

    state = search.start(settings, source, np.array([0.1, -0.2], np.float32), stats)
    end, _ = search.advance(settings, source, objective, state, evaluate)
    while state.stop is None:
        (tmp_path / "some.npz").write_bytes(pack({"a": Begun(state, ())}))
        state = unpack(tmp_path / "some.npz")["a"].state
        state, _ = search.advance(settings, source, objective, state, evaluate, 0.0)
    assert end.swarm.iteration == state.swarm.iteration == 9
    for field in fields(end.swarm):
        mine, other = getattr(end.swarm, field.name), getattr(state.swarm, field.name)
        assert type(mine) is type(other), field.name
        assert np.asarray(mine).tobytes() == np.asarray(other).tobytes(), field.name


def test_damaged_bytes_are_no_searches(searches: dict[str, Begun], tmp_path: Path) -> None:
    whole = pack(searches)
    path = tmp_path / "some.npz"
    for length in [*range(0, len(whole), 97), *range(len(whole) - 60, len(whole))]:
        path.write_bytes(whole[:length])
        assert unpack(path) == {}
    assert unpack(tmp_path / "none.npz") == {}


def test_a_changed_byte_is_no_searches_or_changes_nothing(searches: dict[str, Begun], tmp_path: Path) -> None:
    """The archive has checksums; some bytes, such as dates, mean nothing."""
    whole = pack({"a": searches["ended"]})
    path = tmp_path / "some.npz"
    refused = 0
    places = range(0, len(whole), 9)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        found = unpack(path)
        assert found == {} or pack(found) == whole, place
        refused += found == {}
    assert refused > len(places) / 2


def test_other_files_are_no_searches(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, names=np.array(["a"]))
    assert unpack(path) == {}
    np.savez(path, names=np.array([object()]))
    assert unpack(path) == {}
    path.unlink()
    path.mkdir()
    assert unpack(path) == {}
    (tmp_path / "none.npz").write_bytes(pack({}))
    assert unpack(tmp_path / "none.npz") == {}
