"""What differs by backend: compiling, gradients, threads, devices and their memory. TensorFlow is the backend."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# TF32 rounds products to 10 bits; the same answer on every worker needs full float32.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
# Several workers may share one GPU; without this the first takes all of its memory.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the notes that TensorFlow's C++ runtime prints while it is imported off standard error.

    They come before its log level takes effect; errors of the import itself are exceptions and still show.
    """
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


with _quiet():
    tf: Any = importlib.import_module("tensorflow")
    keras: Any = importlib.import_module("keras")

ops: Any = keras.ops

tf.get_logger().setLevel("ERROR")
tf.config.experimental.enable_op_determinism()


def limit_threads(threads: int) -> None:
    """Compute with so many threads in this process; call before the first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of tensors with XLA; one program per combination of shapes."""
    return tf.function(function, jit_compile=True, autograph=False)  # type: ignore[no-any-return]


def for_shapes(function: Any, example: tuple[Any, ...]) -> Callable[..., Any]:
    """The program of a compiled function for tensors shaped like `example`: calls need not look it up (0.1 ms each)."""
    program: Callable[..., Any] = function.get_concrete_function(*example)
    return program


def graph(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a forward pass into a graph, without XLA: compiling a whole network costs more than one pass of it."""
    return tf.function(function, autograph=False)  # type: ignore[no-any-return]


def on_device(array: npt.NDArray[Any]) -> Any:
    """Copy a NumPy array to the device of this process."""
    return tf.convert_to_tensor(array)


def gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Gradient of a scalar function at the tensor x; same shape and dtype as x."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


def hardware_kind() -> str:
    """The kind of hardware whose bits a run repeats: the GPU model, or the CPU with its instruction set."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return f"GPU {details.get('device_name', 'unknown')}"
    return f"CPU {cpu_kind()}"


def cpu_kind() -> str:
    """Architecture and the widest vector instructions, because those decide how sums are grouped."""
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                flags = set(line.split(":", 1)[1].split())
                break
    widest = next((name for name in ("avx512f", "avx2", "avx", "asimd", "sse4_2") if name in flags), "generic")
    return f"{platform.machine()} {widest}"


def free_memory() -> int:
    """Bytes of memory this process may still take: the smaller of what is available and the container's limit."""
    free = 1 << 62
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text(encoding="utf-8").strip()) != "max":
        free = min(free, max(0, int(text) - int(used.read_text(encoding="utf-8"))))
    return free


def gpu_count() -> int:
    """GPUs that this process sees."""
    return len(tf.config.list_physical_devices("GPU"))
