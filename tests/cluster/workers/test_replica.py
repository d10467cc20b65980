"""A model as it travels to a worker gives there what it gives here."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from cluster.compute.compute import Compute
from cluster.workers.model import build_runner
from engine.core.errors import InputError
from engine.models.load import load_model


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
