"""Searches of single weights that localisation blames, as methods: Arachne and what descends from it.

Arachne is Sohn et al., "Arachne: Search-Based Repair of Deep Neural Networks", TOSEM 2023, with our default worth of a
positive: the search of `optimize --method Arachne`; with three worths rows of validation choose. Arachne v2 is what the
same authors published later as code: `engine.search.differential_evolution`, `engine.fitness.objective.loss_fitness`.

Priorities of labels are our own formulation (`engine.fitness.priorities`) of what the toolkit leaves `labels.json` for.
Where none are stated they follow from the failures: a positive of a label that failures are taken for is worth the more
the more of them are, as it is what a repair breaks first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.core.errors import InputError
from engine.core.plans import Plan
from engine.core.rng import RngKey
from engine.core.types import Float32
from engine.fitness.priorities import Priorities
from engine.methods.base import Method, MethodJob, MethodSettings, Offer, Repair
from engine.problem.case import LayerInputs, RepairCase, find_case
from engine.problem.problem import Problem, SearchEnd, problem_of, search_work
from engine.search.differential_evolution import DifferentialSettings
from engine.search.loop import POSITIVE_WORTH, SearchSettings
from engine.search.population import BoxedSettings
from engine.targets.model_runner import ModelRunner
from engine.targets.of_chain import last_target

WORTHS = (POSITIVE_WORTH, 4 * POSITIVE_WORTH, 16 * POSITIVE_WORTH)
"""Worth of an intact positive, in repaired negatives: the default first, then what breaks less."""

BOUND = 2.0  # candidates of Arachne v2 stay within so many times the smallest and largest weight of the layer

RIVALRY = 4.0
"""A positive of the label that all failures are taken for is worth so many more of a label that none is taken for."""

NOTHING_SEARCHED = "no search of the labels under repair found failures and weights to blame, expected some"


@dataclass(frozen=True)
class WeightSearch:
    """Searches of weights of the last Dense layer, one for each worth of a positive; rows of validation choose.

    One alone where the settings state a weight of all positives, or go by the requirements. Labels under repair follow
    one another, each from what the one before left; those without failures or without priority are left out.
    """

    settings: SearchSettings  # of the searches where none are given
    worths: tuple[float, ...] = ()  # of a positive; none for that of the settings
    # the settings of a job, given those of all searches; with what only a person can state
    adapt: Callable[[MethodJob, SearchSettings], SearchSettings] | None = None

    def __call__(self, job: MethodJob) -> Plan[Repair]:
        settings = searching(self.settings, job.settings)
        if settings.objective == "requirements":
            promise_rows = job.settings.crossfit.promise_rows
            settings = replace(settings, requirements=job.subject.requirements, promise_rows=promise_rows)
        if self.adapt is not None:
            settings = self.adapt(job, settings)
        target, features = last_target(job.chain, job.rows.rows.inputs)
        rows = replace(job.rows.rows, inputs=features)
        alone = settings.objective == "requirements" or settings.positive_weight is not None
        worths = (None,) if alone or not self.worths else self.worths
        found = []
        for worth in worths:
            mine = settings if worth is None else replace(settings, positive_worth=worth)
            name = "as found" if worth is None else f"a positive is worth {worth:g}"
            found.append((yield from _searched(name, job, target, rows, mine)))
        return Repair([offer for offer, _ in found], found[0][1])


def _searched(
    name: str, job: MethodJob, target: ModelRunner, rows: LayerInputs, settings: SearchSettings
) -> Plan[tuple[Offer, float]]:
    """What the searches of all labels come to, and the fitness of the model as it is."""
    (path,) = target.target.shapes
    kernel = target.target.kernel
    worth = settings.positive_worth if settings.positive_weight is None else settings.positive_weight
    ends = []
    for label in _searched_labels(job.subject.repaired, settings):
        case = find_case(target, kernel, rows, label)
        if case is None or not len(case.index):
            continue
        problem = problem_of_case(target, kernel, case, settings, job.seed)
        work = f"{case.data[:12]}-{label}-{settings.objective}-{worth:g}-s{job.seed}"
        (end,) = yield [search_work(work, case, problem)]
        ends.append(SearchEnd(*end))
        kernel = kernel.copy()
        kernel[case.index[:, 0], case.index[:, 1]] = ends[-1].values
    if not ends:
        raise InputError(NOTHING_SEARCHED)
    fitness = float(np.mean([end.fitness for end in ends]))
    return Offer(name, {path: kernel}, fitness), float(np.mean([end.start_fitness for end in ends]))


def _searched_labels(repaired: Sequence[int], settings: SearchSettings) -> Sequence[int]:
    if settings.priorities is None:
        return repaired
    counted = settings.priorities.repaired(repaired)
    if not counted:
        named = ", ".join(str(label) for label, weight in settings.priorities.repair if weight > 0)
        raise InputError(
            f"no failure of label {', '.join(map(str, repaired))} has a priority above 0, expected label {named} under "
            "repair too"
        )
    return counted


def searching(own: SearchSettings, stated: MethodSettings) -> SearchSettings:
    """The settings of a method, with what a person states of a search; its bound holds for another optimiser too."""
    given, swarm = stated.search, stated.optimiser or own.swarm
    if isinstance(swarm, BoxedSettings) and isinstance(own.swarm, BoxedSettings) and swarm.bound is None:
        swarm = replace(swarm, bound=own.swarm.bound)
    swarm = replace(swarm, num_particles=(given or own).swarm.num_particles)
    if given is None:
        return replace(own, swarm=swarm)
    return replace(
        own,
        swarm=swarm,
        num_iterations=given.num_iterations,
        min_iteration_range=given.min_iteration_range,
        positive_weight=given.positive_weight,
        tiling=given.tiling,
    )


def problem_of_case(
    target: ModelRunner, kernel: Float32, case: RepairCase, settings: SearchSettings, seed: int
) -> Problem:
    source = RngKey(seed, case.data, case.label)
    return problem_of(target.target, kernel, case.index, case.weights, name=case.data, source=source, settings=settings)


def _with_priorities(job: MethodJob, settings: SearchSettings) -> SearchSettings:
    """Settings with the priorities that a person states, or those that the failures of a job say."""
    priorities = job.settings.priorities
    if priorities is None:
        failures = job.failures
        taken = np.bincount(job.rows.before[failures], minlength=job.chain.classes) / len(failures)
        priorities = Priorities(
            repair=tuple((label, 1.0) for label in job.subject.repaired),
            protect=tuple((label, 1.0 + RIVALRY * float(share)) for label, share in enumerate(taken)),
        )
    return replace(settings, objective="priorities", priorities=priorities)


ARACHNE = Method(
    name="Arachne",
    repair=WeightSearch(SearchSettings()),
    searches="weights of the last Dense layer on the Pareto front of gradient loss and forward impact",
    objective="counts of repaired negatives and intact positives over their mean losses",
    source="Sohn et al., Arachne, TOSEM 2023",
    needs=("localised weights", "last layer"),
)

ARACHNE_WORTHS = replace(ARACHNE, name="Arachne-worths", repair=WeightSearch(SearchSettings(), worths=WORTHS))

ARACHNE_V2 = replace(
    ARACHNE,
    name="Arachne-v2",
    repair=WeightSearch(SearchSettings(swarm=DifferentialSettings(bound=BOUND), objective="loss"), worths=WORTHS),
    objective="1 for each row that is right, 1 / (loss + 1) for each that is wrong",
    source="Sohn et al., Arachne, TOSEM 2023, published code of its second version",
)

LABEL_PRIORITIES = replace(
    ARACHNE,
    name="label-priorities",
    repair=WeightSearch(SearchSettings(), worths=WORTHS, adapt=_with_priorities),
    objective="Arachne's, rows weighed by their labels: positives of what failures are taken for count more",
    source="this project, after what eAI-Repair-Toolkit's labels.json is for",
)
