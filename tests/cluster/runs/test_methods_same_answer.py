"""Repairs by methods: the same rows wherever they run, when workers die, and when a run goes on; plug-ins and nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from cluster.compute.compute import Compute, ComputeOptions
from cluster.compute.works import Works
from cluster.records.store import comparable, read_facts, read_table
from cluster.runs.compare import Comparison, run_comparison
from engine.core.errors import InputError
from engine.data.image_set import open_image_set
from engine.methods.base import MethodSettings
from engine.methods.registry import GROUP, METHODS
from engine.metrics.against import FAILED
from engine.metrics.requirements import default_promises
from engine.models.load import build_model, load_model, spec_of
from engine.models.weight_paths import weight_variables
from engine.problem.crossfit import CrossFitSettings
from engine.search.loop import SearchSettings
from engine.search.swarm import SwarmSettings
from engine.targets.resolve import resolve_chain
from tests.support.batches import dying
from tests.support.plugins import Site

SHIPPED = Path(__file__).parents[3] / "cli" / "quickstart_data"
SEARCH = SearchSettings(swarm=SwarmSettings(num_particles=8), num_iterations=4, min_iteration_range=50)
SETTINGS = MethodSettings(CrossFitSettings(folds=2, search=SEARCH), SEARCH)
DRAWS = 2
FEW = ("Arachne(objective=requirements)", "NeuRecover", "offsets(folds=2)", "CrossFit")
"""Of each kind one; all methods take their time."""


def write_checkpoints(folder: Path) -> None:
    """The model, and as the epoch before it a copy with shaken Dense layers that takes more for a Shirt."""
    model = load_model(SHIPPED / "model.keras")
    _, chain = resolve_chain(model.model, model.loss, model.classes, model.path)
    copy = build_model(spec_of(model.model))
    copy.save_weights(folder / "2.weights.h5")
    random = np.random.default_rng(0)
    variables = weight_variables(copy)
    for path, value in chain.values.items():
        variables[path].assign(value + 0.02 * random.standard_normal(value.shape).astype(np.float32))
    offsets = np.array(variables[chain.offsets])
    offsets[6] += 4
    variables[chain.offsets].assign(offsets)
    copy.save_weights(folder / "1.weights.h5")


def comparison(chunks: Path, output: Path, methods: tuple[str, ...], rows: int = 120) -> Comparison:
    model = load_model(SHIPPED / "model.keras")
    target, chain = resolve_chain(model.model, model.loss, model.classes, model.path)
    return Comparison(
        model=model,
        target=target,
        chain=chain,
        rows=tuple(open_image_set(chunks / "chunks" / name / "repair.h5") for name in ("0", "1")),
        names=("0", "1"),
        repaired=(6,),
        requirements=default_promises(None, model.classes).limits,
        stated=False,
        settings=SETTINGS,
        methods=methods,
        draws=DRAWS,
        rows_of_draw=rows,
        seed=3,
        validation=open_image_set(chunks / "val.h5"),
        test=open_image_set(chunks / "test.h5"),
        checkpoints=chunks / "checkpoints",
        last=(2, 1),
        output=output,
    )


def here() -> Compute:
    return Compute(ComputeOptions(num_workers=0, threads=1), lambda line: None)


def tables(directory: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = comparable(read_table(directory, "outcomes")).to_pylist()
    return found


@pytest.fixture(scope="module", autouse=True)
def checkpoints(chunks: Path) -> None:
    (chunks / "checkpoints").mkdir(exist_ok=True)
    write_checkpoints(chunks / "checkpoints")


@pytest.fixture(scope="module", params=[FEW, pytest.param(tuple(METHODS), marks=pytest.mark.slow)], ids=["few", "all"])
def methods(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture(scope="module")
def alone(chunks: Path, methods: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("alone") / "run"
    with here() as compute:
        run_comparison(comparison(chunks, directory, methods), compute)
    return directory


def test_every_method_has_its_rows(alone: Path, methods: tuple[str, ...]) -> None:
    rows = tables(alone)
    assert {(row["method"], row["draw"]) for row in rows} == {(name, draw) for name in methods for draw in range(DRAWS)}
    facts = read_facts(alone)
    assert facts["state"] == "done" and facts["reference"] == "CrossFit" and facts["pool"] >= facts["rows"] == 120
    before = read_table(alone, "predictions")
    assert before["before"].to_pylist() == before["after"].to_pylist()
    assert {row["method"]: row["note"] for row in rows if row["reading"] == FAILED} == {}
    for row in rows:
        after, label, was = row["after"], before["label"].to_pylist(), before["before"].to_pylist()
        assert row["fixed"] == sum(a == b != c for a, b, c in zip(after, label, was, strict=True))
        assert row["broken"] == sum(c == b != a for a, b, c in zip(after, label, was, strict=True))
        assert row["all"] == pytest.approx((row["fixed"] - row["broken"]) / len(after))
        mine = [(a == b) - (c == b) for a, b, c in zip(after, label, was, strict=True) if b == 6]
        assert row["gain"] == pytest.approx(sum(mine) / len(mine))


@pytest.mark.parametrize("workers", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_any_number_of_workers(
    cluster: Cluster, chunks: Path, alone: Path, methods: tuple[str, ...], tmp_path: Path, workers: int
) -> None:
    with Compute(ComputeOptions(num_workers=workers, threads=1), lambda line: None) as compute:
        run_comparison(comparison(chunks, tmp_path / "run", methods), compute)
        assert f"repairs: on {workers} workers" in " ".join(compute.decisions)
    assert tables(tmp_path / "run") == tables(alone)


def stopped(work: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    results, count = Works.results, iter(range(4))

    def some(executor: Works) -> Any:
        if next(count) == 3:
            raise KeyboardInterrupt
        return results(executor)

    with monkeypatch.context() as patch, here() as compute, pytest.raises(KeyboardInterrupt):
        patch.setattr(Works, "results", some)
        run_comparison(work, compute)


def test_a_run_that_was_interrupted_goes_on(
    chunks: Path, alone: Path, methods: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    stopped(comparison(chunks, directory, methods), monkeypatch)
    assert read_facts(directory)["state"] == "interrupted"
    assert len({(row["method"], row["draw"]) for row in read_table(directory, "outcomes").to_pylist()}) == 3
    with here() as compute, pytest.raises(InputError, match="a run is there already"):
        run_comparison(comparison(chunks, directory, methods), compute)
    with here() as compute, pytest.raises(InputError, match="was begun with rows 120 and this command has 100"):
        run_comparison(comparison(chunks, directory, methods, rows=100), compute, resume=True)
    done = []
    with here() as compute:
        run_comparison(
            comparison(chunks, directory, methods), compute, resume=True, on_repairs=lambda count: done.append
        )
    assert tables(directory) == tables(alone)
    assert done[0] == 3 and sum(done) == len(methods) * DRAWS
    files = {path: path.stat().st_mtime_ns for path in directory.rglob("*.arrow")}
    with here() as compute:
        run_comparison(comparison(chunks, directory, methods), compute, resume=True)
    assert files == {path: path.stat().st_mtime_ns for path in directory.rglob("*.arrow")}


def test_a_killed_worker(cluster: Cluster, chunks: Path, alone: Path, methods: tuple[str, ...], tmp_path: Path) -> None:
    last = dying(1, tmp_path / "calls", "run_work")
    with Compute(ComputeOptions(num_workers=2, threads=1), lambda line: None, last) as compute:
        run_comparison(comparison(chunks, tmp_path / "run", methods), compute)
        assert compute.redispatched >= 1
    assert tables(tmp_path / "run") == tables(alone)


METHOD = """
from engine.methods.base import Method, NOTHING, Repair

