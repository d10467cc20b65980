"""What differs by backend: compiling, gradients, threads, devices and their memory. TensorFlow is the backend."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Log lines of the C++ runtime would drown the one sentence that a command prints.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# TF32 rounds products to 10 bits; the same answer on every worker needs full float32.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

import numpy.typing as npt  # noqa: E402 (the variables above must be set first)


def configure(threads: int | None = None) -> None:
    """Make TensorFlow deterministic and frugal; call once, before the first operation.

    Args:
        threads: intra-op threads of this process; None leaves TensorFlow's choice (all cores).
    """
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in tf.config.list_physical_devices("GPU"):
        # Several workers may share one GPU; without growth the first takes all of its memory.
        tf.config.experimental.set_memory_growth(gpu, True)
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of tensors with XLA; one program per combination of shapes."""
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)  # type: ignore[no-any-return]


def graph(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a forward pass into a graph, without XLA: compiling a whole network costs more than one pass of it."""
    import tensorflow as tf

    return tf.function(function, autograph=False)  # type: ignore[no-any-return]


def on_device(array: npt.NDArray[Any]) -> Any:
    """Copy a NumPy array to the device of this process."""
    import tensorflow as tf

    return tf.convert_to_tensor(array)


def gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Gradient of a scalar function at the tensor x; same shape and dtype as x."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


def hardware_kind() -> str:
    """The kind of hardware whose bits a run repeats: the GPU model, or the CPU with its instruction set."""
    import tensorflow as tf

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
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))
