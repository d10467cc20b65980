from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from engine.metrics.accuracy import paired_changes
from engine.metrics.repair_rates import Given, Rates, held_out_rates, result_text, search_rates, summarise

GIVEN = Given(
    dataset="FashionMNIST",
    method="Arachne",
    model_dir=Path("outputs/model/"),
    target_data_dir=Path("outputs/negative/6/"),
    positive_inputs_dir=Path("outputs/positive"),
    output_dir=Path("outputs/negative/6/"),
)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_rates_of_a_search() -> None:
    found = search_rates(numbers(6, 6, 6), numbers(6, 0, 2), numbers(1, 2, 3, 4, 5), numbers(1, 2, 3, 0, 5))
    assert found == Rates(wrong=3, repaired=1, right=5, broken=1)
    assert (found.rr, found.br) == (100 / 3, 20.0)


def test_rates_without_rows() -> None:
    nothing = numbers()
    found = search_rates(numbers(6), numbers(6), nothing, nothing)
    assert found == Rates(1, 1, 0, 0)
    assert found.rr == 100.0
    assert math.isnan(found.br)
    assert math.isnan(Rates(0, 0, 4, 1).rr)


@pytest.mark.parametrize("label", [-1, 0, 1, 2])
def test_rates_on_held_out_rows(label: int) -> None:
    """Rows to repair are of the label, rows to keep of any; against the definition, row by row."""
    rng = np.random.default_rng(4)
    labels, before, after = (rng.integers(0, 3, 200) for _ in range(3))
    found = held_out_rates(paired_changes(labels, before, after, 3), label)
    wrong = [row for row in range(200) if before[row] != labels[row] and label in (-1, labels[row])]
    right = [row for row in range(200) if before[row] == labels[row]]
    repaired = sum(after[row] == labels[row] for row in wrong)
    broken = sum(after[row] != labels[row] for row in right)
    assert found == Rates(len(wrong), repaired, len(right), broken)
    assert 0 < found.repaired < found.wrong
    assert 0 < found.broken < found.right


def test_held_out_rows_without_the_label() -> None:
    labels, before, after = numbers(0, 0, 1), numbers(0, 1, 1), numbers(0, 0, 0)
    assert held_out_rates(paired_changes(labels, before, after, 7), 6) == Rates(0, 0, 2, 1)


def test_summary() -> None:
    values = [10.0, 40.0, 25.0]
    up, down = summarise(values, larger_is_better=True), summarise(values, larger_is_better=False)
    assert (up.mean, up.deviation, up.best, up.worst) == (25.0, 15.0, 40.0, 10.0)
    assert (down.mean, down.deviation, down.best, down.worst) == (25.0, 15.0, 10.0, 40.0)


def test_summary_of_one_run_and_of_none() -> None:
    one = summarise([5.0], larger_is_better=True)
    assert (one.mean, one.best, one.worst) == (5.0, 5.0, 5.0)
    assert math.isnan(one.deviation)
    nothing = summarise([math.nan, math.nan], larger_is_better=False)
    assert all(math.isnan(value) for value in (nothing.mean, nothing.deviation, nothing.best, nothing.worst))


def test_result_is_the_toolkits() -> None:
    """The example of the toolkit's documentation, byte for byte."""
    runs = [Rates(27, 0, 300, 7), Rates(27, 1, 300, 2)]
    text = result_text(GIVEN, num_grad=540, num_particles=2, num_iterations=1, runs=runs)
    assert text == (
        "# Settings\n"
        "dataset: FashionMNIST\n"
        "method: Arachne\n"
        "model_dir: outputs/model\n"
        "num_grad: 540\n"
        "target_data_dir: outputs/negative/6\n"
        "positive_inputs_dir: outputs/positive\n"
        "output_dir: outputs/negative/6\n"
        "num_particles: 2\n"
        "num_iterations: 1\n"
        "num_runs: 2\n"
        "\n"
        "# Results\n"
        "0: RR 0.00%, BR 2.33%\n"
        "1: RR 3.70%, BR 0.67%\n"
        "\n"
        "Average: RR 1.85%, BR 1.50%"
    )
