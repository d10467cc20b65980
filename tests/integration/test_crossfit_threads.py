"""CrossFit's bits do not depend on how many threads the machine has: every process computes with one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from engine.data.writer import write_image_set
from tests.support.digests import files_of

ROWS, CLASSES = 420, 3
"""With few classes behind many features, the product that makes a slope is divided among threads along its sum."""

WORDS = ["optimize", "--method", "CrossFit", "--model-dir", "model.keras", "--target-data-dir", "data/negative/1"]
WORDS += ["--recipes", "1:1:epochs=2,4:1:epochs=2", "--folds", "3", "--num-iterations", "4", "--num-workers", "0"]


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores to differ from one")
@pytest.mark.parametrize("layer", ["dense", "conv"])
def test_one_core_and_two(tmp_path: Path, layer: str) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, CLASSES, ROWS)
    images = (rng.normal(size=(ROWS, 32, 32, 3)) + labels[:, None, None, None] / 8).astype(np.float32)
    layers = [keras.layers.Flatten(), keras.layers.Dense(CLASSES, "softmax", name="dense")]
    if layer == "conv":
        layers.insert(0, keras.layers.Conv2D(4, 3, 2, activation="relu", name="conv"))
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    model.compile(loss="categorical_crossentropy")
    model.save(tmp_path / "model.keras")
    with write_image_set(
        tmp_path / "data" / "repair.h5", rows=ROWS, image_shape=(32, 32, 3), classes=CLASSES
    ) as writer:
        writer.append(images, np.eye(CLASSES, dtype=np.uint8)[labels])
    script = str(Path(sys.executable).with_name("repair-dist"))
    targets = [script, "target", "--model-dir", "model.keras", "--data-dir", "data", "--num-workers", "0"]
    assert subprocess.run(targets, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    found = []
    for cores in (1, 2):
        chosen = sorted(os.sched_getaffinity(0))[:cores]
        out = tmp_path / f"out{cores}"
        done = subprocess.run(
            [script, *WORDS, "--target-layer", layer, "--output-dir", str(out), "--run-dir", str(out / "run")],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, chosen),  # noqa: B023
        )
        assert done.returncode == 0, done.stderr
        found.append(dict(files_of(out)))
    assert found[0] == found[1]
    assert any(name.endswith("model.keras") for name in found[0])
