"""Calls of compiled programs: with TensorFlow's short way, and without it where a release has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from engine import backend


@pytest.fixture
def without_short_way(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Programs as of a TensorFlow without `call_preflattened`; the list gets those that were made."""
    made = []

    class Program:
        def __init__(self, program: Any) -> None:
            self._program = program
            made.append(self)

        def __call__(self, *arguments: Any) -> Any:
            return self._program(*arguments)

    class Function:
        def __init__(self, function: Any) -> None:
            self._function = function

        def __call__(self, *arguments: Any) -> Any:
            return self._function(*arguments)

        def get_concrete_function(self, *example: Any) -> Program:
            return Program(self._function.get_concrete_function(*example))

    make = tf.function
    monkeypatch.setattr(tf, "function", lambda *words, **options: Function(make(*words, **options)))
    return made


def results() -> list[Any]:
    """Of one first argument and of three, whose program reads a variable too."""
    weight = tf.Variable([2.0, 3.0])
    function = backend.compiled(lambda first, other: (first * other + weight, first - other))
    firsts = [np.float32([1, 2]), np.float32([3, 4]), np.float32([5, 7])]
    other = np.float32([10, 20])
    one = backend.for_each(function, [backend.on_device(firsts[0])], [backend.on_device(other)])
    many = backend.for_each(function, list(map(backend.on_device, firsts)), [backend.on_device(other)])
    shaped = backend.for_shapes(function, (firsts[0], other))
    found = [one([firsts[0]], [other]), many(firsts, [other]), [shaped(firsts[1], other)]]
    return [[[np.asarray(value).tolist() for value in pair] for pair in part] for part in found]


EXPECTED = [
    [[[12, 43], [-9, -18]]],
    [[[12, 43], [-9, -18]], [[32, 83], [-7, -16]], [[52, 143], [-5, -13]]],
    [[[32, 83], [-7, -16]]],
]


def test_short_way() -> None:
    assert results() == EXPECTED


def test_fallback(without_short_way: list[Any]) -> None:
    assert results() == EXPECTED
    assert len(without_short_way) == 3


def test_an_array_that_changes_later_is_not_seen() -> None:
    """JAX may read an array after it was told to copy it."""
    array = np.zeros((1 << 16,), dtype=np.float32)
    kept = []
    for number in range(64):
        array[:] = number
        kept.append(backend.on_device(array))
    array[:] = -1
    for number, tensor in enumerate(kept):
        assert (np.asarray(tensor) == number).all()
