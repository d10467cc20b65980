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
    """Of a program that reads a variable too and has nothing for one of its tensors, called in both ways."""
    weight = tf.Variable([2.0, 3.0])

    def both(first: Any, pair: tuple[Any, Any]) -> tuple[Any, Any]:
        other, nothing = pair
        assert nothing is None
        return first * other + weight, first - other

    function = backend.compiled(both)
    firsts = [np.float32([1, 2]), np.float32([3, 4])]
    pair = np.float32([10, 20]), None
    shaped = backend.for_shapes(function, (firsts[0], pair))
    found = [shaped(firsts[0], pair), shaped(firsts[1], pair), function(firsts[1], pair)]
    weight.assign([0.0, 0.0])
    found.append(shaped(firsts[0], pair))
    return [[np.asarray(value).tolist() for value in values] for values in found]


EXPECTED = [
    [[12, 43], [-9, -18]],
    [[32, 83], [-7, -16]],
    [[32, 83], [-7, -16]],
    [[10, 40], [-9, -18]],
]


def test_short_way() -> None:
    assert results() == EXPECTED


def test_fallback(without_short_way: list[Any]) -> None:
    assert results() == EXPECTED
    assert len(without_short_way) == 1


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
