"""The cache keeps what was used last, up to a total size."""

from __future__ import annotations

import pytest

from cluster.workers.lru import Cache


def test_what_was_used_longest_ago_makes_room() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name

    cache: Cache[str] = Cache(2)
    for name in ("a", "b", "a", "c", "a", "b"):
        assert cache.get(name, lambda name=name: make(name)) == name  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]


def test_sizes_add_up_and_the_newest_always_stays() -> None:
    made: list[int] = []

    def make(size: int) -> int:
        made.append(size)
        return size

    cache: Cache[int] = Cache(10, size=lambda value: value)
    for size in (4, 5, 50, 50, 4, 5, 4, 2):
        assert cache.get(size, lambda size=size: make(size)) == size  # type: ignore[misc]
    # 50 displaces 4 and 5 and is kept though it is too large; 4 displaces it; 2 displaces 5, used before 4.
    assert made == [4, 5, 50, 4, 5, 2]
    cache.get(4, lambda: make(4))
    cache.get(5, lambda: make(5))
    assert made == [4, 5, 50, 4, 5, 2, 5]


def test_nothing_is_a_value_too_and_a_failure_is_none() -> None:
    """Where a label has no failures the cache keeps None; where a chunk is damaged it keeps nothing."""
    made: list[int | None] = []

    def make(value: int | None) -> int | None:
        made.append(value)
        if value == 7:
            raise ValueError("damaged")
        return value

    cache: Cache[int | None] = Cache(2)
    for _ in range(3):
        assert cache.get("a", lambda: make(None)) is None
        with pytest.raises(ValueError, match="damaged"):
            cache.get("b", lambda: make(7))
    assert cache.get("b", lambda: make(1)) == 1
    assert made == [None, 7, 7, 7, 1]
    # The failures took no room from `a`.
    assert cache.get("a", lambda: make(2)) is None
