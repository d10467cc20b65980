from .core.errors import InputError, WorkError
from .core.rng import RngKey
from .data.chunks import split_chunks
from .data.image_set import ImageSet, open_image_set, read_images
from .data.outcomes import open_negatives, open_positives, write_targets
from .datasets.dataset import Dataset, Pictures, prepare_dataset
from .fitness.base import Fitness
from .fitness.last_dense import TiledFitness
from .fitness.objective import Objective
from .fitness.priorities import Priorities
from .fitness.rows import SearchRows, Weights
from .fitness.tail import TailFitness
from .fitness.tiling import Tiling
from .layers.dense_chain import DenseChain
from .layers.head import Head
from .localize.pareto import Localisation
from .methods.base import MethodSettings
from .metrics.accuracy import Comparison, compare, label_results, paired_changes, wilson_interval
from .metrics.promise import Frontier, Point, Promise
from .metrics.repair_rates import Given, Rates
from .metrics.requirements import (
    Requirement,
    Requirements,
    Verdict,
    check_requirements,
    default_goals,
    default_promises,
    read_requirements,
)
from .models.load import LoadedModel, load_model
from .patches.arrow import read_patch, write_patch
from .patches.patch import Patch, compose, merge, patch_between, revert, tensors_patch
from .patches.save import repaired_path, save_patched
from .problem.case import LayerInputs, RepairCase, find_case
from .problem.crossfit import CrossFit, CrossFitSettings, crossfit_of
from .problem.problem import Problem, build_fitness, prepare, problem_of
from .search.differential_evolution import DifferentialSettings
from .search.loop import SearchSettings, SearchState, advance
from .search.random_search import RandomSettings
from .search.swarm import SwarmSettings, SwarmState
from .targets.base import Target
from .targets.last_dense import find_target
from .targets.memory import Plan, SearchSize, check_plan
from .targets.model_runner import ModelRunner
from .targets.resolve import resolve_chain, resolve_target
from .tuning.recipes import Recipe, read_recipes

__all__ = [
    "Comparison",
    "CrossFit",
    "CrossFitSettings",
    "Dataset",
    "DenseChain",
    "DifferentialSettings",
    "Fitness",
    "Frontier",
    "Given",
    "Head",
    "ImageSet",
    "InputError",
    "LayerInputs",
    "LoadedModel",
    "Localisation",
    "MethodSettings",
    "ModelRunner",
    "Objective",
    "Patch",
    "Pictures",
    "Plan",
    "Point",
    "Priorities",
    "Problem",
    "Promise",
    "RandomSettings",
    "Rates",
    "Recipe",
    "RepairCase",
    "Requirement",
    "Requirements",
    "RngKey",
    "SearchRows",
    "SearchSettings",
    "SearchSize",
    "SearchState",
    "SwarmSettings",
    "SwarmState",
    "TailFitness",
    "Target",
    "TiledFitness",
    "Tiling",
    "Verdict",
    "Weights",
    "WorkError",
    "advance",
    "build_fitness",
    "check_plan",
    "check_requirements",
    "compare",
    "compose",
    "crossfit_of",
    "default_goals",
    "default_promises",
    "find_case",
    "find_target",
    "label_results",
    "load_model",
    "merge",
    "open_image_set",
    "open_negatives",
    "open_positives",
    "paired_changes",
    "patch_between",
    "prepare",
    "prepare_dataset",
    "problem_of",
    "read_images",
    "read_patch",
    "read_recipes",
    "read_requirements",
    "repaired_path",
    "resolve_chain",
    "resolve_target",
    "revert",
    "save_patched",
    "split_chunks",
    "tensors_patch",
    "wilson_interval",
    "write_patch",
    "write_targets",
]
