"""Swarms that stay on the device do what they do in NumPy, bit for bit."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from engine import backend
from engine.backend import ops
from engine.core.rng import RngKey
from engine.fitness.last_dense import TiledFitness
from engine.fitness.objective import Objective
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.tiling import Tiling, kind_masks, kind_sums
from engine.layers.head import Head
from engine.layers.weight_stats import WeightStats
from engine.search import loop as search
from engine.search import resident, swarm
from engine.search.loop import Search, SearchSettings
from engine.search.optimisers import OPTIMISERS
from engine.search.swarm import SwarmSettings, SwarmState

HEAD = Head("log_softmax", "linear")
SPREAD = WeightStats(mean=0.0, std=0.5, range=0.4)


@pytest.fixture(autouse=True)
def from_the_first_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "WORTH_COMPILING", 0)


def rows_of(count: int, classes: int = 4, width: int = 5, *, negatives: float = 0.2, scale: float = 1.0) -> SearchRows:
    rng = np.random.default_rng(count)
    inputs = np.abs(rng.normal(size=(count, width))).astype(np.float32) * np.float32(scale)
    logits = rng.normal(scale=2.0, size=(count, classes)).astype(np.float32)
    return SearchRows(inputs, logits, rng.integers(0, classes, count), rng.random(count) < negatives)


def weights_of(count: int, classes: int = 4, width: int = 5) -> Weights:
    place = np.random.default_rng(1).permutation(classes * width)[:count]
    return Weights(place % width, place // width, np.linspace(-0.3, 0.3, count).astype(np.float32))


class Case:
    """Searches on the same rows, from the start."""

    def __init__(self, rows: SearchRows, weights: Weights, settings: SearchSettings, seeds: int = 1) -> None:
        negatives = int(rows.negative.sum())
        self.weights = weights
        self.fitness = TiledFitness(HEAD, rows, weights, settings.swarm.num_particles, Tiling())
        self.searches = [
            Search(settings, RngKey(seed, "rows", 1), Objective(negatives, len(rows.labels) - negatives, 3.3 + seed))
            for seed in range(seeds)
        ]

    def run(self, *, on_device: bool, seconds: float = float("inf")):
        states = [search.start(one.settings, one.source, self.weights.old, SPREAD) for one in self.searches]
        done = [[] for _ in self.searches]
        while any(state.stop is None for state in states):
            there = self.fitness.resident if on_device else None
            states, more = search.advance_together(self.searches, states, self.fitness.evaluate, seconds, there)
            done = [rows + new for rows, new in zip(done, more, strict=True)]
        return states, [[replace(row, seconds=0.0) for row in rows] for rows in done]


def bits(state) -> dict[str, bytes]:
    values = {field.name: getattr(state.swarm, field.name) for field in fields(SwarmState)}
    values |= {field.name: getattr(state, field.name) for field in fields(state) if field.name != "swarm"}
    return {name: value if value is None else np.asarray(value).tobytes() for name, value in values.items()}


def check(case: Case, *, seconds: float = float("inf")):
    assert case.fitness.resident is not None
    expected, found = case.run(on_device=False), case.run(on_device=True, seconds=seconds)
    for number, one in enumerate(case.searches):
        assert bits(found[0][number]) == bits(expected[0][number])
        assert repr(found[1][number]) == repr(expected[1][number])  # where `nan` equals itself
        offers = [search.offers(one, states[number], case.fitness.evaluate, 3) for states, _ in (found, expected)]
        assert [offer.values.tobytes() for offer in offers[0]] == [offer.values.tobytes() for offer in offers[1]]
    return expected


def settings_of(particles: int = 12, iterations: int = 25, patience: int = 9, **changes: object) -> SearchSettings:
    return SearchSettings(SwarmSettings(particles, **changes), num_iterations=iterations, min_iteration_range=patience)


@pytest.mark.parametrize(
    "changes", [{}, {"velocity_floor": True}, {"phi_split": False}, {"phi": 9.0}, {"velocity_floor": True, "phi": 5.0}]
)
def test_moves(changes: dict[str, object]) -> None:
    _, rows = check(Case(rows_of(100), weights_of(4), settings_of(**changes)))
    assert len({row.best for row in rows[0]}) > 1


@pytest.mark.parametrize(("particles", "weights"), [(1, 1), (6, 1), (128, 20)])
def test_sizes(particles: int, weights: int) -> None:
    check(Case(rows_of(70), weights_of(weights), settings_of(particles, 12)))


@pytest.mark.parametrize("seconds", [0.0, 0.002, float("inf")])
def test_segments_and_company(seconds: float) -> None:
    _, rows = check(Case(rows_of(100), weights_of(4), settings_of(patience=4), seeds=6), seconds=seconds)
    assert len({len(of_search) for of_search in rows}) > 1


def test_another_fitness_stays_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program on the device knows Arachne's own fitness alone."""
    case = Case(rows_of(100), weights_of(4), replace(settings_of(), objective="rates"))
    case.searches = [replace(one, objective=replace(one.objective, name="rates")) for one in case.searches]
    monkeypatch.setattr(resident, "ResidentSwarm", None)
    states, _ = check(case)
    assert states[0].swarm.global_fitness < 5  # shares, where Arachne's counts rows


