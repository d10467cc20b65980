"""What a method of repair is: a function from labelled rows and requirements to new values of weights.

Everything that a method may use is a `MethodJob`, everything that it comes to a `Repair`. Both are plain values: a
repair is a pure function of its job, so it may run on any worker, or twice. Rows are features, as the first layer under
repair sees them, so that no method runs the whole model.

A method is one file with a `Method` named `METHOD`, and one entry of `engine.methods.registry.METHODS`, or an entry
point of the group `repair_dist.methods` of another package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from engine.core.errors import InputError
from engine.core.plans import Plan
from engine.core.types import Float32, Int64
from engine.fitness.priorities import Priorities
from engine.layers.dense_chain import DenseChain
from engine.layers.tail_chain import Chain, TailChain, dense_of
from engine.metrics.requirements import Requirement
from engine.problem.case import LayerInputs, SeenRows
from engine.problem.crossfit import CrossFitSettings
from engine.search.loop import SearchSettings
from engine.search.population import PopulationSettings

Need = Literal["folds", "localised weights", "checkpoints", "parts", "offsets", "last layer"]
"""What a method works from besides rows: folds of the rows; weights that localisation blames; checkpoints of the
training (`--weights-dir`); parts of the failures, one for each confusion; a last layer under repair with biases; a last
layer under repair (`--target-layer`)."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The model at an earlier moment of its training.

    Attributes:
        name: of its file.
        values: of the weights of the chain, by path.
        predicted: classes (n,) that it predicts for the rows of the pool, with all of its weights.
        others: sum, over the arrays of the model that are not of the chain, of how far they moved since the checkpoint
            before in the mean; 0 of the first.
    """

    name: str
    values: Mapping[str, Float32]
    predicted: Int64
    others: float = 0.0


@dataclass(frozen=True)
class MethodSettings:
    """What a person may choose, of any method.

    Attributes:
        crossfit: folds, recipes, confidence and rows of a promise, and the search over mixtures.
        search: candidates and iterations of a search over weights; None takes what the method has by default.
        optimiser: of searches over weights, in place of the method's own; its number of candidates is that of `search`.
        confusion_rows: failures that a confusion needs at least to be a part of its own.
        priorities: what rows of each label are worth, to `label-priorities`; None: as the failures say.
    """

    crossfit: CrossFitSettings = field(default_factory=CrossFitSettings)
    search: SearchSettings | None = None
    optimiser: PopulationSettings | None = None
    confusion_rows: int = 3
    priorities: Priorities | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """What all repairs of a comparison have in common.

    Attributes:
        chain: the layers under repair and those behind them.
        pool: rows that repairs are made from, by digest and label, or draws of rows depend on their order.
        validation: rows that choose among what a method offers, or None.
        test: rows that judge, or None; a method always gets None, so that no repair can have seen them.
        repaired: labels under repair.
        requirements: of the result.
        settings: of all methods.
        checkpoints: of the training, in the order of their epochs.
        checkpoints_error: why there are none, where some were given that cannot be read.
    """

    chain: Chain
    pool: SeenRows
    validation: SeenRows | None
    test: SeenRows | None
    repaired: tuple[int, ...]
    requirements: tuple[Requirement, ...]
    settings: MethodSettings = field(default_factory=MethodSettings)
    checkpoints: tuple[Checkpoint, ...] = ()
    checkpoints_error: str = ""


def read_only(subject: Subject) -> Subject:
    """The same with views of all arrays that refuse to be written into, in dicts of its own."""

    def fixed(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            view = value.view()
            view.setflags(write=False)
            return view
        if isinstance(value, Mapping):
            return {key: fixed(one) for key, one in value.items()}
        if isinstance(value, SeenRows | LayerInputs | Checkpoint):
            return replace(value, **{each.name: fixed(getattr(value, each.name)) for each in fields(value)})
        return value

    return replace(
        subject,
        chain=replace(subject.chain, values=fixed(subject.chain.values)),
        pool=fixed(subject.pool),
        validation=fixed(subject.validation),
        test=fixed(subject.test),
        checkpoints=tuple(map(fixed, subject.checkpoints)),
    )


@dataclass(frozen=True, eq=False)
class MethodJob:
    """One repair: what a method may use.

    Attributes:
        subject: the model and what is asked of it. A method gets no test rows, and as the pool its own rows alone; all
            arrays are read-only.
        drawn: rows (n,) of the pool that it is made from; None for all, as a method gets it.
        seed: of everything that is random.
        more_seeds: of further searches, where a method makes several of which it keeps the best.
    """

    subject: Subject
    drawn: Int64 | None
    seed: int
    more_seeds: tuple[int, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of all searches."""
        return (self.seed, *self.more_seeds)

    @property
    def chain(self) -> DenseChain:
        """The Dense layers under repair; raises ValueError where they are others."""
        return dense_of(self.subject.chain)

    @property
    def settings(self) -> MethodSettings:
        """Of all methods."""
        return self.subject.settings

    @cached_property
    def _mine(self) -> Int64:
        """Rows (m,) of the pool that the repair is made from; copies of a row count once."""
        known = self.subject.pool.rows
        return known.distinct if self.drawn is None else self.drawn[known.take(self.drawn).distinct]

    @cached_property
    def rows(self) -> SeenRows:
        """The rows that the repair is made from, by digest and label; copies of a row count once."""
        pool, mine = self.subject.pool, self._mine
        # The pool as it was read is in this order, and need not be copied.
        return pool if np.array_equal(mine, np.arange(len(pool.labels))) else pool.take(mine)

    @cached_property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Of the training, with what they predict for `rows`."""
        known = self.subject.checkpoints
        if self.rows is self.subject.pool:
            return known
        return tuple(replace(one, predicted=one.predicted[self._mine]) for one in known)

    @property
    def alone(self) -> MethodJob:
        """The job as a method gets it: its rows are the pool, none judge, and nothing in it can change for others."""
        own = replace(self.subject, pool=self.rows, test=None, checkpoints=self.checkpoints)
        return MethodJob(read_only(own), None, self.seed, self.more_seeds)

    @property
    def failures(self) -> Int64:
        """Rows (k,) of the labels under repair that the model as it is gets wrong."""
        rows = self.rows
        return np.flatnonzero((rows.before != rows.labels) & np.isin(rows.labels, self.subject.repaired))


@dataclass(frozen=True, eq=False)
class Offer:
    """One change that a method offers.

    Attributes:
        name: of it among the others, in words.
        values: new values of the weights that it changes, by path; none for the model as it is. What is judged and kept
            is float32.
        fitness: of what a search found, by the objective that it searched by, the larger the better; 0 where nothing
            was searched. Two offers of one repair need not be comparable: they may be of searches with another worth of
            positives, or steps towards one mixture, which all have the fitness of the whole.
        chance: that new rows keep all requirements, where the method says so itself.
    """

    name: str
    values: Mapping[str, Float32]
    fitness: float
    chance: float | None = None


NOTHING = Offer("nothing", {}, 0.0)
"""The model as it is. Every offer without another value becomes one of this name, and no other offer has it."""


@dataclass(frozen=True, eq=False)
class Repair:
    """What a method comes to.

    Attributes:
        offers: at least one; the first is what the method finds where nobody chooses.
        own: fitness of the model as it is by the objective of the first offer, which that is never below; None where
            the method has no objective.
        chosen: number of the offer that the method takes by a rule of its own; None where validation rows choose.
        notes: what else is to be said.
        promise: of a method that judges a mixture by itself, all steps of that (`engine.methods.mixtures.Promised`).
    """

    offers: Sequence[Offer]
    own: float | None = None
    chosen: int | None = None
    notes: tuple[str, ...] = ()
    promise: Any = None


@dataclass(frozen=True)
class Method:
    """One way to repair.

    Attributes:
        name: as `--method` takes it.
        repair: the method: a function, or a plan that yields its work (`engine.core.plans`); raises InputError where it
            cannot run, with a sentence that says why.
        searches: what it changes, in words.
        objective: by what it searches, in words.
        source: of the method: a publication, or this project.
        needs: what it works from besides rows.
    """

    name: str
    repair: Callable[[MethodJob], Repair | Plan[Repair]]
    searches: str
    objective: str
    source: str
    needs: tuple[Need, ...] = ()

    def __post_init__(self) -> None:
        """Refuse needs that nobody knows."""
        unknown = [need for need in self.needs if need not in get_args(Need)]
        if unknown:
            raise InputError(f"method {self.name} needs {unknown[0]!r}, expected {', '.join(get_args(Need))}")


def lacking(method: Method, subject: Subject) -> str | None:
    """Why a method cannot repair a model, as far as that is known beforehand; None where nothing is."""
    if "checkpoints" in method.needs and len(subject.checkpoints) < 2:
        found = len(subject.checkpoints)
        if subject.checkpoints_error:
            return subject.checkpoints_error
        return f"{method.name} compares checkpoints of the training and {found} are known, expected two (--weights-dir)"
    if isinstance(subject.chain, TailChain):  # of which only methods without further needs get any
        return None
    name = subject.chain.layers[-1].name
    if {"last layer", "offsets"} & set(method.needs) and not subject.chain.layers[-1].tuned:
        return f"{method.name} changes {name}, which is not among the layers under repair, expected it (--target-layer)"
    if "offsets" in method.needs and subject.chain.offsets is None:
        return f"{method.name} adds offsets of labels and {name} has no bias, expected one that they go into"
    return None
