from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cache(Generic[T]):
    """Keeps values up to a total size; what was used longest ago makes room."""

    def __init__(self, limit: int, size: Callable[[T], int] = lambda value: 1) -> None:
        """Keep values whose sizes add up to `limit`, and always the newest."""
        self._limit, self._size = limit, size
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._used = 0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._values:
            self._values[key] = make()
            self._used += self._size(self._values[key])
            while self._used > self._limit and len(self._values) > 1:
                self._used -= self._size(self._values.popitem(last=False)[1])
        self._values.move_to_end(key)
        return self._values[key]
