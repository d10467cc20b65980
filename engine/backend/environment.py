"""What stands around compiled code: the variables that TensorFlow, JAX and Keras read when they are imported, and the
processor, in words, that the code is for: another one might not run it.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from engine.core.kept import kept_folder

CPU = Path("/proc/cpuinfo")

_TOLD = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")

DETERMINISTIC = "--xla_gpu_deterministic_ops"

PROGRAMS_FOLDER = "ram://repair-dist-programs"
"""In this process' memory: where TensorFlow looks for programs that were compiled before, and leaves new ones."""

_KEEP = "--tf_xla_persistent_cache_directory"
_KINDS = "--tf_xla_persistent_cache_device_types"


def set_variables() -> None:
    """Set what was not set otherwise; call before any of them is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # TF32 rounds products to 10 bits; the same answer on every worker needs full float32.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    # Several workers may share one GPU; without these the first takes all of its memory, or three quarters of it.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # It also makes XLA choose algorithms without timing them.
    _add("XLA_FLAGS", DETERMINISTIC, "=true")
    if os.environ["KERAS_BACKEND"] == "tensorflow" and kept_folder() is not None:
        _add("TF_XLA_FLAGS", _KEEP, f"={PROGRAMS_FOLDER} {_KINDS}=CPU")


def _add(variable: str, flag: str, value: str) -> None:
    """Add a flag to those of a variable, unless it is there."""
    flags = os.environ.get(variable, "")
    if flag not in flags:
        os.environ[variable] = f"{flags} {flag}{value}".strip()


def keeps_programs() -> bool:
    """Whether TensorFlow was told to look in `PROGRAMS_FOLDER`, and not elsewhere."""
    return f"{_KEEP}={PROGRAMS_FOLDER}" in os.environ.get("TF_XLA_FLAGS", "").split()


def processor() -> str | None:
    """Its kind, its instructions and the system around it; None where the system does not tell."""
    if not CPU.exists():
        return None
    one = CPU.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    return repr((platform.platform(), [" ".join(line.split()) for line in one.splitlines() if line.startswith(_TOLD)]))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_kind() -> str:
    """Architecture and the widest vector instructions, because those decide how sums are grouped."""
    lines = CPU.read_text(encoding="utf-8", errors="replace").splitlines() if CPU.exists() else []
    told = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    widest = next((flag for flag in ("avx512f", "avx2", "avx", "asimd", "sse4_2") if flag in told), "generic")
    return f"{platform.machine()} {widest}"
