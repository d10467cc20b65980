"""CrossFit: gradients make directions, the swarm mixes them, and rows judge that the directions were not made from.

Every recipe is tuned once without each fold of the repair rows. A mixture adds the tunings to the model as it is, with
one coefficient for each recipe and an offset for each label; row i is judged under the tunings that did not see it.
The repaired model has the mean of each recipe's tunings over the folds, mixed alike, times one step.

The method is ours; its parts are known: cross-fitting (Chernozhukov et al., "Double/debiased machine learning", 2018),
distillation as an anchor, weight averaging (Wortsman et al., "Model soups" and "Robust fine-tuning of zero-shot
models", 2022), offsets after fine-tuning (Mai et al., "Fine-tuning is fine, if calibrated", 2024).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.core.errors import InputError
from engine.core.rng import RngKey, generator
from engine.core.types import Float32, Int64
from engine.fitness.mixture import Mixture, MixtureFitness, tile_shape
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.steering import pairs_of, rigour_of
from engine.fitness.tiling import Tiling
from engine.layers.space import Space
from engine.layers.tail_chain import Chain
from engine.layers.weight_stats import WeightStats
from engine.metrics.accuracy import LabelChange, paired_changes
from engine.metrics.promise import Frontier, frontier_of
from engine.metrics.requirements import Requirement
from engine.passes.classes import predicted_classes
from engine.problem.case import LayerInputs, RepairCase, SeenRows
from engine.problem.crossfit_settings import CrossFitSettings as CrossFitSettings  # noqa: PLC0414 - its users find it here
from engine.problem.problem import Problem
from engine.search.loop import SearchSettings
from engine.targets.memory import MemoryPart, Plan
from engine.tuning.recipes import MOST_ROW_EPOCHS, epochs_of
from engine.tuning.train import BATCH_ROWS, Changes, FoldRows, TuningJob, folds_of

SEARCH_ROWS = 10_000
"""Rows that steer a search at most, as many of each fold; all rows judge. Fewer of 10,000 promise less (measured)."""

TASK_VALUES = 200_000_000
"""Steps times weights of one task of tunings, about a second: recipes of a fold share a task up to so many."""

PATCH_BYTES = 140  # of a weight in a patch while that is made and written (measured)
_SLOPES = 3  # numbers that a tuning holds of each that a row of a step makes: itself, its slope, and a temporary

_COPIES = 9
"""Of the weights of a tuning that a program holds: weights and two moments before and after, slopes, two temporaries
(measured)."""

SPREAD = 0.25  # standard deviation of coefficients and offsets of the first particles


@dataclass(frozen=True, eq=False)
class TuningTask:
    """Tunings of one program: recipes of equally many epochs, all without one fold."""

    name: str  # unique within a run
    fold: int  # that they do not see
    recipes: tuple[int, ...]  # their numbers


@dataclass(frozen=True, eq=False)
class CrossFit:
    """A repair once features are known.

    Attributes:
        chain: the weights under repair, with what they can change.
        rows: features (n, D), labels and folds.
        logits: (n, C) of the model as it is.
        before: (n,) classes that it predicts.
        repaired: labels under repair.
        seed: of folds and tunings.
    """

    chain: Chain
    rows: FoldRows
    logits: Float32
    before: Int64
    repaired: tuple[int, ...]
    requirements: tuple[Requirement, ...]
    settings: CrossFitSettings
    seed: int

    @property
    def data(self) -> str:
        """Fingerprint of the rows, folds and seed; keys random numbers."""
        return self.rows.data

    @property
    def label(self) -> int:
        """Under repair, -1 for several."""
        return self.repaired[0] if len(self.repaired) == 1 else -1

    @property
    def job(self) -> TuningJob:
        """What all tunings share."""
        return TuningJob(self.chain, self.rows, self.repaired, self.seed)

    @property
    def temperature(self) -> float:
        """Of the soft correctness that steers the search."""
        stated = self.settings.temperature
        return rigour_of(len(self.rows.labels)).temperature if stated is None else stated

    @property
    def tasks(self) -> tuple[TuningTask, ...]:
        """The tunings as tasks: a pure function of the job, since the bits of a tuning depend on its company."""
        recipes, rows = self.settings.recipes, self.rows
        groups: list[tuple[int, ...]] = []
        for number, recipe in enumerate(recipes):
            epochs = epochs_of(recipe, rows.fewest)
            steps = epochs * max(1, rows.fewest // BATCH_ROWS)
            most = max(1, TASK_VALUES // max(1, steps * self.chain.tuned_values))
            last = groups[-1] if groups else ()
            alike = bool(last) and (
                epochs_of(recipes[last[0]], rows.fewest) == epochs
                # Above the cap of row-epochs those that state their epochs see more rows than those that do not.
                and (rows.fewest <= MOST_ROW_EPOCHS or (recipes[last[0]].epochs is None) == (recipe.epochs is None))
            )
            if alike and len(last) < most:
                groups[-1] = (*last, number)
            else:
                groups.append((number,))
        return tuple(
            TuningTask(f"tuning-fold{fold}-{'+'.join(map(str, group))}", fold, group)
            for fold in range(rows.folds)
            for group in groups
        )

    def mixture(self, changes: Sequence[Changes]) -> Mixture:
        """What the search mixes, of the changes of each fold with all recipes."""
        return Mixture(self.chain, tuple(changes), self.temperature, pairs_of(self.requirements))

    def case(self, changes: Sequence[Changes], settings: SearchSettings) -> tuple[RepairCase, Problem]:
        """The search over mixtures, as every other: its case and its problem; by the requirements of the repair."""
        mixture = self.mixture(changes)
        rows = self._rows(np.concatenate([self._searched(fold) for fold in range(self.rows.folds)]))
        start = np.zeros(mixture.size, np.float32)
        start[: mixture.recipes] = 1.0 / max(1, mixture.recipes)
        stats = WeightStats(start.astype(np.float64), np.full(mixture.size, SPREAD), np.ones(mixture.size))
        places = np.arange(mixture.size)
        weights = Weights(places, np.zeros_like(places), start)
        index = np.stack([places, np.zeros_like(places)], axis=1)
        problem = Problem(
            name=self.data,
            head=self.chain.head,
            weights=weights,
            stats=stats,
            source=RngKey(0, self.data, self.label),
            settings=replace(
                settings,
                objective="requirements",
                requirements=self.requirements,
                promise_rows=self.settings.promise_rows,
            ),
            mixture=mixture,
            repaired=self.repaired,
            judging=len(self.rows.labels),
        )
        return RepairCase(self.label, self.data, index, weights, rows), problem

    def frontier(
        self, changes: Sequence[Changes], found: Float32, held_out: SeenRows | None = None
    ) -> tuple[Frontier, tuple[LabelChange, ...]]:
        """Judge every step of a mixture `found` (R + C,) of the changes of each fold, hard and out of fold.

        Rows that are held out join with all weight. Returns the frontier, and the change of each label at the step
        taken.
        """
        steps = self.settings.steps
        after = self.predicted(changes, found, steps)
        if held_out is not None:
            mean = Mixture(self.chain, (mean_changes(changes),), self.mixture(changes).temperature)
            nothing = np.zeros_like(held_out.labels)
            rows = SearchRows(held_out.rows.inputs, held_out.logits, held_out.labels, nothing > 0, group=nothing)
            more = _at_steps(mean, rows, held_out.before, found, steps)
            after = np.concatenate([after, more], axis=1)
        frontier = self.judged(after, steps, held_out)
        labels, before = self.judging(held_out)
        return frontier, paired_changes(labels, before, after[frontier.chosen], self.chain.classes)

    def predicted(self, changes: Sequence[Changes], found: Float32, steps: Sequence[float]) -> Int64:
        """Classes (T, n) of the rows at T steps of a mixture, each row under the tunings that did not see it."""
        order = np.argsort(self.rows.fold, kind="stable")  # fold by fold
        after = np.empty((len(steps), len(order)), np.int64)
        after[:, order] = _at_steps(self.mixture(changes), self._rows(order), self.before[order], found, steps)
        return after

    def judged(self, after: Int64, steps: Sequence[float], held_out: SeenRows | None = None) -> Frontier:
        """Judge steps, the largest or the wanted one first, by classes (T, n) that they predict for the rows of the
        repair and, behind them, for those held out; and take one.
        """
        labels, before = self.judging(held_out)
        return frontier_of(
            self.requirements,
            labels,
            before,
            after,
            steps=steps,
            confidence=self.settings.confidence,
            new_rows=self.settings.promise_rows,
            classes=self.chain.classes,
            fixed_step=self.settings.step is not None,
        )

    def judging(self, held_out: SeenRows | None) -> tuple[Int64, Int64]:
        """Labels (n,), and classes (n,) that the model as it is predicts, of all rows that judge."""
        more = [] if held_out is None else [held_out]
        return (
            np.concatenate([self.rows.labels, *(rows.labels for rows in more)]),
            np.concatenate([self.before, *(rows.before for rows in more)]),
        )

    def _searched(self, fold: int) -> Int64:
        """Rows of a fold that steer the search: of every label the same share, whatever order the rows are in."""
        members, most = np.flatnonzero(self.rows.fold == fold), max(1, SEARCH_ROWS // self.rows.folds)
        if len(members) <= most:
            return members
        drawn = generator(self.seed, self.data, self.label, "rows of the search", fold).permutation(members)
        labels = self.rows.labels[drawn]
        counts = np.bincount(labels)
        by_label = np.argsort(labels, kind="stable")
        place = np.empty_like(drawn)
        place[by_label] = np.arange(len(drawn)) - np.repeat(np.cumsum(counts) - counts, counts)
        # The first of each label come first, and of those what is under repair.
        order = np.lexsort((~np.isin(labels, self.repaired), place / counts[labels]))
        return np.sort(drawn[order[:most]])

    def _rows(self, chosen: Int64) -> SearchRows:
        labels, right = self.rows.labels[chosen], self.before[chosen] == self.rows.labels[chosen]
        negative = ~right & np.isin(labels, self.repaired)
        return SearchRows(
            self.rows.inputs[chosen],
            self.logits[chosen],
            labels,
            negative,
            neither=~(right | negative),
            group=self.rows.fold[chosen],
        )


def crossfit_of(
    chain: Chain,
    rows: LayerInputs,
    logits: Float32,
    repaired: Sequence[int],
    requirements: Sequence[Requirement],
    settings: CrossFitSettings,
    seed: int,
) -> CrossFit:
    """Set up a repair; what is not named here is as of `CrossFit`.

    Args:
        rows: of the repair, as the first layer sees them, in any order; copies of a row count once.
        logits: (n, C) of those.

    Raises:
        InputError: there are too few different rows for the folds, or none of a label under repair.
        NotNumbersError: the model's outputs for a row are not numbers.
    """
    before = predicted_classes(chain.head, logits)
    kept = rows.distinct
    if not np.array_equal(kept, np.arange(len(rows.labels))):
        rows, logits, before = rows.take(kept), logits[kept], before[kept]
    for label in repaired:
        if not (rows.labels == label).any():
            raise InputError(f"no repair row has label {label}, which is to be repaired, expected some")
    fold = folds_of(rows.labels, rows.digests, settings.folds, seed, rows.fingerprint)
    data = hashlib.sha256(f"{rows.fingerprint}|{settings.folds}|{seed}".encode()).hexdigest()
    found = FoldRows(rows.inputs, rows.labels, fold, data)
    return CrossFit(chain, found, logits, before, tuple(repaired), tuple(requirements), settings, seed)


def joined_changes(job: CrossFit, changes: Sequence[Changes]) -> tuple[Changes, ...]:
    """Changes of each fold with all recipes in their order, from those of the tasks."""
    of_fold = [
        [change for task, change in zip(job.tasks, changes, strict=True) if task.fold == fold]
        for fold in range(job.rows.folds)
    ]
    return tuple(
        {path: np.concatenate([change[path] for change in mine]) for path in job.chain.tuned} for mine in of_fold
    )


def _at_steps(mixture: Mixture, rows: SearchRows, before: Int64, found: Float32, steps: Sequence[float]) -> Int64:
    """Classes (T, n) of rows at each step of a mixture; those of step 0 are `before` (n,)."""
    after = np.repeat(before[None], len(steps), axis=0)
    moved = np.flatnonzero(steps)
    if len(moved):
        candidates = np.stack([np.float32(step) * found for step in steps if step])
        after[moved] = MixtureFitness(mixture, rows, len(moved), Tiling()).predict(candidates)
    return after


def mixture_space(recipes: int, chain: Chain) -> Space:
    """The numbers of a mixture as the tables of a run keep them: coefficients of recipes, offsets of the labels."""
    offsets = {} if chain.offsets is None else {"crossfit/offsets": (chain.classes,)}
    return Space({"crossfit/coefficients": (recipes,), **offsets}, "a mixture", 1)


def mean_changes(changes: Sequence[Changes]) -> Changes:
    """The mean over folds of each recipe's changes, float32 by path (R, ...)."""
    return {
        path: np.stack([change[path] for change in changes]).mean(axis=0, dtype=np.float64).astype(np.float32)
        for path in changes[0]
    }


