"""What docs/cluster.md says, done with real Ray: a laptop, eight GPUs, a private cluster, a submitted job.

The cluster's Python has everything but this project: its code must travel with the command.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.main import run
from cluster.ray_cluster.connect import connected
from engine.core.errors import InputError
from tests.support.batches import differences

pytestmark = pytest.mark.slow

SCRIPT = Path(sys.executable).with_name("repair-dist")
OPTIONS = ["--labels", "6", "--mode", "independent", "--positive-weights", "0.15x", "--fronts", "1"]
OPTIONS += ["--num-particles", "16", "--num-iterations", "6"]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and the processes that it left behind."""

    code: int
    out: str
    err: str
    left: list[int]


@dataclass(frozen=True)
class Head:
    """A running cluster of one node: its addresses, and the variables of those who may use it."""

    address: str
    dashboard: str
    variables: dict[str, str]


@pytest.fixture(scope="module")
def words(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small batch on two chunks, all paths absolute."""
    chunks = tmp_path_factory.mktemp("clusters") / "chunks"
    split = ["split", prepared / "data" / "repair.h5", "--chunk-size", 200, "--chunks", 2, "--output-dir", chunks]
    assert run([str(word) for word in split]) == 0
    files = ["--model-dir", prepared / "model.keras", "--chunks", chunks, "--val-data", prepared / "data" / "val.h5"]
    return [str(word) for word in ("batch", "--method", "Arachne", *files, *OPTIONS)]


@pytest.fixture(scope="module")
def on_a_laptop(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that stays in the process by default; every other one must leave the same."""
    folder = tmp_path_factory.mktemp("laptop")
    done = _call([SCRIPT, *words, "--output-dir", folder / "run"], folder)
    assert done.code == 0, done.err
    assert "search: in this process" in done.err
    assert "workers: " not in done.err
    return folder / "run"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A private cluster that claims 8 GPUs, of a Python that does not know this project."""
    folder = tmp_path_factory.mktemp("head")
    venv.create(folder / "python")
    (packages,) = (folder / "python" / "lib").glob("python*/site-packages")
    # Files like this one are not read again in the folder that it names, so an editable install stays unknown.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    python = folder / "python" / "bin" / "python"
    check = [python, "-c", "import importlib.util; print(importlib.util.find_spec('engine'))"]
    # By itself the node would start 16 processes for every command, none of which is used.
    node = {"PYTHONPATH": "", "RAY_prestart_worker_first_driver": "0"}
    assert subprocess.check_output(check, cwd=folder, env=_environment(node), text=True) == "None\n"

    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # sockets lie below it, and their names are limited
        token = Path(short) / "token"
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": short}
        dashboard, agent, client = _free_ports(3)
        start = [python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", "--port=0"]
        start += ["--num-cpus=16", "--num-gpus=8", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        start += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
        with (folder / "head.log").open("wb") as log:
            process = subprocess.Popen(
                start, cwd=folder, env=_environment(variables | node), stdout=log, stderr=log, start_new_session=True
            )
        try:
            _wait_for_start(process, folder / "head.log", dashboard)
            address = (Path(short) / "ray" / "ray_current_cluster").read_text(encoding="utf-8")
            yield Head(f"127.0.0.1:{address.rpartition(':')[2]}", f"http://127.0.0.1:{dashboard}", variables)
        finally:
            _kill_session(process.pid)
            process.wait()


def test_workers_on_a_laptop(words: list[str], on_a_laptop: Path, tmp_path: Path) -> None:
    done = _call([SCRIPT, *words, "--output-dir", "run", "--num-workers", "2"], tmp_path)
    assert done.code == 0, done.err
    assert "workers: 2 ready" in done.err
    assert differences(on_a_laptop, tmp_path / "run") == []
    assert done.left == []


def test_a_private_cluster(words: list[str], on_a_laptop: Path, head: Head, tmp_path: Path) -> None:
    options = ["--output-dir", "run", "--num-workers", "2", "--address", head.address]
    home = tmp_path / "home"  # where Ray would look for a token
    stranger = _call([SCRIPT, *words, *options], tmp_path, {"HOME": str(home)})
    assert stranger.code == 2
    *_, sentence = stranger.err.splitlines()
    assert sentence.startswith(f"error: the Ray cluster at {head.address!r} wants an authentication token, expected ")
    assert "RAY_AUTH_MODE=token" in sentence and "Traceback" not in stranger.err
    assert not (tmp_path / "run").exists()

    (tmp_path / "engine.py").write_text("raise RuntimeError('the decoy was imported')\n", encoding="utf-8")
    done = _call([SCRIPT, *words, *options], tmp_path, head.variables)
    assert done.code == 0, done.err
    assert "workers: 2 ready" in done.err
    assert differences(on_a_laptop, tmp_path / "run") == []
    assert done.left == []


def test_the_address_of_a_dashboard_is_no_cluster() -> None:
    with pytest.raises(InputError, match="expected auto, HOST:PORT or ray://HOST:PORT"):
        connected("http://127.0.0.1:8265", None, None).__enter__()


def test_a_submitted_job(words: list[str], on_a_laptop: Path, head: Head, tmp_path: Path) -> None:
    """It keeps the working directory and the variables that it was submitted with, and finds its cluster by itself."""
    submitted = tmp_path / "submitted"
    submitted.mkdir()
    shutil.copy(words[words.index("--model-dir") + 1], submitted / "here.keras")
    words = [*words, "--model-dir", "here.keras"]
    environment = json.dumps({"env_vars": {"TF_CPP_MIN_LOG_LEVEL": "2"}})
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.dashboard]
    submit += ["--working-dir", submitted, "--runtime-env-json", environment, "--", SCRIPT, *words]
    done = _call(
        [*submit, "--output-dir", tmp_path / "run", "--num-workers", "1", "--address", "auto"], tmp_path, head.variables
    )
    assert done.code == 0, done.out + done.err
    assert "workers: 1 ready" in done.out
    assert differences(on_a_laptop, tmp_path / "run") == []


EIGHT_GPUS = """
import json, os, sys
from cluster.ray_cluster.connect import connected
from cluster.workers.pool import WorkerPool

class Light:
    '''As much of a replica as starts without TensorFlow; it travels by value.'''
    def __init__(self, threads):
        pass
    def describe(self):
        return "here", os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", "all")

seen = []
for workers, gpus in ((None, None), (16, 0.5), (1, 0.0)):
    with connected("auto", workers, gpus) as resources:
        pool = WorkerPool(resources, Light)
        for _ in range(5):  # of many some join later where a machine is busy
            pool.wait_for_start()
            if all(slot.ready for slot in pool._slots):
                break
        seen.append([resources.gpus_per_worker, sorted(slot.kind for slot in pool._slots)])
        pool.close()
print(json.dumps(seen))
"""


def test_eight_gpus(head: Head, tmp_path: Path) -> None:
    """One GPU for each worker, or one for two; a worker sees no other, and without a share of one none at all."""
    done = _call([sys.executable, "-c", EIGHT_GPUS], tmp_path, head.variables)
    assert done.code == 0, done.err
    alone, shared, without = json.loads(done.out.splitlines()[-1])
    assert alone == [1.0, [str(gpu) for gpu in range(8)]]
    assert shared == [0.5, sorted(2 * [str(gpu) for gpu in range(8)])]
    assert without == [0.0, [""]]


def _call(command: Sequence[object], folder: Path, variables: dict[str, str] | None = None) -> Ended:
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env=_environment(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=300)
        patience = time.monotonic() + 10
        while (left := _session(process.pid)) and time.monotonic() < patience:
            time.sleep(0.1)
        return Ended(process.returncode, out, err, left)
    finally:
        _kill_session(process.pid)
        process.wait()


def _environment(variables: dict[str, str]) -> dict[str, str]:
    """Variables of a process that knows of no cluster but the one it is told of."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | variables


def _session(leader: int) -> list[int]:
    """Processes that a process and its children started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def _kill_session(leader: int) -> None:
    while left := _session(leader):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    with ExitStack() as open_ones:
        sockets = [open_ones.enter_context(socket.socket()) for _ in range(number)]
        for free_socket in sockets:
            free_socket.bind(("", 0))
        return [free_socket.getsockname()[1] for free_socket in sockets]


def _wait_for_start(process: subprocess.Popen[bytes], log: Path, dashboard: int) -> None:
    """Until the node has started and the dashboard, which takes jobs, answers."""
    deadline = time.monotonic() + 120
    while True:
        text = log.read_text(encoding="utf-8")
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        if "Ray runtime started" in text:
            try:
                socket.create_connection(("127.0.0.1", dashboard), 1).close()
            except OSError:
                pass
            else:
                return
        time.sleep(0.2)
