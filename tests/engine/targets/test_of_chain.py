"""Few weights of a chain as a target: what its layers are cut down to gives the logits of the whole layers."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.fitness.rows import SearchRows
from engine.layers.weight_stats import WeightStats
from engine.patches.patch import Patch
from engine.targets.of_chain import few_stats, few_weights
from tests.support.chains import Net, net


def patch_of(subject: Net, layers: dict[str, int], seed: int = 0) -> Patch:
    """Some places of kernels, in no order, with new values."""
    rng = np.random.default_rng(seed)
    found = []
    for path, count in layers.items():
        size = subject.chain.values[path].size
        found += [(path, int(place)) for place in rng.choice(size, count, replace=False)]
    found = [found[number] for number in rng.permutation(len(found))]
    old = np.array([subject.chain.values[path].flat[place] for path, place in found], np.float32)
    new = (old + rng.normal(0, 0.5, len(old))).astype(np.float32)
    return Patch(tuple(path for path, _ in found), np.array([place for _, place in found]), old, new)


CASES = [
    ("two", {"first/kernel": 5, "last/kernel": 4}),
    ("two", {"last/kernel": 4}),
    ("two, apart", {"first/kernel": 1}),
    pytest.param(
        "three, first alone", {"first/kernel": 4, "second/kernel": 70, "last/kernel": 5}, marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("name", "layers"), CASES)
def test_logits_under_changed_weights(name: str, layers: dict[str, int]) -> None:
    subject = net(name)
    patch = patch_of(subject, layers)
    few, features, index = few_weights(subject.chain, subject.features, patch)
    kernel = few.target.kernel
    assert np.array_equal(kernel[index[:, 0], index[:, 1]], patch.old)
    as_it_is = few.layer.logits(features, kernel)
    np.testing.assert_allclose(as_it_is, subject.logits, rtol=1e-4, atol=1e-5)
    changed = kernel.copy()
    changed[index[:, 0], index[:, 1]] = patch.new
    values = {path: value.copy() for path, value in subject.chain.values.items()}
    for path, place, new in zip(patch.weight, patch.flat_index, patch.new, strict=True):
        values[path].flat[place] = new
    outputs = subject.outputs({path: values[path] for path in layers})
    moved = few.layer.logits(features, changed)
    scores = np.asarray(subject.chain.logits(subject.features, values))
    np.testing.assert_allclose(moved, scores, rtol=1e-3, atol=1e-5)
    assert (moved.argmax(axis=1) == outputs.argmax(axis=1)).mean() > 0.97
    assert np.abs(moved - as_it_is).max() > 0.05
    target = few.target
    if list(layers) == ["last/kernel"]:
        assert target.tail is None
        return
    # No row or column of the first of them that none of the weights is in.
    assert list(target.shapes) == [layer.kernel for layer in subject.chain.layers if layer.kernel in layers]
    first = next(iter(target.shapes))
    mine = patch.flat_index[np.array(patch.weight) == first]
    row, unit = np.unravel_index(mine, subject.chain.values[first].shape)
    assert target.shapes[first] == (len(set(row)), len(set(unit)))


def test_values_of_whole_layers_say_how_far_a_search_goes() -> None:
    subject = net("two")
    patch = patch_of(subject, {"first/kernel": 5, "last/kernel": 4})
    stats = few_stats(subject.chain, patch)
    for number, path in enumerate(patch.weight):
        whole = WeightStats.of(subject.chain.values[path])
        assert stats.mean[number] == whole.mean and stats.std[number] == whole.std
        assert stats.range[number] == whole.range


def test_the_search_evaluates_it(rows: int = 30) -> None:
    """Sums of candidates by the fitness of deep targets, against the whole chain."""
    from engine.fitness.tail import TailFitness
    from engine.fitness.tiling import Tiling

    subject = net("two")
    patch = patch_of(subject, {"first/kernel": 5, "last/kernel": 4})
    few, features, index = few_weights(subject.chain, subject.features, patch)
    target = few.target
    negative = subject.before != subject.labels
    _, weights = target.search_weights(target.kernel, index)
    searched = SearchRows(features, subject.logits, subject.labels, negative)
    fitness = TailFitness(target.tail, target.kernel, searched, weights, 3, Tiling(rows=rows))
    candidates = np.stack([patch.old, patch.new, 2 * patch.new - patch.old])
    for candidate, sums in zip(candidates, fitness.evaluate(candidates), strict=True):
        values = {path: value.copy() for path, value in subject.chain.values.items()}
        for path, place, new in zip(patch.weight, patch.flat_index, candidate, strict=True):
            values[path].flat[place] = new
        outputs = subject.outputs({path: values[path] for path in patch.paths})
        losses, right = subject.losses(outputs), outputs.argmax(axis=1) == subject.labels
        expected = [each[kind].sum() for each in (losses, right) for kind in (negative, ~negative)]
        np.testing.assert_allclose(sums, expected, rtol=1e-3)


def test_what_is_no_kernel_of_the_chain() -> None:
    subject = net("two")
    none = np.zeros(1, np.float32)
    for path in ("first/bias", "conv/kernel"):
        with pytest.raises(InputError, match=f"'{path}' is no kernel of the chain, expected one of first/kernel, last"):
            few_weights(subject.chain, subject.features, Patch((path,), np.zeros(1, np.int64), none, none))
