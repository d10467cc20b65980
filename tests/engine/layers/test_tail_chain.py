"""Weights of any layers as a chain: what it knows of them, how it travels, and what it comes to without its tail."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from engine import backend
from engine.core.errors import InputError
from engine.fitness.mixture import Mixture, MixtureFitness
from engine.fitness.rows import SearchRows
from engine.fitness.tiling import Tiling
from engine.layers.dense_chain import DenseChain
from engine.layers.tail_chain import TailChain, dense_of
from engine.models.weight_paths import weight_variables
from engine.targets.model_runner import ModelRunner
from engine.targets.resolve import resolve_target, resolve_tuned
from engine.tuning.recipes import read_recipes
from engine.tuning.train import FoldRows, Tuner, TuningJob
from tests.support.chains import CLASSES, Net, candidates_of, net, random_changes, through_the_tail
from tests.support.tails import CATEGORICAL

PATH = Path("model.keras")


def chain_of(subject: Net) -> TailChain:
    assert isinstance(subject.chain, TailChain)
    return subject.chain


def resolved(name: str, *names: str) -> DenseChain | TailChain:
    subject = net(name)
    return resolve_tuned(subject.model, subject.loss, CLASSES, PATH, names)[1]


def test_what_it_knows() -> None:
    """All that a layer learnt is tuned, nothing that it measured; offsets go into a bias that is not tuned."""
    chain = chain_of(net("any, convolution"))
    assert chain.tuned == ("conv/kernel", "conv/bias", "norm/gamma", "norm/beta")
    assert set(chain.values) == {*chain.tuned, "last/bias"} and chain.offsets == "last/bias"
    assert (chain.classes, chain.tuned_layers, chain.tuned_values) == (CLASSES, 2, 36 + 4 + 4 + 4)
    # An image has 6 x 6 numbers, as many as 3 x 3 places of four filters.
    assert (chain.width, chain.widest, chain.kept_values, chain.name) == (36, 36, 0, "conv, norm")
    assert chain.all_values == 4 * 36 + CLASSES
    attention = chain_of(net("any, attention"))
    assert attention.offsets is None and "block/attention/query/kernel" in attention.tuned


@pytest.mark.parametrize("name", ["any, convolution", "any, attention"])
def test_its_logits_are_those_of_the_model(name: str) -> None:
    """Also with other weights, for several tunings at once and for several candidates."""
    subject, chain = net(name), chain_of(net(name))
    values = [
        {path: chain.values[path] + change[0] for path, change in random_changes(chain, 1, seed).items()}
        for seed in range(3)
    ]
    expected = np.stack([subject.logits_of(subject.outputs(some)) for some in values])
    together = {path: backend.on_device(np.stack([some[path] for some in values])) for path in chain.tuned}
    features = backend.on_device(subject.features)
    found = {
        "alone": np.stack([np.asarray(chain.compiled(chain.logits)(features, some)) for some in values]),
        "tunings": np.asarray(chain.compiled(chain.tuning_logits)(backend.on_device(subject.features.T), together)),
        "mixed": np.asarray(chain.compiled(chain.many_logits)(features, [together[path] for path in chain.tuned])),
    }
    found |= {way: found[way].transpose(0, 2, 1) for way in ("tunings", "mixed")}
    for way, logits in found.items():
        centred, wanted = (values - values.mean(axis=2, keepdims=True) for values in (logits, expected))
        np.testing.assert_allclose(centred, wanted, atol=2e-5, err_msg=way)


def test_rows_that_may_not_stand_behind_one_another() -> None:
    """Where a tail has masks, or mixes rows, one candidate comes after the other: to the same logits."""
    chain = through_the_tail(net("two"))
    assert chain.tail is not None and chain.tail.folds
    values = [np.stack([chain.values[path], -chain.values[path]]) for path in chain.tuned]
    weights, features = [backend.on_device(value) for value in values], backend.on_device(net("two").features)
    together = np.asarray(chain.many_logits(features, weights))
    chain.tail.folds = False
    np.testing.assert_allclose(np.asarray(chain.many_logits(features, weights)), together, atol=1e-5)


def test_it_travels_without_its_tail() -> None:
    chain = chain_of(net("any, convolution"))
    there = pickle.loads(pickle.dumps(chain))
    assert there.tail is None and chain.tail is not None
    assert {path: value.tobytes() for path, value in there.values.items()} == {
        path: value.tobytes() for path, value in chain.values.items()
    }
    assert there.attached(chain.tail).tail is chain.tail and chain.attached(None) is chain
    with pytest.raises(ValueError, match="through the tail of their model, expected it"):
        there.attached(None)


def test_a_bias_that_is_not_tuned_takes_offsets() -> None:
    chain = chain_of(net("any, convolution"))
    features, offsets = backend.on_device(net("any, convolution").features), np.arange(CLASSES, dtype=np.float32)
    as_it_is, moved = (
        np.asarray(chain.logits(features, {**chain.values, "last/bias": chain.values["last/bias"] + more}))
        for more in (0 * offsets, offsets)
    )
    np.testing.assert_allclose(moved - as_it_is, np.broadcast_to(offsets, moved.shape), atol=1e-5)


def small(*layers: Any) -> Any:
    """A model of 4 x 4 places, of which a convolution with strides leaves so few that the next runs as a product."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4, 4, 2)), *layers])
    model.compile(loss="categorical_crossentropy")
    return model


