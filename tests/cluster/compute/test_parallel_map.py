"""Work on pictures spread over Ray workers: the same files as in this process, whatever happens to workers."""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.cluster_utils import Cluster

from cluster.compute.parallel_map import RayMap
from engine.core.errors import InputError, WorkError
from engine.core.parallel import ParallelMap, in_process
from engine.datasets.bdd_objects import prepare_bdd_objects
from engine.datasets.category_dir import create_category_dir
from engine.datasets.subset import SubsetSettings, create_image_subset
from tests.support.scenes import Scenes, draw_scenes

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not have the tests


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return draw_scenes(tmp_path_factory.mktemp("scenes"), "val", 15, width=320, height=180)


def everything(scenes: Scenes, root: Path, spread: ParallelMap) -> dict[str, bytes]:
    """All files from scenes to image sets."""
    create_category_dir(scenes.labels, scenes.images, root / "categories", spread=spread)
    create_image_subset(root / "categories", root / "subset", SubsetSettings(150, resize_to=40), spread=spread)
    prepare_bdd_objects(root / "subset", root / "data", single_dir=True, random_state=3, spread=spread)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.datasets.category_dir.SCENES_PER_PIECE", 3)
    monkeypatch.setattr("engine.datasets.subset.IMAGES_PER_PIECE", 20)
    monkeypatch.setattr("engine.datasets.splits.WRITE_ROWS", 16)


def test_any_number_of_workers_makes_the_same_files(
    cluster: Cluster, scenes: Scenes, tmp_path: Path, small_pieces: None
) -> None:
    expected = everything(scenes, tmp_path / "here", in_process)
    assert len(expected) > 220
    for number in (1, 2):
        said: list[str] = []
        with RayMap(number, cluster.address, said.append) as workers:
            assert everything(scenes, tmp_path / str(number), workers) == expected
        assert [line.partition(":")[2] for line in said] == [f" on {number} workers (asked for)"] * 3


def _square(number: int) -> int:
    return number * number


def _pid(number: int) -> int:
    del number
    return os.getpid()


def test_where_the_work_is_done(cluster: Cluster) -> None:
    with RayMap(2, cluster.address, lambda line: None) as workers:
        assert dict(workers(_square, range(20), 20)) == {number: number * number for number in range(20)}
        assert os.getpid() not in dict(workers(_pid, range(4), 4)).values()
    with RayMap(0, say=lambda line: None) as workers:
        assert list(workers(_pid, range(3), 3)) == [(number, os.getpid()) for number in range(3)]
    said: list[str] = []
    with RayMap(say=said.append) as workers:  # by cost: squares are not worth a worker
        assert list(workers(_pid, range(3), 3)) == [(number, os.getpid()) for number in range(3)]
        assert list(workers(_square, [], 0)) == []
    assert "in this process" in said[0]
    with pytest.raises(InputError, match="num_workers is -1"):
        RayMap(-1)
    with pytest.raises(InputError, match=r"num_workers is 0 .* and address is 'auto', expected one without the other"):
        RayMap(0, "auto")
    with pytest.raises(InputError, match=r"which take .* GiB and .* GiB are free, expected at most \d+ \(more than"):
        RayMap(10**30)


def _die_once(number: int, folder: Path) -> int:
    """The process of every third piece is killed the first time."""
    mark = folder / str(number)
    if number % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_pieces_of_dead_workers_are_done_again(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.workers.pool.CALL_ATTEMPTS", 2)
    with RayMap(2, cluster.address, lambda line: None) as workers:
        done = dict(workers(functools.partial(_die_once, folder=tmp_path), range(7), 7))
        assert done == {number: number for number in range(7)}
        assert len(list(tmp_path.iterdir())) == 3
        with pytest.raises(WorkError, match="2 workers died over one piece"):
            list(workers(_die, [1], 1))


def _refuse(number: int) -> int:
    raise InputError(f"{number} is torn, expected a whole number")


def _only_in(number: int, pid: int) -> int:
    """A worker that does not see a file."""
    if os.getpid() != pid:
        raise FileNotFoundError(2, "No such file or directory", "/elsewhere/a.jpg")
    return number


def test_errors_of_workers(cluster: Cluster) -> None:
    said: list[str] = []
    with RayMap(2, cluster.address, said.append) as workers:
        with pytest.raises(InputError, match=r"^0 is torn, expected a whole number$"):
            list(workers(_refuse, [0], 1))
        seen = dict(workers(functools.partial(_only_in, pid=os.getpid()), range(5), 5))
        assert seen == {number: number for number in range(5)}
    assert sum("does not see /elsewhere/a.jpg" in line for line in said) == 1


def test_pieces_are_taken_as_they_are_needed(cluster: Cluster) -> None:
    """A million pieces are not held at once."""
    taken: list[int] = []

    def pieces() -> object:
        for number in range(30):
            taken.append(number)
            yield number

    with RayMap(2, cluster.address, lambda line: None) as workers:
        for done, _ in enumerate(workers(_square, pieces(), 30), start=1):  # type: ignore[arg-type]
            assert len(taken) <= done + 2
