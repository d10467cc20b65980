from .core.errors import InputError
from .data.image_set import ImageSet, open_image_set
from .data.outcomes import open_negatives, open_positives, write_targets
from .fitness import SearchRows, TiledFitness, Tiling, Weights
from .head import Head, TargetLayer, find_target
from .layer_targets import DeepTarget, resolve_target
from .metrics.accuracy import label_results, paired_changes, wilson_interval
from .metrics.comparison import Comparison, compare
from .metrics.requirements import Requirement, Verdict, check_requirements, read_requirements
from .models.load import LoadedModel, load_model
from .patches.arrow import read_patch, write_patch
from .patches.patch import Patch, compose, merge, patch_between, revert
from .patches.save import repaired_path, save_patched
from .plan import Plan, plan_search
from .problem import Problem
from .runner import ModelRunner
from .search import SearchSettings
from .swarm import SwarmSettings, SwarmState
from .tail_fitness import TailFitness

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
    "check_requirements",
    "compare",
    "compose",
    "find_target",
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
