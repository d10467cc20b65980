"""Random numbers depend on what they are for and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.rng import generator

JOB = (7, "chunk", 6, "velocity", 3)


def numbers(job):
    return generator(*job).random(1000)


def test_numbers_never_change_between_versions():
    """A resumed run goes on with the numbers it began with."""
    np.testing.assert_array_equal(
        generator(*JOB).integers(0, 2**63, 2), np.array([5997193429164512947, 9193684591089418956])
    )


@pytest.mark.parametrize(
    "other",
    [
        (8, "chunk", 6, "velocity", 3),
        (-7, "chunk", 6, "velocity", 3),
        (7, "chunk2", 6, "velocity", 3),
        (7, "chunk", 5, "velocity", 3),
        (7, "chunk", -1, "velocity", 3),
        (7, "chunk", 6, "start", 3),
        (7, "chunk", 6, "velocity", 2),
        (7, "chunk", 6, "velocity", 4),
    ],
)
def test_anything_else_draws_other_numbers(other):
    assert len(np.intersect1d(numbers(JOB), numbers(other))) == 0


def test_parts_of_a_job_cannot_run_into_each_other():
    assert generator(1, "2|3", 4, "x").random() != generator(1, "2", 34, "x").random()
    steps = np.concatenate([generator(1, "d", 0, "velocity", step).random(500) for step in range(20)])
    assert len(np.unique(steps)) == len(steps)


@given(st.integers(-(2**40), 2**40), st.text(max_size=5), st.integers(-1, 1000), st.integers(0, 2**40))
def test_numbers_are_uniform_and_repeat(seed, data, label, step):
    first = generator(seed, data, label, "x", step).random(200)
    assert ((first >= 0) & (first < 1)).all()
    assert 0.3 < first.mean() < 0.7
    np.testing.assert_array_equal(first, generator(seed, data, label, "x", step).random(200))
