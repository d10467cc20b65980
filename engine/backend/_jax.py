"""The JAX backend; see `engine.backend`, which imports this module and says what it must offer."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
from collections.abc import Callable
from typing import Any

import jax
import jaxlib.version
import keras
import numpy as np
import numpy.typing as npt

from engine.backend.environment import cores, processor
from engine.core.kept import Kept, kept_folder

try:
    from jax.experimental import serialize_executable
except ImportError:  # it may move; programs are then compiled by every process
    serialize_executable = None

# Sums of localisation are float64; Keras' models stay float32 all the same.
jax.config.update("jax_enable_x64", True)
# JAX's default for float32 on GPUs is TF32.
jax.config.update("jax_default_matmul_precision", "highest")

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"tanh": jax.numpy.tanh}
"""Those that Keras does not compute in the dtype of their argument."""


def limit_threads(threads: int) -> None:
    """Compute with so many threads, by what XLA reads when it makes its pools; call before the first operation."""
    os.environ["PJRT_NPROC"] = str(threads)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    program: Callable[..., Any] = jax.jit(function)
    return program


def once(values: Any, one: Any) -> Any:
    """The values, computed once in a `compiled` function also where several sums read them; JAX needs no telling."""
    return values


def apart(values: list[Any]) -> list[Any]:
    return list(jax.lax.optimization_barrier(values))


def for_shapes(function: Any, example: tuple[Any, ...]) -> Callable[..., Any]:
    """The program of a compiled function for tensors shaped like `example`, which may have been kept on disk.

    JAX would keep programs too, but tells of damaged files on standard error.
    """
    kept = _kept()
    if kept is None:
        program: Callable[..., Any] = function
        return program
    lowered = function.lower(*example)
    # The text lacks arguments that are not used.
    content = f"{_environment()}\n{lowered.in_tree}\n{lowered.in_avals}\n{lowered.as_text()}"
    key = hashlib.sha256(content.encode()).hexdigest()[:40]
    before = kept.get(key)
    if before is not None:
        try:
            return _Loaded(_load(before, lowered), lambda: _anew(kept, key, lowered))
        except Exception:  # whatever JAX does not take it for
            pass
    return _anew(kept, key, lowered)


def _anew(kept: Kept, key: str, lowered: Any) -> Callable[..., Any]:
    """Compile a program, and keep it in the place of what was kept."""
    kept.drop(key)
    program: Callable[..., Any] = lowered.compile()
    with contextlib.suppress(Exception):  # not all programs can be kept
        kept.put(key, serialize_executable.serialize(program)[0])
    return program


def _load(content: bytes, lowered: Any) -> Callable[..., Any]:
    """The program that was kept, for the device that computes: XLA may have been told to show several."""
    load, trees = serialize_executable.deserialize_and_load, (lowered.in_tree, lowered.out_tree)
    devices = {}
    if "execution_devices" in inspect.signature(load).parameters:
        devices["execution_devices"] = jax.local_devices()[:1]
    program: Callable[..., Any] = load(content, *trees, **devices)
    return program


class _Loaded:
    """A program that was kept; compiled after all if its first call fails."""

    def __init__(self, program: Callable[..., Any], anew: Callable[[], Callable[..., Any]]) -> None:
        self._program, self._anew, self._begun = program, anew, False

    def __call__(self, *arguments: Any) -> Any:
        if self._begun:
            return self._program(*arguments)
        try:
            result = jax.block_until_ready(self._program(*arguments))  # it may fail after the call
        except Exception:  # as where it does not load
            self._program, self._begun = self._anew(), True
            return self._program(*arguments)
        self._begun = True
        return result


@functools.cache
def _kept() -> Kept | None:
    """Where programs are kept; None where a GPU computes, or no processor is known."""
    usable = serialize_executable is not None and processor() is not None and not gpu_count()
    folder = kept_folder() if usable else None
    return None if folder is None else Kept(folder)


@functools.cache
def _environment() -> str:
    """All but the program itself that its code may depend on: other processors could not run it."""
    threads = os.environ.get("PJRT_NPROC") or cores()
    return repr((jax.__version__, jaxlib.version.__version__, processor(), threads, os.environ.get("XLA_FLAGS", "")))


graph = compiled  # JAX has nothing but XLA


def model_pass(model: Any) -> Callable[[Any], Any]:
    """The outputs of a Keras model for rows, in inference mode; weights that are assigned later count at once.

    They are arguments of the program: as constants they would stay as they were, and make compiling slow.
    """
    variables = model.variables

    def outputs(values: Any, rows: Any) -> Any:
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return model(rows, training=False)  # also of a class whose call knows no `training`

    program = compiled(outputs)
    return lambda rows: program([variable.value for variable in variables], rows)


def on_device(array: npt.NDArray[Any]) -> Any:
    return jax.numpy.asarray(np.array(array))  # of a copy that nobody else has: JAX shares it, or reads it later


def lent(array: npt.NDArray[Any]) -> Any:
    """As `on_device`, of an array that nobody changes before its reader has ended: on the CPU JAX may share
    its memory.
    """
    return jax.numpy.asarray(array)


def gradient(function: Callable[[Any], Any], x: Any) -> Any:
    return jax.grad(function)(x)


def gpu_count() -> int:
    return sum(device.platform == "gpu" for device in jax.local_devices())


def hide_gpus() -> None:
    jax.config.update("jax_platforms", "cpu")


def gpu_kind() -> str | None:
    device = jax.local_devices()[0]
    return device.device_kind if device.platform == "gpu" else None


def gpu_memory_free() -> int | None:
    device = jax.local_devices()[0]
    if device.platform != "gpu":
        return None
    usage = device.memory_stats()
    return int(usage["bytes_limit"]) - int(usage["bytes_in_use"])