def mixed_values(chain: Chain, changes: Sequence[Changes], found: Float32, step: float) -> dict[str, Float32]:
    """New values of the tuned weights, by path: the mixture (R + C,) times a step, of the mean over folds.

    Offsets are folded into the last bias, whether or not its layer is tuned.
    """
    mean = mean_changes(changes)
    recipes = len(next(iter(mean.values())))
    scaled = (np.float32(step) * found).astype(np.float64)
    values = {
        path: chain.values[path] + np.tensordot(scaled[:recipes], mean[path].astype(np.float64), 1) for path in mean
    }
    if chain.offsets is not None and len(found) > recipes:
        values[chain.offsets] = values.get(chain.offsets, chain.values[chain.offsets]) + scaled[recipes:]
    return {path: value.astype(np.float32) for path, value in values.items()}


def plan_of(chain: Chain, rows: int, held_out: int, settings: CrossFitSettings) -> Plan:
    """The memory of a repair of so many rows, with so many of validation; tunings have ended when the search begins."""
    width, recipes, weights = chain.width, len(settings.recipes), 4 * chain.tuned_values
    tunings, search = recipes * settings.folds, settings.search
    searched, judged = min(rows, SEARCH_ROWS), max(rows, held_out)
    together, wide = tile_shape(chain, settings.folds, searched, search.swarm.num_particles, search.tiling)
    features = 4 * (rows + held_out) * (2 * width + 4 * chain.classes)
    tuning = recipes * (weights * _COPIES + 4 * _SLOPES * BATCH_ROWS * chain.all_values)
    tuning += 4 * rows * (width + 4 * chain.classes) + chain.unfolded_bytes
    searching = 4 * (searched + judged) * (chain.kept_values * (recipes + 1) + width)
    searching += 6 * 4 * together * wide * chain.widest + 2 * together * weights + chain.unfolded_bytes
    seen, changed = f"features of {rows + held_out} rows", f"changes of {tunings} tunings"
    smaller = "a smaller --target-layer"
    parts = (
        MemoryPart(features, seen, seen, "fewer rows"),
        MemoryPart(2 * (tunings + recipes) * weights, changed, changed, f"fewer --recipes or --folds, or {smaller}"),
        MemoryPart(tuning, "while they run", "tunings while they run", f"fewer --recipes, or {smaller}", in_turns=True),
        MemoryPart(
            searching,
            "the search",
            "the search",
            "fewer rows, fewer --num-particles or smaller --tile-bytes",
            in_turns=True,
        ),
        MemoryPart(PATCH_BYTES * chain.tuned_values, "the patch", "the patch", smaller, in_turns=True),
    )
    return Plan("repair", parts, {"tunings": tunings})
