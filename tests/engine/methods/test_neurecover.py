"""NeuRecover as a method: what it changes, and what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.core.types import Float32, Int64
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.head import Head
from engine.localize.neurecover import Training, blame
from engine.methods.base import Checkpoint, MethodJob, MethodSettings, Repair, Subject, lacking
from engine.methods.neurecover import ALPHAS, METHOD
from engine.metrics.requirements import Requirement
from engine.problem.case import LayerInputs, SeenRows
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from tests.support.subjects import forward, offered

CLASSES, ROWS, LABEL = 3, 240, 2
KEPT = Requirement("max_drop", 0.0, None, None, "drop of all labels together at most 0 points")
PATHS = ("hidden/kernel", "hidden/bias", "last/kernel", "last/bias")
KERNELS = PATHS[::2]


def a_subject(search: SearchSettings | None = None, *, spoilt: bool = True, is_model: bool = True) -> Subject:
    """A model that its last epoch made worse for label 2 and better for others."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(CLASSES, 8))
    true = rng.integers(0, CLASSES, ROWS)
    inputs = (centres[true] + 1.5 * rng.normal(size=(ROWS, 8))).astype(np.float32)
    hidden = rng.normal(0, 0.4, (8, 40)).astype(np.float32)
    last = 4 * np.linalg.lstsq(np.maximum(inputs @ hidden, 0), np.eye(CLASSES)[true] - 0.3, rcond=None)[0]
    before = dict(zip(PATHS, (hidden, np.zeros(40, "f4"), last.astype("f4"), np.zeros(CLASSES, "f4")), strict=True))
    after = {path: value + rng.normal(0, 0.15, value.shape).astype(np.float32) for path, value in before.items()}
    after |= {"hidden/bias": before["hidden/bias"], "last/bias": np.array([0.03, 0.03, -0.1], np.float32)}
    before = {path: value if spoilt else after[path] for path, value in before.items()}
    layers = (DenseLayer(*PATHS[:2], "relu"), DenseLayer(*PATHS[2:], "linear"))
    chain = DenseChain(Head("log_softmax", "linear"), layers, after)
    digests = np.unique(rng.integers(0, 256, (ROWS, 16)).astype(np.uint8), axis=0)
    rows = LayerInputs(inputs, true, digests, (8,), CLASSES)
    classes = [forward(values, inputs).argmax(axis=1) for values in (before, after)]
    last = after if is_model else {path: value + np.float32(1e-4) for path, value in after.items()}
    checkpoints = (
        Checkpoint("1.weights.h5", before, np.zeros(ROWS, np.int64)),  # not looked at
        Checkpoint("2.weights.h5", before, classes[0]),
        Checkpoint("3.weights.h5", last, classes[1], 0.02),
    )
    pool = SeenRows.of(chain.head, rows, forward(after, inputs))
    return Subject(chain, pool, None, None, (LABEL,), (KEPT,), MethodSettings(search=search), checkpoints)


SEARCH = SearchSettings(swarm=SwarmSettings(4), num_iterations=12)


@pytest.fixture(scope="module")
def repair() -> Repair:
    return offered(METHOD, MethodJob(a_subject(SEARCH), None, 1))


def test_offers_change_the_weights_to_blame_alone(repair: Repair) -> None:
    subject = a_subject()
    pool = subject.pool
    failures = np.flatnonzero((pool.before != pool.labels) & (pool.labels == LABEL))
    order = np.concatenate([failures, np.flatnonzero(pool.before == pool.labels)])
    earlier, later = subject.checkpoints[1:]
    training = Training(earlier.values, later.values, 0.02, earlier.predicted[order], later.predicted[order])
    found = blame(subject.chain, pool.rows.inputs[order], pool.labels[order], training)
    assert all(len(places) for places in found.places.values())  # of both layers
    assert [offer.name for offer in repair.offers] == ["alpha 1", "alpha 4", "alpha 16"]
    for offer in repair.offers:
        assert set(offer.values) == set(KERNELS)
        for path, value in offer.values.items():
            changed = np.flatnonzero(value != subject.chain.values[path])
            assert len(changed) and set(changed) <= set(found.places[path].tolist())
    assert repair.notes == (
        f"{found.worse} rows got worse at the last step of the training and {found.better} better: "
        f"{len(found.places[KERNELS[0]])} of hidden/kernel, {len(found.places[KERNELS[1]])} of last/kernel blamed",
    )


def slow_fitness(subject: Subject, values: dict[str, Float32], alpha: float) -> float:
    pool = subject.pool
    right_before = pool.before == pool.labels
    logits = forward({**subject.chain.values, **values}, pool.rows.inputs).astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(ROWS), pool.labels]
    right = logits.argmax(axis=1) == pool.labels
    worth = 0.0
    for kind, weight in ((~right_before & (pool.labels == LABEL), 1.0), (right_before, alpha)):
        worth += weight * (right[kind].mean() + 1) / (losses[kind].mean() + 1)
    return worth


def test_fitness_is_that_of_the_changed_model_and_never_below_its_own(repair: Repair) -> None:
    subject = a_subject()
    assert repair.own == pytest.approx(slow_fitness(subject, {}, 1.0), rel=1e-4)
    for offer, alpha in zip(repair.offers, ALPHAS, strict=True):
        assert offer.fitness == pytest.approx(slow_fitness(subject, dict(offer.values), alpha), rel=1e-3)
        assert offer.fitness > slow_fitness(subject, {}, alpha)


def test_a_stated_worth_is_the_only_one_and_another_last_checkpoint_is_told() -> None:
    search = replace(SEARCH, positive_weight=6.0, num_iterations=2)
    subject = a_subject(search, is_model=False)
    failures = len(MethodJob(subject, None, 0).failures)
    repair = offered(METHOD, MethodJob(subject, None, 0))
    (offer,) = repair.offers
    assert offer.name == f"alpha {6 / failures:g}"
    assert repair.notes[0] == "checkpoint 3.weights.h5 is not the model: weights are blamed as they are in the model"


@pytest.mark.slow
def test_the_same_rows_and_seed_give_the_same_bits(repair: Repair) -> None:
    """Rows drawn from a larger pool, one of them twice, and another seed."""
    subject = a_subject(SEARCH)
    pool: Int64 = np.concatenate([np.arange(ROWS), [5, 7, 9]])
    drawn = np.concatenate([np.arange(ROWS), [ROWS + 1]])
    checkpoints = tuple(replace(one, predicted=one.predicted[pool]) for one in subject.checkpoints)
    larger = replace(subject, pool=subject.pool.take(pool), checkpoints=checkpoints)
    again, other = offered(METHOD, MethodJob(larger, drawn, 1)), offered(METHOD, MethodJob(subject, None, 2))
    for first, second in zip(repair.offers, again.offers, strict=True):
        assert all(np.array_equal(first.values[path], second.values[path]) for path in KERNELS)
    assert any((repair.offers[0].values[path] != other.offers[0].values[path]).any() for path in KERNELS)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(InputError, match=r"of .* rows 0 were right at the earlier checkpoint"):
        offered(METHOD, MethodJob(a_subject(SEARCH, spoilt=False), None, 1))
    subject = a_subject(SEARCH)
    words = lacking(METHOD, replace(subject, checkpoints=subject.checkpoints[:1]))
    assert words == "NeuRecover compares checkpoints of the training and 1 are known, expected two (--weights-dir)"
    assert lacking(METHOD, subject) is None
