"""Calls hold as many tasks as their time, their answers and the number of workers allow."""

from __future__ import annotations

import pytest

from cluster.workers import bundles
from cluster.workers.bundles import Bundles


def test_nothing_is_known_of_the_first_tasks() -> None:
    assert Bundles(4).size(10_000) == 1


@pytest.mark.parametrize(
    ("workers", "seconds", "size", "waiting", "expected"),
    [
        (1, 0.05, 1_000, 10_000, 10),  # 0.502 s
        (250, 0.05, 1_000, 5_000, 10),  # a share of what waits
        (250, 0.05, 1_000, 10**6, 20),  # 1 s, as the driver serves many
        (1, 0.05, 30_000, 10_000, 3),  # 90 kB
        (1, 3.0, 1_000, 10_000, 1),
        (1, 0.0, 0, 10_000, 64),
        (4, 0.0, 0, 40, 5),
        (4, 0.0, 0, 5, 1),
    ],
)
def test_sizes_by_hand(workers: int, seconds: float, size: float, waiting: int, expected: int) -> None:
    found = Bundles(workers)
    found.took(seconds, size)
    assert found.size(waiting) == expected


def test_what_tasks_take_is_learned_anew() -> None:
    found = Bundles(1)
    found.took(10.0, 0.0)
    for _ in range(80):
        found.took(0.01, 0.0)
    assert found.size(10**6) == pytest.approx(50, abs=1)


def test_the_last_ones_go_one_by_one() -> None:
    """Whatever they take, the calls that are left are never longer than a share of what waits."""
    found, left, sizes = Bundles(8), 1000, []
    found.took(0.001, 10.0)
    while left:
        sizes.append(found.size(left))
        left -= sizes[-1]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 1000 // (bundles.SHARES * 8) and sizes[-8 * bundles.SHARES :] == [1] * 8 * bundles.SHARES
