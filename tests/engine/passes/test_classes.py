"""Classes of rows: the largest output, where it is a finite number."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.layers.head import Head
from engine.passes.classes import NO_CLASS, NotNumbersError, classes_of, known_classes, rows_of
from engine.passes.runners import predict_patched

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_largest_finite_output(dtype: type) -> None:
    rows = [[1, 3, 2], [2, 2, 1], [-INF, -1, -INF], [1, NAN, 2], [1, INF, 2], [-INF, -INF, -INF], [NAN, NAN, NAN]]
    scores = np.array(rows, dtype)
    assert classes_of(scores).tolist() == [1, 0, 1, NO_CLASS, NO_CLASS, NO_CLASS, NO_CLASS]
    assert known_classes(scores[:3]).tolist() == [1, 0, 1]
    with pytest.raises(NotNumbersError) as error:
        known_classes(scores)
    assert error.value.row == 3


def test_softmax_of_these_rows_judges_them_alike() -> None:
    logits = np.array([[1, 3, 2], [-INF, -1, -INF], [1, NAN, 2], [1, INF, 2], [-INF, -INF, -INF]])
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
    assert classes_of(shares).tolist() == classes_of(logits).tolist()


def test_the_error_tells_the_row_of_the_file_and_travels() -> None:
    with pytest.raises(InputError) as raised, rows_of(Path("other.h5"), 5), rows_of(Path("a.h5"), 1024, Path("m.h5")):
        known_classes(np.array([[1.0, 2.0], [NAN, 1.0]]))
    sentence = "a.h5: the model m.h5 gives row 1025 outputs that are NaN or infinite, expected numbers"
    assert str(raised.value) == sentence
    assert str(pickle.loads(pickle.dumps(raised.value))) == sentence


@pytest.mark.parametrize(
    ("activation", "value", "known"),
    [("linear", 1e30, False), ("linear", -1e30, True), ("sigmoid", 1e30, True), ("linear", 0.5, True)],
)
def test_patches_that_leave_a_row_no_class(activation: str, value: float, known: bool) -> None:
    """The second row's input is so large that a large weight gives an infinite logit; of sigmoid that is 1."""
    kernel = np.array([[0.1, 0.2], [0.3, 0.1]], np.float32)
    inputs = np.array([[1, 2], [3e37, 1]], np.float32)
    values = np.array([[0.1], [value]], np.float32)
    index = np.array([[0, 0]])
    found = predict_patched(Head("log_softmax", activation), kernel, inputs, inputs @ kernel, index, values)
    assert found[0].tolist() == [0, 0 if activation == "sigmoid" else 1]
    assert (found[1, 1] != NO_CLASS) == known
    assert found[1, 0] != NO_CLASS
