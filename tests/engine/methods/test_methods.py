"""What every method of repair keeps to, whichever it is."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.core.plans import run_here
from engine.fitness.priorities import Priorities
from engine.layers.dense_chain import DenseChain
from engine.layers.weight_stats import WeightStats
from engine.localize import neurecover
from engine.methods import outcome as outcomes_module
from engine.methods.base import NOTHING, Method, MethodJob, Offer, Repair, Subject
from engine.methods.given import search_of, stated_of
from engine.methods.outcome import CHOSEN, FOUND, MethodOutcome, draw, predicted
from engine.methods.registry import METHODS, check_name, method_of
from engine.methods.weight_search import ARACHNE_V2, BOUND, WeightSearch
from engine.search.differential_evolution import DifferentialSettings
from engine.search.optimisers import OPTIMISERS
from engine.search.population import PopulationSettings, box
from engine.search.random_search import RandomSettings
from tests.support.subjects import CLASSES, LABEL, a_subject, bits, carry_out, forward, offered

OF_LAST = ("Arachne", "Arachne-v2", "label-priorities", "DRWeightMerge", "head", "offsets")
"""Methods that change the last layer."""

Outcomes = dict[str, MethodOutcome]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return a_subject()


@pytest.fixture(scope="module")
def outcomes(subject: Subject) -> Outcomes:
    return {name: carry_out(method_of(name), MethodJob(subject, None, 1)) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_one_of_its_name(name: str) -> None:
    method = method_of(name)
    assert method.name == name == check_name(name.upper())
    assert method.searches and method.objective and method.source


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_repair(name: str, subject: Subject, outcomes: Outcomes) -> None:
    again = carry_out(method_of(name), MethodJob(subject, None, 1))
    first = outcomes[name]
    assert not first.failed and again.failed == first.failed
    for reading in (FOUND, CHOSEN):
        mine, other = first.readings[reading], again.readings[reading]
        assert mine.offer.name == other.offer.name and mine.chance == other.chance
        assert bits(mine.offer.values) == bits(other.offer.values)


@pytest.mark.parametrize("name", METHODS)
def test_no_method_is_worse_than_the_model_by_its_own_objective(name: str, outcomes: Outcomes) -> None:
    own, best = outcomes[name].own, outcomes[name].best
    if name in ("head", "tail", "WiSE-FT"):  # methods that fine-tune, without an objective
        assert own is best is None
    else:
        assert own is not None and best is not None and best >= own


def by(subject: Subject, optimiser: PopulationSettings) -> Subject:
    crossfit = subject.settings.crossfit
    swarm = replace(optimiser, num_particles=crossfit.search.swarm.num_particles)
    crossfit = replace(crossfit, search=replace(crossfit.search, swarm=swarm))
    return replace(subject, settings=replace(subject.settings, crossfit=crossfit, optimiser=optimiser))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", [name for name in METHODS if "optimiser" in stated_of(method_of(name))])
def test_any_optimiser_searches_for_any_method(name: str, optimiser: str, subject: Subject, outcomes: Outcomes) -> None:
    """Its own gives the same as unstated; another one something else that is no worse than the model."""
    method = method_of(name)
    own = search_of(method, subject.settings)
    assert own is not None
    found = carry_out(method, MethodJob(by(subject, OPTIMISERS[optimiser].settings()), None, 1))
    assert not found.failed
    assert found.own is not None and found.best is not None
    assert found.best >= found.own == outcomes[name].own
    values, known = (one.readings[FOUND].offer.values for one in (found, outcomes[name]))
    same = values.keys() == known.keys() and all((values[path] == known[path]).all() for path in values)
    assert same == (optimiser == own.optimiser)


@pytest.mark.parametrize("optimiser", [None, RandomSettings(), RandomSettings(bound=1.5)])
def test_the_bound_of_the_later_arachne_is_kept(
    optimiser: RandomSettings | None, subject: Subject, outcomes: Outcomes
) -> None:
    outcome, bound = outcomes["Arachne-v2"], BOUND
    if optimiser is not None:
        # Most seeds give these few candidates nothing better than the model.
        outcome = carry_out(method_of("Arachne-v2"), MethodJob(by(subject, optimiser), None, 4))
        bound = optimiser.bound or BOUND
    found = outcome.readings[FOUND].offer.values
    assert found
    for path, value in found.items():
        before = subject.chain.values[path]
        low, high = box(WeightStats.of(before), bound)
        moved = value[value != before]
        assert len(moved) and (moved >= np.float32(low)).all() and (moved <= np.float32(high)).all()


def test_the_bound_of_the_later_arachne_binds() -> None:
    """From small weights the fittest candidate lies without the box, and on its edge where there is one."""
    subject = by(a_subject(scale=0.2), DifferentialSettings())
    search = ARACHNE_V2.repair
    assert isinstance(search, WeightSearch) and isinstance(search.settings.swarm, DifferentialSettings)
    assert search.settings.swarm.bound == BOUND
    unbound = replace(search, settings=replace(search.settings, swarm=DifferentialSettings()))
    before = subject.chain.values["last/kernel"]
    edges = np.float32(box(WeightStats.of(before), BOUND))
    bound, free = (
        run_here(method(MethodJob(subject, None, 1))).offers[0].values["last/kernel"] for method in (search, unbound)
    )
    assert (free[free != before] < edges[0]).any() or (free[free != before] > edges[1]).any()
    assert np.isin(bound[bound != before], edges).any()
    assert (bound >= edges[0]).all() and (bound <= edges[1]).all()


@pytest.mark.parametrize("name", METHODS)
def test_what_is_told_of_rows_is_what_the_weights_do(name: str, subject: Subject, outcomes: Outcomes) -> None:
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


@pytest.mark.parametrize("name", [name for name in METHODS if name != "CrossFit"])
def test_validation_never_chooses_worse_than_the_model_as_it_is(
    name: str, subject: Subject, outcomes: Outcomes
) -> None:
    """CrossFit is not among these: it takes the step of its promise, where validation is one part of what judges."""
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


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_one_label_alone_are_repaired_or_it_says_why_not(name: str, subject: Subject) -> None:
    mine = np.flatnonzero(subject.pool.labels == LABEL)
    checkpoints = [replace(known, predicted=known.predicted[mine]) for known in subject.checkpoints]
    alone = replace(subject, pool=subject.pool.take(mine), checkpoints=tuple(checkpoints))
    outcome = carry_out(method_of(name), MethodJob(alone, None, 1))
    if name == "NeuRecover":  # whose rows blame no weight in common
        assert "no weight is among those that moved most" in outcome.failed and "expected some" in outcome.failed
        assert not outcome.readings
    else:
        assert not outcome.failed
        assert outcome.readings[FOUND].offer.values and outcome.readings[FOUND].test is not None


def test_offsets_need_a_bias() -> None:
    outcome = carry_out(method_of("offsets"), MethodJob(a_subject(60, bias=False), None, 0))
    assert "has no bias, expected one that they go into" in outcome.failed and not outcome.readings


def test_a_draw_is_some_rows_of_the_pool_each_once(subject: Subject) -> None:
    labels = subject.pool.labels
    first, again, other = (draw(labels, 50, seed, "data") for seed in (1, 1, 2))
    assert first is not None and again is not None and other is not None
    assert len(set(first.tolist())) == 50 and (np.diff(first) > 0).all()
    assert (first == again).all() and (first != other).any()
    assert draw(labels, None, 1, "data") is None


def test_a_method_has_needs_that_are_known() -> None:
    with pytest.raises(InputError, match="needs 'luck', expected"):
        Method("plain", lambda job: Repair([NOTHING]), "nothing", "none", "a test", needs=("luck",))  # type: ignore[arg-type]


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("there is nothing to say")


def one(name: Any = "one", fitness: Any = 0.0, chance: Any = None, bias: Any = (1, 1, 1)) -> Offer:
    return Offer(name, {"last/bias": np.array(bias)}, fitness, chance)


@pytest.mark.parametrize(
    ("repair", "why"),
    [
        ([NOTHING], "the method comes to a list, expected a Repair"),
        (Repair(NOTHING), "the method offers a Offer, expected some Offers"),  # type: ignore[arg-type]
        (Repair([]), "the method offers nothing at all, expected at least the model as it is (NOTHING)"),
        (Repair(["one"]), "the method offers 'one', expected an Offer"),  # type: ignore[list-item]
        (Repair([one(7)]), "the method calls an offer 7, expected text"),
        (Repair([one("\ud800")]), "the method calls an offer '\\ud800', expected text"),
        (Repair([one("\ud800" * 99)]), "\\ud80, expected text"),
        (Repair([replace(NOTHING, values=[1])]), "the values of offer 'nothing' are a list, expected a dict by path"),
        (
            Repair([Offer("elsewhere", {"other/kernel": np.zeros(3, np.float32)}, 0.0)]),
            "the method changes 'other/kernel' (3,), expected weights of hidden/kernel (4, 8), hidden/bias (8,), "
            "last/kernel (8, 3), last/bias (3,)",
        ),
        (
            Repair([one(bias=(0, np.nan, 0))]),
            "the method sets values of 'last/bias' to NaN or infinity, expected numbers of float32",
        ),
        (
            Repair([one(bias=(0, 1e300, 0))]),
            "the method sets values of 'last/bias' to NaN or infinity, expected numbers of float32",
        ),
        (Repair([one("nothing")]), "calls a change 'nothing', expected a name that is not the unchanged model's"),
        (Repair([one(fitness="high")]), "the fitness of offer 'one' is 'high', expected a number"),
        (Repair([one(fitness=None)]), "the fitness of offer 'one' is a NoneType, expected a number"),
        (Repair([one(fitness=True)]), "the fitness of offer 'one' is True, expected a number"),
        (Repair([one(fitness=np.float32("nan"))]), "the fitness of offer 'one' is NaN, expected a number"),
        (Repair([NOTHING, one(fitness=math.nan)]), "the fitness of offer 'one' is NaN, expected a number"),
        (Repair([one()], own="x"), "own of the repair is 'x', expected a number"),  # type: ignore[arg-type]
        (Repair([one()], own=math.nan), "own of the repair is NaN, expected a number"),
        (
            Repair([one(fitness=-5)], own=1.0),
            "the fitness of the method's first offer is -5.0 and that of the model as it is 1.0, expected no less",
        ),
        (Repair([one(chance="x")]), "the chance of offer 'one' is 'x', expected a number"),
        (Repair([one(chance=math.nan)]), "the chance of offer 'one' is NaN, expected a number"),
        (Repair([one(chance=7.5)]), "the chance of offer 'one' is 7.5, expected 0 to 1"),
        (Repair([one(chance=-0.1)]), "the chance of offer 'one' is -0.1, expected 0 to 1"),
        (Repair([NOTHING], chosen=9), "the method chooses offer 9 of 1, expected 0 to 0"),
        (Repair([NOTHING, one()], chosen=-1), "the method chooses offer -1 of 2, expected 0 to 1"),
        (Repair([NOTHING], chosen="0"), "the method chooses offer '0' of 1, expected 0 to 0"),  # type: ignore[arg-type]
        (Repair([NOTHING], notes="hello"), "the notes of the method are 'hello', expected a tuple of texts"),  # type: ignore[arg-type]
        (Repair([NOTHING], notes=("one", 3)), "a note of the method is 3, expected text"),  # type: ignore[arg-type]
        (Repair([NOTHING], notes=("\udcff",)), "a note of the method is '\\udcff', expected text"),
    ],
)
def test_what_is_no_repair_is_refused(subject: Subject, repair: Any, why: str) -> None:
    method = Method("plain", lambda job: repair, "nothing", "none", "a test")
    outcome = carry_out(method, MethodJob(subject, None, 0))
    assert outcome.failed.endswith(why) and not outcome.readings


def test_numbers_of_numpy_are_taken_as_those_of_python(subject: Subject) -> None:
    repair = Repair(
        (one(fitness=np.float32(0.5), chance=np.float64(0.25), bias=(0.1, 0.2, 0.3)), NOTHING),
        np.int64(0),  # type: ignore[arg-type]
        np.int64(0),  # type: ignore[arg-type]
        ["as told"],  # type: ignore[arg-type]
    )
    outcome = carry_out(Method("plain", lambda job: repair, "", "none", "a test"), MethodJob(subject, None, 0))
    assert not outcome.failed and outcome.notes == ("as told",)
    told = (outcome.own, outcome.best, outcome.readings[CHOSEN].offer.fitness, outcome.readings[CHOSEN].chance)
    assert told == (0.0, 0.5, 0.5, 0.25) and all(type(number) is float for number in told)
    bias = outcome.readings[FOUND].offer.values["last/bias"]
    assert bias.dtype == np.float32 and bias.tolist() == np.float32([0.1, 0.2, 0.3]).tolist()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (MuteError(), "MuteError: MuteError"),
        (ValueError("\ud800 bad"), "ValueError: \\ud800 bad"),
        (InputError("there is no luck, expected some"), "there is no luck, expected some"),
        (InputError("\ud800 bad"), "\\ud800 bad"),
        (InputError(), "InputError"),
    ],
)
def test_whatever_a_method_raises_is_told(subject: Subject, error: BaseException, why: str) -> None:
    def raises(job: MethodJob) -> list[Offer]:
        raise error

    outcome = carry_out(offering(raises), MethodJob(subject, None, 0))
    assert outcome.failed == why and not outcome.readings


def test_an_interruption_is_no_failure_of_a_method(subject: Subject) -> None:
    def raises(job: MethodJob) -> list[Offer]:
        raise SystemError("a result with an exception set") from KeyboardInterrupt()

    with pytest.raises(SystemError):
        carry_out(offering(raises), MethodJob(subject, None, 0))


def test_nothing_changed_is_the_model_as_it_is(subject: Subject) -> None:
    rows = subject.pool
    assert (predicted(subject.chain, {}, rows) == rows.before).all()
    same = predicted(subject.chain, dict(subject.chain.values), rows)
    assert (same == rows.before).mean() > 0.99


def offering(offers: Callable[[MethodJob], Sequence[Offer]], own: float | None = None) -> Method:
    return Method("plain", lambda job: Repair(offers(job), own), "an offer", "none", "a test")


def test_what_changes_no_value_is_the_model_as_it_is(subject: Subject) -> None:
    """Whatever a method calls it; its fitness stays, so that what was found is not below the model."""
    values = {path: value.astype(np.float64) for path, value in subject.chain.values.items()}
    values["last/bias"] += 1e-12  # which float32 does not tell from it
    values["hidden/kernel"][values["hidden/kernel"] == 0] = -0.0
    done = carry_out(offering(lambda job: [Offer("as found", values, 1.5)], own=1.5), MethodJob(subject, None, 0))
    assert not done.failed and (done.own, done.best) == (1.5, 1.5)
    assert subject.test is not None
    for reading in done.readings.values():
        assert (reading.offer.name, reading.changed, dict(reading.offer.values)) == ("nothing", 0, {})
        assert reading.test is not None and (reading.test == subject.test.before).all()
    far = offering(lambda job: [Offer("far", {"last/bias": np.array([99.0, 0, 0])}, 0.0)])
    left = carry_out(far, MethodJob(subject, None, 0))
    assert left.readings[CHOSEN].offer.name == "nothing"
    assert left.readings[CHOSEN].chance == done.readings[FOUND].chance is not None


def test_crossfit_that_can_promise_no_step_offers_nothing(subject: Subject) -> None:
    crossfit = replace(subject.settings.crossfit, step=0.0)
    asked = replace(subject, settings=replace(subject.settings, crossfit=crossfit))
    reading = carry_out(method_of("CrossFit"), MethodJob(asked, None, 1)).readings[CHOSEN]
    assert (reading.offer.name, reading.changed) == ("nothing", 0) and reading.chance is not None


def test_no_method_sees_the_rows_that_judge(subject: Subject) -> None:
    seen = []

    def offers(job: MethodJob) -> list[Offer]:
        seen.append(job)
        return [Offer("one", {"last/bias": np.ones(3, np.float32)}, 0.0)]

    job = MethodJob(subject, np.arange(0, 240, 2), 0)
    done = carry_out(offering(offers), job)
    assert done.readings[FOUND].test is not None and subject.validation is not None
    (given,) = seen
    assert given.subject.test is None and given.subject.validation is not None
    assert (given.subject.validation.labels == subject.validation.labels).all()
    for rows in (given.rows, given.subject.pool):  # no row of the pool that is not drawn either
        assert (rows.rows.digests == subject.pool.rows.digests[::2]).all()
        assert (rows.logits == subject.pool.logits[::2]).all()
    for one, whole, again in zip(given.checkpoints, subject.checkpoints, job.checkpoints, strict=True):
        assert (one.predicted == whole.predicted[::2]).all() and (one.predicted == again.predicted).all()


def spoiling(job: MethodJob) -> list[np.ndarray]:
    """Everything that a method gets and could write into."""
    seen = [job.rows, job.subject.pool, job.subject.validation]
    arrays = [array for rows in seen if rows is not None for array in (rows.logits, rows.before)]
    arrays += [array for rows in seen if rows is not None for array in (rows.rows.inputs, rows.labels)]
    arrays += [rows.rows.digests for rows in seen if rows is not None]
    for one in (*job.checkpoints, *job.subject.checkpoints):
        arrays += [one.predicted, *one.values.values()]
    return [*arrays, *job.chain.values.values()]


@pytest.mark.parametrize("drawn", [None, np.arange(0, 240, 2)])
def test_a_method_that_writes_into_what_it_gets_spoils_nothing_for_others(drawn: Any, outcomes: Any) -> None:
    subject = a_subject()
    known = [array.tobytes() for array in spoiling(MethodJob(subject, None, 1))]

    def writes(number: int) -> Callable[[MethodJob], list[Offer]]:
        def offers(job: MethodJob) -> list[Offer]:
            spoiling(job)[number][...] = 0
            return [NOTHING]

        return offers

    def forgets(job: MethodJob) -> list[Offer]:
        for values in (job.chain.values, job.checkpoints[0].values):
            assert isinstance(values, dict)
            values.clear()
        return [NOTHING]

    for number in range(len(known)):
        assert "read-only" in carry_out(offering(writes(number)), MethodJob(subject, drawn, 1)).failed
    assert not carry_out(offering(forgets), MethodJob(subject, drawn, 1)).failed
    assert [array.tobytes() for array in spoiling(MethodJob(subject, None, 1))] == known
    mine = carry_out(method_of("offsets"), MethodJob(subject, None, 1)).readings[FOUND].offer.values
    theirs = outcomes["offsets"].readings[FOUND].offer.values
    assert bits(mine) == bits(theirs)


@pytest.mark.parametrize("name", OF_LAST)
def test_a_last_layer_that_is_not_under_repair_stays(name: str, subject: Subject) -> None:
    hidden, last = subject.chain.layers
    chain = replace(subject.chain, layers=(hidden, replace(last, tuned=False)))
    done = carry_out(method_of(name), MethodJob(replace(subject, chain=chain), None, 1))
    why = f"{name} changes last, which is not among the layers under repair, expected it (--target-layer)"
    assert done.failed == why and not done.readings


@pytest.mark.parametrize(("name", "frozen"), [("tail", 0), ("WiSE-FT", 1)])
def test_layers_that_are_not_under_repair_stay(name: str, frozen: int, subject: Subject) -> None:
    layers = [replace(layer, tuned=number != frozen) for number, layer in enumerate(subject.chain.layers)]
    chain = replace(subject.chain, layers=tuple(layers))
    repair = offered(method_of(name), MethodJob(replace(subject, chain=chain), None, 1))
    values = repair.offers[0].values
    changed = {path for path, value in values.items() if (value != chain.values[path]).any()}
    assert changed == set(layers[1 - frozen].paths)


def test_only_labels_with_a_priority_are_searched(subject: Subject) -> None:
    method, job = method_of("label-priorities"), MethodJob(subject, None, 1)

    def offers(repaired: tuple[int, ...], *pairs: tuple[int, float]) -> list[bytes]:
        settings = replace(subject.settings, priorities=Priorities(pairs))
        found = offered(method, replace(job, subject=replace(subject, repaired=repaired, settings=settings)))
        return [offer.values["last/kernel"].tobytes() for offer in found.offers]

    alone = offers((LABEL,), (LABEL, 1.0))
    assert offers((0, LABEL), (LABEL, 1.0)) == offers((0, LABEL), (0, 0.0), (LABEL, 1.0)) == alone
    assert offers((0, LABEL), (0, 1.0), (LABEL, 1.0)) != alone
    with pytest.raises(InputError, match="label 0, 2 has a priority above 0, expected label 1 under repair"):
        offers((0, LABEL), (1, 1.0))


@pytest.mark.parametrize("name", ["Arachne", "label-priorities", "DRWeightMerge"])
def test_a_label_without_failures_is_left_out(name: str, subject: Subject) -> None:
    pool = subject.pool
    drawn = np.flatnonzero((pool.labels != 0) | (pool.before == pool.labels))
    jobs = [MethodJob(replace(subject, repaired=labels), drawn, 1) for labels in ((LABEL,), (0, LABEL))]
    alone, both = (offered(method_of(name), job).offers for job in jobs)
    assert [offer.name for offer in alone] == [offer.name for offer in both]
    assert bits(alone[-1].values) == bits(both[-1].values)


def test_an_equal_chain_is_not_traced_again(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers get a chain of their own with every repair."""
    traced = []
    logits = DenseChain.logits

    def counted(self: DenseChain, *arguments: Any) -> Any:
        traced.append(self)
        return logits(self, *arguments)

    monkeypatch.setattr(DenseChain, "logits", counted)
    outcomes_module._program.cache_clear()
    neurecover._program.cache_clear()
    rows = subject.pool
    counts, found = [], []
    for scale in (1, 1, 2):
        sent: DenseChain = pickle.loads(pickle.dumps(subject.chain))
        sent = replace(sent, values={path: value * np.float32(scale) for path, value in sent.values.items()})
        classes = predicted(sent, {"last/bias": np.array([0, 0, 2 * scale], np.float32)}, rows)
        found.append((classes, neurecover.traces(sent, rows.rows.inputs, rows.labels)))
        counts.append(len(traced))
    assert counts[0] > 0 and counts == [counts[0]] * 3
    (classes, first), (again, second), (_, other) = found
    assert (classes == again).all()
    assert all((first.impact[path] == second.impact[path]).all() for path in first.impact)
    assert all((first.impact[path] != other.impact[path]).any() for path in first.impact)
