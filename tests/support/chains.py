"""Small models, their chains, and mixtures of made-up tunings judged by the models."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from engine import backend
from engine.fitness.mixture import Mixture
from engine.fitness.rows import SearchRows
from engine.layers.dense_chain import DenseChain, chain_of
from engine.layers.tail_chain import Chain, TailChain, tail_chain_of
from engine.models.graph import graph_of
from engine.models.loss import TrainingLoss
from engine.models.weight_paths import weight_variables
from engine.targets.model_runner import ModelRunner
from engine.targets.resolve import headed, resolve_target, resolve_tuned
from engine.tuning.train import FoldRows
from tests.support.tails import BINARY, BINARY_LOGITS, CATEGORICAL, CATEGORICAL_LOGITS, row_losses, shake

L = keras.layers
CLASSES = 5

Layers = tuple[list[Any], TrainingLoss, tuple[str, ...]]

PATH = Path("model.keras")


class Attention(L.Layer):
    """Attention of what it gets to itself, with its norm, as transformers have it; nine places of four numbers."""

    def __init__(self) -> None:
        super().__init__(name="block")
        self.norm = L.LayerNormalization(name="norm")
        self.attention = L.MultiHeadAttention(2, 3, name="attention")

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.norm.build(shape)
        self.attention.build(shape, shape)

    def call(self, x: Any) -> Any:
        y = self.norm(x)
        return x + self.attention(y, y)


def _layers(name: str) -> Layers:
    """Layers of a network, its loss, and which weights are to be tuned."""
    conv = [L.Conv2D(2, 3, activation="relu"), L.Flatten()]
    last = functools.partial(L.Dense, CLASSES, name="last")
    three = [*conv, L.Dense(10, "tanh", name="first"), L.Dense(8, "gelu", name="second")]
    apart = [L.Dense(9, name="first"), L.Activation("relu"), last(), L.Activation("sigmoid")]
    return {
        "one, binary": ([*conv, last("sigmoid")], BINARY, ()),
        "two": ([L.Flatten(), L.Dense(12, "relu", name="first"), L.Dropout(0.5), last("softmax")], CATEGORICAL, ()),
        "two, first alone": (
            [L.Flatten(), L.Dense(12, "relu", name="first"), last("softmax")],
            CATEGORICAL,
            ("first/bias",),
        ),
        "two, apart": ([*conv, *apart], CATEGORICAL, ()),
        "three, no last bias": ([*three, last(use_bias=False)], CATEGORICAL_LOGITS, ()),
        "three, first alone": ([*three, last("softmax")], CATEGORICAL, ("first/kernel",)),
        "any, convolution": (
            [
                *(L.Conv2D(4, 3, 2, padding="same", name="conv"), L.BatchNormalization(name="norm"), L.ReLU()),
                *(L.Flatten(), last("softmax")),
            ],
            CATEGORICAL,
            ("conv", "norm"),
        ),
        "any, attention": (
            [L.Reshape((9, 4)), Attention(), L.Flatten(), last(use_bias=False)],
            CATEGORICAL_LOGITS,
            ("block", "last"),
        ),
        "three, second frozen": ([*three, last()], BINARY_LOGITS, ("first/kernel", "last/bias")),
    }[name]


@dataclass(frozen=True, eq=False)
class Net:
    """A model with a chain, and rows for it."""

    model: Any
    loss: TrainingLoss
    chain: Chain  # what is tuned
    images: np.ndarray  # (n, ..) float32
    labels: np.ndarray  # (n,) int64, half of them right
    features: np.ndarray  # (n, D) float32, inputs of the chain
    logits: np.ndarray  # (n, C) float32
    before: np.ndarray  # (n,) int64, classes that the model predicts

    def outputs(self, values: Mapping[str, np.ndarray], rows: Any = slice(None)) -> np.ndarray:
        """Outputs (n, C) of the model with other weights in it, by path; it is left as it was."""
        paths = {id(variable): path for path, variable in weight_variables(self.model).items()}
        old = self.model.get_weights()
        names = [paths[id(variable)] for variable in self.model.weights]
        assert set(values) <= set(names)
        self.model.set_weights([values.get(name, value) for name, value in zip(names, old, strict=True)])
        try:
            return _forward(self.model, self.images[rows])
        finally:
            self.model.set_weights(old)

    def losses(self, outputs: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        """Loss (n,) of outputs, float64."""
        return row_losses(outputs, self.labels[rows], self.loss, self.chain.head.form)

    def logits_of(self, outputs: np.ndarray) -> np.ndarray:
        """What outputs were made of, but for a constant of each row; float64."""
        wide = outputs.astype(np.float64)
        if self.loss.from_logits:
            return wide
        return np.log(wide) - np.log1p(-wide) if self.chain.head.activation == "sigmoid" else np.log(wide)

    def fold_rows(self, folds: int) -> FoldRows:
        """Rows dealt to folds in turn."""
        return FoldRows(self.features, self.labels, np.arange(len(self.labels)) % folds, "rows")

    def rows(self, order: np.ndarray, group: np.ndarray, repaired: Sequence[int] = (0, 1, 2)) -> SearchRows:
        """Rows in an order, each judged under the changes of its group."""
        right = self.before[order] == self.labels[order]
        negative = ~right & np.isin(self.labels[order], repaired)
        return SearchRows(
            self.features[order], self.logits[order], self.labels[order], negative, ~(right | negative), group
        )


@functools.cache
def net(name: str, rows: int = 90) -> Net:
    """One of the models of `_layers`, with random rows."""
    layers, loss, wanted = _layers(name)
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    shake(model)
    chain: Chain
    if name.startswith("any"):
        target, chain = resolve_tuned(model, loss, CLASSES, PATH, wanted)
    else:
        graph, head = headed(graph_of(model), loss, PATH)
        chain = chain_of(model, graph, head, PATH, wanted)
    random = np.random.default_rng(4)
    images = random.normal(0, 1, (rows, 6, 6, 1)).astype(np.float32)
    before = _forward(model, images).argmax(axis=1)
    labels = np.where(random.random(rows) < 0.5, before, random.integers(0, CLASSES, rows))
    if isinstance(chain, DenseChain):
        features = _forward(keras.Model(model.inputs, model.get_layer(chain.layers[0].name).input), images)
    else:
        features = ModelRunner(model, target, path=PATH).inputs(images)
    logits = chain.known_logits(features)
    return Net(model, loss, chain, images, labels, features, logits, before)


def through_the_tail(subject: Net) -> TailChain:
    """The same weights as those of a chain of Dense layers, tuned and mixed through the tail."""
    target = resolve_target(subject.model, subject.loss, CLASSES, PATH, subject.chain.tuned)
    assert target.tail is not None and isinstance(subject.chain, DenseChain)
    return tail_chain_of(target.tail, CLASSES, subject.chain)


def random_changes(chain: Chain, recipes: int, seed: int, size: float = 0.3) -> dict[str, np.ndarray]:
    """Changes (R, ..) by path, as if tuned; `size` is in deviations of a weight."""
    random = np.random.default_rng(seed)
    return {
        path: (size * chain.values[path].std() * random.normal(0, 1, (recipes, *chain.values[path].shape))).astype("f4")
        for path in chain.tuned
    }


def candidates_of(mixture: Mixture, count: int, seed: int = 0) -> np.ndarray:
    """(count, R + C) float32, the first of them the model as it is."""
    random = np.random.default_rng(seed)
    found = random.normal(0.5, 0.5, (count, mixture.size))
    found[:, mixture.recipes :] = random.normal(0, 0.3, (count, mixture.offsets))
    found[0] = 0
    return found.astype(np.float32)


def mixed(mixture: Mixture, group: int, candidate: np.ndarray) -> dict[str, np.ndarray]:
    """Weights of a candidate for the rows of a group, by the formula of `engine.fitness.mixture`."""
    chain, coefficients = mixture.chain, candidate[: mixture.recipes].astype(np.float64)
    values = {
        path: chain.values[path] + sum(c * change for c, change in zip(coefficients, changes, strict=True))
        for path, changes in mixture.changes[group].items()
    }
    if chain.offsets is not None:
        values[chain.offsets] = values.get(chain.offsets, chain.values[chain.offsets]) + candidate[mixture.recipes :]
    return {path: value.astype(np.float32) for path, value in values.items()}


def slow_outputs(subject: Net, mixture: Mixture, order: np.ndarray, group: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Outputs (n, C) of rows in an order under one candidate, group by group with its weights in the model."""
    found = np.empty((len(order), CLASSES), np.float32)
    for number in np.unique(group):
        members = group == number
        found[members] = subject.outputs(mixed(mixture, number, one), order[members])
    return found


def _forward(model: Any, rows: np.ndarray) -> np.ndarray:
    """JAX would compile every operation alone."""
    tensor = keras.ops.convert_to_tensor(rows)
    return np.asarray(backend.model_pass(model)(tensor) if backend.name == "jax" else model(tensor, training=False))
