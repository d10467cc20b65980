"""A model as it travels to a worker gives there what it gives here."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from cluster.compute.compute import Compute
from cluster.workers.model import build_runner
from cluster.workers.replica import Replica
from engine.core.errors import InputError
from engine.models.load import load_model
from engine.targets.resolve import resolve_target


def test_a_worker_that_is_ready_builds_no_model_in_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy")
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    target = resolve_target(loaded.model, loaded.loss, loaded.classes, loaded.path, ())
    shipped = Compute(say=lambda line: None).handle(loaded, target).shipped
    monkeypatch.setattr("engine.backend.limit_threads", lambda threads: None)  # this process computes already
    replica = Replica(1)
    replica.warm_up(shipped, (5, 4, 1))  # of images that the model does not take: not told here
    replica.warm_up(shipped, (4, 4, 1))
    monkeypatch.setattr("cluster.workers.model.build_runner", None)
    logits = replica.layer(shipped).logits(np.ones((2, 16), np.float32), target.kernel)
    np.testing.assert_allclose(logits, np.ones((2, 16)) @ target.kernel, rtol=1e-5)


def test_leave_to_run_custom_code_travels_with_the_model(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Lambda(lambda x: x * 2.0)])
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(3, activation="softmax"))
    model.save(tmp_path / "model.keras")
    with pytest.raises(InputError, match="allow-custom-code"):
        load_model(tmp_path / "model.keras")
    handle = Compute(say=lambda line: None).handle(load_model(tmp_path / "model.keras", allow_custom_code=True))
    images = np.random.default_rng(0).random((5, 4, 4, 1), dtype=np.float32)
    np.testing.assert_array_equal(build_runner(handle.shipped).outputs(images), handle.runner.outputs(images))
