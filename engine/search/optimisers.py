"""The optimisers by name, each from the module that its settings name.

A new one is a module with a state, `init` and `tell`, and `OPTIMISER` that has them together; and settings with an
entry in `engine.search.settings`, of which its options, their help and what is refused are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from engine.search.population import Optimiser, PopulationSettings
from engine.search.settings import OPTIMISER_SETTINGS

OPTIMISERS: Mapping[str, Optimiser] = {
    name: import_module(f"engine.search.{settings.module}").OPTIMISER for name, settings in OPTIMISER_SETTINGS.items()
}


def optimiser_of(settings: PopulationSettings) -> Optimiser:
    return OPTIMISERS[settings.optimiser]
