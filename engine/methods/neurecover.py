"""NeuRecover: a particle swarm over the weights of Dense layers that the last step of the training spoilt.

Which weights: see `engine.localize.neurecover`, on the failures of the labels under repair and the rows that the model
gets right. By what they are searched: see `engine.fitness.objective.rate_fitness`. The published worth of positives,
alpha 1, comes first; larger ones break less, and rows of validation choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.core.plans import Plan, Work
from engine.core.types import Float32, Int64
from engine.layers.dense_chain import DenseChain
from engine.localize.neurecover import Blame, Training, blame
from engine.methods.base import Method, MethodJob, Offer, Repair
from engine.methods.weight_search import problem_of_case, searching
from engine.patches.patch import Patch
from engine.problem.case import RepairCase, case_of
from engine.problem.problem import Problem, SearchEnd, build_fitness, goal_of, seen_by
from engine.search import loop
from engine.search.loop import SearchSettings
from engine.targets.of_chain import few_stats, few_weights

ALPHAS = (1.0, 4.0, 16.0)  # worth of all positives together, in all negatives: the published one, then what breaks less


@dataclass(frozen=True)
class NeuRecover:
    # of the search where none are given; its positive weight is alpha times the number of negatives
    settings: SearchSettings

    def __call__(self, job: MethodJob) -> Plan[Repair]:
        settings, failures = searching(self.settings, job.settings), len(job.failures)
        # The failures of the labels under repair, and behind them what the model gets right.
        order = np.concatenate([job.failures, np.flatnonzero(job.rows.before == job.rows.labels)])
        training, notes = _training_of(job, order)
        rows = job.rows.rows.take(order)
        found = blame(job.chain, rows.inputs, rows.labels, training)
        few, features, index = few_weights(job.chain, rows.inputs, found.patch)
        seen, kernel, labels = replace(rows, inputs=features), few.target.kernel, np.unique(rows.labels[:failures])
        label = int(labels[0]) if len(labels) == 1 else -1
        negatives, kept = (seen.take(kind) for kind in np.split(np.arange(len(order)), [failures]))
        places = np.stack([found.patch.part.astype(np.int64), found.patch.flat_index], axis=1)
        logits = few.layer.logits(features, kernel)
        case = case_of(few, kernel, label, index, negatives, kept, logits, places)
        given = settings.positive_weight
        alphas = ALPHAS if given is None else (given / failures,)
        worths = [replace(settings, positive_weight=alpha * failures) for alpha in alphas]
        problem = problem_of_case(few, kernel, case, settings, job.seed)
        problem = replace(problem, stats=few_stats(job.chain, found.patch))
        args = (job.chain, rows.inputs, found.patch, problem, case, tuple(worths))
        (ends,) = yield [Work(f"{case.data[:12]}-rates-s{job.seed}", searched, args, "search")]
        offers = [
            Offer(f"alpha {alpha:g}", _changed(job, found, values), fitness)
            for alpha, (values, fitness, _) in zip(alphas, ends, strict=True)
        ]
        counts = ", ".join(f"{len(places)} of {path}" for path, places in found.places.items() if len(places))
        told = f"{found.worse} rows got worse at the last step of the training and {found.better} better"
        return Repair(offers, ends[0][2], notes=(*notes, f"{told}: {counts} blamed"))


def _training_of(job: MethodJob, order: Int64) -> tuple[Training, tuple[str, ...]]:
    """The last two checkpoints, and what is to be said of the last one where it is not the model."""
    earlier, later = job.checkpoints[-2:]
    same = all(np.array_equal(later.values[path], value) for path, value in job.chain.values.items())
    notes: tuple[str, ...] = ()
    if not same or not np.array_equal(later.predicted, job.rows.before):
        notes = (f"checkpoint {later.name} is not the model: weights are blamed as they are in the model",)
    training = Training(earlier.values, later.values, later.others, earlier.predicted[order], later.predicted[order])
    return training, notes


def searched(
    chain: DenseChain,
    inputs: Float32,
    patch: Patch,
    problem: Problem,
    case: RepairCase,
    worths: Sequence[SearchSettings],
) -> list[SearchEnd]:
    """The ends of searches of a patch's weights by several settings; they share what evaluates their candidates."""
    seen = seen_by(problem, case.rows)
    fitness = build_fitness(problem, seen, few_weights(chain, inputs, patch)[0].tail)
    searches = [
        loop.Search(mine, problem.source, goal_of(replace(problem, settings=mine), seen, case.rows)) for mine in worths
    ]
    states, _ = loop.advance_together(searches, [problem.start()] * len(searches), fitness.evaluate)
    return [SearchEnd(loop.result(state), state.swarm.global_fitness, state.start_fitness) for state in states]


def _changed(job: MethodJob, found: Blame, values: Float32) -> dict[str, Float32]:
    changed, start = {}, 0
    for path, places in found.places.items():
        if len(places):
            changed[path] = job.chain.values[path].copy()
            changed[path].flat[places] = values[start : start + len(places)]
            start += len(places)
    return changed


METHOD = Method(
    name="NeuRecover",
    repair=NeuRecover(SearchSettings(objective="rates")),
    searches="weights of Dense layers that the last step of the training spoilt, by two of its checkpoints",
    objective="shares of repaired negatives and intact positives over their mean losses",
    source="Tokui et al., NeuRecover, SANER 2022",
    needs=("checkpoints", "localised weights"),
)
