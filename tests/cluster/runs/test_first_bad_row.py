"""Bad rows on workers: the first one of the file is told, whichever block ends first."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from ray.cluster_utils import Cluster

from cluster.compute.compute import Compute, ComputeOptions
from engine.core.errors import InputError
from engine.data.image_set import ImageSet, open_image_set
from engine.data.writer import write_image_set
from engine.models.load import LoadedModel, load_model

ROWS = 5000
BAD = (4500, 3100, 3200)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    made = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    made.layers[-1].set_weights([np.ones((4, 3)), np.zeros(3)])
    made.save(path)
    return load_model(path)


def write(path: Path, value: float) -> ImageSet:
    images = np.zeros((ROWS, 2, 2, 1), np.float32)
    images[list(BAD)] = value
    with write_image_set(path, rows=ROWS, image_shape=(2, 2, 1), classes=3) as writer:
        writer.append(images, np.tile(np.eye(3, dtype=np.uint8)[0], (ROWS, 1)))
    return open_image_set(path)


def test_the_first_bad_row(cluster: Cluster, model: LoadedModel, tmp_path: Path) -> None:
    sets = {
        "row 3100 outputs that are NaN or infinite": write(tmp_path / "large.h5", 3e38),
        "row 3100 has pixels that are NaN": write(tmp_path / "nan.h5", np.nan),
    }
    told: dict[str, set[str]] = {found: set() for found in sets}
    for workers in (0, 2):
        options = ComputeOptions(num_workers=workers, spread_rows=workers > 0)
        with Compute(options, lambda line: None) as compute:
            for found, images in 3 * list(sets.items()):
                with pytest.raises(InputError, match=found) as error:
                    compute.predict(compute.handle(model), images)
                told[found].add(str(error.value))
    assert [len(sentences) for sentences in told.values()] == [1, 1]
