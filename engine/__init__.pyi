from .core.errors import InputError
from .data.image_set import ImageSet, open_image_set
from .data.outcomes import open_negatives, open_positives, write_targets
from .fitness.last_dense import TiledFitness
from .fitness.rows import SearchRows, Weights
from .fitness.tail import TailFitness
from .fitness.tiling import Tiling
from .layers.head import Head
from .metrics.accuracy import label_results, paired_changes, wilson_interval
from .metrics.comparison import Comparison, compare
from .metrics.requirements import Requirement, Verdict, check_requirements, read_requirements
from .models.load import LoadedModel, load_model
from .patches.arrow import read_patch, write_patch
from .patches.patch import Patch, compose, merge, patch_between, revert
from .patches.save import repaired_path, save_patched
from .problem.problem import Problem
from .search.loop import SearchSettings
from .search.swarm import SwarmSettings, SwarmState
from .targets.deep import DeepTarget
from .targets.last_dense import TargetLayer, find_target
from .targets.memory import Plan, SearchSize, check_plan
from .targets.model_runner import ModelRunner
from .targets.resolve import resolve_target

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
    "SearchSize",
    "SwarmSettings",
    "SwarmState",
    "TailFitness",
    "TargetLayer",
    "TiledFitness",
    "Tiling",
    "Verdict",
    "Weights",
    "check_plan",
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