def test_ties_and_no_gain() -> None:
    """Inputs of 0: no candidate differs from the model."""
    states, rows = check(Case(rows_of(100, scale=0.0), weights_of(4), settings_of()))
    assert (states[0].stop, len(rows[0])) == ("no gain", 10)


def test_solved_at_once() -> None:
    rows = rows_of(100)
    right = replace(rows, logits=np.where(np.eye(4)[rows.labels] > 0, np.float32(30), rows.logits))
    states, done = check(Case(right, weights_of(4), settings_of()))
    assert (states[0].stop, len(done[0])) == ("solved", 1)


@pytest.mark.parametrize("negatives", [0.0, 1.0])
def test_rows_of_one_kind(negatives: float) -> None:
    rows = rows_of(100, negatives=negatives)
    rows.negative[0] = True
    check(Case(rows, weights_of(4), settings_of()))


def test_fitness_that_is_not_a_number() -> None:
    """Logits that overflow in some candidates, and then in all of them."""
    overflowing, none = (
        check(Case(rows_of(100, scale=scale), weights_of(4), settings_of()))[0][0].swarm for scale in (3e37, np.inf)
    )
    assert np.isfinite(overflowing.best_fitness).all()
    assert np.isinf(none.best_fitness).any()


def test_it_changes_over_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first iterations in NumPy, all others on the device, whatever searches they are of."""
    monkeypatch.setattr(resident, "WORTH_COMPILING", 15)
    monkeypatch.setattr(resident, "_seen", type(resident._seen)())
    case = Case(rows_of(100), weights_of(4), settings_of(patience=25), seeds=2)
    expected = case.run(on_device=False)
    told = []
    watched = replace(OPTIMISERS["PSO"], tell=lambda *words: told.append(1) or swarm.tell(*words))
    monkeypatch.setitem(OPTIMISERS, "PSO", watched)
    found = case.run(on_device=True)
    assert len(told) == 14
    assert found[1] == expected[1]
    assert [bits(state) for state in found[0]] == [bits(state) for state in expected[0]]


def test_only_whole_swarms_stay() -> None:
    rows = rows_of(600)
    for tiling in (Tiling(particles=5), Tiling(rows=256)):
        assert TiledFitness(HEAD, rows, weights_of(4), 12, tiling).resident is None
    none = np.empty(0, dtype=np.int64)
    nothing = Weights(none, none, np.empty(0, dtype=np.float32))
    assert TiledFitness(HEAD, rows, nothing, 12, Tiling()).resident is None


@pytest.mark.parametrize("width", [1, 2, 3, 7, 30, 64, 65])
def test_sums_of_blocks_have_one_order(width: int) -> None:
    """Alike in NumPy and in a program, whichever blocks are of a kind, and none beside is counted."""
    rng = np.random.default_rng(width)
    values = np.exp(rng.normal(0, 12, (9, width)))
    program = backend.compiled(lambda *arguments: kind_sums(*arguments, ops))
    for negative in {0, 1, width // 2, width}:
        values[:, :negative] *= np.where(negative % 2, np.inf, 1)
        masks = kind_masks([slice(0, negative), slice(negative, width)], width)
        found = kind_sums(values, masks, np)
        there = np.asarray(program(backend.on_device(values), backend.on_device(masks)))
        np.testing.assert_array_equal(found, there)
        expected = np.stack([values[:, mask].sum(axis=1) for mask in masks], axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize(("units", "weights"), [(1, 3), (3, 5), (6, 8), (8, 17), (10, 40)])
def test_sizes_of_real_searches(units: int, weights: int) -> None:
    """A thousand rows, which compilers may treat in another way than a hundred."""
    place = np.arange(weights)
    searched = Weights(place % 40, place % units, np.linspace(-0.3, 0.3, weights).astype(np.float32))
    check(Case(rows_of(900, 10, 40), searched, settings_of(100, 12)))


def test_swarms_of_other_sizes_share_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither how many rows are negative nor how many weights are searched makes another."""
    monkeypatch.setattr(resident, "_programs", {})
    for count, negatives in ((5, 0.2), (6, 0.5), (8, 0.8)):
        place = np.arange(count)
        searched = Weights(place, place % 2, np.zeros(count, np.float32))
        check(Case(rows_of(100, 4, 8, negatives=negatives), searched, settings_of()))
    assert len(resident._programs) == 1
