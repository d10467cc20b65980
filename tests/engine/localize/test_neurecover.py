"""NeuRecover's blame against a plain version of its formulas: loops, rankings and sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.head import Head
from engine.localize.neurecover import ROWS, Traces, Training, blame, largest, suspicions, traces
from tests.support.chains import net


def relu_chain(shapes: list[tuple[int, int]], seed: int) -> DenseChain:
    rng = np.random.default_rng(seed)
    layers, values = [], {}
    for number, shape in enumerate(shapes):
        last = number == len(shapes) - 1
        layers.append(DenseLayer(f"d{number}/kernel", f"d{number}/bias", "linear" if last else "relu"))
        values[f"d{number}/kernel"] = rng.normal(0, 1, shape).astype(np.float32)
        values[f"d{number}/bias"] = rng.normal(0, 0.1, shape[1]).astype(np.float32)
    return DenseChain(Head("log_softmax", "linear"), tuple(layers), values)


def slow_traces(chain: DenseChain, inputs: np.ndarray, labels: np.ndarray) -> tuple[dict, dict]:
    """F and |G| of each kernel of relu layers and softmax, in float64, by the chain rule."""
    reached, result = [], inputs.astype(np.float64)
    for layer in chain.layers:
        reached.append(result)
        result = result @ chain.values[layer.kernel].astype(np.float64) + chain.values[layer.bias]
        if layer.activation == "relu":
            result = np.maximum(result, 0)
    shares = np.exp(result - result.max(axis=1, keepdims=True))
    slope = shares / shares.sum(axis=1, keepdims=True) - np.eye(chain.classes)[labels]
    impact, gradient = {}, {}
    for layer, o in zip(reversed(chain.layers), reversed(reached), strict=True):
        kernel = chain.values[layer.kernel].astype(np.float64)
        impact[layer.kernel] = sum(np.abs(row[:, None] * kernel) for row in o) / len(o)
        gradient[layer.kernel] = np.abs(o.T @ slope)
        slope = (slope @ kernel.T) * (o > 0)
    return impact, gradient


def slow_blame(
    chain: DenseChain, inputs: np.ndarray, labels: np.ndarray, training: Training
) -> tuple[dict, dict, dict]:
    worse = [r for r in range(len(labels)) if training.was[r] == labels[r] != training.became[r]]
    better = [r for r in range(len(labels)) if training.was[r] != labels[r] == training.became[r]]
    moved = {path: np.abs(training.later[path] - training.earlier[path]) for path in chain.values}
    total = sum(float(m.astype(np.float64).mean()) for m in moved.values()) + training.others
    (f_worse, g_worse), (f_better, g_better) = (slow_traces(chain, inputs[r], labels[r]) for r in (worse, better))
    all_worse, all_better = (sum(f.mean() for f in each.values()) for each in (f_worse, f_better))
    susp, k, places = {}, {}, {}
    for path in f_worse:
        n_worse, n_better = f_worse[path].mean() / all_worse, f_better[path].mean() / all_better
        susp[path] = n_worse / (n_worse + n_better) * float(moved[path].astype(np.float64).mean()) / total
        k[path] = round(chain.values[path].size * susp[path])

        def top(values: np.ndarray, path: str = path) -> set[int]:
            return set(np.argsort(-values.ravel(), kind="stable")[: k[path]].tolist())

        found = top(f_worse[path]) & top(g_worse[path]) & top(moved[path])
        found -= top(f_better[path]) & top(g_better[path])
        places[path] = sorted(found, key=lambda place: (-f_worse[path].ravel()[place], place))
    return susp, k, places


def a_training(chain: DenseChain, labels: np.ndarray, seed: int, others: float = 0.01) -> Training:
    """Two checkpoints some way before the model; a third of the rows got worse, a third better."""
    rng = np.random.default_rng(seed)
    later = {path: value + rng.normal(0, 0.01, value.shape).astype(np.float32) for path, value in chain.values.items()}
    earlier = {path: v - rng.normal(0, 0.2 * v.std(), v.shape).astype("f4") for path, v in later.items()}
    kind = rng.integers(0, 3, len(labels))
    wrong = (labels + 1) % chain.classes
    return Training(earlier, later, others, np.where(kind == 1, wrong, labels), np.where(kind == 0, wrong, labels))


@pytest.mark.parametrize(
    ("shapes", "rows"), [([(9, 4)], 20), ([(40, 20), (20, 6)], 90), ([(16, 40), (40, 20), (20, 4)], 200)]
)
def test_every_set_is_that_of_the_plain_version(shapes: list[tuple[int, int]], rows: int) -> None:
    chain = relu_chain(shapes, seed=rows)
    rng = np.random.default_rng(rows + 1)
    inputs = np.maximum(rng.normal(0, 1, (rows, shapes[0][0])), 0).astype(np.float32)
    labels = rng.integers(0, chain.classes, rows)
    training = a_training(chain, labels, rows + 2)
    found = blame(chain, inputs, labels, training)
    susp, k, places = slow_blame(chain, inputs, labels, training)
    assert found.looked_at == {path: k[path] for path in found.looked_at}
    assert {path: list(flat) for path, flat in found.places.items()} == {path: places[path] for path in found.places}
    np.testing.assert_allclose([found.suspicion[path] for path in susp], list(susp.values()), rtol=1e-5)
    assert (found.worse, found.better) == (len(training.worse(labels)), len(training.better(labels)))
    assert found.weights == tuple(path for path in found.places for _ in places[path])
    assert found.patch.flat_index.tolist() == [place for path in found.places for place in places[path]]
    assert 0 < sum(map(len, places.values())) < sum(k.values())


def test_by_hand() -> None:
    """Two layers of one input and unit each, three rows: all numbers are powers of two."""
    layers = (DenseLayer("a/kernel", None, "relu"), DenseLayer("b/kernel", "b/bias", "linear"))
    values = {
        "a/kernel": np.array([[2.0]], np.float32),
        "b/kernel": np.array([[1.0, -1.0]], np.float32),
        "b/bias": np.zeros(2, np.float32),
    }
    chain = DenseChain(Head("log_softmax", "linear"), layers, values)
    earlier = {"a/kernel": values["a/kernel"] - 1, "b/kernel": values["b/kernel"] - [[2.0, 0]], "b/bias": np.ones(2)}
    labels = np.array([1, 0, 0])
    training = Training(earlier, values, 1.0, np.array([1, 1, 0]), np.array([0, 0, 0]))
    assert training.worse(labels).tolist() == [0] and training.better(labels).tolist() == [1]
    # Mean distances: 1, 1, 1, and 1 of the others.
    assert training.distances() == {"a/kernel": 0.25, "b/kernel": 0.25, "b/bias": 0.25}
    inputs = np.array([[1.0], [4.0], [1.0]], np.float32)
    worse = traces(chain, inputs[:1], labels[:1])
    # |o w|: 1 * 2 in the first layer, 2 * 1 and 2 * |-1| in the second.
    assert worse.impact["a/kernel"].tolist() == [[2.0]] and worse.impact["b/kernel"].tolist() == [[2.0, 2.0]]
    assert worse.shares() == {"a/kernel": 0.5, "b/kernel": 0.5}
    share = 1 / (1 + np.exp(-4.0))  # of class 0, by logits 2 and -2
    np.testing.assert_allclose(worse.gradient["b/kernel"], [[2 * share, 2 * share]], rtol=1e-6)
    np.testing.assert_allclose(worse.gradient["a/kernel"], [[2 * share]], rtol=1e-6)
    better = traces(chain, inputs[1:2], labels[1:2]).shares()
    assert better == {"a/kernel": 0.5, "b/kernel": 0.5}
    assert suspicions(worse.shares(), better, training.distances()) == {"a/kernel": 0.125, "b/kernel": 0.125}
    assert suspicions({"a": 0.0}, {"a": 0.0}, {"a": 0.25}) == {"a": 0.0}


@pytest.mark.parametrize("name", ["two, apart", "three, no last bias"])
def test_gradients_are_those_of_the_loss(name: str) -> None:
    """Of any activation and head, by central differences through the model itself; more rows than a pass has."""
    subject = net(name)
    assert len(subject.labels) > ROWS
    found = traces(subject.chain, subject.features, subject.labels)
    rng = np.random.default_rng(1)
    for layer in subject.chain.layers:
        kernel, slopes = subject.chain.values[layer.kernel], found.gradient[layer.kernel]
        for flat in rng.choice(kernel.size, 3, replace=False):
            losses = []
            for step in (0.02, -0.02):
                moved = kernel.copy()
                moved.flat[flat] += step
                losses.append(subject.losses(subject.outputs({layer.kernel: moved})).sum())
            assert abs(losses[0] - losses[1]) / 0.04 == pytest.approx(slopes.flat[flat], rel=0.02, abs=2e-3)


def test_only_tuned_layers_are_blamed() -> None:
    chain = relu_chain([(40, 20), (20, 5)], seed=3)
    rng = np.random.default_rng(4)
    inputs, labels = rng.normal(0, 1, (80, 40)).astype(np.float32), rng.integers(0, 5, 80)
    training = a_training(chain, labels, 6)
    both = blame(chain, inputs, labels, training)
    first = replace(chain, layers=(chain.layers[0], replace(chain.layers[1], tuned=False)))
    alone = blame(first, inputs, labels, training)
    assert list(alone.places) == ["d0/kernel"] and list(both.places) == ["d0/kernel", "d1/kernel"]
    assert np.array_equal(alone.places["d0/kernel"], both.places["d0/kernel"])


def test_the_largest_of_equal_values_are_the_first() -> None:
    rng = np.random.default_rng(0)
    for count in range(13):
        values = rng.integers(0, 4, (3, 4)).astype(np.float64)
        order = sorted(range(12), key=lambda place: (-values.flat[place], place))
        assert set(np.flatnonzero(largest(values, count))) == set(order[:count])
        assert largest(values, count).shape == (3, 4)


def test_what_cannot_be_compared() -> None:
    chain = relu_chain([(4, 3)], seed=1)
    inputs, labels = np.ones((6, 4), np.float32), np.array([0, 1, 2, 0, 1, 2])
    training = a_training(chain, labels, 1)
    wrong = (labels + 1) % 3
    for was, became, worse, better in ((labels, labels, 0, 0), (wrong, labels, 0, 6), (labels, wrong, 6, 0)):
        with pytest.raises(InputError, match=f"of 6 rows {worse} were right .* and {better} the other way"):
            blame(chain, inputs, labels, replace(training, was=was, became=became))
    half = np.where(np.arange(6) < 3, labels, wrong)
    moved = replace(training, was=half, became=np.where(np.arange(6) < 3, wrong, labels))
    with pytest.raises(InputError, match="both checkpoints hold the same weights, expected two epochs"):
        blame(chain, inputs, labels, replace(moved, earlier=moved.later, others=0.0))
    with pytest.raises(InputError, match=r"no weight is among .* \(0 of d0/kernel are looked at\), expected some"):
        blame(chain, inputs, labels, replace(moved, others=1e6))


def test_rows_that_reach_no_kernel_have_no_share() -> None:
    zeros = Traces({"a": np.zeros((2, 2)), "b": np.zeros((2, 1))}, {})
    assert zeros.shares() == {"a": 0.0, "b": 0.0}
