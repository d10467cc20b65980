"""Joining a Ray cluster or starting one on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import engine
from engine.core.collector import WORKER
from engine.core.errors import InputError, reason
from engine.core.kept import VARIABLE

ANSWER_SECONDS = 5

# Ray tries 20 times, for half a minute with a wrong token and for many where something else listens.
IMPATIENCE = {"RAY_gcs_server_port_wait_time_s": "1", "RAY_py_gcs_connect_timeout_s": "10"}

WORKER_VARIABLES = {"TF_CPP_MIN_LOG_LEVEL": "3", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", WORKER: "1"}


@dataclass(frozen=True)
class Resources:
    """What each worker gets."""

    workers: int
    gpus_per_worker: float  # 0 on CPUs
    threads: int  # intra-op, of each worker
    local: bool  # the cluster was started for this command on this machine


@contextlib.contextmanager
def connected(address: str | None, workers: int | None, gpus_per_worker: float | None) -> Iterator[Resources]:
    """Join the cluster at `address`, or start one here, and decide what each worker gets.

    `address` is "auto" or "host:port" on one of its nodes, or "ray://host:port" of its client server from elsewhere;
    None starts a cluster for this command. Without a number of workers there is one per GPU, without GPUs one per CPU.
    """
    if address is not None:
        for name, value in IMPATIENCE.items():  # before Ray is imported, as it reads some of them only then
            os.environ.setdefault(name, value)

    import ray

    already = ray.is_initialized()
    with tempfile.TemporaryDirectory(prefix="repair-dist-") as empty:
        try:
            if not already:
                with _interrupted_later():
                    _init(address, workers, Path(empty))
            yield _share(ray.cluster_resources(), workers, gpus_per_worker, local=address is None)
        finally:
            if not already:
                ray.shutdown()


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Take a first Ctrl-C, SIGTERM or alarm at the end of the body: stopped while it starts, Ray leaves processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        if told:
            raise KeyboardInterrupt
        told.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    set_handler = signal.signal
    for number in before:
        set_handler(number, tell)
    # Ray sets handlers of SIGTERM that leave at once, twice while it starts: meanwhile ours stays.
    signal.signal = lambda number, handler: tell if number in before else set_handler(number, handler)  # type: ignore[assignment]
    try:
        yield
    except Exception:  # Ray's daemons may have been told to stop as well: that they did not start is no news then
        if not told:
            raise
    finally:
        signal.signal = set_handler
        for number, handler in before.items():
            # Also where it is Python's own again: Ray's C++ runtime has one that ends the process with a dump.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if told:
        signal.raise_signal(told[0])


def _init(address: str | None, workers: int | None, empty: Path) -> None:
    import ray

    # Without this an actor that asked for no GPU sees, and takes, all of them.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    options["runtime_env"] = runtime_environment(empty, ship_code=address is not None)
    if address is None:
        # Ray would start a worker for every core at once; actors bring their own environment and never use those.
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        # More workers than cores is slow but legal: tests and debugging want it.
        # "local": without it Ray joins a cluster that somebody else started on this machine.
        options.update(address="local", include_dashboard=False, num_cpus=max(os.cpu_count() or 1, workers or 1))
    else:
        _knock(address)
        options["address"] = address
    try:
        ray.init(**options)
    except ray.exceptions.AuthenticationError as error:
        raise _wants_token(address) from error
    except (ConnectionError, RuntimeError, TimeoutError, ValueError, ray.exceptions.RpcError) as error:
        said = _all_said(error).lower()
        if "token" in said or "authenticat" in said:
            raise _wants_token(address) from error
        if address is None:
            raise
        if "node info" in said:
            raise InputError(
                f"the Ray cluster at {address!r} has no node on this machine, expected to run on one of its nodes, or "
                f"the address of its client server (ray://HOST:10001)"
            ) from error
        raise _no_answer(address, reason(error)) from error


def _knock(address: str) -> None:
    """Refuse at once an address where nothing listens: Ray itself would try for minutes."""
    if address.startswith(("http://", "https://")):
        raise InputError(f"{address!r} is the address of a dashboard, expected auto, HOST:PORT or ray://HOST:PORT")
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return  # Ray says what is wrong with it
    if host and port:
        try:
            socket.create_connection((host, port), ANSWER_SECONDS).close()
        except OSError as error:
            raise _no_answer(address, error.strerror or str(error)) from error


def _all_said(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__
    return str(error) if cause is None else f"{error}\n{_all_said(cause)}"


def _no_answer(address: str, why: str) -> InputError:
    # A client server without the right token is as silent as none.
    token = ", and its token if it wants one" if address.startswith("ray://") else ""
    return InputError(
        f"no Ray cluster answers at {address!r} ({why}), expected the address of a running cluster{token}"
    )


def _wants_token(address: str | None) -> InputError:
    return InputError(
        f"the Ray cluster at {address!r} wants an authentication token, expected RAY_AUTH_MODE=token and the cluster's "
        f"token in RAY_AUTH_TOKEN or in the file that RAY_AUTH_TOKEN_PATH names"
    )


def runtime_environment(empty: Path, *, ship_code: bool) -> dict[str, Any]:
    """What workers start with.

    Ray puts the driver's current directory in front of a worker's import path, where a user's `engine.py` would shadow
    ours: an empty one takes its place. Of a submitted job Ray lets nobody change what it was submitted with.
    """
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
    taken = submitted.get("env_vars") or {}
    # A cluster's workers have the environment that the cluster was started in, which may name another backend.
    wanted = WORKER_VARIABLES | {"KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow")}
    if VARIABLE in os.environ:  # above all where it says that nothing is to be kept
        stated = os.environ[VARIABLE]
        # Workers have another current directory.
        wanted[VARIABLE] = stated if stated in ("", "off") else str(Path(stated).absolute())
    environment: dict[str, Any] = {"env_vars": {k: v for k, v in wanted.items() if k not in taken}}
    if "working_dir" not in submitted:
        environment["working_dir"] = str(empty)
    if ship_code and "py_modules" not in submitted:
        root = Path(engine.__file__).resolve().parent.parent
        environment["py_modules"] = [str(root / name) for name in ("engine", "cluster")]
    return environment


def _share(
    resources: dict[str, float], workers: int | None, gpus_per_worker: float | None, *, local: bool
) -> Resources:
    cpus, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
    if workers is None:
        workers = max(1, int(gpus / gpus_per_worker) if gpus_per_worker else int(gpus) or cpus)
    if gpus_per_worker is None:
        # Ray counts GPUs in steps of 1/10,000; rounding down keeps the sum below what there is.
        gpus_per_worker = min(1.0, int(gpus / workers * 10_000) / 10_000)
    if gpus_per_worker * workers > gpus + 1e-9:
        raise InputError(
            f"{workers} workers with {gpus_per_worker:g} GPUs each need {gpus_per_worker * workers:g} GPUs and the "
            f"cluster has {gpus:g}, expected no more than that"
        )
    if workers > cpus:
        raise InputError(
            f"{workers} workers need as many CPUs and the cluster has {cpus}, expected at most {cpus} workers"
        )
    threads = max(1, (os.cpu_count() or 1) // workers) if local else 1
    return Resources(workers, gpus_per_worker, threads, local)
