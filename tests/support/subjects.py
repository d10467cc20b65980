"""A small repair as methods see it: three labels in the plane of four features, one of them often taken for others."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace

import numpy as np

from engine.core.plans import run_here
from engine.core.types import Float32
from engine.layers.dense_chain import DenseChain, DenseLayer
from engine.layers.head import Head
from engine.methods.base import Checkpoint, Method, MethodJob, MethodSettings, Repair, Subject
from engine.methods.outcome import MethodOutcome, repaired
from engine.metrics.requirements import Requirement
from engine.problem.case import LayerInputs, SeenRows
from engine.problem.crossfit import CrossFitSettings
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings

CLASSES, LABEL = 3, 2
REQUIRED = (
    Requirement("max_drop", 0.02, None, None, "drop of all labels together at most 2 points"),
    *(
        Requirement("max_drop", 0.1, (label,), None, f"drop of {label} at most 10 points", wildcard=True)
        for label in range(CLASSES)
    ),
)


def carry_out(method: Method, job: MethodJob) -> MethodOutcome:
    """Run a method in this process and judge what it offers."""
    return run_here(repaired(method, job))


def offered(method: Method, job: MethodJob) -> Repair:
    """What a method offers, with all the work that it yields done in this process."""
    found = method.repair(job)
    return run_here(found) if isinstance(found, Generator) else found


def bits(values: Mapping[str, Float32]) -> dict[str, bytes]:
    return {path: value.tobytes() for path, value in values.items()}


def forward(values: dict[str, Float32], inputs: Float32) -> Float32:
    """The slow formula: logits of hidden and last layer."""
    hidden = np.maximum(inputs @ values["hidden/kernel"] + values["hidden/bias"], 0)
    return hidden @ values["last/kernel"] + values.get("last/bias", np.zeros(CLASSES, np.float32))


def a_subject(rows: int = 240, *, bias: bool = True, seed: int = 3, scale: float = 1.0) -> Subject:
    """Rows to repair on, and as many for validation and test; the model misses many of label 2.

    The weights of the last layer are `scale` times as large.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, 4))
    values = {
        "hidden/kernel": np.concatenate([np.eye(4), -np.eye(4)], axis=1).astype(np.float32),
        "hidden/bias": np.full(8, 0.1, np.float32),
        "last/kernel": np.concatenate([centres.T, -centres.T]).astype(np.float32) / 2 * np.float32(scale),
        "last/bias": np.array([0.0, 0.0, -1.0], np.float32) - (centres**2).sum(axis=1).astype(np.float32) / 4,
    }
    layers = [DenseLayer("hidden/kernel", "hidden/bias", "relu"), DenseLayer("last/kernel", "last/bias", "linear")]
    if not bias:
        layers[1] = replace(layers[1], bias=None)
        del values["last/bias"]
    chain = DenseChain(Head("log_softmax", "linear"), tuple(layers), values)

    def some() -> SeenRows:
        true = rng.integers(0, CLASSES, rows)
        inputs = (centres[true] + rng.normal(size=(rows, 4))).astype(np.float32)
        digests = np.unique(rng.integers(0, 256, (rows, 16)).astype(np.uint8), axis=0)  # rows come by digest
        return SeenRows.of(chain.head, LayerInputs(inputs, true, digests, (4,), CLASSES), forward(values, inputs))

    search = SearchSettings(swarm=SwarmSettings(8), num_iterations=6, min_iteration_range=6)
    settings = MethodSettings(CrossFitSettings(folds=3, search=search), search, confusion_rows=2)
    pool = some()
    far = np.random.default_rng(5)  # from where some weight moved that NeuRecover blames
    earlier = {path: value + far.normal(size=value.shape).astype(np.float32) for path, value in values.items()}
    checkpoints = tuple(
        Checkpoint(f"weights.{epoch}", kept, forward(kept, pool.rows.inputs).argmax(axis=1))
        for epoch, kept in enumerate((earlier, values))
    )
    return Subject(chain, pool, some(), some(), (LABEL,), REQUIRED, settings, checkpoints)
