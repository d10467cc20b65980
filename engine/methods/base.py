"""What a method of repair is: a pure function from a `MethodJob` to a `Repair`, so it may run on any worker, or twice.

Rows are features, as the first layer under repair sees them, so that no method runs the whole model.
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
    """The model at an earlier moment of its training."""

    name: str  # of its file
    values: Mapping[str, Float32]  # of the weights of the chain, by path
    predicted: Int64  # classes (n,) that it predicts for the rows of the pool, with all of its weights
    # sum, over the arrays of the model outside of the chain, of their mean distance from the checkpoint before
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
    """What all repairs of a comparison have in common."""

    chain: Chain  # the layers under repair and those behind them
    pool: SeenRows  # that repairs are made from, by digest and label, or draws of rows depend on their order
    validation: SeenRows | None  # rows that choose among what a method offers
    test: SeenRows | None  # rows that judge; a method always gets None, so that no repair can have seen them
    repaired: tuple[int, ...]  # labels under repair
    requirements: tuple[Requirement, ...]
    settings: MethodSettings = field(default_factory=MethodSettings)
    checkpoints: tuple[Checkpoint, ...] = ()  # in the order of their epochs
    checkpoints_error: str = ""  # why there are none, where some were given that cannot be read


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
    """One repair: what a method may use."""

    subject: Subject  # as a method gets it, without test rows, its own rows as the pool, all arrays read-only
    drawn: Int64 | None  # rows (n,) of the pool that it is made from; None for all, as a method gets it
    seed: int  # of everything that is random
    more_seeds: tuple[int, ...] = ()  # of further searches, where a method keeps the best of several

    @property
    def seeds(self) -> tuple[int, ...]:
        return (self.seed, *self.more_seeds)

    @property
    def chain(self) -> DenseChain:
        """Raises ValueError where the layers under repair are not Dense."""
        return dense_of(self.subject.chain)

    @property
    def settings(self) -> MethodSettings:
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
        """With what they predict for `rows`."""
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
    """One change that a method offers."""

    name: str  # among the others, in words
    values: Mapping[str, Float32]  # new values of weights by path, taken as float32; none for the model as it is
    # by the objective of the search, 0 without one; two offers of one repair need not be comparable
    fitness: float
    chance: float | None = None  # that new rows keep all requirements, where the method says so itself


NOTHING = Offer("nothing", {}, 0.0)  # the model as it is; no other offer has this name


@dataclass(frozen=True, eq=False)
class Repair:
    """What a method comes to."""

    offers: Sequence[Offer]  # at least one; the first is taken where nobody chooses
    # fitness of the model as it is by the objective of the first offer, which is never below it; None without one
    own: float | None = None
    chosen: int | None = None  # number of the offer that the method takes itself; None where validation rows choose
    notes: tuple[str, ...] = ()
    promise: Any = None  # an `engine.methods.mixtures.Promised`, of a method that judges a mixture by itself


@dataclass(frozen=True)
class Method:
    """One way to repair."""

    name: str  # as `--method` takes it
    # a function, or a plan that yields its work; raises InputError where it cannot run
    repair: Callable[[MethodJob], Repair | Plan[Repair]]
    searches: str  # what it changes, in words
    objective: str  # by what it searches, in words
    source: str  # a publication, or this project
    needs: tuple[Need, ...] = ()  # what it works from besides rows

    def __post_init__(self) -> None:
        unknown = [need for need in self.needs if need not in get_args(Need)]
        if unknown:
            raise InputError(f"method {self.name} needs {unknown[0]!r}, expected {', '.join(get_args(Need))}")


def lacking(method: Method, subject: Subject) -> str | None:
    """Why a method cannot repair a model, as far as that is known beforehand; None where nothing is."""
    known = len(subject.checkpoints)
    if "checkpoints" in method.needs and known < 2:
        return subject.checkpoints_error or (
            f"{method.name} compares checkpoints of the training and {known} are known, expected two (--weights-dir)"
        )
    if isinstance(subject.chain, TailChain):  # of which only methods without further needs get any
        return None
    name = subject.chain.layers[-1].name
    if {"last layer", "offsets"} & set(method.needs) and not subject.chain.layers[-1].tuned:
        return f"{method.name} changes {name}, which is not among the layers under repair, expected it (--target-layer)"
    if "offsets" in method.needs and subject.chain.offsets is None:
        return f"{method.name} adds offsets of labels and {name} has no bias, expected one that they go into"
    return None
