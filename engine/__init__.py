"""What is computed: models, image sets, targets, localisation, fitness, swarm and metrics. Knows no Ray, no click.

The names of `__all__` are the public surface; each is imported when it is first used, because TensorFlow and Ray take
seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.comparison import Comparison, compare
    from engine.containers import repaired_path, save_patched
    from engine.errors import InputError
    from engine.fitness import SearchRows, TiledFitness, Tiling, Weights
    from engine.head import Head, TargetLayer, find_target
    from engine.imagesets import ImageSet, open_image_set
    from engine.layer_targets import DeepTarget, resolve_target
    from engine.models import LoadedModel, load_model
    from engine.patch import Patch, compose, merge, patch_between, revert
    from engine.patch_file import read_patch, write_patch
    from engine.plan import Plan, plan_search
    from engine.problem import Problem
    from engine.requirements import Requirement, Verdict, judge, read_requirements
    from engine.results import label_results, paired_changes, wilson_interval
    from engine.runner import ModelRunner
    from engine.search import SearchSettings
    from engine.swarm import SwarmSettings, SwarmState
    from engine.tail_fitness import TailFitness
    from engine.targets import open_negatives, open_positives, write_targets

_MODULES = {
    "Comparison": "comparison",
    "DeepTarget": "layer_targets",
    "Head": "head",
    "ImageSet": "imagesets",
    "InputError": "errors",
    "LoadedModel": "models",
    "ModelRunner": "runner",
    "Patch": "patch",
    "Plan": "plan",
    "Problem": "problem",
    "Requirement": "requirements",
    "SearchRows": "fitness",
    "SearchSettings": "search",
    "SwarmSettings": "swarm",
    "SwarmState": "swarm",
    "TailFitness": "tail_fitness",
    "TargetLayer": "head",
    "TiledFitness": "fitness",
    "Tiling": "fitness",
    "Verdict": "requirements",
    "Weights": "fitness",
    "compare": "comparison",
    "compose": "patch",
    "find_target": "head",
    "judge": "requirements",
    "label_results": "results",
    "load_model": "models",
    "merge": "patch",
    "open_image_set": "imagesets",
    "open_negatives": "targets",
    "open_positives": "targets",
    "paired_changes": "results",
    "patch_between": "patch",
    "plan_search": "plan",
    "read_patch": "patch_file",
    "read_requirements": "requirements",
    "repaired_path": "containers",
    "resolve_target": "layer_targets",
    "revert": "patch",
    "save_patched": "containers",
    "wilson_interval": "results",
    "write_patch": "patch_file",
    "write_targets": "targets",
}

__all__ = [
    "Comparison",
    "DeepTarget",
    "Head",
    "ImageSet",
    "InputError",
    "LoadedModel",
    "ModelRunner",
    "Patch",
    "Plan",
    "Problem",
    "Requirement",
    "SearchRows",
    "SearchSettings",
    "SwarmSettings",
    "SwarmState",
    "TailFitness",
    "TargetLayer",
    "TiledFitness",
    "Tiling",
    "Verdict",
    "Weights",
    "compare",
    "compose",
    "find_target",
    "judge",
    "label_results",
    "load_model",
    "merge",
    "open_image_set",
    "open_negatives",
    "open_positives",
    "paired_changes",
    "patch_between",
    "plan_search",
    "read_patch",
    "read_requirements",
    "repaired_path",
    "resolve_target",
    "revert",
    "save_patched",
    "wilson_interval",
    "write_patch",
    "write_targets",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(importlib.import_module(f"engine.{_MODULES[name]}"), name)
