"""What checkpoints are to a run, and what they predict wherever it is computed; the model stays as it was."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from cluster.compute.compute import Compute, ComputeOptions
from cluster.runs.localize import checkpoint_facts, checkpoints_of
from engine.core.errors import InputError
from engine.data.outcomes import open_negatives, open_positives
from engine.methods.base import Checkpoint
from engine.models.load import build_model, spec_of
from engine.models.weight_paths import weight_variables
from engine.targets.resolve import resolve_chain
from tests.cluster.conftest import Case


def test_only_what_is_compared_counts_and_by_its_bytes(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        (tmp_path / f"{epoch}.weights.h5").write_text(f"epoch {epoch}")
    first = checkpoint_facts(tmp_path, (2, 1))
    assert first == {f"{k}.weights.h5": hashlib.sha256(f"epoch {k}".encode()).hexdigest() for k in (2, 3)}
    (tmp_path / "1.weights.h5").write_text("other")
    (tmp_path / "notes.txt").write_text("other")
    assert checkpoint_facts(tmp_path, (2, 1)) == first != checkpoint_facts(tmp_path, (3, 1))
    (tmp_path / "3.weights.h5").write_text("other")
    assert checkpoint_facts(tmp_path, (2, 1)) != first
    assert checkpoint_facts(None, (2, 1)) == {}


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no such folder, expected one with checkpoints"):
        checkpoint_facts(tmp_path / "none", (2, 1))
    (tmp_path / "1.weights.h5").touch()
    with pytest.raises(InputError, match=r"found 1 checkpoint .* expected those of at least two epochs"):
        checkpoint_facts(tmp_path, (2, 1))


@pytest.mark.slow
def test_workers_predict_with_the_weights_of_each_checkpoint(case: Case, cluster: Cluster, tmp_path: Path) -> None:
    model = case.model
    _, chain = resolve_chain(model.model, model.loss, model.classes, model.path)
    copy = build_model(spec_of(model.model))
    before = {path: np.array(variable) for path, variable in weight_variables(model.model).items()}
    copy.save_weights(tmp_path / "2.weights.h5")
    for variable in copy.weights:
        variable.assign(np.array(variable) * np.float32(1.25))
    copy.save_weights(tmp_path / "1.weights.h5")
    sets = [open_negatives(case.data / "negative"), open_positives(case.data / "positive")]

    def found(options: ComputeOptions) -> tuple[Checkpoint, Checkpoint]:
        with Compute(options, lambda line: None) as compute:
            return checkpoints_of(compute, model, chain, tmp_path, sets, warn=pytest.fail)

    here = found(ComputeOptions(num_workers=0))
    there = found(ComputeOptions(num_workers=2, address=cluster.address, spread_rows=True, threads=1))
    for one, other in zip(here, there, strict=True):
        assert one.name == other.name and np.array_equal(one.predicted, other.predicted)
        assert one.others == other.others and set(one.values) == set(chain.values)
    labels = np.concatenate([images.labels for images in sets])
    right = here[1].predicted == labels
    assert right.tolist() == [False] * sets[0].rows + [True] * sets[1].rows  # the last is the model
    assert (here[0].predicted != here[1].predicted).any()
    # A quarter of what is not in the chain, array by array; the first checkpoint has none before it.
    away = [np.abs(value).mean() / 4 for path, value in before.items() if path not in chain.values]
    assert here[0].others == 0.0 and here[1].others == pytest.approx(sum(away), rel=1e-4)
    after = weight_variables(model.model)
    assert all(np.array_equal(value, np.array(after[path])) for path, value in before.items())
