"""Tunings equal a few lines of NumPy, and read no row of the fold that they are judged on."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.head import Head
from engine.tuning import recipes as recipes_module
from engine.tuning.recipes import Recipe, rate_of
from engine.tuning.train import BATCH_ROWS, FoldRows, Tuner, TuningJob
from tests.support.chains import CLASSES, Net, net, through_the_tail

ROOT = Path(__file__).parents[3]

FOLDS = 3
REPAIRED = (1, 3)


@functools.cache
def tuner(name: str, tail: bool = False) -> Tuner:
    """Compiled once for all tests; 30 rows in each fold, so a batch are all 60 rows that a tuning sees."""
    subject = net(name)
    chain = through_the_tail(subject) if tail else subject.chain
    return Tuner(TuningJob(chain, subject.fold_rows(FOLDS), REPAIRED, seed=0))


def by_hand(subject: Net, fold: int, recipe: Recipe) -> dict[str, np.ndarray]:
    """Changes by Adam with a falling rate in float64, each step over all rows that are seen; hidden layers of ReLU."""
    seen = np.arange(len(subject.labels)) % FOLDS != fold
    chain, softmax = subject.chain, subject.chain.head.form == "log_softmax"
    rate, repaired = rate_of(recipe, sum(layer.tuned for layer in chain.layers)), np.isin(subject.labels, REPAIRED)
    values = {path: value.astype(np.float64) for path, value in chain.values.items()}
    true = np.eye(CLASSES)[subject.labels]

    def forward() -> list[np.ndarray]:
        found = [subject.features.astype(np.float64)]
        for layer in chain.layers:
            z = found[-1] @ values[layer.kernel] + values[layer.bias]
            found.append(np.maximum(z, 0) if layer.activation == "relu" else z)
        return found

    def shares(z: np.ndarray) -> np.ndarray:
        wide = np.exp(z)
        return wide / wide.sum(axis=1, keepdims=True) if softmax else wide / (1 + wide)

    z0 = forward()[-1]
    right = (z0.argmax(axis=1) == subject.labels)[:, None].astype(np.float64)
    weight = np.where(repaired, recipe.class_weight, 1.0)[:, None]
    first = {path: np.zeros_like(value) for path, value in values.items()}
    second = {path: np.zeros_like(value) for path, value in values.items()}
    for step in range(1, recipe.epochs + 1):
        layers = forward()
        z = layers[-1]
        each = 1 if softmax else CLASSES  # binary cross-entropy is a mean over classes
        slope = weight * (shares(z) - true) / each
        if recipe.anchor == "kl":
            slope += recipe.strength * right * (shares(z) - shares(z0)) / each
        else:
            slope += recipe.strength * (1 + 5 * right) * (z - z0) / CLASSES
        slope *= seen[:, None] / seen.sum()
        gradients = {}
        for number, layer in reversed(list(enumerate(chain.layers))):
            if layer.activation == "relu":
                slope = slope * (layers[number + 1] > 0)
            gradients[layer.kernel], gradients[layer.bias] = layers[number].T @ slope, slope.sum(axis=0)
            slope = slope @ values[layer.kernel].T
        for path in chain.tuned:
            first[path] = 0.9 * first[path] + 0.1 * gradients[path]
            second[path] = 0.999 * second[path] + 0.001 * gradients[path] ** 2
            pace = rate * (1 - (step - 1) / recipe.epochs) * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            values[path] = values[path] - pace * first[path] / (np.sqrt(second[path]) + 1e-7)
    return {path: values[path] - chain.values[path] for path in chain.tuned}


def company(epochs: int, **changes: object) -> list[Recipe]:
    """Three different recipes, as a task has them; of one number, so that one program serves all tests."""
    recipes = [Recipe(5, 0.5), Recipe(0.5, 0.2, "focal"), Recipe(1, 0, rate=0.01)]
    return [Recipe(**{**vars(recipe), "epochs": epochs, **changes}) for recipe in recipes]


@pytest.mark.parametrize("tail", [False, True], ids=["matrices", "tail"])
@pytest.mark.parametrize("name", ["two", "one, binary", "two, first alone"])
def test_a_few_steps_equal_the_formula(name, tail):
    recipes = company(6)
    subject, found = net(name), tuner(name, tail).run(1, recipes)
    assert list(found) == list(subject.chain.tuned)
    for number, recipe in enumerate(recipes):
        expected = by_hand(subject, 1, recipe)
        moved = rate_of(recipe, sum(layer.tuned for layer in subject.chain.layers))
        for path, change in expected.items():
            assert found[path].dtype == np.float32
            np.testing.assert_allclose(found[path][number], change, atol=0.02 * moved, err_msg=f"{path} {recipe.name}")
            assert np.abs(change).max() > 0.5 * moved
        others = [by_hand(subject, fold, recipe) for fold in (0, 2)]
        for other in [*others, by_hand(subject, 1, Recipe(epochs=6, rate=recipe.rate))]:
            assert any(np.abs(other[path] - expected[path]).max() > 0.1 * moved for path in expected)


def test_the_same_bits_again_and_rows_of_its_own_fold_are_never_read():
    """Whatever those rows are: their labels, features and what the model says of them."""
    subject, rows = net("one, binary"), net("one, binary").fold_rows(FOLDS)
    own = rows.fold == 1
    inputs = np.where(own[:, None], 7 - 50 * rows.inputs, rows.inputs).astype(np.float32)
    labels = np.where(own, (rows.labels + 1) % CLASSES, rows.labels)
    changed = Tuner(TuningJob(subject.chain, FoldRows(inputs, labels, rows.fold, rows.data), REPAIRED, seed=0))
    recipes = company(4)
    first, second = tuner("one, binary").run(1, recipes), changed.run(1, recipes)
    again, other = tuner("one, binary").run(1, recipes), changed.run(0, recipes)
    for path, change in first.items():
        assert change.tobytes() == second[path].tobytes() == again[path].tobytes()
        assert change.tobytes() != other[path].tobytes()


ONLY = DenseLayer("only/kernel", None, "linear")


@functools.cache
def single_rows(seed: int = 0) -> Tuner:
    """A row for each weight of the kernel: what changed was in a batch. The first fold has half of all rows."""
    count = 600
    kernel = np.random.default_rng(0).normal(0, 1, (count, 2)).astype(np.float32)
    chain = DenseChain(Head("log_softmax", "linear"), (ONLY,), {ONLY.kernel: kernel})
    fold = np.array([0, 1, 0, 2] * (count // 4))
    labels = np.arange(count) % 2
    return Tuner(TuningJob(chain, FoldRows(np.eye(count, dtype=np.float32), labels, fold, "rows"), (0,), seed))


def test_an_epoch_passes_once_over_the_rows_of_the_other_folds(monkeypatch):
    """In whole batches. All folds have as many epochs, those of the fewest rows, so that recipes keep their company."""
    it = single_rows()
    fold = np.array([0, 1, 0, 2] * 150)

    def seen_by(number: int, *recipes: Recipe) -> np.ndarray:
        changes = it.run(number, recipes)[ONLY.kernel]
        (rows,) = {tuple(change.any(axis=1)) for change in changes}
        return np.flatnonzero(rows)

    once = Recipe(1, epochs=1), Recipe(3, epochs=1)
    for number, batches in ((0, 2), (1, 3), (2, 3)):  # of 300 and 450 rows
        seen = seen_by(number, *once)
        assert (fold[seen] != number).all()
        assert len(seen) == batches * BATCH_ROWS
    twice = seen_by(0, Recipe(1, epochs=2), Recipe(3, epochs=2))
    assert set(seen_by(0, *once)) < set(twice) <= set(np.flatnonzero(fold != 0))  # each epoch leaves out other rows
    # 900 // 300 are 3 epochs, and 900 // 450 would be 2.
    monkeypatch.setattr(recipes_module, "MOST_ROW_EPOCHS", 900)
    stated, following = it.run(1, [Recipe(2, epochs=3), Recipe(2)])[ONLY.kernel]
    assert stated.any()
    np.testing.assert_array_equal(stated, following)


def test_the_seed_orders_the_rows():
    recipes = [Recipe(1, epochs=1), Recipe(2, epochs=1)]
    first, second = (single_rows(seed).run(0, recipes)[ONLY.kernel][0].any(axis=1) for seed in (0, 1))
    assert first.sum() == second.sum()
    assert (first != second).any()


def test_rates_are_those_of_the_recipes():
    rates = (1e-4, 1e-3, 0.02)
    recipes = [
        Recipe(rate=rate, epochs=1, anchor=anchor) for rate, anchor in zip(rates, ("kl", "focal", "kl"), strict=True)
    ]
    found = tuner("two").run(0, recipes)
    for number, rate in enumerate(rates):
        longest = max(np.abs(change[number]).max() for change in found.values())
        assert longest == pytest.approx(rate, rel=0.01)


def test_a_strong_anchor_keeps_what_the_model_gets_right():
    subject = net("two")
    recipes = [Recipe(4, strength, anchor, 0.003, 60) for strength, anchor in ((0, "kl"), (300, "kl"), (300, "focal"))]
    found = tuner("two").run(0, recipes)
    values = {path: subject.chain.values[path] + change for path, change in found.items()}
    logits = np.asarray(subject.chain.logits(subject.features, values))
    seen = np.arange(len(subject.labels)) % FOLDS != 0
    right = seen & (subject.before == subject.labels)

    def shares(z: np.ndarray) -> np.ndarray:
        wide = np.exp(z - z.max(axis=-1, keepdims=True))
        return wide / wide.sum(axis=-1, keepdims=True)

    far = np.abs(shares(logits) - shares(subject.logits)).max(axis=2)
    free, kl, focal = far.mean(axis=1), far[:, right].mean(axis=1), far[:, seen].mean(axis=1)
    assert kl[1] < 0.15 * kl[0]
    assert focal[2] < 0.15 * focal[0]
    assert (free > 0).all()
    # What is wrong may move under `kl`, and does.
    assert far[1, seen & ~right].mean() > 5 * kl[1]


def test_a_tuning_that_does_not_stay_finite_is_named():
    chain = DenseChain(Head("normalised", "exponential"), (ONLY,), {ONLY.kernel: np.zeros((2, 2), np.float32)})
    rows = FoldRows(np.full((40, 2), 9, np.float32), np.arange(40) % 3 % 2, np.arange(40) % 2, "rows")
    it = Tuner(TuningJob(chain, rows, (0,), seed=0))
    recipes = [Recipe(1, epochs=80), Recipe(1, epochs=80, rate=1)]
    with pytest.raises(InputError) as caught:
        it.run(0, recipes)
    assert str(caught.value) == (
        "recipe 1:1:rate=1:epochs=80: a weight became infinite or NaN, expected a smaller rate"
    )
    assert np.isfinite(it.run(0, [recipes[0], recipes[0]])[ONLY.kernel]).all()


THREADS = """
import hashlib, sys
import numpy as np
from engine import backend

