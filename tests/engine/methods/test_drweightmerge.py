"""DRWeightMerge: parts of the failures, each searched from the model as it is, and their merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from engine.core.types import Float32
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.head import Head
from engine.methods.base import MethodJob, MethodSettings, Repair, Subject
from engine.methods.drweightmerge import METHOD, divided
from engine.methods.outcome import FOUND
from engine.problem.case import LayerInputs, SeenRows
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from tests.support.subjects import carry_out, offered

CLASSES, ROWS = 4, 240
KERNEL = "last/kernel"


def test_the_parts_of_failures() -> None:
    """A confusion of too few rows is of the rest, and so is a label with none that is large enough."""
    labels = np.array([0] * 8 + [1] * 3 + [2] * 4)
    before = np.array([1, 2, 1, 1, 0, 3, 2, 2, 0, 2, 1, 2, 2, 2, 0])
    found = [(part.label, part.predicted, part.rows.tolist()) for part in divided(labels, before, (0, 1, 3), 3)]
    assert found == [(0, 1, [0, 2, 3]), (0, 2, [1, 6, 7]), (0, None, [5]), (1, None, [8, 9])]
    assert [part.name for part in divided(labels, before, (0,), 3)] == ["0 as 1", "0 as 2", "0 as others"]


@pytest.fixture(scope="module")
def job() -> MethodJob:
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(CLASSES, 6))
    true = rng.integers(0, CLASSES, ROWS)
    inputs = (centres[true] + 0.8 * rng.normal(size=(ROWS, 6))).astype(np.float32)
    values = {
        KERNEL: centres.T.astype(np.float32) / 2,
        "last/bias": np.array([0.5, 0.2, -0.5, -0.4], np.float32) - (centres**2).sum(axis=1).astype(np.float32) / 4,
    }
    chain = DenseChain(Head("log_softmax", "linear"), (DenseLayer(KERNEL, "last/bias", "linear"),), values)
    digests = np.unique(rng.integers(0, 256, (ROWS, 16)).astype(np.uint8), axis=0)
    rows = LayerInputs(inputs, true, digests, (6,), CLASSES)
    pool = SeenRows.of(chain.head, rows, inputs @ values[KERNEL] + values["last/bias"])
    search = SearchSettings(swarm=SwarmSettings(12), num_iterations=8, min_iteration_range=8)
    subject = Subject(chain, pool, None, None, (2, 3), (), MethodSettings(search=search))
    return MethodJob(subject, None, seed=3)


@pytest.fixture(scope="module")
def repair(job: MethodJob) -> Repair:
    return offered(METHOD, job)


def by_hand(job: MethodJob, values: Mapping[str, Float32], pairs: Sequence[tuple[int, int]]) -> float:
    """S with equal weights: all labels, and half of what is wrong with pairs and labels under repair."""
    rows = job.rows
    known = {**job.chain.values, **values}
    predicted = (rows.rows.inputs @ known[KERNEL] + known["last/bias"]).argmax(axis=1)
    rate = [float((predicted[rows.labels == label] != label).mean()) for label in range(CLASSES)]
    repaired = job.subject.repaired
    weight = 1 / (len(pairs) + len(repaired))
    confused = sum(float((predicted[rows.labels == true] == other).mean()) for true, other in pairs)
    return sum(1 - one for one in rate) / CLASSES - 0.5 * weight * (sum(rate[label] for label in repaired) + confused)


def test_the_merge_comes_first_and_is_no_worse_than_any_part(job: MethodJob, repair: Repair) -> None:
    parts = divided(job.rows.labels, job.rows.before, job.subject.repaired, 3)
    assert [offer.name for offer in repair.offers] == ["merge", *(part.name for part in parts)]
    pairs = [(part.label, part.predicted) for part in parts if part.predicted is not None]
    assert len(pairs) >= 3 and {label for label, _ in pairs} == {2, 3}
    for offer in repair.offers:
        assert offer.fitness == pytest.approx(by_hand(job, offer.values, pairs), abs=1e-12)
    assert repair.own == pytest.approx(by_hand(job, {}, pairs), abs=1e-12)
    merge, *single = (offer.fitness for offer in repair.offers)
    assert merge >= max(repair.own, *single) and merge > repair.own
    assert merge > max(single)


def test_every_part_is_searched_from_the_model_as_it_is(job: MethodJob, repair: Repair) -> None:
    """A part that is searched alone, as the only one of its label, comes to the same."""
    alone = offered(METHOD, replace(job, subject=replace(job.subject, repaired=(3,))))
    both = {offer.name: offer.values[KERNEL].tobytes() for offer in repair.offers}
    mine = {offer.name: offer.values[KERNEL].tobytes() for offer in alone.offers[1:]}
    assert mine and all(both[name] == content for name, content in mine.items())


def test_a_weight_that_no_part_changes_stays(job: MethodJob, repair: Repair) -> None:
    old = job.chain.values[KERNEL]
    changed = np.any([offer.values[KERNEL] != old for offer in repair.offers[1:]], axis=0)
    assert not (repair.offers[0].values[KERNEL] != old)[~changed].any()
    assert changed.any() and not changed.all()


def test_the_same_again(job: MethodJob, repair: Repair) -> None:
    again = offered(METHOD, job)
    for one, other in zip(repair.offers, again.offers, strict=True):
        assert (one.name, one.fitness) == (other.name, other.fitness)
        assert one.values[KERNEL].tobytes() == other.values[KERNEL].tobytes()


def test_a_label_without_failures_has_no_part(job: MethodJob) -> None:
    """The others are repaired; where none has failures nothing is."""
    rows = job.subject.pool
    right = np.where(rows.labels == 2, rows.before == rows.labels, True)
    happy = replace(job, drawn=np.flatnonzero(right))
    assert {offer.name.split()[0] for offer in offered(METHOD, happy).offers} == {"merge", "3"}
    nothing = carry_out(METHOD, replace(job, drawn=np.flatnonzero(rows.before == rows.labels)))
    assert not nothing.failed and nothing.readings[FOUND].offer.values == {}
