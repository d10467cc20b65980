"""Weights of any layers under repair, and the slow formula that their batched fitness is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from engine import backend
from engine.fitness.rows import SearchRows, Weights
from engine.fitness.tail import TailFitness
from engine.fitness.tiling import Tiling
from engine.layers.head import Head
from engine.models.loss import TrainingLoss
from engine.models.weight_paths import weight_variables
from engine.passes.runners import TailRunner
from engine.targets.base import Target
from engine.targets.last_dense import find_target
from engine.targets.resolve import resolve_target

CATEGORICAL = TrainingLoss("categorical_crossentropy", from_logits=False, stated=True)
CATEGORICAL_LOGITS = TrainingLoss("categorical_crossentropy", from_logits=True, stated=True)
BINARY = TrainingLoss("binary_crossentropy", from_logits=False, stated=True)
BINARY_LOGITS = TrainingLoss("binary_crossentropy", from_logits=True, stated=True)

PATCHES = ("one unit", "all units", "anything")
"""Kinds of patches: many weights of one unit, some of every unit, any at all."""

PARTICLES = 3


@dataclass(frozen=True, eq=False)
class Case:
    """A model with rows for it and weights under repair."""

    model: Any
    loss: TrainingLoss
    target: Target
    inputs: Sequence[np.ndarray]  # one array (n, ..) for each input of the model, of its dtype
    forward: Callable[[Any], Any]  # the ordinary forward pass
    runner: TailRunner  # passes of the tail
    rows: SearchRows  # features, logits, classes and which rows the model gets wrong, as it is

    def fitness(self, places: np.ndarray, particles: int = PARTICLES, tiling: Tiling = Tiling()) -> TailFitness:  # noqa: B008
        kernel = self.target.kernel
        weights = Weights(places, np.zeros_like(places), kernel[places, 0])
        return TailFitness(self.runner.tail, kernel, self.rows, weights, particles, tiling)

    def outputs(self) -> np.ndarray:
        """(n, C) of the model as it is now."""
        return np.asarray(self.forward(_packed(self.model, self.inputs)))

    def sums(self, places: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """(P, 4) by the slow formula: weights set in the model, forward pass, losses in float64."""
        variables = weight_variables(self.model)
        index, labels = np.stack([places, 0 * places], axis=1), self.rows.labels
        found = []
        for candidate in candidates:
            patch = self.target.patch(index, candidate, candidate)
            old = {path: np.array(keras.ops.convert_to_numpy(variables[path])) for path in dict.fromkeys(patch.weight)}
            new = {path: value.copy() for path, value in old.items()}
            for path, place, value in zip(patch.weight, patch.flat_index, candidate, strict=True):
                new[path].flat[place] = value
            try:
                for path, value in new.items():
                    variables[path].assign(value)
                outputs = self.outputs()
            finally:
                for path, value in old.items():
                    variables[path].assign(value)
            losses, correct = (
                row_losses(outputs, labels, self.loss, self.target.head.form),
                outputs.argmax(axis=1) == labels,
            )
            kinds = self.rows.negative, ~self.rows.negative
            found.append([values[rows].sum() for values in (losses, correct) for rows in kinds])
        return np.array(found, dtype=np.float64)


def last_layer(
    activation: str = "softmax", classes: int = 4, loss: TrainingLoss = CATEGORICAL
) -> tuple[Head, SearchRows]:
    """200 random rows behind a last Dense layer whose inputs are six; 60 % and some more are right."""
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(classes, activation=activation)
    model = keras.Sequential([keras.Input((6,)), layer])
    head = find_target(model, loss, classes, Path("model.keras")).head
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(200, 6)).astype(np.float32)
    logits = inputs @ np.asarray(layer.kernel)
    labels = np.where(rng.random(200) < 0.6, logits.argmax(axis=1), rng.integers(classes, size=200))
    return head, SearchRows(inputs, logits, labels, logits.argmax(axis=1) != labels)


def row_losses(outputs: np.ndarray, labels: np.ndarray, loss: TrainingLoss, form: str) -> np.ndarray:
    """Loss (n,) of outputs (n, C) in float64, by NumPy; softmax, by the form of the head, is not clipped."""
    wide = outputs.astype(np.float64)
    true = np.eye(wide.shape[1])[labels]
    if loss.name == "binary_crossentropy":
        if not loss.from_logits:
            assert wide.min() > 1e-6
            assert wide.max() < 1 - 1e-6
            wide = np.log(wide) - np.log1p(-wide)
        return np.mean(np.logaddexp(0, wide) - true * wide, axis=1)
    if loss.from_logits:
        top = wide.max(axis=1)
        return top + np.log(np.exp(wide - top[:, None]).sum(axis=1)) - (wide * true).sum(axis=1)
    share = (wide * true).sum(axis=1) / wide.sum(axis=1)
    if form == "normalised":
        share = np.clip(share, 1e-7, 1 - 1e-7)
    assert share.min() > 1e-30
    return -np.log(share)


def case_of(
    model: Any,
    names: Sequence[str],
    loss: TrainingLoss = CATEGORICAL,
    *,
    rows: int = 40,
    tokens: int = 0,
    shaken: bool = False,
    path: Path = Path("model.keras"),
) -> Case:
    """A case of a model; its labels are half right. Inputs are whole numbers below `tokens`, or real ones; the weights
    of a model that is `shaken` are not drawn anew.
    """
    if not shaken:
        shake(model)
    random = np.random.default_rng(7)
    inputs = [
        (random.integers(0, tokens, (rows, *shape)) if tokens else random.normal(0, 1, (rows, *shape))).astype(dtype)
        for shape, dtype in _inputs(model)
    ]
    forward = _forward(model)
    outputs = np.asarray(forward(_packed(model, inputs)))
    classes = outputs.shape[1]
    predicted = outputs.argmax(axis=1)
    labels = np.where(random.random(rows) < 0.5, predicted, random.integers(0, classes, rows))
    target = resolve_target(model, loss, classes, path, names)
    assert target.tail is not None
    runner = TailRunner(target.tail, 16)
    features = np.asarray(target.features_pass(model)([backend.on_device(array) for array in inputs]), np.float32)
    # Of the logits the search takes their number alone.
    return Case(
        model, loss, target, inputs, forward, runner, SearchRows(features, outputs, labels, predicted != labels)
    )


def shake(model: Any, seed: int = 1) -> None:
    """Give all weights new values: matrices as wide as their inputs ask for, anything but 0 and 1 for the others."""
    random = np.random.default_rng(seed)
    for name, variable in weight_variables(model).items():
        shape = tuple(variable.shape)
        if name.endswith("variance"):
            value = random.uniform(0.5, 2, shape)
        elif name.endswith(("gamma", "scale")):
            value = 1 + random.normal(0, 0.3, shape)
        elif len(shape) < 2:
            value = random.normal(0, 0.3, shape)
        else:
            inputs = np.prod(shape[:-2] if _is_depthwise(shape) else shape[:-1])
            value = random.standard_normal(shape, np.float32) * np.sqrt(2 / inputs)
        variable.assign(value.astype(variable.dtype))


def places_of(target: Target, kind: str, most: int = 9) -> np.ndarray:
    """Places (K,) of a patch of one of `PATCHES`, in no order; a unit is an output channel."""
    random = np.random.default_rng(3)
    if kind == "anything":
        return random.permutation(target.offsets[-1])[:most]
    found = []
    for start, variable in zip(target.offsets, target.tail.variables, strict=False):
        units = int(np.prod(variable.shape[-2:])) if _is_depthwise(variable.shape) else variable.shape[-1]
        size = int(np.prod(variable.shape))
        inputs = random.permutation(size // units)
        if kind == "one unit":
            found.append(start + inputs[:most] * units + units // 2)
        else:
            found.append(start + np.resize(inputs, units) * units + np.arange(units))
    return random.permutation(np.concatenate(found))


def assert_equals_slow(
    case: Case,
    patches: Sequence[np.ndarray],
    rtol: float = 1e-5,
    spread: float = 0.5,
    tiling: Tiling = Tiling(),  # noqa: B008
) -> TailFitness:
    """Counts are equal and losses close for candidates of each patch (K,), all of one search; returns its fitness."""
    places = np.random.default_rng(5).permutation(np.unique(np.concatenate(patches)))
    fitness = case.fitness(places, tiling=tiling)
    old = case.target.kernel[places, 0]
    candidates = [old]
    for number, patch in enumerate(patches):
        moves = np.random.default_rng(number).normal(0, spread, (PARTICLES - 1, len(places)))
        candidates.extend(old + np.where(np.isin(places, patch), moves, 0))
    candidates = np.array(candidates, dtype=np.float32)
    slow, fast = case.sums(places, candidates), fitness.evaluate(candidates)
    assert slow[0, 2] == 0  # of the model as it is
    assert slow[0, 3] == (~case.rows.negative).sum()
    np.testing.assert_array_equal(fast[:, 2:], slow[:, 2:])
    np.testing.assert_allclose(fast[:, :2], slow[:, :2], rtol=rtol, atol=0)
    assert (np.abs(slow[1:, :2] / slow[0, :2] - 1) > 10 * rtol).any(axis=1).all()  # every patch does something
    return fitness


def _is_depthwise(shape: Sequence[int]) -> bool:
    """Such kernels end with the channel of the input and a small multiplier."""
    return len(shape) > 2 and shape[-1] <= 2


def _inputs(model: Any) -> list[tuple[tuple[int, ...], str]]:
    if hasattr(model, "inputs") and model.inputs:
        return [(tuple(tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]
    return [(tuple(model.get_build_config()["input_shape"][1:]), "float32")]


def _packed(model: Any, inputs: Sequence[np.ndarray]) -> Any:
    tensors = [keras.ops.convert_to_tensor(array) for array in inputs]
    if isinstance(model, keras.Sequential) or not getattr(model, "inputs", None):
        return tensors[0]
    return keras.tree.pack_sequence_as(model.input, tensors)


def _forward(model: Any) -> Any:
    """The ordinary forward pass; JAX would compile every operation alone for hours."""
    return backend.model_pass(model) if backend.name == "jax" else lambda rows: model(rows, training=False)
