"""Methods that stand beside CrossFit: what they change, and that no row is judged by what saw it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.core.plans import run_here
from engine.methods.base import MethodJob
from engine.methods.mixtures import MixtureFit, MixtureMethod, crossfit_job
from engine.methods.registry import METHODS, method_of
from engine.problem.crossfit import CrossFit
from engine.problem.crossfit_settings import STEPS
from engine.targets.of_chain import last_alone
from tests.support.subjects import a_subject, forward

KNOWN = {name: found for name in METHODS if isinstance(found := method_of(name).repair, MixtureMethod)}
LAST = ("last/kernel", "last/bias")


def a_job(*, bias: bool = True) -> CrossFit:
    return crossfit_job(MethodJob(a_subject(150, bias=bias), None, 1))


def fitted(method: MixtureMethod, job: CrossFit) -> MixtureFit:
    return run_here(method.fit(job, (job.seed,)))


@pytest.fixture(scope="module")
def job() -> CrossFit:
    return a_job()


@pytest.fixture(scope="module")
def fits(job: CrossFit) -> dict[str, MixtureFit]:
    alike = {method.fit: fitted(method, job) for method in KNOWN.values()}
    return {name: alike[method.fit] for name, method in KNOWN.items()}


@pytest.mark.parametrize("name", KNOWN)
def test_every_row_is_judged_without_its_fold(name: str, job: CrossFit, fits: dict[str, MixtureFit]) -> None:
    fit, steps = fits[name], (1.0, 0.5, 0.0)
    recipes = len(next(iter(fit.changes[0].values())))
    offsets = fit.found[recipes:]
    for step, predicted in zip(steps, fit.job.predicted(fit.changes, fit.found, steps), strict=True):
        for fold, changes in enumerate(fit.changes):
            values = dict(job.chain.values)
            for path, change in changes.items():
                values[path] = values[path] + step * np.tensordot(fit.found[:recipes], change, 1)
            mine = job.rows.fold == fold
            logits = forward(values, job.rows.inputs[mine]) + step * offsets
            first, second = np.sort(logits, axis=1)[:, :-3:-1].T
            clear = first - second > 1e-4
            assert clear.mean() > 0.9
            assert (predicted[mine] == logits.argmax(axis=1))[clear].all()


@pytest.mark.parametrize(
    ("name", "changed"),
    [("offsets", {"last/bias"}), ("head", set(LAST)), ("tail", {"hidden/kernel", "hidden/bias", *LAST})],
)
def test_what_a_method_changes(name: str, changed: set[str], job: CrossFit, fits: dict[str, MixtureFit]) -> None:
    after, as_it_is = fits[name].values(1.0), fits[name].values(0.0)
    assert {path for path, value in after.items() if (value != job.chain.values[path]).any()} == changed
    assert all((value == job.chain.values[path]).all() for path, value in as_it_is.items())


def test_wise_ft_goes_from_the_model_to_the_tail(job: CrossFit, fits: dict[str, MixtureFit]) -> None:
    tail, half = fits["tail"].values(1.0), fits["WiSE-FT"].values(0.5)
    assert set(half) == set(tail)
    for path, value in half.items():
        np.testing.assert_allclose(value, (job.chain.values[path] + tail[path]) / 2, rtol=1e-5, atol=1e-6)
    assert KNOWN["WiSE-FT"].steps(job.settings) == STEPS and KNOWN["tail"].steps(job.settings) == (1.0, 0.0)


def test_a_last_layer_without_bias() -> None:
    assert set(fitted(KNOWN["head"], a_job(bias=False)).values(1.0)) == {"last/kernel"}


def test_the_last_layer_alone_gives_the_same_logits(job: CrossFit) -> None:
    frozen = tuple(replace(layer, tuned=False) for layer in job.chain.layers)
    chain, inputs = last_alone(replace(job.chain, layers=frozen), job.rows.inputs)
    assert chain.tuned == LAST and set(chain.values) == set(LAST)
    logits = np.asarray(chain.logits(inputs, chain.values))
    np.testing.assert_allclose(logits, job.logits, rtol=1e-4, atol=1e-4)
