"""Evaluations by methods leave the same files wherever their repairs run."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from cluster.compute.compute import Compute, ComputeOptions
from cluster.runs.evaluate_methods import MethodEvaluation, MethodSetting, evaluate_method
from cluster.runs.repair import MethodRepair
from engine.data.outcomes import open_negatives, open_positives
from engine.methods.base import MethodSettings
from engine.metrics.repair_rates import Given
from engine.metrics.requirements import default_promises
from engine.problem.crossfit import CrossFitSettings
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from engine.targets.resolve import resolve_chain
from tests.cluster.conftest import Case

pytestmark = pytest.mark.slow


def setting(particles: int) -> MethodSetting:
    search = SearchSettings(swarm=SwarmSettings(num_particles=particles), num_iterations=4, min_iteration_range=50)
    return MethodSetting(f"num_particles={particles}", MethodSettings(CrossFitSettings(folds=2, search=search), search))


def evaluation(case: Case, output: Path, method: str) -> MethodEvaluation:
    model, folders = case.model, (case.data / "negative" / "6", case.data / "positive")
    target, chain = resolve_chain(model.model, model.loss, model.classes, model.path)
    negatives, others = open_negatives(folders[0]), open_negatives(case.data / "negative")
    positives = open_positives(folders[1])
    assert negatives is not None and others is not None and positives is not None
    return MethodEvaluation(
        repair=MethodRepair(
            model=model,
            target=target,
            chain=chain,
            rows=(others, positives),
            folder=folders[0],
            repaired=(6,),
            requirements=default_promises(None, model.classes).limits,
            stated=False,
            method=method,
            settings=MethodSettings(CrossFitSettings(folds=2)),
            seeds=(3, 4),
            validation=None,
            test=None,
            output=output,
        ),
        settings=(setting(6), setting(8)),
        folders=folders,
        negatives=negatives,
        positives=positives,
        given=Given(None, method, Path("model"), Path("negative"), Path("positive"), Path("out")),
    )


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("method", ["offsets", "Arachne-v2"])
def test_any_number_of_workers(cluster: Cluster, case: Case, tmp_path: Path, method: str) -> None:
    told = []
    for workers in (0, 1, 2):
        with Compute(ComputeOptions(num_workers=workers, threads=1), lambda line: None) as compute:
            told.append(evaluate_method(evaluation(case, tmp_path / str(workers), method), compute))
            # Two settings of two seeds are one grid.
            assert not workers or f"4 repairs: on {workers} workers" in " ".join(compute.decisions)
    here = files(tmp_path / "0")
    assert here == files(tmp_path / "1") == files(tmp_path / "2")
    assert told[0] == told[1] == told[2]
    assert len({content for path, content in here.items() if path.endswith("patch.arrow")}) == 4