def repair(job):
    if job.seed == 4:
        raise ZeroDivisionError("there is nothing to divide by")
    return Repair([NOTHING])

METHOD = Method("lazy", repair, "nothing", "rest", "a test")
"""


def test_a_method_of_another_package(chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path / "site", monkeypatch)
    site.install("lazy-repair", {"lazy": "lazy_repair:METHOD", "gone": "nowhere:METHOD"}, METHOD, group=GROUP)
    with here() as compute:
        run_comparison(comparison(chunks, tmp_path / "run", ("offsets", "lazy", "gone")), compute)
    rows = {(row["method"], row["draw"], row["reading"]): row for row in tables(tmp_path / "run")}
    assert rows["lazy", 0, "chosen"]["fixed"] == rows["lazy", 0, "chosen"]["broken"] == 0
    assert rows["lazy", 1, "failed"]["note"] == "ZeroDivisionError: there is nothing to divide by"
    assert "cannot be imported from nowhere:METHOD" in rows["gone", 0, "failed"]["note"]
    assert ("offsets", 1, "chosen") in rows


LATE = """
from pathlib import Path
from engine.methods.base import Method, NOTHING, Repair

def repair(job):
    if not Path({ready!r}).exists():
        raise ZeroDivisionError("it is too early")
    return Repair([NOTHING])

METHOD = Method("late", repair, "nothing", "rest", "a test")
"""


def test_failed_repairs_run_again_and_another_plug_in_does_not_go_on(
    chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, ready, directory = Site(tmp_path / "site", monkeypatch), tmp_path / "ready", tmp_path / "run"
    code = LATE.format(ready=str(ready))
    site.install("late-repair", {"late": "late_repair:METHOD"}, code, group=GROUP)
    work = comparison(chunks, directory, ("late", "offsets"))
    stopped(work, monkeypatch)
    known = {(row["method"], row["draw"]): row for row in tables(directory)}
    assert {key: row["reading"] == FAILED for key, row in known.items()} == {
        ("late", 0): True,
        ("late", 1): True,
        ("offsets", 0): False,
    }
    ready.touch()
    module = site.folder / "late_repair.py"
    module.write_text(f"{code}\n# another one", encoding="utf-8")
    with (
        here() as compute,
        pytest.raises(InputError, match=r"was begun with foreign methods .*late-repair 1\.0") as told,
    ):
        run_comparison(work, compute, resume=True)
    assert str(told.value).endswith("expected the same to resume")
    module.write_text(code, encoding="utf-8")
    done = []
    with here() as compute:
        run_comparison(work, compute, resume=True, on_repairs=lambda count: done.append)
    assert done == [1, 1, 1, 1]  # what had not failed, and one after the other
    rows = tables(directory)
    assert {(row["method"], row["draw"], row["reading"]) for row in rows} == {
        (method, draw, reading)
        for method in ("late", "offsets")
        for draw in range(DRAWS)
        for reading in ("found", "chosen")
    }
    assert [row for row in rows if (row["method"], row["draw"]) == ("offsets", 0)][-1] == known["offsets", 0]


def test_a_node_without_the_plug_in_is_refused(
    cluster: Cluster, chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path / "site", monkeypatch)  # which only this process knows of
    site.install("lazy-repair", {"lazy": "lazy_repair:METHOD"}, METHOD, group=GROUP)
    options = ComputeOptions(num_workers=1, threads=1)
    with (
        Compute(options, lambda line: None) as compute,
        pytest.raises(InputError, match=r"^on .*: method lazy is not installed here, expected the package"),
    ):
        run_comparison(comparison(chunks, tmp_path / "run", ("lazy",)), compute)
