"""Environment variables that TensorFlow, JAX and Keras read when they are imported."""

from __future__ import annotations

import os

from engine.core.kept import kept_folder

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
