"""A model ready to run: in this process, and as it travels to workers."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from engine.layers.tail import Tail
from engine.models.load import LoadedModel, ModelSpec, build_model, spec_of
from engine.models.loss import TrainingLoss
from engine.targets.base import Target
from engine.targets.model_runner import ModelRunner
from engine.targets.resolve import resolve_target


@dataclass(frozen=True, eq=False)
class ShippedModel:
    """A model as it travels: everything `ModelRunner` needs.

    `target` names what is under repair as `resolve_target` takes it, the last Dense layer by nothing; None where the
    model is only run.
    """

    key: str
    spec: ModelSpec
    loss: TrainingLoss
    classes: int
    target: tuple[str, ...] | None
    path: Path
    batch_rows: int
    allow_custom_code: bool


def build_runner(model: ShippedModel) -> ModelRunner:
    """Build a shipped model in this process."""
    built = build_model(model.spec, allow_custom_code=model.allow_custom_code)
    target: Target | None = None
    if model.target is not None:
        target = resolve_target(built, model.loss, model.classes, model.path, model.target)
    return ModelRunner(built, target, model.batch_rows)


@dataclass(eq=False)
class ModelHandle:
    """A model that can run here and on workers."""

    loaded: LoadedModel
    target: Target | None
    batch_rows: int

    @functools.cached_property
    def runner(self) -> ModelRunner:
        """The model in this process."""
        return ModelRunner(self.loaded.model, self.target, self.batch_rows)

    @property
    def tail(self) -> Tail | None:
        """The tail behind a deep target; None where the last Dense layer is under repair."""
        return None if self.target is None else self.target.tail

    @functools.cached_property
    def shipped(self) -> ShippedModel:
        """The model as it travels."""
        names = None if self.target is None else self.target.names
        return ShippedModel(
            key=f"{self.loaded.fingerprint}|{names}|{self.batch_rows}",
            spec=spec_of(self.loaded.model),
            loss=self.loaded.loss,
            classes=self.loaded.classes,
            target=names,
            path=self.loaded.path,
            batch_rows=self.batch_rows,
            allow_custom_code=self.loaded.allow_custom_code,
        )
