"""DRWeightMerge: parts of the failures, each searched from the model as it is, and their merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from engine.core.types import Float32
from engine.methods.base import MethodJob, MethodSettings, Repair
from engine.methods.drweightmerge import METHOD, divided
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from tests.support.subjects import CLASSES, a_subject, bits, forward, offered

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
    search = SearchSettings(swarm=SwarmSettings(12), num_iterations=8, min_iteration_range=8)
    subject = replace(
        a_subject(seed=1), validation=None, test=None, repaired=(1, 2), settings=MethodSettings(search=search)
    )
    return MethodJob(subject, None, seed=3)


@pytest.fixture(scope="module")
def repair(job: MethodJob) -> Repair:
    return offered(METHOD, job)


def by_hand(job: MethodJob, values: Mapping[str, Float32], pairs: Sequence[tuple[int, int]]) -> float:
    rows = job.rows
    known = {**job.chain.values, **values}
    predicted = forward(known, rows.rows.inputs).argmax(axis=1)
    rate = [float((predicted[rows.labels == label] != label).mean()) for label in range(CLASSES)]
    repaired = job.subject.repaired
    weight = 1 / (len(pairs) + len(repaired))
    confused = sum(float((predicted[rows.labels == true] == other).mean()) for true, other in pairs)
    return sum(1 - one for one in rate) / CLASSES - 0.5 * weight * (sum(rate[label] for label in repaired) + confused)


def test_the_merge_comes_first_and_is_no_worse_than_any_part(job: MethodJob, repair: Repair) -> None:
    parts = divided(job.rows.labels, job.rows.before, job.subject.repaired, 3)
    assert [offer.name for offer in repair.offers] == ["merge", *(part.name for part in parts)]
    pairs = [(part.label, part.predicted) for part in parts if part.predicted is not None]
    assert len(pairs) >= 3 and {label for label, _ in pairs} == {1, 2}
    for offer in repair.offers:
        assert offer.fitness == pytest.approx(by_hand(job, offer.values, pairs), abs=1e-12)
    assert repair.own == pytest.approx(by_hand(job, {}, pairs), abs=1e-12)
    merge, *single = (offer.fitness for offer in repair.offers)
    assert merge >= max(repair.own, *single) and merge > repair.own
    assert merge > max(single)


def test_every_part_is_searched_from_the_model_as_it_is(job: MethodJob, repair: Repair) -> None:
    """A part that is searched alone, as the only one of its label, comes to the same."""
    alone = offered(METHOD, replace(job, subject=replace(job.subject, repaired=(2,))))
    both, mine = ({offer.name: bits(offer.values) for offer in found.offers[1:]} for found in (repair, alone))
    assert mine and mine.items() <= both.items()


def test_a_weight_that_no_part_changes_stays(job: MethodJob, repair: Repair) -> None:
    old = job.chain.values[KERNEL]
    changed = np.any([offer.values[KERNEL] != old for offer in repair.offers[1:]], axis=0)
    assert not (repair.offers[0].values[KERNEL] != old)[~changed].any()
    assert changed.any() and not changed.all()
