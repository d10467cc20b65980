"""Methods that stand beside CrossFit: what they change, and that no row is judged by what saw it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.core.plans import run_here
from engine.core.types import Float32, Int64
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.head import Head
from engine.methods.mixtures import MixtureFit, MixtureMethod
from engine.methods.registry import METHODS, method_of
from engine.metrics.requirements import Requirement
from engine.problem.case import LayerInputs
from engine.problem.crossfit import CrossFit, CrossFitSettings, crossfit_of
from engine.problem.crossfit_settings import STEPS
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from engine.targets.of_chain import last_alone

CLASSES, ROWS, LABEL = 3, 150, 2
KNOWN = {name: found for name in METHODS if isinstance(found := method_of(name).repair, MixtureMethod)}
KEPT = Requirement("max_drop", 0.0, None, None, "drop of all labels together at most 0 points")
LAST = ("last/kernel", "last/bias")


def forward(values: dict[str, Float32], inputs: Float32) -> Float32:
    """The slow formula: logits of hidden and last layer."""
    hidden = np.maximum(inputs @ values["hidden/kernel"] + values["hidden/bias"], 0)
    return hidden @ values["last/kernel"] + values["last/bias"]


def a_job(*, bias: bool = True, labels: Int64 | None = None) -> CrossFit:
    """A repair of label 2, which the model as it is takes for others too often."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(CLASSES, 4))
    true = rng.integers(0, CLASSES, ROWS)
    inputs = (centres[true] + rng.normal(size=(ROWS, 4))).astype(np.float32)
    values = {
        "hidden/kernel": np.concatenate([np.eye(4), -np.eye(4)], axis=1).astype(np.float32),
        "hidden/bias": np.full(8, 0.1, np.float32),
        "last/kernel": np.concatenate([centres.T, -centres.T]).astype(np.float32) / 2,
        "last/bias": np.array([0.0, 0.0, -1.0], np.float32) - (centres**2).sum(axis=1).astype(np.float32) / 4,
    }
    layers = [DenseLayer("hidden/kernel", "hidden/bias", "relu"), DenseLayer("last/kernel", "last/bias", "linear")]
    if not bias:
        layers[1] = replace(layers[1], bias=None)
        values["last/bias"] = np.zeros(CLASSES, np.float32)
    chain = DenseChain(Head("log_softmax", "linear"), tuple(layers), values)
    digests = np.unique(rng.integers(0, 256, (ROWS, 16)).astype(np.uint8), axis=0)
    rows = LayerInputs(inputs, true if labels is None else labels, digests, (4,), CLASSES)
    search = SearchSettings(swarm=SwarmSettings(8), num_iterations=6, min_iteration_range=6)
    settings = CrossFitSettings(folds=3, search=search)
    return crossfit_of(chain, rows, forward(values, inputs), (LABEL,), (KEPT,), settings, seed=1)


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
    for step, predicted in zip(steps, fit.predicted(steps), strict=True):
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
    [
        ("offsets", {"last/bias"}),
        ("head", set(LAST)),
        ("tail", {"hidden/kernel", "hidden/bias", *LAST}),
    ],
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
    assert [point.step for point in KNOWN["WiSE-FT"].frontier(job, fits["WiSE-FT"]).points] == list(STEPS)
    assert [point.step for point in KNOWN["tail"].frontier(job, fits["tail"]).points] == [1.0, 0.0]


def test_offsets_need_a_bias() -> None:
    plain = a_job(bias=False)
    with pytest.raises(InputError, match="last has no bias, expected one that offsets"):
        fitted(KNOWN["offsets"], plain)
    assert set(fitted(KNOWN["head"], plain).values(1.0)) == {"last/kernel"}


def test_the_last_layer_alone_gives_the_same_logits(job: CrossFit) -> None:
    frozen = tuple(replace(layer, tuned=False) for layer in job.chain.layers)
    chain, inputs = last_alone(replace(job.chain, layers=frozen), job.rows.inputs)
    assert chain.tuned == LAST and set(chain.values) == set(LAST)
    logits = np.asarray(chain.logits(inputs, chain.values))
    np.testing.assert_allclose(logits, job.logits, rtol=1e-4, atol=1e-4)
