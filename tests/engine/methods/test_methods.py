"""What every method of repair keeps to, whichever it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.methods.base import Method, MethodJob, Offer, Repair, Subject
from engine.methods.outcome import CHOSEN, FOUND, MethodOutcome, carry_out, draw, predicted
from engine.methods.registry import METHODS, check_name, method_names, method_of
from tests.support.subjects import CLASSES, LABEL, a_subject, forward


@pytest.fixture(scope="module")
def subject() -> Subject:
    return a_subject()


@pytest.fixture(scope="module")
def outcomes(subject: Subject) -> dict[str, MethodOutcome]:
    return {name: carry_out(method_of(name), MethodJob(subject, None, 1)) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_one_of_its_name(name: str) -> None:
    method = method_of(name)
    assert method.name == name == check_name(name.upper())
    assert method.searches and method.objective and method.source


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_repair(name: str, subject: Subject, outcomes: dict[str, MethodOutcome]) -> None:
    again = carry_out(method_of(name), MethodJob(subject, None, 1))
    first = outcomes[name]
    assert not first.failed and again.failed == first.failed
    for reading in (FOUND, CHOSEN):
        mine, other = first.readings[reading], again.readings[reading]
        assert mine.offer.name == other.offer.name and mine.chance == other.chance
        assert mine.offer.values.keys() == other.offer.values.keys()
        for path, value in mine.offer.values.items():
            assert value.tobytes() == other.offer.values[path].tobytes()


@pytest.mark.parametrize("name", METHODS)
def test_no_method_is_worse_than_the_model_by_its_own_objective(name: str, outcomes: dict[str, MethodOutcome]) -> None:
    outcome = outcomes[name]
    if outcome.own is not None:
        assert outcome.best is not None and outcome.best >= outcome.own


@pytest.mark.parametrize("name", METHODS)
def test_what_is_told_of_rows_is_what_the_weights_do(
    name: str, subject: Subject, outcomes: dict[str, MethodOutcome]
) -> None:
    assert subject.test is not None
    for reading in outcomes[name].readings.values():
        values = {**subject.chain.values, **reading.offer.values}
        assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in values.values())
        logits = forward(values, subject.test.rows.inputs)
        ahead = np.sort(logits, axis=1)
        clear = ahead[:, -1] - ahead[:, -2] > 1e-4
        assert clear.mean() > 0.9
        assert reading.test is not None
        assert (reading.test == logits.argmax(axis=1))[clear].all()
        assert reading.changed == sum(
            int((value != subject.chain.values[path]).sum()) for path, value in reading.offer.values.items()
        )


@pytest.mark.parametrize("name", METHODS)
def test_validation_never_chooses_worse_than_the_model_as_it_is(
    name: str, subject: Subject, outcomes: dict[str, MethodOutcome]
) -> None:
    if method_of(name).name == "CrossFit":
        return  # which takes the step of its promise
    rows, after = subject.validation, outcomes[name].readings[CHOSEN].validation
    assert rows is not None and after is not None
    mine = rows.labels == LABEL
    kept = [(after[rows.labels == label] == label).mean() for label in range(CLASSES)]
    before = [(rows.before[rows.labels == label] == label).mean() for label in range(CLASSES)]
    assert min(now - was for now, was in zip(kept, before, strict=True)) >= -0.1 - 1e-9
    assert (after[mine] == LABEL).sum() >= (rows.before[mine] == LABEL).sum()


@pytest.mark.parametrize("name", METHODS)
def test_a_model_without_failures_stays_as_it_is(name: str, subject: Subject) -> None:
    pool = subject.pool
    happy = replace(subject, pool=replace(pool, rows=replace(pool.rows, labels=pool.before)))
    outcome = carry_out(method_of(name), MethodJob(happy, None, 0))
    assert not outcome.failed
    assert all(not reading.offer.values and reading.changed == 0 for reading in outcome.readings.values())
    assert "right: nothing is changed" in outcome.notes[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_draw_of_few_rows_is_repaired_or_says_why_not(name: str, subject: Subject) -> None:
    drawn = draw(subject.pool.labels, 12, 5, subject.pool.rows.fingerprint)
    outcome = carry_out(method_of(name), MethodJob(subject, drawn, 5))
    assert bool(outcome.failed) != bool(outcome.readings)
    assert not outcome.failed or "expected" in outcome.failed


@pytest.mark.parametrize("name", [name for name in METHODS if "offsets" in method_of(name).needs])
def test_offsets_need_a_bias(name: str) -> None:
    outcome = carry_out(method_of(name), MethodJob(a_subject(60, bias=False), None, 0))
    assert "has no bias, expected one that they go into" in outcome.failed and not outcome.readings


def test_a_draw_is_some_rows_of_the_pool_each_once(subject: Subject) -> None:
    labels = subject.pool.labels
    first, again, other = (draw(labels, 50, seed, "data") for seed in (1, 1, 2))
    assert first is not None and again is not None and other is not None
    assert len(set(first.tolist())) == 50 and (np.diff(first) > 0).all()
    assert (first == again).all() and (first != other).any()
    assert draw(labels, None, 1, "data") is None


def test_what_fails_is_told_and_what_is_wrong_with_a_method_too(subject: Subject) -> None:
    def fails(job: MethodJob) -> Repair:
        raise InputError("there is no luck, expected some")

    def strays(job: MethodJob) -> Repair:
        return Repair([Offer("elsewhere", {"other/kernel": np.zeros(3, np.float32)}, 0.0)])

    def runs_off(job: MethodJob) -> Repair:
        return Repair([Offer("far", {"last/bias": np.array([0, np.nan, 0], np.float32)}, 0.0)])

    for repair, why in (
        (runs_off, "sets values of 'last/bias' to NaN or infinity, expected numbers"),
        (fails, "there is no luck"),
        (strays, "changes 'other/kernel' (3,), expected weights of hidden/kernel (4, 8)"),
    ):
        method = Method("plain", repair, "nothing", "none", "a test")
        assert why in carry_out(method, MethodJob(subject, None, 0)).failed
    with pytest.raises(InputError, match="needs 'luck', expected"):
        Method("plain", fails, "nothing", "none", "a test", needs=("luck",))  # type: ignore[arg-type]


def test_names_of_methods() -> None:
    assert method_names()[: len(METHODS)] == tuple(METHODS)
    with pytest.raises(InputError, match=r"there is no method 'arachnid', expected CrossFit.*did you mean 'Arachne'"):
        check_name("arachnid")
    with pytest.raises(InputError, match="method Unknown is not installed here"):
        method_of("Unknown")


def test_nothing_changed_is_the_model_as_it_is(subject: Subject) -> None:
    rows = subject.pool
    assert (predicted(subject.chain, {}, rows) == rows.before).all()
    same = predicted(subject.chain, dict(subject.chain.values), rows)
    assert (same == rows.before).mean() > 0.99