backend.limit_threads(int(sys.argv[1]))
from engine.fitness.mixture import Mixture, MixtureFitness
from engine.fitness.rows import SearchRows
from engine.fitness.tiling import Tiling
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.head import Head
from engine.tuning.recipes import read_recipes
from engine.tuning.train import FoldRows, Tuner, TuningJob

for sizes, rows in (((96, 10), 120), ((2048, 10), 700), ((768, 96, 10), 300)):
    random = np.random.default_rng(0)
    values, layers = {}, []
    for number, shape in enumerate(zip(sizes, sizes[1:])):
        values[f"kernel{number}"] = (random.normal(size=shape) / shape[0] ** 0.5).astype("f")
        values[f"bias{number}"] = np.zeros(shape[1], "f")
        layers.append(DenseLayer(f"kernel{number}", f"bias{number}", "relu" if shape[1] > 10 else "linear"))
    chain = DenseChain(Head("log_softmax", "linear"), tuple(layers), values)
    inputs, labels = random.normal(size=(rows, sizes[0])).astype("f"), np.arange(rows) % 10
    fold = np.arange(rows) * 2 // rows
    tuner = Tuner(TuningJob(chain, FoldRows(inputs, labels, fold, "rows"), (6,), 0))
    tuned = tuple(tuner.run(number, read_recipes("1:1:epochs=2,4:1:epochs=2")) for number in (0, 1))
    nothing = tuple({path: change[:0] for path, change in changes.items()} for changes in tuned)
    for changes in (tuned, nothing):
        mixture = Mixture(chain, changes, 0.5)
        logits = random.normal(size=(rows, 10)).astype("f")
        negative = (labels == 6) & (fold == 0)
        known = SearchRows(inputs, logits, labels, negative, ~negative & (labels == 6), fold)
        fitness = MixtureFitness(mixture, known, 8, Tiling())
        sums = fitness.evaluate(random.normal(size=(8, mixture.size)).astype("f") / 4)
        parts = [sums, *(change for each in changes for change in each.values())]
        print(hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest())
"""


@pytest.mark.slow
def test_threads_change_no_bit_of_tunings_and_mixtures() -> None:
    """Of one layer, of one with many inputs and few units, and of two; with tunings, and with offsets alone."""

    def run(threads: int) -> list[str]:
        words = [sys.executable, "-c", THREADS, str(threads)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    one = run(1)
    assert len(set(one)) == 6 and one == run(2)
