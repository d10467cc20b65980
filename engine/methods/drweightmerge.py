"""DRWeightMerge: a search for each confusion, and one merge of what they find (DistrRep).

The failures of the labels under repair are divided into parts: one for each confusion (t, p) with at least
`MethodSettings.confusion_rows` rows, and one for the rest of each label. Each part is searched as Arachne does, with
its failures as negatives, from the model as it is; `engine.methods.merging` finds how much of each is taken, by the
score of `engine.metrics.dist_rep` on all repair rows.

General labels are all that have rows, under repair or not, with equal weights wp: S sees no other label, so that one
left out could be broken for nothing. Errors of the confusions and of the labels under repair count again, with equal
weights wm.

In eAI-Repair-Toolkit 1.1.0 each part starts from what the one before left, in an order that is not fixed, and the merge
from the model that the parts have changed, where most coefficients do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.core.errors import InputError
from engine.core.plans import Plan
from engine.core.rng import RngKey
from engine.core.types import Float32, Int64
from engine.methods.base import Method, MethodJob, Offer, Repair
from engine.methods.merging import Parts, scores_of_rows, search_merge
from engine.methods.weight_search import NOTHING_SEARCHED, problem_of_case, searching
from engine.metrics.dist_rep import MergeScore, Pair, merge_score
from engine.problem.case import find_case
from engine.problem.problem import SearchEnd, search_work
from engine.search.loop import SearchSettings
from engine.targets.of_chain import last_target


@dataclass(frozen=True, eq=False)
class Failures:
    """One part of the failures of a repair."""

    label: int  # true label
    predicted: int | None  # as what, or None for the rest of the label
    rows: Int64  # (k,) of them, ascending

    @property
    def name(self) -> str:
        return f"{self.label} as {self.predicted}" if self.predicted is not None else f"{self.label} as others"


def divided(labels: Int64, before: Int64, repaired: Sequence[int], least: int) -> list[Failures]:
    """The parts of the failures of labels under repair, by label and then by what is predicted; the rest comes last.

    `before` (n,) are the classes that the model predicts; a confusion needs `least` rows to be a part of its own.
    """
    found = []
    for label in repaired:
        wrong = np.flatnonzero((labels == label) & (before != label))
        counts = np.bincount(before[wrong])
        often = np.flatnonzero(counts >= max(1, least))
        found += [Failures(label, int(other), wrong[before[wrong] == other]) for other in often]
        rest = wrong[~np.isin(before[wrong], often)]
        if len(rest):
            found.append(Failures(label, None, rest))
    return found


def score_of(labels: Int64, parts: Sequence[Failures], repaired: Sequence[int]) -> MergeScore:
    general = np.unique(labels).tolist()
    targets = [(part.label, part.predicted) for part in parts if part.predicted is not None]
    wrong: list[int | Pair] = [*targets, *(label for label in repaired if label in general)]
    return merge_score(general, targets, dict.fromkeys(general, 1.0), dict.fromkeys(wrong, 1.0))


@dataclass(frozen=True)
class WeightMerge:
    settings: SearchSettings  # of the searches, and of the swarm of the merge, where none are given

    def __call__(self, job: MethodJob) -> Plan[Repair]:
        settings = searching(self.settings, job.settings)
        target, features = last_target(job.chain, job.rows.rows.inputs)
        rows = replace(job.rows.rows, inputs=features)
        (path,) = target.target.shapes
        kernel = target.target.kernel
        before = target.layer.predicted(target.layer.logits(features, kernel))
        repaired = job.subject.repaired
        failures = divided(rows.labels, before, repaired, job.settings.confusion_rows)
        searches = {}
        for part in failures:
            others = (rows.labels == part.label) & (before != rows.labels)
            others[part.rows] = False
            mine = rows.take(np.flatnonzero(~others))
            case = find_case(target, kernel, mine, part.label)
            if case is not None and len(case.index):
                searches[part.name] = case, problem_of_case(target, kernel, case, settings, job.seed)
        if not searches:
            raise InputError(NOTHING_SEARCHED)
        ends = yield [search_work(f"{name}-s{job.seed}", *one) for name, one in searches.items()]
        patches = [(case.index, SearchEnd(*end).values) for (case, _), end in zip(searches.values(), ends, strict=True)]
        parts = Parts.of(kernel, patches)
        scores = scores_of_rows(target.layer, kernel, rows, parts, score_of(rows.labels, failures, repaired))
        merge = search_merge(parts, scores, settings, RngKey(job.seed, rows.fingerprint, -1))

        def offer(name: str, values: Float32, worth: float) -> Offer:
            changed = kernel.copy()
            changed[parts.index[:, 0], parts.index[:, 1]] = values
            return Offer(name, {path: changed}, worth)

        own, *single = (worth for (worth,) in merge.starts)
        offers = [offer("merge", merge.values, merge.score[0])]
        offers += [offer(*one) for one in zip(searches, parts.new, single, strict=True)]
        return Repair(offers, own)


METHOD = Method(
    name="DRWeightMerge",
    repair=WeightMerge(SearchSettings()),
    searches="weights of the last Dense layer, for each confusion, and how much of each is taken",
    objective="Arachne's for each confusion; the merge: precision of all labels less what is wrong with the repaired",
    source="DistrRep, eAI-Repair-Toolkit 1.1.0, as meant",
    needs=("localised weights", "parts", "last layer"),
)
