"""Methods with settings: what their names say, what they run, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.core.errors import InputError
from engine.methods.base import MethodJob, MethodSettings
from engine.methods.given import check_stated, with_settings
from engine.methods.outcome import CHOSEN
from engine.methods.registry import GROUP, method_of, parsed, read_names
from engine.methods.weight_search import WeightSearch
from engine.search.differential_evolution import DifferentialSettings
from engine.search.loop import SearchSettings
from tests.support.plugins import Site
from tests.support.subjects import a_subject, bits, carry_out


def test_names_are_read_with_their_settings() -> None:
    names = read_names(" crossfit, arachne ( objective = requirements , num_iterations=50 ),head")
    assert names == ("CrossFit", "Arachne(objective=requirements,num_iterations=50)", "head")
    assert parsed(names[1]) == ("Arachne", {"objective": "requirements", "num_iterations": "50"})
    assert parsed(names[0]) == ("CrossFit", {})


@pytest.mark.parametrize(
    "text", ["head(", "head)", "head()", "(folds=2)", "head(folds)", "head(=2)", "head(folds=2,folds=3)", "a(b(c=1))"]
)
def test_names_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"cannot be read, expected NAME or NAME\(SETTING=VALUE,...\)"):
        read_names(text)


def test_a_package_may_call_its_method_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Site(tmp_path / "site", monkeypatch).install("odd", {"odd (a)": "odd:METHOD"}, group=GROUP)
    assert read_names("Odd (A),head") == ("odd (a)", "head")
    assert parsed("odd (a)") == ("odd (a)", {})


def test_arachne_by_the_requirements_is_one_search_steered_by_them() -> None:
    subject = a_subject()
    subject = replace(subject, settings=replace(subject.settings, search=None))
    search = SearchSettings(
        objective="requirements", requirements=subject.requirements, promise_rows=subject.settings.crossfit.promise_rows
    )
    known = carry_out(
        replace(method_of("Arachne"), repair=WeightSearch(search, worths=())), MethodJob(subject, None, 1)
    )
    method, settings = with_settings("Arachne(objective=requirements)", subject.settings)
    found = carry_out(method, MethodJob(replace(subject, settings=settings), None, 1))
    assert not known.failed and (found.own, found.best) == (known.own, known.best)
    for name, reading in known.readings.items():
        mine = found.readings[name]
        assert reading.changed and mine.offer.name == "as found" and mine.chance == reading.chance
        assert bits(mine.offer.values) == bits(reading.offer.values)


def test_what_is_stated_is_what_runs() -> None:
    known = MethodSettings()
    method, settings = with_settings(
        "Arachne(optimiser=DE,factor=0.5,num_particles=20,num_iterations=7,positive_worth=0.6)", known
    )
    assert settings == known and isinstance(method.repair, WeightSearch)
    swarm = DifferentialSettings(20, factor=0.5)
    assert method.repair.settings == SearchSettings(swarm=swarm, num_iterations=7, positive_worth=0.6)
    assert method.repair.worths == ()
    bound, _ = with_settings("Arachne-v2(optimiser=random)", known)
    assert bound.repair.settings.swarm.bound == 2  # type: ignore[attr-defined]
    method, settings = with_settings("CrossFit(folds=3,step=none,num_iterations=9,phi=4.5,phi_split=false)", known)
    search = known.crossfit.search
    swarm = replace(search.swarm, phi=4.5, phi_split=False)  # type: ignore[call-arg]
    crossfit = replace(known.crossfit, folds=3, search=replace(search, swarm=swarm, num_iterations=9))
    assert method is method_of("CrossFit") and settings == replace(known, crossfit=crossfit)


def test_a_promise_is_judged_by_the_confidence_that_is_stated() -> None:
    subject = a_subject()
    chances = []
    for confidence in ("0.5", "0.99"):
        method, settings = with_settings(f"head(confidence={confidence})", subject.settings)
        reading = carry_out(method, MethodJob(replace(subject, settings=settings), None, 1)).readings[CHOSEN]
        assert reading.chance is not None and reading.promised == (reading.chance >= float(confidence))
        chances.append(reading.chance)
    assert chances[0] == chances[1]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Arachne(folds=3)", "Arachne(folds=3): folds means nothing to Arachne, expected num_iterations, min_iter"),
        ("Arachne(num_iterations=many)", "num_iterations is 'many', expected a whole number"),
        ("Arachne(num_iterations=0)", "Arachne(num_iterations=0): num_iterations is 0, expected at least 1"),
        ("Arachne(positive_worth=x)", "positive_worth is 'x', expected a number"),
        ("Arachne(phi_split=2)", "phi_split is '2', expected True, False"),
        ("Arachne(objective=priorities)", "objective is 'priorities', expected arachne, loss, requirements"),
        ("Arachne(objective=requirements,positive_worth=1)", "positive_worth means nothing to Arachne"),
        ("Arachne(factor=0.5)", "factor means nothing to Arachne"),
        ("Arachne(optimiser=tabu)", "optimiser is 'tabu', expected PSO, DE, random"),
        ("Arachne(tiling=1)", "tiling means nothing"),
        ("label-priorities(objective=loss)", "objective means nothing to label-priorities"),
        ("NeuRecover(positive_worth=1)", "positive_worth means nothing to NeuRecover"),
        ("head(num_iterations=3)", "num_iterations means nothing to head, expected folds, promise_rows, confidence"),
        ("head(step=0.5)", "step means nothing to head"),
        ("tail(folds=1)", "tail(folds=1): folds are 1, expected at least 2"),
        ("offsets(optimiser=DE,bound=2)", "bound means nothing to offsets"),
        ("offsets(recipes=1)", "recipes means nothing to offsets"),
    ],
)
def test_what_no_method_can_run_with_is_refused(name: str, why: str) -> None:
    with pytest.raises(InputError) as refused:
        check_stated(["CrossFit", name], MethodSettings())
    assert why in str(refused.value) and str(refused.value).startswith(f"{name}: ")


def test_an_optimiser_for_all_leaves_none_to_state() -> None:
    settings = MethodSettings(optimiser=DifferentialSettings())
    for name in ("Arachne(optimiser=PSO)", "Arachne(factor=0.5)"):
        with pytest.raises(InputError, match="is stated and --optimiser too, expected one of them"):
            check_stated([name], settings)
    method, _ = with_settings("Arachne(num_particles=9)", settings)
    assert method.repair.settings.swarm == DifferentialSettings(9)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "names",
    [
        ("CrossFit(folds=3,step=1)", "CrossFit(step=1.0,folds=3)"),
        ("offsets", "offsets(folds=5)"),
        ("Arachne(positive_worth=0.6)", "Arachne(positive_worth=0.60)"),
    ],
)
def test_the_same_repair_by_two_names_is_refused(names: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="are the same, expected each method with its settings once"):
        check_stated(names, MethodSettings())


def test_a_method_of_another_package_that_tells_nothing_takes_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from engine.methods.base import NOTHING, Method, Repair\n"
        "METHOD = Method('lazy', lambda job: Repair([NOTHING]), 'nothing', 'none', 'a test')\n"
    )
    Site(tmp_path / "site", monkeypatch).install("lazy-one", {"lazy": "lazy_one:METHOD"}, code, group=GROUP)
    with pytest.raises(InputError, match=r"lazy\(folds=2\): lazy takes no settings, expected its name alone"):
        check_stated(["lazy(folds=2)"], MethodSettings())
