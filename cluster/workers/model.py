"""A model ready to run: in this process, and as it travels to workers."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from cluster.workers.lru import Cache
from engine.layers.tail import Tail
from engine.models.load import LoadedModel, ModelSpec, build_model, spec_of
from engine.models.loss import TrainingLoss
from engine.problem.problem import Problem
from engine.targets.base import Target
from engine.targets.model_runner import ModelRunner
from engine.targets.resolve import resolve_target


@dataclass(frozen=True, eq=False)
class ShippedModel:
    """A model as it travels: everything `ModelRunner` needs."""

    key: str
    spec: ModelSpec
    loss: TrainingLoss
    classes: int
    target: tuple[str, ...] | None  # what is under repair, as `resolve_target` takes it; None: it is only run
    path: Path
    batch_rows: int
    allow_custom_code: bool


def build_runner(model: ShippedModel) -> ModelRunner:
    built = build_model(model.spec, allow_custom_code=model.allow_custom_code)
    target: Target | None = None
    if model.target is not None:
        target = resolve_target(built, model.loss, model.classes, model.path, model.target)
    return ModelRunner(built, target, model.batch_rows, model.path, model.loss)


class ReceivedModel:
    """A model that has travelled; it is built here when it is first needed."""

    def __init__(self, shipped: ShippedModel | None, kept: Cache[ModelRunner]) -> None:
        self.key = "" if shipped is None else shipped.key
        self._shipped, self._kept = shipped, kept

    @property
    def runner(self) -> ModelRunner:
        shipped = self._shipped
        if shipped is None:
            raise ValueError("the model is run and did not travel, expected it with this task")
        return self._kept.get(self.key, lambda: build_runner(shipped))

    def tail_of(self, problem: Problem) -> Tail | None:
        """What a search needs of the model; None where Dense layers at its end are under repair."""
        return self.runner.tail if problem.needs_tail else None


@dataclass(eq=False)
class ModelHandle:
    """A model that can run here and on workers."""

    loaded: LoadedModel
    target: Target | None
    batch_rows: int

    @functools.cached_property
    def runner(self) -> ModelRunner:
        """The model in this process."""
        return ModelRunner(self.loaded.model, self.target, self.batch_rows, self.loaded.path, self.loaded.loss)

    @property
    def key(self) -> str:
        """Names the model and its weights under repair."""
        names = None if self.target is None else self.target.names
        return f"{self.loaded.fingerprint}|{names}|{self.batch_rows}"

    @property
    def tail(self) -> Tail | None:
        """Of the weights under repair; None where Dense layers at the end are."""
        return None if self.target is None else self.target.tail

    def tail_of(self, problem: Problem) -> Tail | None:
        """What a search needs of the model; None where Dense layers at its end are under repair."""
        return self.tail if problem.needs_tail else None

    @functools.cached_property
    def shipped(self) -> ShippedModel:
        """The model as it travels."""
        return ShippedModel(
            key=self.key,
            spec=spec_of(self.loaded.model),
            loss=self.loaded.loss,
            classes=self.loaded.classes,
            target=None if self.target is None else self.target.names,
            path=self.loaded.path,
            batch_rows=self.batch_rows,
            allow_custom_code=self.loaded.allow_custom_code,
        )
