"""What a batch is: the facts of `run.json`, and of them those that decide its bits."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cluster.batch.spec import Batch
from cluster.compute.compute import Compute
from cluster.runs.identity import fingerprints, identity_of, run_facts


def facts_of(batch: Batch, compute: Compute) -> dict[str, Any]:
    """What `run.json` says of a batch; `identity` is what a resumed run has to have in common with its beginning."""
    held_out = {"validation": batch.validation, "test": batch.test}
    return {
        **run_facts(batch.model, compute, held_out, (batch.test, batch.validation)),
        "identity": _identity(batch, compute),
        "mode": batch.mode,
        "labels": list(batch.labels),
        "requirements": [requirement.text for requirement in batch.requirements] if batch.stated else [],
    }


def _identity(batch: Batch, compute: Compute) -> dict[str, Any]:
    files = {f"chunk {chunk.name}": chunk.folder / "repair.h5" for chunk in batch.chunks}
    files["validation data"] = batch.validation.path
    if batch.test is not None:
        files["test data"] = batch.test.path
    files |= {f"positive inputs {number}": images.path for number, images in enumerate(batch.positives)}
    more = {
        "data": fingerprints(files),
        "mode": batch.mode,
        "labels": list(batch.labels),
        "positive weights": [weighting.text for weighting in batch.weightings],
        "settings": asdict(batch.weightings[0].settings) | {"positive_weight": None, "positive_worth": None},
        "seeds": list(batch.seeds),
        "max rounds": batch.max_rounds if batch.mode == "rounds" else None,
        "merge": None if batch.mode == "independent" else batch.merge,
        "offers": batch.offers,
        "num grad": batch.num_grad,
        "impact": batch.impact,
        "fronts": batch.fronts,
        "requirements": [requirement.text for requirement in batch.requirements],
    }
    return identity_of(batch.model, batch.target, compute, more)
