"""Small Keras models with images, and the slow formula that everything fast is compared with."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from engine import backend
from engine.backend import keras
from engine.data.preprocess import preprocess_images
from engine.datasets.fashion_mnist import read_split
from engine.fitness.rows import SearchRows, Weights
from engine.models.load import load_model
from engine.models.loss import TrainingLoss
from engine.targets.base import Target
from engine.targets.last_dense import find_target
from engine.targets.model_runner import ModelRunner

# A suite that was started in the background ignores Ctrl-C, and so would the commands that its tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A shared machine stalls now and then; how long an example takes is no property of the code.
hypothesis.settings.register_profile("any time", deadline=None)
hypothesis.settings.load_profile("any time")


WITHOUT_RAY = frozenset(
    f"test_{name}.py"
    for name in ("batch_words", "deep_targets", "neurecover", "readme", "requirements", "rows", "train")
)
"""Tests of commands, in tests/integration, that stay in their process."""


LONG = frozenset(
    f"test_{name}.py"
    for name in (
        *("architectures", "backends", "charts", "layer_kinds", "model_kinds", "pooled", "train"),
        *("batch", "deep_same_answer", "parallel_map", "pool", "same_answer"),
    )
)
"""Tests, beside those of whole commands, that take more than some seconds or wait for Ray."""

KERNEL = Path("tests/engine/fitness/test_last_dense.py")
"""Takes a minute; another file has its name."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` leaves out."""
    root = Path(__file__).parents[1]
    for item in items:
        path = item.path.relative_to(root)
        if path.parts[1] in ("benchmarks", "integration") or path.name in LONG or path == KERNEL:
            item.add_marker(pytest.mark.long)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where two processes share the tests, each has all those that share an instance of Ray, of a cluster or local."""
    from xdist.scheduler import LoadScopeScheduling

    class ByInstance(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.split("::", maxsplit=1)[0])
            alone = file.parts[1] == "engine" or file.name in WITHOUT_RAY
            return str(file) if alone else file.parts[1]

    return ByInstance(config, log)


QUICKSTART = Path(__file__).parents[1] / "cli" / "quickstart_data"
SOFTMAX = TrainingLoss("categorical_crossentropy", from_logits=False, stated=True)


@dataclass(eq=False)
class Subject:
    """A model, rows for it, and what the slow formula says of candidates."""

    model: Any
    target: Target  # the layer under repair
    loss: TrainingLoss
    images: np.ndarray  # (n, ...) float32
    labels: np.ndarray  # (n,) int64
    features: np.ndarray  # (n, D) float32, of the model as it is
    logits: np.ndarray  # (n, C) float32, likewise
    negative: np.ndarray  # (n,) bool, rows the model gets wrong

    @staticmethod
    def of(
        model: Any, images: np.ndarray, labels: np.ndarray, loss: TrainingLoss = SOFTMAX, number: int | None = None
    ) -> Subject:
        target = find_target(model, loss, model.output_shape[-1], Path("model.keras"), number)
        runner = ModelRunner(model, target)
        features, logits = runner.features(images)
        return Subject(model, target, loss, images, labels, features, logits, runner.predict(images) != labels)

    def __post_init__(self) -> None:
        layer, activation = self.target.layer, self.target.layer.activation
        before = keras.Model(self.model.inputs, layer.output)
        self._outputs = backend.model_pass(self.model)
        self._logits = backend.model_pass(before)
        self.activation = next(
            (x.activation.__name__ for x in self.model.layers[-1:] if hasattr(x, "activation")), "softmax"
        )
        layer.activation = keras.activations.linear
        self._logits(self.images)  # traced while the layer is linear: its pre-activations
        layer.activation = activation
        self._outputs(self.images)

    @property
    def old_kernel(self) -> np.ndarray:
        return np.array(self.target.layer.kernel)

    def problem(self, index: np.ndarray) -> tuple[SearchRows, Weights]:
        """What the engine needs to search the weights at index (K, 2)."""
        columns, column = np.unique(index[:, 0], return_inverse=True)
        old = self.old_kernel[index[:, 0], index[:, 1]]
        rows = SearchRows(self.features[:, columns], self.logits, self.labels, self.negative)
        return rows, Weights(column.reshape(-1), index[:, 1], old)

    def candidates(self, index: np.ndarray, particles: int, spread: float = 1.0, seed: int = 0) -> np.ndarray:
        """(P, K) float32: the weights as they are, then moved by a normal multiple of the kernel's deviation."""
        kernel = self.old_kernel
        moves = np.random.default_rng(seed).normal(0, spread * kernel.std(), (particles, len(index)))
        moves[0] = 0
        return (kernel[index[:, 0], index[:, 1]] + moves).astype(np.float32)

    def run(self, index: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs and logits (n, C) of the model with a candidate's weights in it, the model is left as it was."""
        kernel = self.target.layer.kernel
        old = np.array(kernel)
        new = old.copy()
        new[index[:, 0], index[:, 1]] = candidate
        kernel.assign(new)
        try:
            return np.array(self._outputs(self.images)), np.array(self._logits(self.images))
        finally:
            kernel.assign(old)

    def losses(self, logits: np.ndarray) -> np.ndarray:
        """Loss (n,) of every row in float64, by NumPy for softmax and by Keras for everything else."""
        wide = logits.astype(np.float64)
        if self.activation == "softmax":
            top = wide.max(axis=1)
            true = wide[np.arange(len(wide)), self.labels]
            return top - true + np.log(np.exp(wide - top[:, None]).sum(axis=1))
        scores = np.array(backend.activation(self.activation)(keras.ops.convert_to_tensor(wide)))
        assert scores.dtype == np.float64
        true = np.eye(wide.shape[1])[self.labels]
        formula = getattr(keras.losses, self.loss.name)
        return np.array(formula(true, scores, from_logits=self.loss.from_logits))

    def sums(self, index: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """(P, 4) by the slow formula: loss of negatives, of positives, correct negatives, correct positives."""
        found = []
        for candidate in candidates:
            outputs, logits = self.run(index, candidate)
            losses = self.losses(logits)
            correct = outputs.argmax(axis=1) == self.labels
            found.append([x[rows].sum() for x in (losses, correct) for rows in (self.negative, ~self.negative)])
        return np.array(found, dtype=np.float64)


@pytest.fixture(scope="session")
def subject_of() -> Callable[..., Subject]:
    return Subject.of


@pytest.fixture(scope="session")
def quickstart(subject_of: Callable[..., Subject]) -> Subject:
    """The shipped Sequential model on 300 images that it has not seen."""
    loaded = load_model(QUICKSTART / "model.keras")
    images, labels = read_split(QUICKSTART, "train")
    return subject_of(loaded.model, preprocess_images(images[:300], "pad"), labels[:300].astype(np.int64), loaded.loss)


@pytest.fixture(scope="session")
def functional(subject_of: Callable[..., Subject]) -> Subject:
    """A Functional model with a branch, dropout and its softmax in a layer of its own; labels are half right."""
    keras.utils.set_random_seed(3)
    images = keras.Input((12, 12, 1))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, strides=2, activation="relu")(images))
    x = keras.layers.Dense(40, activation="relu")(x)
    x = keras.layers.Add()([x, keras.layers.Dense(40)(x)])
    x = keras.layers.Dense(10, name="scores", kernel_initializer="random_normal")(keras.layers.Dropout(0.5)(x))
    model = keras.Model(images, keras.layers.Activation("softmax")(x))
    random = np.random.default_rng(5)
    rows = random.normal(0, 3, (300, 12, 12, 1)).astype(np.float32)
    predicted = np.array(model(rows)).argmax(axis=1)
    labels = np.where(random.random(300) < 0.5, predicted, random.integers(0, 10, 300))
    return subject_of(model, rows, labels)


@pytest.fixture(scope="session")
def legacy(subject_of: Callable[..., Subject]) -> Subject:
    """The large Sequential model of Keras 2, where REPAIR_DIST_LEGACY_MODELS names the folder it lies in."""
    folder = os.environ.get("REPAIR_DIST_LEGACY_MODELS")
    if not folder:
        pytest.skip("REPAIR_DIST_LEGACY_MODELS names no folder with the large legacy models")
    loaded = load_model(Path(folder) / "fashion-cnn-savedmodel")
    images, labels = read_split(QUICKSTART, "train")
    return subject_of(loaded.model, preprocess_images(images[:300], "pad"), labels[:300].astype(np.int64), loaded.loss)