def test_convolutions_that_run_as_products_behind_what_is_tuned() -> None:
    """In a process that has not run the tail yet, as a worker: all ways, one after the other, on either backend."""
    layers = keras.layers
    model = small(
        layers.Conv2D(3, 3, 2, padding="same", name="tuned"),
        layers.Conv2D(3, 3, padding="same", name="product"),
        *(layers.Flatten(), layers.Dense(CLASSES, "softmax", name="last")),
    )
    target, chain = resolve_tuned(model, CATEGORICAL, CLASSES, PATH, ("tuned",))
    assert chain.unfolded_bytes > 0
    images = np.random.default_rng(0).normal(size=(40, 4, 4, 2)).astype(np.float32)
    features, labels = ModelRunner(model, target, path=PATH).inputs(images), np.arange(40) % CLASSES
    there = pickle.loads(pickle.dumps(chain))
    logits = chain.known_logits(features)

    def fresh() -> Any:
        return there.attached(resolve_target(model, CATEGORICAL, CLASSES, PATH, chain.tuned).tail)

    rows = FoldRows(features, labels, np.sort(np.arange(40) % 2), "rows")
    job = TuningJob(fresh(), rows, (1,), 0)
    changes = tuple(Tuner(job).run(fold, read_recipes("1:1:epochs=2,4:1:epochs=2")) for fold in range(2))
    mixture = Mixture(fresh(), changes, 0.5)
    known = SearchRows(features, logits, labels, labels == 1, (labels != 1) & (labels != 2), rows.fold)
    fitness = MixtureFitness(mixture, known, 4, Tiling())
    candidates = candidates_of(mixture, 4)
    sums = fitness.evaluate(candidates)
    assert sums.shape == (4, mixture.sums) and np.isfinite(sums).all()
    assert (fitness.predict(candidates)[0] == logits.argmax(axis=1)).all()


def test_what_compiles_the_tail() -> None:
    """The CPU's own convolutions, wherever they are; XLA all else."""
    layers = keras.layers
    kinds = layers.TimeDistributed(layers.Conv1D(2, 3), name="tuned"), layers.LayerNormalization(name="tuned")
    convolves, norm = (
        resolve_tuned(
            small(kind, layers.Flatten(), layers.Dense(CLASSES, "softmax")), CATEGORICAL, CLASSES, PATH, ("tuned",)
        )[1]
        for kind in kinds
    )
    compiled = type(backend.compiled(abs))
    assert isinstance(norm.compiled(abs), compiled)
    if backend.name == "tensorflow" and not backend.gpu_count():
        assert not isinstance(convolves.compiled(abs), compiled)


def test_dense_layers_at_the_end_stay_matrices() -> None:
    """Whatever they are named by; with anything else all goes through the tail, and what the layer has learnt."""
    for names in ((), ("last",), ("last/bias",), ("first", "last/*"), ("-1",)):
        assert isinstance(resolved("two", *names), DenseChain)
    everything = resolved("any, convolution", "all")
    assert set(everything.tuned) == {
        path for path in weight_variables(net("any, convolution").model) if "moving" not in path
    }
    assert resolved("any, convolution", "conv/kernel").tuned == ("conv/kernel",)
    assert resolved("any, convolution", "norm/*", "last").tuned == (
        *("norm/gamma", "norm/beta", "last/kernel", "last/bias"),
    )


def test_what_is_refused() -> None:
    for names, says in (
        (("con",), "target layer con is no layer of the model"),
        (("nothing",), "is no layer of the model"),
        (("conv/bia",), "is no weight of conv"),
    ):
        with pytest.raises(InputError, match=says):
            resolved("any, convolution", *names)
    with pytest.raises(ValueError, match="weights of conv, norm are to be tuned, expected Dense layers"):
        dense_of(net("any, convolution").chain)
    headless = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="norm")])
    chain = resolve_tuned(headless, CATEGORICAL, 4, PATH, ("norm",))[1]
    assert chain.offsets is None and chain.tuned == ("norm/gamma", "norm/beta")
    half = keras.layers.Dense(CLASSES, dtype="mixed_float16", name="last")
    with pytest.raises(InputError, match=r"the logits come from last \(Dense\), expected a Dense layer of float32"):
        resolve_tuned(small(keras.layers.Flatten(), half), CATEGORICAL, CLASSES, PATH, ("last/kernel",))
    with pytest.raises(InputError, match=r"the logits come from norm \(BatchNormalization\), expected a Dense layer"):
        resolve_tuned(headless, CATEGORICAL, 4, PATH)
