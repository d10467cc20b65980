"""Methods that mix tunings of Dense layers: CrossFit, and the simple ones that it has to be better than.

All of them fit a `MixtureFit` on the rows of a repair and offer it whole, or by steps on the way from the model as it
is. They differ in what is tuned and in how coefficients are found; see `engine.problem.crossfit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.core.plans import Plan, Ran, Work
from engine.core.types import Float32
from engine.layers.tail_chain import TailChain, dense_of
from engine.methods.base import NOTHING, Method, MethodJob, Offer, Repair
from engine.metrics.accuracy import LabelChange
from engine.metrics.promise import Frontier
from engine.problem.crossfit import CrossFit, CrossFitSettings, TuningTask, crossfit_of, joined_changes, mixed_values
from engine.problem.problem import SearchEnd, search_work
from engine.targets.of_chain import last_alone
from engine.tuning.recipes import Recipe, epochs_of, rate_of
from engine.tuning.train import Changes, tune

FINE_TUNED = Recipe(class_weight=2.0, strength=1.0)
"""Of the methods that fine-tune by one recipe: plain fine-tuning, anchored."""


@dataclass(frozen=True, eq=False)
class MixtureFit:
    job: CrossFit  # with the layers that it changes
    changes: tuple[Changes, ...]  # of each fold
    found: Float32  # (R + C,) coefficients and offsets
    fitness: float | None = None  # by what steers the search; None where nothing was searched
    own: float | None = None  # of the model as it is
    search: str = ""  # name of the search that found it; empty where nothing was searched

    def values(self, step: float) -> dict[str, Float32]:
        """New values, by path, of the weights that it changes, at a step; tunings without each fold count alike."""
        return mixed_values(self.job.chain, self.changes, self.found, step)


@dataclass(frozen=True, eq=False)
class Promised:
    fit: MixtureFit
    frontier: Frontier  # of all steps, one of which is taken
    judged: tuple[LabelChange, ...]  # change of each label there, out of fold


@dataclass(frozen=True)
class MixtureMethod:
    # on the rows of a repair in folds, by a search with each seed of which the best is kept
    fit: Callable[[CrossFit, tuple[int, ...]], Plan[MixtureFit]]
    scaled: bool = True  # steps between 0 and 1 are tried; otherwise what was fitted is taken whole or left
    # it takes the step that it can promise, judged out of fold and on the rows of validation; otherwise those choose
    promises: bool = False
    searches: bool = False  # coefficients or offsets are searched as the settings of CrossFit say

    def steps(self, settings: CrossFitSettings) -> tuple[float, ...]:
        """Steps that are judged, the largest or the wanted one first."""
        return settings.steps if self.scaled else (1.0, 0.0)

    def __call__(self, job: MethodJob) -> Plan[Repair]:
        crossfit = crossfit_job(job)
        fit = yield from self.fit(crossfit, job.seeds)
        if not self.promises:
            steps = [step for step in self.steps(crossfit.settings) if step > 0]
            found = [Offer(f"step {step:g}", fit.values(step), fit.fitness or 0.0) for step in steps]
            return Repair(found, fit.own)
        frontier, judged = crossfit.frontier(fit.changes, fit.found, job.subject.validation)
        taken = dict.fromkeys((0, frontier.chosen))  # the whole mixture, and the step of the promise
        offers = []
        for number in taken:
            point = frontier.points[number]
            if point.step:
                offer = Offer(f"step {point.step:g}", fit.values(point.step), fit.fitness or 0.0, point.chance)
            else:
                offer = replace(NOTHING, fitness=fit.own or 0.0, chance=point.chance)
            offers.append(offer)
        return Repair(offers, fit.own, chosen=len(taken) - 1, promise=Promised(fit, frontier, judged))


def crossfit_job(job: MethodJob) -> CrossFit:
    subject, rows, settings = job.subject, job.rows, job.settings.crossfit
    return crossfit_of(
        subject.chain, rows.rows, rows.logits, subject.repaired, subject.requirements, settings, job.seed
    )


def unchanged(job: MethodJob) -> Promised:
    """The baseline model with its promise, where there is nothing to repair."""
    crossfit = crossfit_job(job)
    _, before = crossfit.judging(job.subject.validation)
    frontier = crossfit.judged(before[None], (0.0,), job.subject.validation)
    frontier = replace(frontier, promised=frontier.point.chance >= frontier.confidence)
    return Promised(MixtureFit(crossfit, (), np.zeros(0, np.float32)), frontier, ())


def tuned(job: CrossFit) -> Plan[tuple[Changes, ...]]:
    """All tunings of a repair: changes of each fold."""
    shared, recipes = job.job, job.settings.recipes

    def work(task: TuningTask) -> Work:
        mine = tuple(recipes[number] for number in task.recipes)
        return Work(
            task.name,
            tune,
            (shared, task.fold, mine),
            "tuning",
            model=isinstance(job.chain, TailChain),
            size=len(mine),
            rows=lambda changes, ran: {"tunings": tuning_rows(job, task, changes, ran)},
        )

    changes = yield [work(task) for task in job.tasks]
    return joined_changes(job, changes)


def searched(job: CrossFit, changes: tuple[Changes, ...], seeds: Sequence[int] = ()) -> Plan[MixtureFit]:
    """The best mixture of a search for each seed; without any, for that of the repair."""
    case, problem = job.case(changes, job.settings.search)
    name = f"crossfit-{job.data[:12]}-{'+'.join(map(str, job.repaired))}"
    works = []
    for seed in seeds or (job.seed,):
        mine = replace(problem, name=f"{name}-s{seed}", source=replace(problem.source, seed=seed))
        works.append(search_work(mine.name, case, mine))
    ends = [SearchEnd(*end) for end in (yield works)]
    best = max(range(len(ends)), key=lambda number: ends[number].fitness)
    end = ends[best]
    return MixtureFit(job, changes, end.values, end.fitness, end.start_fitness, works[best].name)


def last_layer(job: CrossFit) -> CrossFit:
    chain, inputs = last_alone(dense_of(job.chain), job.rows.inputs)
    return replace(job, chain=chain, rows=replace(job.rows, inputs=inputs))


def fine_tuned(job: CrossFit, _seeds: Sequence[int] = ()) -> Plan[MixtureFit]:
    """Tune by one recipe, and take it as it is: nothing is searched."""
    job = replace(job, settings=replace(job.settings, recipes=(FINE_TUNED,)))
    offsets = 0 if job.chain.offsets is None else job.chain.classes
    changes = yield from tuned(job)
    return MixtureFit(job, changes, np.concatenate([np.ones(1, np.float32), np.zeros(offsets, np.float32)]))


def tuning_rows(fit: CrossFit, task: TuningTask, changes: Changes, ran: Ran) -> list[dict[str, Any]]:
    """Rows of the table `tunings`: one for each recipe of a task."""
    rows = int((fit.rows.fold != task.fold).sum())
    layers = fit.chain.tuned_layers
    found = []
    for position, number in enumerate(task.recipes):
        recipe = fit.settings.recipes[number]
        squares = sum(float(np.square(change[position], dtype=np.float64).sum()) for change in changes.values())
        found.append(
            {
                "recipe": recipe.name,
                "fold": task.fold,
                **vars(recipe),
                "rate": rate_of(recipe, layers),
                "epochs": epochs_of(recipe, fit.rows.fewest),
                "rows": rows,
                "weights": fit.chain.tuned_values,
                "change": float(np.sqrt(squares / fit.chain.tuned_values)),
                **vars(ran),
            }
        )
    return found


def _tuned_and_searched(job: CrossFit, seeds: tuple[int, ...]) -> Plan[MixtureFit]:
    changes = yield from tuned(job)
    return (yield from searched(job, changes, seeds))


def _last_fine_tuned(job: CrossFit, _seeds: tuple[int, ...]) -> Plan[MixtureFit]:
    return fine_tuned(last_layer(job))


def _offsets_searched(job: CrossFit, seeds: tuple[int, ...]) -> Plan[MixtureFit]:
    last = last_layer(job)
    nothing = {path: np.zeros((0, *value.shape), np.float32) for path, value in last.chain.values.items()}
    return searched(last, (nothing,) * job.rows.folds, seeds)


_CROSS_ENTROPY = "cross-entropy with the labels under repair counted twice, and the distance to the baseline model"

CROSSFIT = Method(
    name="CrossFit",
    repair=MixtureMethod(_tuned_and_searched, promises=True, searches=True),
    searches="coefficients of tunings of all Dense layers at the end, and offsets of labels",
    objective="soft margins of the requirements, out of fold, then the gain of the labels under repair",
    source="this project",
    needs=("folds",),
)

HEAD = Method(
    name="head",
    repair=MixtureMethod(_last_fine_tuned, scaled=False),
    searches="the last Dense layer, by fine-tuning",
    objective=_CROSS_ENTROPY,
    source="fine-tuning",
    needs=("folds", "last layer"),
)

TAIL = Method(
    name="tail",
    repair=MixtureMethod(fine_tuned, scaled=False),
    searches="all Dense layers at the end, by fine-tuning",
    objective=_CROSS_ENTROPY,
    source="fine-tuning",
    needs=("folds",),
)

WISE_FT = Method(
    name="WiSE-FT",
    repair=MixtureMethod(fine_tuned),
    searches="how far to go from the baseline model to `tail`",
    objective="as of `tail`; rows of validation choose how far",
    source="Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022",
    needs=("folds",),
)

OFFSETS = Method(
    name="offsets",
    repair=MixtureMethod(_offsets_searched, searches=True),
    searches="an offset of the logit of each label",
    objective="soft margins of the requirements, then the gain of the labels under repair",
    source="after Mai et al., Fine-tuning is fine, if calibrated, NeurIPS 2024",
    needs=("folds", "offsets"),
)
