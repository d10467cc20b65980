"""What a run is: the facts of `run.json`, and of them those that decide its bits."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cluster.compute.compute import Compute
from cluster.records.versions import DECIDING, versions
from engine.data.image_set import ImageSet
from engine.models.load import LoadedModel
from engine.targets.base import Target

_THREADS = 8


def run_facts(
    model: LoadedModel,
    target: Target,
    compute: Compute,
    held_out: Mapping[str, ImageSet],
    named: Iterable[ImageSet | None],
    identity: Mapping[str, Any],
) -> dict[str, Any]:
    """What `run.json` says of every run; label names are those of the first of the sets `named` that has some.

    A resumed run must have the same identity as its beginning; `identity` is what only runs of this kind have of it.
    """
    names = next((images.label_names for images in named if images is not None and images.label_names), None)
    return {
        "command": sys.argv,
        "arguments": {"compute": asdict(compute.options)},
        "identity": {
            "model": model.fingerprint,
            "target layer": ", ".join(target.shapes),
            **identity,
            "batch size": compute.options.batch_rows,
            "hardware": compute.hardware_kind(),
            "versions": versions(DECIDING),
        },
        "model": {"path": str(model.path), "fingerprint": model.fingerprint},
        "held_out": {split: str(images.path) for split, images in held_out.items()},
        "classes": model.classes,
        "label_names": None if names is None else list(names),
        "versions": versions(),
        "hardware": compute.hardware_kind(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "pid": os.getpid(),
        "host": socket.gethostname(),
    }


def fingerprints(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of the bytes of files; several at once, as reading them from a shared disk is what takes the time."""
    with ThreadPoolExecutor(_THREADS) as threads:
        return dict(zip(files, threads.map(_fingerprint, files.values()), strict=True))


def _fingerprint(path: Path) -> str:
    if not path.is_file():
        return "missing"
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
