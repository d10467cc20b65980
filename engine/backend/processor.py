"""The processor that compiled code is for, in words: another one might not run it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPU = Path("/proc/cpuinfo")

_TOLD = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")


def processor() -> str | None:
    """Its kind, its instructions and the system around it; None where the system does not tell."""
    if not CPU.exists():
        return None
    one = CPU.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    return repr((platform.platform(), [" ".join(line.split()) for line in one.splitlines() if line.startswith(_TOLD)]))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
