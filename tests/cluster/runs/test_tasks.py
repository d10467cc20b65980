"""Searches become tasks without one being left out or done twice, and without a list of them all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cluster.batch.run import run_recorded
from cluster.runs import ledger as tasks
from cluster.runs.ledger import blocks, divided, parts_of_groups
from cluster.workers.task import RepairTask, SearchJob
from engine.search.loop import SearchSettings
from tests.support.batches import differences, here, small_batch

SETTINGS = SearchSettings()


def jobs(count: int) -> Iterator[SearchJob]:
    return (SearchJob(f"s{seed}", SETTINGS, seed) for seed in range(count))


@given(count=st.integers(0, 2000), parts=st.integers(1, 40), ended=st.sets(st.integers(0, 2000), max_size=50))
def test_every_search_that_has_not_ended_is_in_one_task(count: int, parts: int, ended: set[int]) -> None:
    found = list(divided("g", jobs(count), count, parts, lambda name: int(name[1:]) in ended))
    names = [job.name for _, members in found for job in members]
    assert names == [f"s{seed}" for seed in range(count) if seed not in ended]
    assert len({name for name, _ in found}) == len(found)
    for name, members in found:
        assert name == f"g+{members[0].seed}"
        assert 0 < len(members) <= tasks.TASK_SEARCHES
    assert len(found) <= max(parts, -(-count // tasks.TASK_SEARCHES))


def test_two_tasks_for_each_worker() -> None:
    assert [parts_of_groups(groups, 4) for groups in (0, 1, 3, 8, 100)] == [8, 8, 3, 1, 1]
    assert parts_of_groups(5, 0) == 1


def test_of_an_endless_plan_only_what_is_taken_is_made() -> None:
    made = 0

    def endless() -> Iterator[SearchJob]:
        nonlocal made
        for job in jobs(10**12):
            made += 1
            yield job

    assert len(list(itertools.islice(divided("g", endless(), 10**12, 2), 3))) == 3
    assert made == 3 * tasks.TASK_SEARCHES


@given(st.lists(st.integers(1, 9)), st.integers(1, 20))
def test_blocks(sizes: list[int], most: int) -> None:
    plan: list[Any] = [
        RepairTask(str(number), 1, Path(), 6, tuple(jobs(size)), "", None, 1) for number, size in enumerate(sizes)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "BLOCK_SEARCHES", most)
        found = list(blocks(plan))
    assert [task for block in found for task in block] == plan
    held = [sum(len(task.searches) for task in block) for block in found]
    assert all(size <= most or len(block) == 1 for size, block in zip(held, found, strict=True))
    # A block ends only where the next task has no room in it.
    assert all(size + len(after[0].searches) > most for size, after in zip(held, found[1:], strict=False))


def test_a_plan_in_blocks_gives_the_same(
    chunks: Path, undisturbed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TASK_SEARCHES", 1)
    monkeypatch.setattr(tasks, "BLOCK_SEARCHES", 3)
    with here() as compute:
        run_recorded(small_batch(chunks, tmp_path / "run", "rounds"), compute)
    assert differences(tmp_path / "run", undisturbed["rounds"]) == []
