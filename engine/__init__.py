"""What is computed: models, image sets, targets, localisation, fitness, swarm and metrics. Knows no Ray, no click.

The names of `__all__` are the public surface; each is imported when it is first used, because TensorFlow and Ray take
seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.containers import repaired_path, save_patched
    from engine.errors import InputError
    from engine.fitness import SearchRows, TiledFitness, Tiling, Weights
    from engine.head import Head, TargetLayer, find_target
    from engine.imagesets import ImageSet, open_image_set
    from engine.models import LoadedModel, load_model
    from engine.problem import Problem
    from engine.results import label_results, paired_changes, wilson_interval
    from engine.runner import ModelRunner
    from engine.search import SearchSettings
    from engine.swarm import SwarmSettings, SwarmState
    from engine.targets import open_negatives, open_positives, write_targets

_MODULES = {
    "Head": "head",
    "ImageSet": "imagesets",
    "InputError": "errors",
    "LoadedModel": "models",
    "ModelRunner": "runner",
    "Problem": "problem",
    "SearchRows": "fitness",
    "SearchSettings": "search",
    "SwarmSettings": "swarm",
    "SwarmState": "swarm",
    "TargetLayer": "head",
    "TiledFitness": "fitness",
    "Tiling": "fitness",
    "Weights": "fitness",
    "find_target": "head",
    "label_results": "results",
    "load_model": "models",
    "open_image_set": "imagesets",
    "open_negatives": "targets",
    "open_positives": "targets",
    "paired_changes": "results",
    "repaired_path": "containers",
    "save_patched": "containers",
    "wilson_interval": "results",
    "write_targets": "targets",
}

__all__ = [
    "Head",
    "ImageSet",
    "InputError",
    "LoadedModel",
    "ModelRunner",
    "Problem",
    "SearchRows",
    "SearchSettings",
    "SwarmSettings",
    "SwarmState",
    "TargetLayer",
    "TiledFitness",
    "Tiling",
    "Weights",
    "find_target",
    "label_results",
    "load_model",
    "open_image_set",
    "open_negatives",
    "open_positives",
    "paired_changes",
    "repaired_path",
    "save_patched",
    "wilson_interval",
    "write_targets",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(importlib.import_module(f"engine.{_MODULES[name]}"), name)
