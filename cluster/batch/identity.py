"""What a run is: the facts of `run.json`, and of them those that decide its bits."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cluster.batch.spec import Batch
from cluster.compute.compute import Compute
from cluster.records.versions import DECIDING, versions

_THREADS = 8


def facts_of(batch: Batch, compute: Compute) -> dict[str, Any]:
    """What `run.json` says of a batch; `identity` is what a resumed run has to have in common with its beginning."""
    held_out = {"validation": batch.validation, "test": batch.test}
    names = next(
        (images.label_names for images in (batch.test, batch.validation) if images is not None and images.label_names),
        None,
    )
    return {
        "identity": _identity(batch, compute),
        "command": sys.argv,
        "arguments": {"compute": asdict(compute.options)},
        "model": {"path": str(batch.model.path), "fingerprint": batch.model.fingerprint},
        "held_out": {split: str(images.path) for split, images in held_out.items() if images is not None},
        "mode": batch.mode,
        "labels": list(batch.labels),
        "classes": batch.model.classes,
        "label_names": None if names is None else list(names),
        "requirements": [requirement.text for requirement in batch.requirements] if batch.stated else [],
        "versions": versions(),
        "hardware": compute.hardware_kind(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "pid": os.getpid(),
        "host": socket.gethostname(),
    }


def _identity(batch: Batch, compute: Compute) -> dict[str, Any]:
    files = {f"chunk {chunk.name}": chunk.folder / "repair.h5" for chunk in batch.chunks}
    files["validation data"] = batch.validation.path
    if batch.test is not None:
        files["test data"] = batch.test.path
    files |= {f"positive inputs {number}": images.path for number, images in enumerate(batch.positives)}
    return {
        "model": batch.model.fingerprint,
        "data": _fingerprints(files),
        "target layer": ", ".join(batch.target.shapes),
        "mode": batch.mode,
        "labels": list(batch.labels),
        "positive weights": [weighting.text for weighting in batch.weightings],
        "settings": asdict(batch.weightings[0].settings) | {"positive_weight": None, "positive_worth": None},
        "seeds": list(batch.seeds),
        "max rounds": batch.max_rounds,
        "offers": batch.offers,
        "num grad": batch.num_grad,
        "impact": batch.impact,
        "fronts": batch.fronts,
        "requirements": [requirement.text for requirement in batch.requirements],
        "batch size": compute.options.batch_rows,
        "hardware": compute.hardware_kind(),
        "versions": versions(DECIDING),
    }


def _fingerprints(files: dict[str, Path]) -> dict[str, str]:
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
