"""The order of rows decides nothing: the same rows in another order, in other files, give the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.records.store import comparable, read_table
from engine.data.image_set import open_image_set, open_reader
from engine.data.writer import write_image_set
from tests.cluster.runs.test_methods_same_answer import write_checkpoints
from tests.integration.conftest import Command
from tests.support.run_samples import CLOTHES

HERE = ["--num-workers", "0", "--verbose", "0"]
SMALL = ["--num-particles", "8", "--num-iterations", "4"]
HELD_OUT = ["--val-data", "data/val.h5", "--test-data", "data/test.h5"]
MODEL = ["--model-dir", "model.keras"]


@pytest.fixture
def shuffled(workspace: Path) -> Path:
    """`plain/` has 400 rows and copies of 40 of them in one chunk, `other/` the same in another order in three."""
    source = open_image_set(workspace / "data" / "repair.h5")
    with open_reader(source) as reader:
        images, labels = reader.read_stored(0, source.rows)
    rows = np.concatenate([np.arange(source.rows), np.arange(40) * 7])
    random = np.random.default_rng(1).permutation(rows)
    for name, parts in (("plain", [rows]), ("other", np.split(random, [90, 300])), ("whole", [random])):
        for number, part in enumerate(parts):
            path = workspace / name / str(number) / "repair.h5"
            path.parent.mkdir(parents=True)
            with write_image_set(
                path, rows=len(part), image_shape=source.image_shape, classes=10, label_names=CLOTHES, preprocess="pad"
            ) as writer:
                writer.append(images[part], labels[part])
    return workspace


def assert_one(paths: Sequence[Path]) -> None:
    first, *others = (path.read_bytes() for path in paths)
    assert all(other == first for other in others)


def table(directory: Path, name: str, without: Sequence[str] = ()) -> pa.Table:
    found = comparable(read_table(directory, name))
    return found.drop_columns([column for column in without if column in found.column_names])


@pytest.mark.parametrize("layer", [(), ("--target-layer", "conv2d_2")])
def test_targets_localised_and_optimised(shuffled: Path, command: Command, layer: Sequence[str]) -> None:
    for name in ("plain", "whole"):
        assert command("target", *MODEL, "--data-dir", f"{name}/0", *HERE).code == 0
        inputs = [*MODEL, "--target-data-dir", f"{name}/0/negative/6", *layer, *HERE]
        assert command("localize", *inputs).code == 0
        words = ["--val-data", "data/val.h5", "--seeds", "2", *SMALL, "--output-dir", f"{name}/out"]
        assert command("optimize", *inputs, *words, "--run-dir", f"{name}/run").code == 0
    localised = "weights.arrow" if layer else "weights.csv"
    assert_one([shuffled / name / "0" / "negative" / "6" / localised for name in ("plain", "whole")])
    assert_one([shuffled / name / "out" / "repair" / "model.keras" for name in ("plain", "whole")])
    labels, swarm = ([table(shuffled / name / "run", of) for name in ("plain", "whole")] for of in ("labels", "swarm"))
    assert labels[0].equals(labels[1])
    assert swarm[0].equals(swarm[1])
    assert (shuffled / "plain/0/negative/6/repair.h5").read_bytes() != (
        shuffled / "whole/0/negative/6/repair.h5"
    ).read_bytes()


@pytest.mark.parametrize("method", ["CrossFit", "NeuRecover", "Arachne-v2"])
def test_optimised_by_a_method(shuffled: Path, command: Command, method: str) -> None:
    if method == "NeuRecover":
        (shuffled / "checkpoints").mkdir()
        write_checkpoints(shuffled / "checkpoints")
    weights = ["--weights-dir", "checkpoints"] if method == "NeuRecover" else []
    search = ["--folds", "2"] if method == "CrossFit" else []
    for name in ("plain", "whole"):
        assert command("target", *MODEL, "--data-dir", f"{name}/0", *HERE).code == 0
        inputs = [*MODEL, "--target-data-dir", f"{name}/0/negative/6", "--method", method, *weights, *search, *HERE]
        done = command("optimize", *inputs, *SMALL, "--output-dir", f"{name}/out", "--run-dir", f"{name}/run")
        assert done.code in (0, 3), done.err
    assert_one([shuffled / name / "out" / "repair" / "model.keras" for name in ("plain", "whole")])


def test_crossfit_of_chunks(shuffled: Path, command: Command) -> None:
    for name in ("plain", "other"):
        words = [*MODEL, "--chunks", name, "--labels", "6", *HELD_OUT, "--method", "CrossFit", "--folds", "2"]
        assert command("batch", *words, *SMALL, *HERE, "--output-dir", f"{name}-out").code in (0, 3)
    assert_one([shuffled / f"{name}-out" / "repair" / "model.keras" for name in ("plain", "other")])
    predictions = [table(shuffled / f"{name}-out", "predictions") for name in ("plain", "other")]
    assert predictions[0].equals(predictions[1])


def test_arachne_of_a_chunk(shuffled: Path, command: Command) -> None:
    for name in ("plain", "whole"):
        words = [*MODEL, "--chunks", name, "--labels", "4,6", *HELD_OUT, "--method", "Arachne"]
        assert command("batch", *words, *SMALL, *HERE, "--output-dir", f"{name}-out").code in (0, 3)
    assert_one([shuffled / f"{name}-out" / "repair" / "model.keras" for name in ("plain", "whole")])
    for of in ("swarm", "patches", "predictions"):
        first, second = (table(shuffled / f"{name}-out", of) for name in ("plain", "whole"))
        assert first.equals(second), of


@pytest.mark.parametrize("rows", ["440", "120"])
def test_a_comparison(shuffled: Path, command: Command, rows: str) -> None:
    few = ["--methods", "Arachne,CrossFit,offsets,tail", "--draws", "2", "--recipes", "2:1:epochs=1"]
    for name in ("plain", "other"):
        words = [*MODEL, "--chunks", name, "--labels", "6", *HELD_OUT, *few, "--rows", rows, "--folds", "2", *HERE]
        done = command("compare", *words, "--output-dir", f"{name}-out")
        assert done.code == 0, done.err
    first, second = (table(shuffled / f"{name}-out", "outcomes") for name in ("plain", "other"))
    assert set(first["reading"].to_pylist()) == {"found", "chosen"}
    assert first.num_rows == 16
    assert first.equals(second)
