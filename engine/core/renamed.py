"""Old names of a public surface, which go on working for one release."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def with_old_names(
    package: str, current: Callable[[str], Any], old: Mapping[str, tuple[str, str]]
) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: its name.
        current: its `__getattr__` for names of today.
        old: for each old name what to use instead, in words, and what it still gives: a name of today, or the path of
            a module, a colon and a name.
    """

    def attribute(name: str) -> Any:
        if name not in old:
            return current(name)
        instead, source = old[name]
        warnings.warn(
            f"{package}.{name} will go with the next release, use {instead}", DeprecationWarning, stacklevel=2
        )
        module, colon, attribute_name = source.partition(":")
        if not colon:
            return current(source)
        return getattr(importlib.import_module(module), attribute_name)

    return attribute
