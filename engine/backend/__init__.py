"""What differs by backend: compiling, gradients, threads, devices and their memory.

The backend is Keras' own, chosen by KERAS_BACKEND: `tensorflow`, also where nothing is said, or `jax`. Both modules
offer the same functions, and everything else in the engine computes with `keras.ops` and these alone. Either computes
in full float32 with deterministic operations, and compiles with XLA.

Keras on JAX computes `tanh` and `mean` of float64 in float32: for the first there is `activation`, and for the second
a sum.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from engine.backend.environment import cpu_kind, set_variables
from engine.core import collector
from engine.core.errors import InputError
from engine.core.memory import free_memory as free_memory

BACKENDS = ("tensorflow", "jax")

set_variables()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the notes that TensorFlow's C++ runtime prints while it is imported off standard error."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _import(name: str) -> Any:
    with _quiet(), collector.importing():
        return importlib.import_module(name)


@contextlib.contextmanager
def _barred(package: str) -> Iterator[None]:
    """Let nobody import a package that was not imported yet."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


if os.environ["KERAS_BACKEND"] not in BACKENDS:
    raise InputError(f"KERAS_BACKEND is {os.environ['KERAS_BACKEND']!r}, expected {' or '.join(BACKENDS)}")
try:
    # Where both are installed each backend would import the other, a second and 100 MB or more of every process:
    # TensorFlow to convert its models, and Keras, once, to see whether what it serialises is a part of TensorFlow.
    with _barred("jax" if os.environ["KERAS_BACKEND"] == "tensorflow" else "tensorflow"):
        keras: Any = _import("keras")
        keras.activations.serialize(keras.activations.linear)
except ImportError as error:
    if error.name not in BACKENDS:
        raise
    raise InputError(f"KERAS_BACKEND is {error.name!r}, which is not installed, expected one that is") from error

ops: Any = keras.ops
name: str = keras.backend.backend()
"""The active backend, which is also the name of its package."""

if name not in BACKENDS:  # Keras was imported before, with another choice
    raise InputError(f"Keras runs on {name!r}, expected KERAS_BACKEND to be {' or '.join(BACKENDS)}")
_chosen: Any = _import(f"engine.backend._{name}")

limit_threads = _chosen.limit_threads
compiled = _chosen.compiled
once = _chosen.once
apart = _chosen.apart
for_shapes = _chosen.for_shapes
graph = _chosen.graph
model_pass = _chosen.model_pass
on_device = _chosen.on_device
lent = _chosen.lent
gradient = _chosen.gradient
gpu_count = _chosen.gpu_count
hide_gpus = _chosen.hide_gpus


def tail_program(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile the tail of a model: on the CPU as a graph, whose convolutions are up to 40 times as fast as XLA's."""
    program: Callable[..., Any] = compiled(function) if gpu_count() else graph(function)
    return program


def activation(kind: str) -> Callable[[Any], Any]:
    """Keras' activation of a name, for tensors of float32 or float64, whose dtype it keeps."""
    function: Callable[[Any], Any] = _chosen.ACTIVATIONS.get(kind) or keras.activations.get(kind)
    return function


def tensorflow(needed_by: str) -> Any:
    """TensorFlow, which the file formats of Keras 2 and training need under either backend."""
    try:
        tf = _import("tensorflow")
    except ImportError as error:
        raise InputError(
            f"{needed_by} needs TensorFlow, which is not installed, expected it beside Keras (pip install tensorflow)"
        ) from error
    if name != "tensorflow":
        with contextlib.suppress(RuntimeError):  # it has computed already
            tf.config.set_visible_devices([], "GPU")  # or it would take memory from what computes there
    return tf


def hardware_kind() -> str:
    """The kind of hardware whose bits a run repeats: the GPU model, or the CPU with its instruction set."""
    gpu = _chosen.gpu_kind()
    return f"CPU {cpu_kind()}" if gpu is None else f"GPU {gpu}"


def device_memory_free() -> int:
    """Bytes that this process may still take on the device that computes: the first GPU, else `free_memory`."""
    free: int | None = _chosen.gpu_memory_free()
    return free_memory() if free is None else free
